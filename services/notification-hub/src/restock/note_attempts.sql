-- Notes when alerts of a round were handed to their channel.
-- $1: product
-- $2: round
-- $3: subscriptions
-- $4: microseconds since each was handed over
update product_user_notification_history as told
set attempted_at = statement_timestamp() - attempt.ago_us * interval '1 microsecond'
from unnest($3::bigint[], $4::bigint[]) as attempt (subscription_id, ago_us)
where told.product_id = $1
  and told.round = $2
  and told.subscription_id = attempt.subscription_id
