-- The seats of a concert in their order, each with the hold that has it or had it last, and the time.
-- $1 concert id
select clock_timestamp() as now, seat.seat_id, seat.label, seat.product_id, holds.state, holds.expires_at
  from seat
  left join reservation on reservation.seat_id = seat.seat_id
  left join holds on holds.hold_id = reservation.hold_id
 where seat.concert_id = $1::uuid
 order by seat.place, seat.seat_id
