drop table deliveries;
drop table notifications;
