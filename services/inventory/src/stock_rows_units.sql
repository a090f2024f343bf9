-- Units on hand and held, with the version of the product. The units of an expired hold are not held any more, whether
-- or not the sweeper has come.
-- $1 product ids
select stocks.product_id, products.version as product_version, stocks.on_hand,
       (stocks.held - coalesce(expired.units, 0))::bigint as held
  from stocks
  join products on products.id = stocks.product_id
  left join (
       select hold_lines.product_id, sum(hold_lines.quantity) as units
         from holds
         join hold_lines on hold_lines.hold_id = holds.hold_id
        where holds.state = 'HELD'
          and holds.expires_at <= statement_timestamp()
        group by hold_lines.product_id
       ) as expired on expired.product_id = stocks.product_id
 where stocks.product_id = any($1::uuid[])
