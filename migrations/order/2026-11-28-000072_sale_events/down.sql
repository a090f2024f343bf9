drop table queue_bypasses;
drop table sale_events;
