-- Stores webhooks that are new, and returns those. One element for each:
-- $1 provider
-- $2 webhook_id
-- $3 payment_id, or null
-- $4 payload
insert into psp_webhooks (provider, webhook_id, payment_id, payload, is_handled)
select provider, webhook_id, payment_id, payload, payment_id is null
from unnest($1::text[], $2::text[], $3::uuid[], $4::text[]) as received (provider, webhook_id, payment_id, payload)
on conflict do nothing
returning provider, webhook_id
