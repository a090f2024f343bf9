drop table api_keys;
alter table notifications drop constraint notifications_requested, drop column fingerprint, drop column requested_by;
