-- Sales of these products that were sold out are open again.
-- $1 products
update sale_events
set sold_out = null, version = version + 1, updated_at = clock_timestamp()
where sold_out = 'FINAL' and status = 'OPEN' and product_ids && $1::uuid[]
