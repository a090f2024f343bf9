-- How many units users hold and have bought, of some products.
-- $1 user ids  $2 product ids, one for each user id  $3 now
select holds.user_id, hold_lines.product_id, sum(hold_lines.quantity)::bigint as units
  from unnest($1::uuid[], $2::uuid[]) as asked (user_id, product_id)
  join holds on holds.user_id = asked.user_id
            and holds.state in ('HELD', 'PINNED', 'CONFIRMED')
            and (holds.state <> 'HELD' or holds.expires_at > $3::timestamptz)
  join hold_lines on hold_lines.hold_id = holds.hold_id and hold_lines.product_id = asked.product_id
 group by holds.user_id, hold_lines.product_id
