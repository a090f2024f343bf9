-- No seat is in two living holds, and the hold that has a seat is the one that its row names. The limit for each account is
-- not looked at: a late payment takes its seats again whatever its buyer has taken since.
with had as (
    select (seat ->> 'seatId')::uuid as seat_id, hold.hold_id
    from {inventory}.holds as hold
    join {inventory}.hold_lines as line on line.hold_id = hold.hold_id
    cross join lateral jsonb_array_elements(line.seats) as seat
    where hold.state in ('HELD', 'PINNED', 'CONFIRMED')
)
select format('seat %s is in %s living holds', seat_id, count(*)) as offender
from had
group by seat_id
having count(*) > 1
union all
select format('seat %s is in hold %s, and its row names %s', had.seat_id, had.hold_id, row.hold_id)
from had
left join {inventory}.reservation as row on row.seat_id = had.seat_id
where row.hold_id is distinct from had.hold_id
union all
-- A unit that is sold by the seat is a seat.
select format('product %s has %s seats, and %s units on hand or sold', product.id, seats.count, stock.on_hand + sold.units)
from {inventory}.products as product
join {inventory}.stocks as stock on stock.product_id = product.id
cross join lateral (select count(*) from {inventory}.seat where seat.product_id = product.id) as seats
cross join lateral (
    select coalesce(sum(line.quantity), 0) as units
    from {inventory}.hold_lines as line
    join {inventory}.holds as hold on hold.hold_id = line.hold_id
    where line.product_id = product.id and hold.state = 'CONFIRMED'
) as sold
where product.concert_id is not null and seats.count <> stock.on_hand + sold.units
