-- Stores new issues and counts them. The coupons are locked.
-- $1 now
-- One element for each issue: $2 id  $3 coupon id  $4 user id  $5 take
with issued as (
    insert into coupon_issue (id, coupon_id, user_id, take_id, issued_at)
    select new.id, new.coupon_id, new.user_id, new.take_id, $1::timestamptz
      from unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::text[]) as new (id, coupon_id, user_id, take_id)
     order by new.id
    returning coupon_id
),
counted as (
    select coupon_id, count(*) as issues
      from issued
     group by coupon_id
)
update coupons
   set issued = coupons.issued + counted.issues
  from counted
 where coupons.id = counted.coupon_id
