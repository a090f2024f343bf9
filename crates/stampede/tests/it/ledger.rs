//! What PostgreSQL says, read and never written: rows, units, and whether everything that was begun has ended.

use testkit::{Product, Site, eventually};

/// A row of `stocks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units {
    pub on_hand: i64,
    pub held: i64,
}

/// Questions about a site's rows.
pub trait Ledger {
    async fn units(&self, product: &Product) -> Units;

    /// Waits until every event has been published and applied and every delivery has been made.
    async fn settled(&self);

    /// What is still to be done, in words; empty when at rest.
    async fn open_work(&self) -> String;

    /// At rest: units are conserved, every order has its hold, its event and its one notification, and nothing else has.
    async fn assert_consistent(&self);

    /// Waits until the shop shows so many units of `product` as available.
    async fn shows(&self, product: &Product, available: i64);

    /// As if the time of `order` were up: its hold, its payments and itself end a second ago.
    async fn time_is_up(&self, order: &str);
}

impl Ledger for Site {
    async fn units(&self, product: &Product) -> Units {
        let row = self
            .rows(&format!("select on_hand, held from {{inventory}}.stocks where product_id = '{}'", product.id))
            .await;
        let unit = |name: &str| row[0][name].as_i64().expect("a number of units");
        Units { on_hand: unit("on_hand"), held: unit("held") }
    }

    async fn settled(&self) {
        let mut last = String::new();
        let started = std::time::Instant::now();
        loop {
            let open = self.open_work().await;
            if open.is_empty() {
                return;
            }
            last.clone_from(&open);
            assert!(started.elapsed() < testkit::PATIENCE, "it does not settle: {last}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    async fn open_work(&self) -> String {
        let heard = |service: &str, speaker: &str, topics: &str| {
            format!(
                "select count(*) from {{{speaker}}}.outbox_events
                  where topic in ({topics})
                    and not exists (select from {{{service}}}.inbox where inbox.event_id = outbox_events.event_id)"
            )
        };
        let all = |table: &str| {
            ["account", "inventory", "order", "payment", "notification_hub"]
                .map(|service| format!("select * from {{{service}}}.{table}"))
                .join(" union all ")
        };
        let rows = self
            .rows(&format!(
                "select (select count(*) from ({0}) as events where status = 'NEW') as unpublished,
                        (select count(*) from ({0}) as events where status = 'DEAD') as dead,
                        (select count(*) from ({1}) as parked) as parked,
                        ({2}) as unheard_by_hub,
                        ({3}) as payments_unheard_by_hub,
                        ({4}) as unheard_by_inventory,
                        ({5}) as unheard_by_order,
                        ({6}) as unheard_by_payment,
                        (select count(*) from {{payment}}.payments
                          where status in ('APPROVING', 'UNKNOWN') or owes_release or owes_order) as unsettled_payments,
                        (select count(*) from {{payment}}.refunds where status = 'PENDING') as unsettled_refunds,
                        (select count(*) from {{notification_hub}}.deliveries where status in ('PENDING', 'PROCESSING')) as unsent",
                all("outbox_events"),
                all("parked"),
                heard("notification_hub", "order", "'ORDER_CREATED', 'ORDER_PLACED'"),
                heard("notification_hub", "payment", "'PAYMENT_FAILED', 'PAYMENT_REFUNDED', 'PAYMENT_UNKNOWN'"),
                heard("inventory", "order", "'ORDER_CANCELLED', 'ORDER_EXPIRED', 'ORDER_PLACED', 'ORDER_REFUNDED'"),
                heard("order", "payment", "'PAYMENT_APPROVED', 'PAYMENT_REFUNDED'"),
                heard(
                    "payment",
                    "order",
                    "'ORDER_CANCELLED', 'ORDER_EXPIRED', 'ORDER_PLACED', 'ORDER_REFUND_REQUESTED'"
                ),
            ))
            .await;
        let counts = rows[0].as_object().expect("a row is an object");
        for never in ["dead", "parked"] {
            assert_eq!(counts[never], 0, "events that could not be published or applied: {counts:?}");
        }
        let open: Vec<_> =
            counts.iter().filter(|(_, count)| **count != 0).map(|(name, count)| format!("{name} {count}")).collect();
        open.join(", ")
    }

    async fn assert_consistent(&self) {
        self.settled().await;
        for (rule, violations) in RULES {
            let found = self.rows(violations).await;
            assert!(found.is_empty(), "{rule}; but {} violations: {:?}", found.len(), &found[..found.len().min(3)]);
        }
    }

    async fn time_is_up(&self, order: &str) {
        self.execute(&format!(
            "update {{inventory}}.holds set expires_at = now() - interval '1 second' where hold_id = '{order}';
             update {{order}}.orders set hold_expires_at = now() - interval '1 second' where id = '{order}';
             update {{payment}}.payments set expires_at = now() - interval '1 second' where order_id = '{order}'"
        ))
        .await;
    }

    async fn shows(&self, product: &Product, available: i64) {
        let path = format!("/products/{}", product.id);
        eventually(&format!("{path} shows {available} available"), async || {
            let shown = self.anyone().get(&path).await.expect(200).json();
            (shown["stock"]["available"] == available).then_some(())
        })
        .await;
    }
}

/// What is true of every site at rest, and the query that finds where it is not.
const RULES: [(&str, &str); 12] = [
    (
        "held units are those of living holds",
        "select stocks.* from {inventory}.stocks
          where stocks.held <> (select coalesce(sum(hold_lines.quantity), 0)
                                  from {inventory}.hold_lines join {inventory}.holds using (hold_id)
                                 where hold_lines.product_id = stocks.product_id and holds.state in ('HELD', 'PINNED'))",
    ),
    (
        "units on hand are the sum of their audit",
        "select stocks.* from {inventory}.stocks
          where stocks.on_hand <> (select coalesce(sum(delta), 0) from {inventory}.product_stock_audit as audit
                                    where audit.product_id = stocks.product_id)",
    ),
    (
        "an order that waits for its payment has a hold with the same lines",
        "select orders.id from {order}.orders
           left join {inventory}.holds on holds.hold_id = orders.id
          where orders.status in ('CREATED', 'PENDING_PAYMENT') and orders.hold_expires_at > now() + interval '2 seconds'
            and (holds.state is distinct from 'HELD' or exists (
                 (select product_id, quantity, unit_price from {order}.order_items where order_id = orders.id
                  except select product_id, quantity, unit_price from {inventory}.hold_lines where hold_id = orders.id)
                 union all
                 (select product_id, quantity, unit_price from {inventory}.hold_lines where hold_id = orders.id
                  except select product_id, quantity, unit_price from {order}.order_items where order_id = orders.id)))",
    ),
    (
        "a living hold belongs to an order",
        "select holds.hold_id from {inventory}.holds left join {order}.orders on orders.id = holds.hold_id
          where holds.state = 'HELD' and holds.expires_at > now() + interval '2 seconds' and orders.id is null",
    ),
    (
        "an order's amount is the sum of its items",
        "select orders.id from {order}.orders
          where amount is distinct from (select sum(quantity * unit_price) from {order}.order_items where order_id = orders.id)",
    ),
    (
        "an order that ended has given its units back",
        "select orders.id from {order}.orders join {inventory}.holds on holds.hold_id = orders.id
          where orders.status in ('CANCELLED', 'EXPIRED') and holds.state not in ('RELEASED', 'EXPIRED')",
    ),
    (
        "a paid order is a sale, and a refunded one is none any more",
        "select orders.id, orders.status, holds.state from {order}.orders
           left join {inventory}.holds on holds.hold_id = orders.id
          where (orders.status in ('PAID', 'REFUND_PENDING') and holds.state is distinct from 'CONFIRMED')
             or (orders.status = 'REFUNDED' and holds.state is distinct from 'RETURNED')
             or (holds.state = 'CONFIRMED' and orders.status not in ('PAID', 'REFUND_PENDING'))
             or holds.state = 'PINNED'",
    ),
    (
        "money that is kept has paid its order, and nothing else has",
        "select payments.id, payments.status, orders.id as order_id, orders.status as order_status
           from (select * from {payment}.payments where captured > refunded) as payments
           full join (select * from {order}.orders where status = 'PAID') as orders
             on orders.paid_payment_id = payments.id and orders.amount = payments.captured
          where payments.id is null or orders.id is null",
    ),
    (
        "every paid order was announced as placed, once",
        "select orders.id, count(events.id) from {order}.orders
           left join {order}.outbox_events as events on events.topic = 'ORDER_PLACED' and events.key = orders.id::text
          group by orders.id
         having count(events.id) <> (orders.paid_payment_id is not null)::int",
    ),
    (
        "every order was announced once",
        "select orders.id, count(events.id) from {order}.orders
           left join {order}.outbox_events as events
             on events.topic = 'ORDER_CREATED' and events.key = orders.id::text
          group by orders.id having count(events.id) <> 1",
    ),
    (
        "everything that people are told about led to one notification",
        "select events.event_id, notifications.id
           from (select event_id from {order}.outbox_events where topic in ('ORDER_CREATED', 'ORDER_PLACED')
                 union all
                 select event_id from {payment}.outbox_events
                  where topic in ('PAYMENT_FAILED', 'PAYMENT_REFUNDED')
                     or (topic = 'PAYMENT_UNKNOWN' and (payload::jsonb ->> 'needsReview')::boolean)) as events
           full join {notification_hub}.notifications on notifications.event_id = events.event_id
          where events.event_id is null or notifications.event_id is null",
    ),
    (
        "every notification was sent, by every channel that it has",
        "select notifications.id, count(deliveries.id) from {notification_hub}.notifications
           left join {notification_hub}.deliveries on deliveries.notification_id = notifications.id
          group by notifications.id
         having count(*) filter (where deliveries.status = 'SUCCESS') = 0
             or count(*) filter (where deliveries.status <> 'SUCCESS') > 0",
    ),
];
