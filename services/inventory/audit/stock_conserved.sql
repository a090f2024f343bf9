-- The table's own checks say the same. This line sees that they are still there and still right.
select format('product %s: on_hand %s, held %s', product_id, on_hand, held) as offender
from {inventory}.stocks
where on_hand < 0 or held < 0 or held > on_hand
