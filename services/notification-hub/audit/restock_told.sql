-- A completed round has told every subscriber whose transaction had ended before its last look.
select format('user %s, subscription %s, was not told in round %s of product %s', subscription.user_id, subscription.id, round.round, round.product_id) as offender
from {notification_hub}.product_notification_history as round
join {notification_hub}.product_user_notification as subscription
  on subscription.product_id = round.product_id and subscription.tx_id < round.end_tx
left join {notification_hub}.product_user_notification_history as told
  on told.product_id = round.product_id and told.round = round.round and told.user_id = subscription.user_id
where round.status = 'COMPLETED'
  and told.user_id is null
union all
-- The unique constraint says the same, as long as it is there.
select format('user %s was told %s times in round %s of product %s', user_id, count(*), round, product_id)
from {notification_hub}.product_user_notification_history
group by product_id, round, user_id
having count(*) > 1
union all
-- Only those may be overtaken whose transaction was still open when the round began, and those whose runner has died.
select format('subscription %s was told before %s in round %s of product %s', told.subscription_id, told.earlier_id, told.round, told.product_id)
from (
    select
        history.product_id,
        history.round,
        history.subscription_id,
        max(history.subscription_id) over (
            partition by history.product_id, history.round
            order by history.attempted_at
            groups between unbounded preceding and 1 preceding
        ) as earlier_id,
        round.ceiling,
        delivery.attempt
    from {notification_hub}.product_user_notification_history as history
    join {notification_hub}.product_notification_history as round
      on round.product_id = history.product_id and round.round = history.round
    join {notification_hub}.deliveries as delivery on delivery.notification_id = history.notification_id
    where history.attempted_at is not null
) as told
where told.earlier_id > told.subscription_id
  and told.earlier_id <= told.ceiling
  and told.attempt = 1
  and not exists (
      select
      from {notification_hub}.product_user_notification as subscription
      join {notification_hub}.product_notification_history as round
        on round.product_id = told.product_id and round.round = told.round
      where subscription.id = told.subscription_id
        and subscription.tx_id >= round.start_tx
  )
union all
select format('an alert of round %s of product %s was sent %s s after it had sold out', history.round, history.product_id, extract(epoch from history.attempted_at - round.ended_at))
from {notification_hub}.product_user_notification_history as history
join {notification_hub}.product_notification_history as round
  on round.product_id = history.product_id and round.round = history.round
where round.status = 'CANCELED_BY_SOLD_OUT'
  and history.attempted_at > round.ended_at + interval '1 second'
union all
select format('round %s of product %s is IN_PROGRESS since %s', round, product_id, started_at)
from {notification_hub}.product_notification_history
where status = 'IN_PROGRESS'
union all
-- In any second of all rounds, over all replicas.
select format('%s alerts were sent in the second after %s', sent.in_a_second, sent.attempted_at)
from (
    select
        attempted_at,
        count(*) over (
            order by attempted_at range between current row and interval '999999 microseconds' following
        ) as in_a_second
    from {notification_hub}.product_user_notification_history
    where attempted_at is not null
) as sent
where sent.in_a_second > 500
