alter table webhook_endpoints drop column disabled_at;
