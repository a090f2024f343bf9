delete from deliveries where channel = 'WEBHOOK';
alter table deliveries
    drop constraint deliveries_channel_check,
    add constraint deliveries_channel_check check (channel in ('EMAIL', 'SLACK'));
drop table webhook_endpoints;
