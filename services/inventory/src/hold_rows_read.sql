-- Holds with their lines, and the time. One row without a hold if none of them exists.
-- $1 hold ids
select clock_timestamp() as now, holds.hold_id, holds.user_id, holds.state, holds.expires_at, holds.pinned_by,
       holds.pinned_late, holds.unpinned_by, holds.order_version, holds.concert_id, holds.moved_to,
       hold_lines.product_id, hold_lines.quantity, hold_lines.unit_price, hold_lines.currency, hold_lines.sku,
       hold_lines.name, hold_lines.seats
  from (values (0)) as always
  left join holds on holds.hold_id = any($1::uuid[])
  left join hold_lines on hold_lines.hold_id = holds.hold_id
 order by hold_lines.product_id
