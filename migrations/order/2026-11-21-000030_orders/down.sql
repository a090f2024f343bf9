drop table shipping_info;
drop table order_items;
drop table orders;
