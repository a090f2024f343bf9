-- $1 order
select count(*) as count
from payments
join payment_attempt on payment_attempt.payment_id = payments.id
where payments.order_id = $1
