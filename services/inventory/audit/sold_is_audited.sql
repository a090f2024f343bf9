-- What was confirmed left the stock once, line by line; what was returned came back once.
with line as (
    select line.hold_id, line.product_id, line.quantity, hold.state
    from {inventory}.hold_lines as line
    join {inventory}.holds as hold on hold.hold_id = line.hold_id
    where hold.state in ('CONFIRMED', 'RETURNED')
),
due (kind, hold_id, product_id, delta) as (
    select 'CONFIRM', hold_id, product_id, -quantity from line
    union all
    select 'RETURN', hold_id, product_id, quantity from line where state = 'RETURNED'
),
booked as (
    select kind, hold_id, product_id, sum(delta) as delta, count(*) as rows
    from {inventory}.product_stock_audit
    where kind in ('CONFIRM', 'RETURN')
    group by kind, hold_id, product_id
)
select format('hold %s, product %s: %s of %s due, %s booked in %s rows',
              hold_id, product_id, kind, coalesce(due.delta, 0), coalesce(booked.delta, 0), coalesce(booked.rows, 0)) as offender
from due
full join booked using (kind, hold_id, product_id)
where due.delta is distinct from booked.delta or booked.rows <> 1
