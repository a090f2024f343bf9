-- Writes who is told in a round. Who has been told in it is left out.
-- $1: product
-- $2: round
-- $3: subscriptions
-- $4: their users
-- $5: ids of their notifications
insert into product_user_notification_history (product_id, round, subscription_id, user_id, notification_id)
select
    $1,
    $2,
    draft.subscription_id,
    draft.user_id,
    draft.notification_id
from unnest($3::bigint[], $4::uuid[], $5::uuid[]) as draft (subscription_id, user_id, notification_id)
on conflict do nothing
returning subscription_id
