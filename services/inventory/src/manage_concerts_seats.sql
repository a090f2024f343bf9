-- Inserts the seats of one price category.
-- $1 concert id  $2 product id  $3 seats that the concert has already
-- One element for each seat: $4 seat id  $5 label
insert into seat (seat_id, concert_id, product_id, label, place)
select new.seat_id, $1::uuid, $2::uuid, new.label, ($3::bigint + new.place)::int
  from unnest($4::uuid[], $5::text[]) with ordinality as new (seat_id, label, place)
