select format('%s: event %s (%s %s, version %s) is %s since %s', service, event_id, topic, key, aggregate_version, status, created_at) as offender
from (
    select 'account' as service, * from {account}.outbox_events where status <> 'PUBLISHED'
    union all
    select 'inventory', * from {inventory}.outbox_events where status <> 'PUBLISHED'
    union all
    select 'notification-hub', * from {notification_hub}.outbox_events where status <> 'PUBLISHED'
    union all
    select 'order', * from {order}.outbox_events where status <> 'PUBLISHED'
    union all
    select 'payment', * from {payment}.outbox_events where status <> 'PUBLISHED'
) as event
