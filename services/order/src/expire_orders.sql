-- Expires the orders that are due.
--
--   $1 how many orders at most
--
-- `materialized` keeps the limit: a subquery under IN may run again and take more rows. statement_timestamp() can be
-- looked up in the index; clock_timestamp() changes from row to row and would read the whole index.
with due as materialized (
    select id
    from orders
    where status in ('CREATED', 'PENDING_PAYMENT')
      and approving_payment_id is null
      and hold_expires_at <= statement_timestamp()
    order by hold_expires_at
    limit $1
    for update skip locked
)
update orders
set status = 'EXPIRED', version = orders.version + 1, updated_at = now()
from due
where orders.id = due.id
returning orders.id, orders.user_id, orders.version, orders.updated_at, orders.coupon_issue_id
