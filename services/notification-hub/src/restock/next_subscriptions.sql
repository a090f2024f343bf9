-- The next subscriptions of a product in the order of their ids. It ends before the first one that a transaction which
-- is still open may turn out to precede: such a row would be overtaken. `offset 0` keeps the planner from looking for
-- that one along the ids, through all rows that are left.
-- $1: product
-- $2: cursor: only greater ids
-- $3: how many at most
select
    subscription.id as subscription,
    subscription.user_id as "user"
from product_user_notification as subscription
where subscription.product_id = $1
  and subscription.id > $2
  and subscription.id < coalesce(
      (
          select min(recent.id)
          from (
              select row.id
              from product_user_notification as row
              where row.product_id = $1
                and row.tx_id >= pg_snapshot_xmin(pg_current_snapshot())::text::bigint
              offset 0
          ) as recent
          where recent.id > $2
      ),
      9223372036854775807
  )
order by subscription.id
limit $3
