-- Moves a round on and renews its runner's lease.
-- $1: id of the round
-- $2: epoch of the runner
-- $3: cursor
-- $4: recipients more
-- $5: alerts sent more
-- $6: lease in milliseconds
update product_notification_history
set last_subscription_id = $3,
    recipient_count = recipient_count + $4,
    sent_count = sent_count + $5,
    lease_until = clock_timestamp() + $6 * interval '1 millisecond'
where id = $1
  and epoch = $2
  and status = 'IN_PROGRESS'
