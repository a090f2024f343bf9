-- Begins a round, once.
-- $1: product
-- $2: round
-- $3: its id
-- $4: status
-- $5: version of the stock
insert into product_notification_history
    (product_id, round, id, status, stock_version, ceiling, start_tx, ended_at)
select
    $1,
    $2,
    $3,
    $4,
    $5,
    coalesce((select max(id) from product_user_notification where product_id = $1), 0),
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
    case when $4 <> 'IN_PROGRESS' then clock_timestamp() end
on conflict do nothing
