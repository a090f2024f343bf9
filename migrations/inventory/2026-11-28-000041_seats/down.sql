alter table holds drop column moved_to, drop column concert_id;
alter table hold_lines drop column seats;
drop table reservation;
drop table seat;
alter table products drop column concert_id;
drop table concert;
drop table queue_bypasses;
drop table sale_events;
