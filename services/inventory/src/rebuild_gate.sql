-- What the gate of a product has to count, of one instant: units on hand, and each living hold with its remaining time
-- (null: pinned). One row with null for the hold if there is none.
-- $1 product id
select (extract(epoch from clock.now) * 1000)::bigint as epoch_ms, stocks.on_hand, living.hold_id, living.quantity,
       living.remaining_ms
  from (select clock_timestamp() as now) as clock
  join stocks on stocks.product_id = $1::uuid
  left join lateral (
       select holds.hold_id, hold_lines.quantity,
              case when holds.state = 'HELD'
                   then (extract(epoch from holds.expires_at - clock.now) * 1000)::bigint
               end as remaining_ms
         from holds
         join hold_lines on hold_lines.hold_id = holds.hold_id and hold_lines.product_id = $1
        where holds.state = 'PINNED'
           or (holds.state = 'HELD' and holds.expires_at > clock.now)
       ) as living on true
