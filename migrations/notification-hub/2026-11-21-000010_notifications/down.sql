drop table channel_paces;
drop table deliveries;
drop table notifications;
