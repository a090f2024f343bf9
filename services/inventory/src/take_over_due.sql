with due as materialized (
    select holds.hold_id
      from holds
     where holds.state = 'HELD'
       and holds.expires_at <= $2
       and exists (
           select
             from hold_lines
            where hold_lines.hold_id = holds.hold_id
              and hold_lines.product_id = any($1)
       )
       and holds.hold_id <> all($4)
     order by holds.expires_at
     limit $3
       -- Stock is locked by now, and headers come after stock only for those who do not wait for them.
       for update skip locked
)
select hold_lines.hold_id, hold_lines.product_id, hold_lines.quantity
  from due
  join hold_lines on hold_lines.hold_id = due.hold_id
