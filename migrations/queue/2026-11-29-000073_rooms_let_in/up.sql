-- Of the people whom administrators have let in beyond the rate (table admissions), so many had come in when the room was saved. The
-- others are let in by the room that is built after a loss.
alter table rooms add column let_in bigint not null default 0;
-- Nobody knows who of those from before has come: all count as come.
update rooms set let_in = (select coalesce(sum(count), 0) from admissions where admissions.event_id = rooms.event_id);
