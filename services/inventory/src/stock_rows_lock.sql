-- Locks stock in the order of product ids, waiting for whoever has it, and reads the products with it.
-- $1 product ids
select stocks.product_id, stocks.on_hand, stocks.held, stocks.version, products.sku, products.name,
       products.price_amount, products.currency, products.max_per_user, products.concert_id
  from stocks
  join products on products.id = stocks.product_id
 where stocks.product_id = any($1::uuid[])
 order by stocks.product_id
   for update of stocks
