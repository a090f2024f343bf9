-- Full joins: rows of a product without a stock are as wrong as a stock without its rows.
with live as (
    select line.product_id, sum(line.quantity) as units
    from {inventory}.hold_lines as line
    join {inventory}.holds as hold on hold.hold_id = line.hold_id
    where hold.state in ('HELD', 'PINNED')
    group by line.product_id
),
moved as (
    select product_id, sum(delta) as units
    from {inventory}.product_stock_audit
    group by product_id
)
select format('product %s: held %s, lines of live holds %s', product_id, coalesce(stock.held, 0), coalesce(live.units, 0)) as offender
from {inventory}.stocks as stock
full join live using (product_id)
where coalesce(stock.held, 0) <> coalesce(live.units, 0)
union all
select format('product %s: on_hand %s, movements %s', product_id, coalesce(stock.on_hand, 0), coalesce(moved.units, 0))
from {inventory}.stocks as stock
full join moved using (product_id)
where coalesce(stock.on_hand, 0) <> coalesce(moved.units, 0)
