alter table order_items drop column discount;
alter table orders drop column coupon_issue_id;
