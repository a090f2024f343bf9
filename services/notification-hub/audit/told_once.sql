-- Two events that tell of one fact would each have a notification.
select format('%s of order %s was applied %s times', type, data ->> 'orderId', count(*)) as offender
from {notification_hub}.notifications
where type in ('ORDER_CREATED', 'ORDER_PLACED') and requested_by is null
group by type, data ->> 'orderId'
having count(*) > 1
