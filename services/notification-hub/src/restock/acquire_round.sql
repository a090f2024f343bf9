-- Takes a round that nobody runs. Whoever ran it before is fenced off by the new epoch.
-- $1: lease in milliseconds
with free as materialized (
    select
        running.product_id,
        running.round
    from product_notification_history as running
    where running.status = 'IN_PROGRESS'
      and (running.lease_until is null or running.lease_until < clock_timestamp())
    order by running.started_at
    limit 1
    for update skip locked
)
update product_notification_history as round
set epoch = round.epoch + 1,
    lease_until = clock_timestamp() + $1 * interval '1 millisecond'
from free
where round.product_id = free.product_id
  and round.round = free.round
returning
    round.product_id as product,
    round.round,
    round.epoch,
    round.stock_version,
    round.start_tx
