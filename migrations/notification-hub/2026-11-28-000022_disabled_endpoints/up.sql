-- A receiver that answers 410 Gone wants nothing any more. Until an administrator enters the address again, nothing is sent.
alter table webhook_endpoints
    add column disabled_at timestamptz;
