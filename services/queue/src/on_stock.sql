-- Open sales of these products have more to sell: those that were sold out begin again. Each has a new version, so that a look
-- at the stock from before the restock, which is still to be stored, changes nothing.
-- $1 products
with sale as (
  select id, sold_out
  from sale_events
  where status = 'OPEN' and product_ids && $1::uuid[]
  order by id
  for update
)
update sale_events
set sold_out = null, version = version + 1, updated_at = clock_timestamp()
from sale
where sale_events.id = sale.id
returning sale_events.id, sale.sold_out is not null as begins_again
