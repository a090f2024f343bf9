-- Subscriptions that the cursor has passed by or has not dared to reach, in the order of their ids. Rows of transactions
-- that had ended when the round began cannot be among them. `offset 0` keeps the planner from looking for them along the
-- ids, through all rows of the product, and from reading everybody who was told at once.
-- $1: product
-- $2: the oldest transaction that was open when the round began
-- $3: round
-- $4: how many at most
select
    subscription.id as subscription,
    subscription.user_id as "user"
from (
    select
        recent.id,
        recent.user_id
    from product_user_notification as recent
    where recent.product_id = $1
      and recent.tx_id >= $2
    offset 0
) as subscription
where not exists (
    select
    from product_user_notification_history as told
    where told.product_id = $1
      and told.round = $3
      and told.user_id = subscription.user_id
    offset 0
)
order by subscription.id
limit $4
