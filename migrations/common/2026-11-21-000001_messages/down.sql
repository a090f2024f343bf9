drop table parked;
drop table inbox;
drop table outbox_broker;
drop table outbox_events;
