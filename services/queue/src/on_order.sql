-- Who has bought in which open sale.
-- $1 products, $2 their buyers
select distinct event.id as event_id, bought.user_id
from unnest($1::uuid[], $2::uuid[]) as bought (product_id, user_id)
join sale_events as event on event.status = 'OPEN' and event.queue_manage_required and bought.product_id = any(event.product_ids)
