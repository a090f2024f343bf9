//! Every change that is asked of a stored order: one transaction for everybody who is waiting.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::batch::{Batch, BatchSettings};
use common::db::{Db, Prepared, Tx};
use common::outbox::{EventWithContext, publish_with_contexts};
use common::telemetry::Context;
use common::{Error, Result, crash};
use contract::events::{OrderCancelled, OrderLine, OrderPlaced, OrderRefundRequested, OrderRefunded};
use contract::ids::{AccountId, OrderId, PaymentId};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::order::{Action, Change, Order, Refused};
use crate::rows::{self, OrderRow};
use crate::schema::orders;

/// What somebody asks of an order.
#[derive(Debug, Clone)]
pub struct Ask {
    pub order: OrderId,
    /// Somebody else's order is not there; `None` for services, which may ask anything.
    pub user: Option<AccountId>,
    pub action: Action,
    /// The request or the event that asks.
    pub context: Context,
}

/// Changes an order and tells of it; returns it as it is then. Idempotent, as each [`Action`] is.
pub async fn change_order(app: &App, order: OrderId, user: Option<AccountId>, action: Action) -> Result<Order> {
    app.changes.submit(Ask { order, user, action, context: Context::outgoing() }).await
}

pub fn change_batch(db: &Db, settings: &BatchSettings) -> Batch<Ask, Order> {
    let db = db.clone();
    Batch::start("order_changes", settings, move |asked: Arc<[Ask]>| {
        let db = db.clone();
        async move {
            let outcomes = db.tx("change_orders", async |tx| change_all(tx, &asked).await).await?;
            Ok(outcomes.into_iter().map(|outcome| outcome.map_err(Error::from)).collect())
        }
    })
}

/// One outcome for each of `asked`, which are served in their order, in the caller's transaction.
pub async fn change_all(tx: &mut Tx, asked: &[Ask]) -> Result<Vec<Result<Order, Refused>>> {
    let mut ids: Vec<OrderId> = asked.iter().map(|ask| ask.order).collect();
    ids.sort();
    ids.dedup();
    let Some((now, mut locked)) = lock_orders(tx, &ids).await? else {
        return Ok(asked.iter().map(|_| Err(Refused::NotFound)).collect());
    };
    let mut before: BTreeMap<OrderId, i64> = BTreeMap::new();
    let mut news = News::default();
    let mut outcomes = Vec::with_capacity(asked.len());
    for ask in asked {
        let own = |order: &&mut Order| ask.user.is_none_or(|user| order.user_id == user);
        let Some(order) = locked.get_mut(&ask.order).filter(own) else {
            outcomes.push(Err(Refused::NotFound));
            continue;
        };
        let outcome = order.decide(&ask.action, now).map(|changes| {
            for change in changes {
                before.entry(order.id).or_insert(order.version);
                order.take(*change, &ask.action);
                news.add(*change, order, now, &ask.context);
            }
            Order { status: order.status_at(now), ..order.clone() }
        });
        outcomes.push(outcome);
    }
    save_orders(tx, &before, &locked, now).await?;
    news.publish(tx).await?;
    Ok(outcomes)
}

/// The orders among `ids` that exist, locked, and the database's clock; `None` if there are none.
///
/// The clock may be from before a wait for a lock, but not from before a change that was waited for: then the row, with
/// its clock, is computed again. So what is decided is right for the moment that the clock tells.
async fn lock_orders(tx: &mut Tx, ids: &[OrderId]) -> Result<Option<(DateTime<Utc>, HashMap<OrderId, Order>)>> {
    let lock = orders::table.filter(orders::id.eq_any(ids)).order(orders::id).select(rows::columns()).for_update();
    let found: Vec<OrderRow> = lock.load(tx).await?;
    let Some(now) = found.iter().map(|row| row.now).max() else { return Ok(None) };
    let locked = found.into_iter().map(|row| Ok((row.id, row.into_stored()?)));
    Ok(Some((now, locked.collect::<Result<_>>()?)))
}

/// Writes those of `locked` that have changed since their version was as in `before`.
async fn save_orders(
    tx: &mut Tx,
    before: &BTreeMap<OrderId, i64>,
    locked: &HashMap<OrderId, Order>,
    now: DateTime<Utc>,
) -> Result<()> {
    if before.is_empty() {
        return Ok(());
    }
    let changed: Vec<&Order> = before.keys().filter_map(|id| locked.get(id)).collect();
    let reserved = || changed.iter().map(|order| order.reservation);
    let save = diesel::sql_query(include_str!("change_order.sql"))
        .bind::<Array<Uuid>, _>(before.keys().copied().collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(before.values().copied().collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(changed.iter().map(|order| order.version).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(changed.iter().map(|order| order.status.as_str()).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(reserved().map(|found| found.map(|by| by.payment)).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(reserved().map(|found| found.map(|by| by.attempt)).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(changed.iter().map(|order| array(&order.ended_attempt_ids)).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(changed.iter().map(|order| order.paid_payment_id).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(changed.iter().map(|order| order.hold_expires_at).collect::<Vec<_>>())
        .bind::<Array<Nullable<Text>>, _>(
            changed.iter().map(|order| order.cancel_reason.as_deref()).collect::<Vec<_>>(),
        )
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Text>, _>(changed.iter().map(|order| array(&order.returned_payment_ids)).collect::<Vec<_>>());
    let saved = Prepared(save).execute(tx).await?;
    if saved != changed.len() {
        return Err(Error::fault(anyhow::anyhow!("{} locked orders changed, {saved} were as before", changed.len())));
    }
    Ok(())
}

/// As PostgreSQL writes an array: arrays of different lengths cannot be unnested side by side.
fn array(ids: &[impl ToString]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("{{{}}}", ids.join(","))
}

/// What a transaction has to tell.
#[derive(Default)]
struct News {
    placed: Vec<EventWithContext<OrderPlaced>>,
    cancelled: Vec<EventWithContext<OrderCancelled>>,
    refund_requested: Vec<EventWithContext<OrderRefundRequested>>,
    refunded: Vec<EventWithContext<OrderRefunded>>,
}

impl News {
    /// `order` is as `change` left it.
    fn add(&mut self, change: Change, order: &Order, now: DateTime<Utc>, context: &Context) {
        let context = context.clone();
        match change {
            Change::AwaitPayment | Change::Reserve | Change::Free | Change::Bar | Change::BarPayment => {}
            Change::Pay => self.placed.push(EventWithContext { event: placed(order, now), context }),
            Change::Cancel => self.cancelled.push(EventWithContext { event: cancelled(order, now), context }),
            Change::RequestRefund => {
                self.refund_requested.push(EventWithContext { event: refund_requested(order, now), context })
            }
            Change::Refund => self.refunded.push(EventWithContext { event: refunded(order, now), context }),
        }
    }

    async fn publish(self, tx: &mut Tx) -> Result<()> {
        publish_with_contexts(tx, &self.placed).await?;
        publish_with_contexts(tx, &self.cancelled).await?;
        publish_with_contexts(tx, &self.refund_requested).await?;
        publish_with_contexts(tx, &self.refunded).await?;
        let is_paying = !self.placed.is_empty();
        if is_paying {
            tx.point("mark_paid.before_commit").await;
        }
        let counts = [
            ("paid", self.placed.len()),
            ("cancelled", self.cancelled.len()),
            ("refund_requested", self.refund_requested.len()),
            ("refunded", self.refunded.len()),
        ];
        tx.after_commit(move || {
            if is_paying {
                crash::point("mark_paid.after_commit");
            }
            for (outcome, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
                metrics::counter!("stampede_orders_total", "outcome" => outcome).increment(count as u64);
            }
        });
        Ok(())
    }
}

fn placed(order: &Order, now: DateTime<Utc>) -> OrderPlaced {
    let line = |item: &crate::draft::Item| OrderLine {
        product_id: item.product_id.to_string(),
        name: item.name.clone(),
        quantity: item.quantity,
        unit_price: item.unit_price,
    };
    OrderPlaced {
        order_id: order.id.to_string(),
        user_id: order.user_id.to_string(),
        version: order.version,
        payment_id: payment_of(order),
        hold_id: order.id.to_string(),
        items: order.items.iter().map(line).collect(),
        amount: order.amount,
        currency: order.currency.clone(),
        placed_at: Some(now.into()),
    }
}

fn cancelled(order: &Order, now: DateTime<Utc>) -> OrderCancelled {
    OrderCancelled {
        order_id: order.id.to_string(),
        user_id: order.user_id.to_string(),
        version: order.version,
        hold_id: order.id.to_string(),
        reason: order.cancel_reason.clone().unwrap_or_default(),
        cancelled_at: Some(now.into()),
    }
}

fn refund_requested(order: &Order, now: DateTime<Utc>) -> OrderRefundRequested {
    OrderRefundRequested {
        order_id: order.id.to_string(),
        user_id: order.user_id.to_string(),
        version: order.version,
        payment_id: payment_of(order),
        reason: order.cancel_reason.clone().unwrap_or_default(),
        requested_at: Some(now.into()),
    }
}

fn refunded(order: &Order, now: DateTime<Utc>) -> OrderRefunded {
    OrderRefunded {
        order_id: order.id.to_string(),
        user_id: order.user_id.to_string(),
        version: order.version,
        payment_id: payment_of(order),
        hold_id: order.id.to_string(),
        amount: order.amount,
        currency: order.currency.clone(),
        refunded_at: Some(now.into()),
    }
}

fn payment_of(order: &Order) -> String {
    order.paid_payment_id.as_ref().map(PaymentId::to_string).unwrap_or_default()
}
