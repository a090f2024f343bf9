drop table sale_events;
