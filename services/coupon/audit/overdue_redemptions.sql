-- The sweep ends a reservation whose time is up.
select format('order %s has a coupon RESERVED although its time was up at %s', order_id, expires_at) as offender
from {coupon}.coupon_redemptions
where state = 'RESERVED' and expires_at < now() - interval '5 seconds'
