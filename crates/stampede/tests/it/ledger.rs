//! What PostgreSQL says, read and never written: rows, units, and whether everything that was begun has ended.

use std::collections::BTreeMap;

use diesel::{QueryableByName, sql_query, sql_types};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use crate::client::Product;
use crate::site::{TestSite, eventually};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = sql_types::Jsonb)]
    row: Value,
}

/// A row of `stocks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units {
    pub on_hand: i64,
    pub held: i64,
}

impl TestSite {
    /// Runs a query that names its tables with `{account}`, `{inventory}`, `{order}` or `{hub}` before the dot.
    /// Each row is an object of its columns.
    pub async fn rows(&self, query: &str) -> Vec<Value> {
        let query = self.with_schemas(query);
        let asked = format!("select to_jsonb(asked) as row from ({query}) as asked");
        let mut connection = self.postgres.lock().await;
        for _ in 0..2 {
            if connection.is_none() {
                let url = self.servers.postgres_url();
                *connection = Some(AsyncPgConnection::establish(&url).await.expect("PostgreSQL accepts us"));
            }
            let open = connection.as_mut().expect("it was just opened");
            match sql_query(&asked).load::<Row>(open).await {
                Ok(rows) => return rows.into_iter().map(|row| row.row).collect(),
                // It may have been killed since the last question.
                Err(error) if error.to_string().contains("connection") => *connection = None,
                Err(error) => panic!("{error}: {query}"),
            }
        }
        panic!("PostgreSQL does not answer: {query}")
    }

    /// The number that `query` selects.
    pub async fn number(&self, query: &str) -> i64 {
        let rows = self.rows(&format!("select ({query}) as number")).await;
        rows[0]["number"].as_i64().unwrap_or_else(|| panic!("{} is no number: {query}", rows[0]["number"]))
    }

    pub async fn units(&self, product: &Product) -> Units {
        let row = self
            .rows(&format!("select on_hand, held from {{inventory}}.stocks where product_id = '{}'", product.id))
            .await;
        let unit = |name: &str| row[0][name].as_i64().expect("a number of units");
        Units { on_hand: unit("on_hand"), held: unit("held") }
    }

    /// Waits until every event has been published and applied and every delivery has been made.
    pub async fn settled(&self) {
        let mut last = String::new();
        let started = std::time::Instant::now();
        loop {
            let open = self.open_work().await;
            if open.is_empty() {
                return;
            }
            last.clone_from(&open);
            assert!(started.elapsed() < crate::site::PATIENCE, "it does not settle: {last}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// What is still to be done, in words; empty when at rest.
    async fn open_work(&self) -> String {
        let heard = |service: &str, speaker: &str, topics: &str| {
            format!(
                "select count(*) from {{{speaker}}}.outbox_events
                  where topic in ({topics})
                    and not exists (select from {{{service}}}.inbox where inbox.event_id = outbox_events.event_id)"
            )
        };
        let all = |table: &str| {
            ["account", "inventory", "order", "payment", "hub"]
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
                        (select count(*) from {{hub}}.deliveries where status in ('PENDING', 'PROCESSING')) as unsent",
                all("outbox_events"),
                all("parked"),
                heard("hub", "order", "'ORDER_CREATED', 'ORDER_PLACED'"),
                heard("hub", "payment", "'PAYMENT_FAILED', 'PAYMENT_REFUNDED', 'PAYMENT_UNKNOWN'"),
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

    /// A digest of every row of every table: equal before and after means nothing was stored and nothing changed.
    pub async fn everything(&self) -> BTreeMap<String, String> {
        let schemas = ["account", "inventory", "order", "payment", "notification-hub"]
            .map(|service| self.schema(service).replace('"', "'"));
        let tables = self
            .rows(&format!(
                "select schemaname, tablename from pg_tables
                  where schemaname in ({}) and tablename not in ('__diesel_schema_migrations', 'outbox_broker')",
                schemas.join(", ")
            ))
            .await;
        let mut digests = BTreeMap::new();
        for table in tables {
            let name = format!(
                "\"{}\".\"{}\"",
                crate::client::text(&table["schemaname"]),
                crate::client::text(&table["tablename"])
            );
            let digest = self
                .rows(&format!("select count(*) as rows, coalesce(sum(hashtextextended(one::text, 0)), 0)::text as sum from {name} as one"))
                .await;
            digests.insert(name, digest[0].to_string());
        }
        digests
    }

    /// At rest: units are conserved, every order has its hold, its event and its one notification, and nothing else has.
    pub async fn assert_consistent(&self) {
        self.settled().await;
        for (rule, violations) in RULES {
            let found = self.rows(violations).await;
            assert!(found.is_empty(), "{rule}; but {} violations: {:?}", found.len(), &found[..found.len().min(3)]);
        }
    }

    /// Waits until the shop shows so many units of `product` as available.
    pub async fn shows(&self, product: &Product, available: i64) {
        let path = format!("/products/{}", product.id);
        eventually(&format!("{path} shows {available} available"), async || {
            let shown = self.anyone().get(&path).await.expect(200).json();
            (shown["stock"]["available"] == available).then_some(())
        })
        .await;
    }

    fn with_schemas(&self, query: &str) -> String {
        let names = ["account", "inventory", "order", "payment"].map(|service| (service, service));
        names.iter().chain(&[("hub", "notification-hub")]).fold(query.to_owned(), |query, (name, service)| {
            query.replace(&format!("{{{name}}}"), &self.schema(service))
        })
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
           full join {hub}.notifications on notifications.event_id = events.event_id
          where events.event_id is null or notifications.event_id is null",
    ),
    (
        "every notification was sent, by every channel that it has",
        "select notifications.id, count(deliveries.id) from {hub}.notifications
           left join {hub}.deliveries on deliveries.notification_id = notifications.id
          group by notifications.id
         having count(*) filter (where deliveries.status = 'SUCCESS') = 0
             or count(*) filter (where deliveries.status <> 'SUCCESS') > 0",
    ),
];
