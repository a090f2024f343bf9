-- Locks expired holds on some products, the oldest first, and reads all their lines.
-- $1 now  $2 product ids  $3 hold ids to leave out  $4 holds at most
with expired as materialized (
    select holds.hold_id
      from holds
     where holds.state = 'HELD'
       and holds.expires_at <= $1::timestamptz
       and exists (
           select
             from hold_lines
            where hold_lines.hold_id = holds.hold_id
              and hold_lines.product_id = any($2::uuid[])
       )
       and holds.hold_id <> all($3::uuid[])
     order by holds.expires_at
     limit $4::bigint
       -- To wait here could be a deadlock: others lock holds in the order of their ids.
       for update skip locked
)
select hold_lines.hold_id, hold_lines.product_id, hold_lines.quantity
  from expired
  join hold_lines on hold_lines.hold_id = expired.hold_id
