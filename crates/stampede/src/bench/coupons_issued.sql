select
    (select count(*) from {coupon}.coupon_issue) as issues,
    (select count(*) from {coupon}.outbox_events where topic = 'COUPON_ISSUED') as events
