-- A sale was not opened before its time, and each that was opened says so in one EVENT_OPEN. Rows of the outbox are kept for
-- a day.
select format('sale event %s was opened at %s, before %s', id, opened_at, opens_at) as offender
from {queue}.sale_events
where opened_at < opens_at
union all
select format('sale event %s has %s EVENT_OPEN', event.id, count(told.id)) as offender
from {queue}.sale_events as event
left join {queue}.outbox_events as told on told.topic = 'EVENT_OPEN' and told.key = event.id::text
where event.opened_at is null or event.opened_at > now() - interval '1 hour'
group by event.id
having count(told.id) <> (event.opened_at is not null)::integer
