alter table order_items drop column seats;
