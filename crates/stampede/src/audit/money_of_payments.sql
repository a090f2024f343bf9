-- What the provider's book must say about each of our payments.
select id, order_id, captured, refunded
from {payment}.payments
where method = 'NAVERPAY'
