-- Locks coupons in the order of their ids, waiting for whoever has them, and reads them and the time after the wait. One row
-- without a coupon if none of them exists.
-- $1 coupon ids
select clock_timestamp() as now, coupon.id, coupon.name, coupon.total, coupon.issued, coupon.epoch, coupon.starts_at,
       coupon.expires_at, coupon.closed
  from (values (0)) as always
  left join (select * from coupons where id = any($1::uuid[]) order by id for no key update) as coupon on true
