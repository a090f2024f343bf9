select format('%s: event %s (%s %s, version %s) is %s since %s', service, event_id, topic, key, aggregate_version, status, created_at) as offender
from {outbox_events} as event
where status <> 'PUBLISHED'
