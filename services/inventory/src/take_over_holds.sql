-- Locks those of some holds that have expired, and reads all their lines.
-- $1 now  $2 hold ids
with expired as materialized (
    select holds.hold_id
      from holds
     where holds.hold_id = any($2::uuid[])
       and holds.state = 'HELD'
       and holds.expires_at <= $1::timestamptz
       -- To wait here could be a deadlock: others lock holds in the order of their ids.
       for update skip locked
)
select hold_lines.hold_id, hold_lines.product_id, hold_lines.quantity
  from expired
  join hold_lines on hold_lines.hold_id = expired.hold_id
