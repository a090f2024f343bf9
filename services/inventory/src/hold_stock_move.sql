-- Ends reservations whose seats go to the holds of orders.
-- $1 now
-- One element for each reservation: $2 hold id  $3 hold id of the order
update holds
   set state = 'RELEASED',
       moved_to = moved.order_hold_id,
       reason = 'ordered',
       updated_at = $1::timestamptz
  from unnest($2::uuid[], $3::uuid[]) as moved (hold_id, order_hold_id)
 where holds.hold_id = moved.hold_id
   and holds.state = 'HELD'
