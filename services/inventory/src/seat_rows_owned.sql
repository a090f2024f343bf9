-- How many seats users hold and have bought in concerts.
-- $1 user ids  $2 concert ids, one for each user id  $3 now
select asked.user_id, asked.concert_id, sum(hold_lines.quantity)::bigint as seats
  from unnest($1::uuid[], $2::uuid[]) as asked (user_id, concert_id)
  join holds on holds.user_id = asked.user_id
            and holds.state in ('HELD', 'PINNED', 'CONFIRMED')
            and (holds.state <> 'HELD' or holds.expires_at > $3::timestamptz)
  join hold_lines on hold_lines.hold_id = holds.hold_id
  join products on products.id = hold_lines.product_id and products.concert_id = asked.concert_id
 group by asked.user_id, asked.concert_id
