-- Won between what the orders of product $1 took off, and what the redemptions of their coupons say.
select coalesce(sum(abs(item.discount - coalesce(redemption.discount, 0))), 0)::bigint as difference
from {order}.all_order_items as item
join {order}.all_orders as orders on orders.id = item.order_id
left join {coupon}.coupon_redemptions as redemption
       on redemption.order_id = orders.id and redemption.coupon_issue_id is not distinct from orders.coupon_issue_id
where item.product_id = $1
