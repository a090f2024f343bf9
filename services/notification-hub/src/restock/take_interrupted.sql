-- Claims again what runners of this round have written and not recorded, in the order of the subscriptions. Their own
-- results count no longer.
-- $1: product
-- $2: round
-- $3: how many at most
-- $4: lease in milliseconds
-- $5: attempts that this costs: 1 where they may have been tried
with interrupted as materialized (
    select
        told.subscription_id,
        told.user_id,
        deliveries.id
    from product_user_notification_history as told
    join deliveries on deliveries.notification_id = told.notification_id
    where told.product_id = $1
      and told.round = $2
      and told.attempted_at is null
      and deliveries.status = 'PROCESSING'
    order by told.subscription_id
    limit $3
    for update of deliveries
)
update deliveries
set attempt = deliveries.attempt + $5,
    lock_token = deliveries.lock_token + 1,
    lease_until = clock_timestamp() + $4 * interval '1 millisecond',
    updated_at = now()
from interrupted
where deliveries.id = interrupted.id
returning
    deliveries.id,
    deliveries.channel,
    deliveries.attempt,
    deliveries.lock_token,
    deliveries.notification_id as notification,
    deliveries.last_error,
    deliveries.target,
    deliveries.subject,
    deliveries.body,
    deliveries.is_markup,
    interrupted.user_id as "user",
    null::text as traceparent,
    interrupted.subscription_id as subscription
