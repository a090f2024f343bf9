-- Everything that the tables of all services say about one order, in the order of time. `place` decides where two steps
-- have the same time. $1: the order's id. $2, $3: the ids, and the topics, that events of it can have.
with this as (
    select * from {order}.all_orders where id = $1
),
bought as (
    select array_agg(product_id) as product_ids, bool_or(cardinality(seats) > 0) as is_seated
    from {order}.all_order_items
    where order_id = $1
),
-- The reservation whose seats the order took over. Only orders of seats have one, and nothing finds it but a long look.
reserved as (
    select holds.* from {inventory}.holds where holds.moved_to = $1 and (select is_seated from bought)
),
sales as (
    select sale.* from {queue}.sale_events as sale where sale.product_ids && (select product_ids from bought)
),
recorded as (
    select event.* from {outbox_events} as event where event.event_id = any($2)
    union all
    -- An issue may have been in several orders.
    select event.*
    from {outbox_events} as event
    where event.topic in ('COUPON_REDEEMED', 'COUPON_RESTORED')
      and event.key = (select coupon_issue_id::text from this)
      and event.payload::json ->> 'orderId' = $1::text
),
-- Rows of the outbox go after a day, the marks of consumers after two weeks.
applied as (
    select mark.event_id, min(mark.day) as day, array_agg(mark.consumer order by mark.consumer) as consumers
    from {inbox} as mark
    where mark.event_id = any($2)
    group by mark.event_id
),
possible as (
    select * from unnest($2::uuid[], $3::text[]) as possible (event_id, topic)
    union
    select event_id, topic from recorded
),
steps (at, place, service, step, about, details) as (
    select coalesce(opened_at, opens_at), 0, 'queue', 'SALE OPENED', event_id::text,
           json_build_object('name', name, 'waitingRoom', queue_manage_required)
    from (select sales.*, sales.id as event_id from sales) as sale
    where coalesce(opened_at, opens_at) <= (select created_at from this)
    union all
    select issue.issued_at, 1, 'coupon', 'COUPON ISSUED', issue.id::text,
           json_build_object('coupon', issue.coupon_id, 'name', coupon.name)
    from this
    join {coupon}.coupon_issue as issue on issue.id = this.coupon_issue_id
    join {coupon}.coupons as coupon on coupon.id = issue.coupon_id
    union all
    select bypass.created_at, 4, 'inventory', 'LET IN WITHOUT A PASS', bypass.event_id::text,
           json_build_object('reservation', bypass.reservation_id)
    from {inventory}.queue_bypasses as bypass
    where bypass.reservation_id in (select hold_id from reserved)
    union all
    select reserved.created_at, 5, 'inventory', 'SEATS RESERVED', reserved.hold_id::text,
           json_build_object('concert', reserved.concert_id, 'until', reserved.expires_at)
    from reserved
    union all
    select bypass.created_at, 9, 'order', 'LET IN WITHOUT A PASS', bypass.event_id::text, json_build_object()
    from {order}.queue_bypasses as bypass
    where bypass.order_id = $1
    union all
    select hold.created_at, 10, 'inventory', case when hold.user_id is null then 'RELEASED BEFORE IT WAS HELD' else 'UNITS HELD' end,
           hold.hold_id::text,
           json_build_object(
               'units', (select string_agg(format('%s x %s', line.quantity, line.sku), ', ' order by line.sku)
                         from {inventory}.hold_lines as line where line.hold_id = hold.hold_id),
               'seats', (select string_agg(seat ->> 'label', ' ')
                         from {inventory}.hold_lines as line
                         cross join lateral jsonb_array_elements(line.seats) as seat where line.hold_id = hold.hold_id),
               'until', hold.expires_at, 'takenFromReservation', (select hold_id from reserved))
    from {inventory}.holds as hold
    where hold.hold_id = $1
    union all
    select redemption.created_at, 15, 'coupon', 'COUPON RESERVED', redemption.coupon_issue_id::text,
           json_build_object('discount', redemption.discount, 'currency', redemption.currency, 'until', redemption.expires_at)
    from {coupon}.coupon_redemptions as redemption
    where redemption.order_id = $1 and redemption.coupon_issue_id is not null
    union all
    select this.created_at, 20, 'order', 'ORDER CREATED', this.id::text,
           json_build_object('amount', this.amount, 'currency', this.currency, 'key', this.idempotency_key,
                             'until', this.first_hold_expires_at)
    from this
    union all
    select payment.created_at, 30, 'payment', 'PAYMENT PREPARED', payment.id::text,
           json_build_object('method', payment.method, 'amount', payment.amount, 'currency', payment.currency,
                             'until', payment.expires_at)
    from {payment}.payments as payment
    where payment.order_id = $1
    union all
    select attempt.started_at, 40, 'payment', 'ATTEMPT STARTED', attempt.id::text,
           json_build_object('payment', attempt.payment_id, 'amount', attempt.amount, 'provider', attempt.pg_payment_id)
    from {payment}.payment_attempt as attempt
    join {payment}.payments as payment on payment.id = attempt.payment_id
    where payment.order_id = $1
    union all
    select coalesce(attempt.ended_at, attempt.started_at), 50, 'payment', 'ATTEMPT ' || attempt.status, attempt.id::text,
           json_build_object('payment', attempt.payment_id, 'code', attempt.pg_code, 'message', attempt.pg_message)
    from {payment}.payment_attempt as attempt
    join {payment}.payments as payment on payment.id = attempt.payment_id
    where payment.order_id = $1 and attempt.status <> 'STARTED'
    union all
    select webhook.received_at, 51, 'payment', 'WEBHOOK RECEIVED', webhook.webhook_id,
           json_build_object('payment', webhook.payment_id, 'provider', webhook.provider, 'isHandled', webhook.is_handled)
    from {payment}.psp_webhooks as webhook
    join {payment}.payments as payment on payment.id = webhook.payment_id
    where payment.order_id = $1
    union all
    select transfer.created_at, 52, 'payment', 'POINTS ' || transfer.kind, transfer.id::text,
           json_build_object('payment', transfer.payment_id, 'amount', transfer.amount)
    from {payment}.point_transfers as transfer
    join {payment}.payments as payment on payment.id = transfer.payment_id
    where payment.order_id = $1
    union all
    select hold.updated_at, 60, 'inventory', 'HOLD IS ' || hold.state, hold.hold_id::text,
           json_build_object('pinnedBy', hold.pinned_by, 'orderVersion', hold.order_version, 'reason', hold.reason,
                             'until', case when hold.state = 'HELD' then hold.expires_at end,
                             'endedAttempts', nullif(hold.unpinned_by, '{}'))
    from {inventory}.holds as hold
    where hold.hold_id = $1 and hold.user_id is not null and (hold.state <> 'HELD' or hold.unpinned_by <> '{}')
    union all
    select audit.created_at, 61, 'inventory', 'STOCK ' || audit.kind, audit.product_id::text,
           json_build_object('delta', audit.delta, 'onHand', audit.on_hand_after, 'held', audit.held_after,
                             'version', audit.stock_version)
    from {inventory}.product_stock_audit as audit
    where audit.hold_id = $1
    union all
    select redemption.updated_at, 62, 'coupon', 'COUPON IS ' || redemption.state, redemption.coupon_issue_id::text,
           json_build_object('pinnedBy', redemption.pinned_by, 'orderVersion', redemption.order_version,
                             'reason', redemption.reason, 'endedAttempts', nullif(redemption.unpinned_by, '{}'))
    from {coupon}.coupon_redemptions as redemption
    where redemption.order_id = $1 and redemption.coupon_issue_id is not null
      and (redemption.state <> 'RESERVED' or redemption.unpinned_by <> '{}')
    union all
    select payment.updated_at, 63, 'payment', 'PAYMENT IS ' || payment.status, payment.id::text,
           json_build_object('version', payment.version, 'captured', payment.captured, 'refunded', payment.refunded,
                             'asksProviderAt', payment.ask_at)
    from {payment}.payments as payment
    where payment.order_id = $1 and payment.version > 1
    union all
    select refund.created_at, 70, 'payment', 'REFUND PROMISED', refund.id::text,
           json_build_object('payment', refund.payment_id, 'amount', refund.amount, 'reason', refund.reason,
                             'isStray', refund.stray)
    from {payment}.refunds as refund
    join {payment}.payments as payment on payment.id = refund.payment_id
    where payment.order_id = $1
    union all
    select refund.ended_at, 75, 'payment', 'REFUND ' || refund.status, refund.id::text,
           json_build_object('payment', refund.payment_id, 'amount', refund.amount, 'code', refund.pg_code)
    from {payment}.refunds as refund
    join {payment}.payments as payment on payment.id = refund.payment_id
    where payment.order_id = $1 and refund.ended_at is not null
    union all
    select this.updated_at, 80, 'order', 'ORDER IS ' || this.status, this.id::text,
           json_build_object('version', this.version, 'reason', this.cancel_reason, 'payment', this.paid_payment_id,
                             'reservedForAttempt', this.approving_attempt_id)
    from this
    where this.version > 1
    union all
    -- Of a mark without its event only the day is known.
    select coalesce(event.created_at, greatest(applied.day::timestamp at time zone 'UTC', (select created_at from this))), 85, coalesce(event.service, 'kafka'),
           'EVENT ' || possible.topic, possible.event_id::text,
           json_build_object('version', event.aggregate_version, 'status', event.status, 'publishedAt', event.published_at,
                             'error', event.last_error, 'appliedBy', applied.consumers,
                             'isDayOnly', case when event.event_id is null then true end)
    from possible
    left join recorded as event on event.event_id = possible.event_id
    left join applied on applied.event_id = possible.event_id
    where event.event_id is not null or applied.event_id is not null
    union all
    select note.created_at, 86, 'notification-hub', 'NOTIFICATION ' || note.type, note.id::text,
           json_build_object('user', note.user_id)
    from {notification_hub}.notifications as note
    where note.event_id in (select event_id from possible)
    union all
    select delivery.created_at, 87, 'notification-hub', 'DELIVERY ' || delivery.channel, delivery.id::text,
           json_build_object('status', delivery.status, 'attempts', delivery.attempt, 'subject', delivery.subject,
                             'error', delivery.last_error, 'givenUpAt', delivery.dead_lettered_at)
    from {notification_hub}.deliveries as delivery
    join {notification_hub}.notifications as note on note.id = delivery.notification_id
    where note.event_id in (select event_id from possible)
    union all
    select attempt.ended_at, 88, 'notification-hub',
           delivery.channel || case when attempt.error is null then ' SENT' else ' NOT SENT' end, delivery.id::text,
           json_build_object('claim', attempt.lock_token, 'error', attempt.error)
    from {notification_hub}.delivery_attempts as attempt
    join {notification_hub}.deliveries as delivery on delivery.id = attempt.delivery_id
    join {notification_hub}.notifications as note on note.id = delivery.notification_id
    where note.event_id in (select event_id from possible)
    union all
    select pass.ended_at, 89, 'queue', 'PASS ENDED', pass.event_id::text, json_build_object('number', pass.seq)
    from {queue}.ended_passes as pass
    where pass.event_id in (select id from sales) and pass.user_id = (select user_id from this)
      and pass.ended_at >= (select created_at from this)
    union all
    select step.created_at, 90, 'payment', 'STILL TO DO: ' || step.step, step.attempt_id::text,
           json_build_object('payment', step.payment_id, 'nextTryAt', step.next_try_at)
    from {payment}.pending_steps as step
    join {payment}.payments as payment on payment.id = step.payment_id
    where payment.order_id = $1
    union all
    select event.parked_at, 91, event.consumer, 'PARKED ' || event.topic, event.event_id::text,
           json_build_object('error', event.error, 'replayRequestedAt', event.replay_requested_at)
    from {parked} as event
    where event.event_id = any($2)
    union all
    select finding.found_at, 92, 'payment', 'RECONCILIATION ' || finding.kind, finding.run_id::text,
           json_build_object('expected', finding.expected, 'found', finding.found, 'action', finding.action,
                             'detail', finding.detail)
    from {payment}.reconciliation_findings as finding
    where finding.order_id = $1
    union all
    select this.archived_at, 95, 'order', 'ORDER ARCHIVED', this.id::text, json_build_object()
    from this
    where this.archived_at is not null
)
select at, service, step, about, json_strip_nulls(details) as details
from steps
order by at, place, service, step, about
