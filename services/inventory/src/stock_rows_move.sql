-- Moves units of stock, each row only if it still has the version that was read and if enough units stay sellable.
-- One element for each row: $1 product id  $2 version  $3 change of on_hand  $4 change of held  $5 a new restock round?
update stocks
   set on_hand = stocks.on_hand + moves.on_hand,
       held = stocks.held + moves.held,
       version = stocks.version + 1,
       restock_round = stocks.restock_round + moves.replenished::int
  from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bool[])
       as moves (product_id, version, on_hand, held, replenished)
 where stocks.product_id = moves.product_id
   and stocks.version = moves.version
   and stocks.on_hand - stocks.held + moves.on_hand - moves.held >= 0
returning stocks.product_id, stocks.on_hand, stocks.held, stocks.version, stocks.restock_round
