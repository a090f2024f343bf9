delete from deliveries where channel = 'INAPP';
alter table deliveries
    drop constraint deliveries_channel_check,
    add constraint deliveries_channel_check check (channel in ('EMAIL', 'SLACK', 'WEBHOOK')) not valid;
drop table notification_preferences;
