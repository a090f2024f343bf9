-- Locks issues in the order of their ids, waiting for whoever has them, and reads them with the terms of their coupons,
-- and the time. One row without an issue if none of them exists.
-- $1 issue ids
select clock_timestamp() as now, issue.id, issue.coupon_id, issue.user_id, issue.version, coupons.expires_at,
       coupons.discount_kind, coupons.discount_value, coupons.minimum_amount, coupons.maximum_discount,
       coupons.product_ids, coupons.restored_on_refund
  from (values (0)) as always
  left join (select * from coupon_issue where id = any($1::uuid[]) order by id for update) as issue on true
  left join coupons on coupons.id = issue.coupon_id
