-- Gives up what a runner of this round has written and not sent: the product has sold out.
-- $1: product
-- $2: round
update deliveries
set status = 'FAILED',
    lease_until = null,
    last_error = 'SOLD_OUT',
    updated_at = now()
from product_user_notification_history as told
where told.product_id = $1
  and told.round = $2
  and told.attempted_at is null
  and deliveries.notification_id = told.notification_id
  and deliveries.status = 'PROCESSING'
