select format('user %s, key %s: %s orders', user_id, idempotency_key, count(*)) as offender
from {order}.all_orders
group by user_id, idempotency_key
having count(*) > 1
