-- Concerts with a limit for each account, with all their price categories.
-- $1 concert ids
select concert.concert_id, concert.max_per_user, array_agg(products.id) as product_ids
  from concert
  join products on products.concert_id = concert.concert_id
 where concert.concert_id = any($1::uuid[])
   and concert.max_per_user is not null
 group by concert.concert_id
