-- Claims whose worker has died or stalled. Locked, so that two replicas do not count one loss twice.
select
    deliveries.id,
    deliveries.channel,
    deliveries.attempt,
    deliveries.lock_token
from deliveries
where deliveries.status = 'PROCESSING'
  and deliveries.lease_until < now()
order by deliveries.lease_until
limit $1
for update skip locked
