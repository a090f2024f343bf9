-- Ends a round that is in progress.
-- $1: id of the round
-- $2: epoch of the runner
-- $3: how it ends
-- $4: the oldest transaction that was open before the last look for subscribers; null unless it is completed
-- $5: why; null unless it is an error
-- $6: alerts sent more
update product_notification_history
set status = $3,
    end_tx = $4,
    error = $5,
    sent_count = sent_count + $6,
    lease_until = null,
    ended_at = clock_timestamp()
where id = $1
  and epoch = $2
  and status = 'IN_PROGRESS'
