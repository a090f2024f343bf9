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
      and id::text not in (select key from outbox_events where status = 'NEW')
      and id::text not in (select key from outbox_events where status = 'DEAD')
      and id::text not in (select key from parked where key is not null)
      and coalesce(paid_payment_id::text, '') not in (select key from parked where key is not null)
)
select
    statement_timestamp() as now,
    unchanged_since,
    (select count(*) from due) as orders,
    (select count(*) from order_items join due on due.id = order_id) as items
from asked
