-- The lines of expired holds, the oldest holds first.
-- $1 holds at most
select hold_lines.hold_id, hold_lines.product_id, hold_lines.quantity
  from (
       select holds.hold_id
         from holds
        where holds.state = 'HELD'
          -- STABLE, so that the index on living holds is searched by it.
          and holds.expires_at <= statement_timestamp()
        order by holds.expires_at
        limit $1::bigint
       ) as expired
  join hold_lines on hold_lines.hold_id = expired.hold_id
