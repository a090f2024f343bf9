-- Gives seats to holds: a seat that nobody had, or whose last hold has ended. One that a living hold has is left out.
-- $1 now
-- One element for each seat: $2 seat id  $3 hold id  $4 user id
insert into reservation (seat_id, hold_id, user_id, reserved_at)
select taken.seat_id, taken.hold_id, taken.user_id, $1::timestamptz
  from unnest($2::uuid[], $3::uuid[], $4::uuid[]) as taken (seat_id, hold_id, user_id)
 order by taken.seat_id
    on conflict (seat_id) do update
   set hold_id = excluded.hold_id,
       user_id = excluded.user_id,
       reserved_at = excluded.reserved_at
 where not exists (
       select
         from holds
        where holds.hold_id = reservation.hold_id
          and holds.hold_id <> excluded.hold_id
          and holds.state in ('HELD', 'PINNED', 'CONFIRMED')
       )
