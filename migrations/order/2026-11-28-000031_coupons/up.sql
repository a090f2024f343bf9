-- An order may use one issued coupon. Its redemption at the coupon service is named by the order's id.
alter table orders add column coupon_issue_id uuid;

-- What the coupon takes off all units of the line together. Something is always left to pay of the whole order.
alter table order_items add column discount bigint not null default 0
    check (discount between 0 and quantity::bigint * unit_price);
