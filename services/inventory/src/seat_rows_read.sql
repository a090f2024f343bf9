-- Seats, each with the hold that has it; without one if it is free. A hold whose time is up still has its seats here.
-- $1 seat ids
select seat.seat_id, seat.concert_id, seat.product_id, seat.label, concert.queue_manage_required, holds.hold_id,
       holds.user_id, holds.state, holds.expires_at, holds.concert_id is not null as is_reservation,
       coalesce((select sum(hold_lines.quantity) from hold_lines where hold_lines.hold_id = holds.hold_id), 0)::bigint
           as seats
  from seat
  join concert on concert.concert_id = seat.concert_id
  left join reservation on reservation.seat_id = seat.seat_id
  left join holds on holds.hold_id = reservation.hold_id and holds.state in ('HELD', 'PINNED', 'CONFIRMED')
 where seat.seat_id = any($1::uuid[])
