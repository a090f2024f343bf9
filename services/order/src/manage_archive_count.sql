-- What a run would move now, by the conditions of archive_orders.sql.
--
--   $1 days that an order stays after its last change
with asked as materialized (
    select statement_timestamp() - $1 * interval '1 day' as unchanged_since
),
due as (
    select id
    from orders
    where status in ('PAID', 'REFUNDED', 'CANCELLED', 'EXPIRED')
      and updated_at < (select unchanged_since from asked)
      and not exists (select from outbox_events as event where event.key = orders.id::text and event.status = 'NEW')
      and not exists (select from outbox_events as event where event.key = orders.id::text and event.status = 'DEAD')
      and not exists (select from parked where parked.key in (orders.id::text, orders.paid_payment_id::text))
)
select
    statement_timestamp() as now,
    unchanged_since,
    (select count(*) from due) as orders,
    (select count(*) from order_items join due on due.id = order_id) as items
from asked
