-- Renews the lease of a round's runner. Nothing is updated where the round is another's, or has ended.
-- $1: id of the round
-- $2: epoch of the runner
-- $3: lease in milliseconds
update product_notification_history
set lease_until = clock_timestamp() + $3 * interval '1 millisecond'
where id = $1
  and epoch = $2
  and status = 'IN_PROGRESS'
