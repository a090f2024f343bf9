//! Changes of stored orders: one transaction for all the commands that are waiting.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::batch::{Batch, BatchSettings};
use common::db::{Db, Prepared, Tx};
use common::outbox::{EventWithContext, publish_with_contexts};
use common::telemetry::Context;
use common::{Error, Result, crash};
use contract::events::{OrderCancelled, OrderPlaced, OrderRefundRequested, OrderRefunded};
use contract::ids::{AccountId, OrderId};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::events::{order_cancelled, order_placed, order_refund_requested, order_refunded};
use crate::order::{Action, Change, Order, OrderRefusal};
use crate::restore_orders::restore_orders;
use crate::rows::{OrderRow, order_columns};
use crate::schema::{order_items, orders, shipping_info};

/// A change that somebody asks for.
#[derive(Debug, Clone)]
pub struct Command {
    pub order_id: OrderId,
    /// Whose order it must be; another's is not found. `None` for services, which may change any order.
    pub owner: Option<AccountId>,
    pub action: Action,
    /// The request or the event that asks for it.
    pub context: Context,
}

/// Changes an order and publishes the events of the change. Returns the order after it. Idempotent, as each [`Action`] is.
pub async fn change_order(app: &App, order_id: OrderId, owner: Option<AccountId>, action: Action) -> Result<Order> {
    app.changes.submit(Command { order_id, owner, action, context: Context::outgoing() }).await
}

pub fn change_batch(db: &Db, settings: &BatchSettings) -> Batch<Command, Order> {
    let db = db.clone();
    Batch::start("order_changes", settings, move |commands: Arc<[Command]>| {
        let db = db.clone();
        async move {
            let outcomes = db.tx("change_orders", async |tx| change_all(tx, &commands).await).await?;
            Ok(outcomes.into_iter().map(|outcome| outcome.map_err(Error::from)).collect())
        }
    })
}

/// Does all commands in their order, in the caller's transaction. One outcome for each.
pub async fn change_all(tx: &mut Tx, commands: &[Command]) -> Result<Vec<Result<Order, OrderRefusal>>> {
    let mut ids: Vec<OrderId> = commands.iter().map(|command| command.order_id).collect();
    ids.sort();
    ids.dedup();
    let Some((now, mut locked)) = lock_orders(tx, &ids).await? else {
        return Ok(commands.iter().map(|_| Err(OrderRefusal::NotFound)).collect());
    };
    let mut versions_before: BTreeMap<OrderId, i64> = BTreeMap::new();
    let mut events = PendingEvents::default();
    let mut outcomes = Vec::with_capacity(commands.len());
    for command in commands {
        let is_visible = |order: &&mut Order| command.owner.is_none_or(|owner| order.user_id == owner);
        let Some(order) = locked.get_mut(&command.order_id).filter(is_visible) else {
            outcomes.push(Err(OrderRefusal::NotFound));
            continue;
        };
        let outcome = order.decide(&command.action, now).map(|changes| {
            for change in changes {
                versions_before.entry(order.id).or_insert(order.version);
                order.apply(*change, &command.action);
                events.add(*change, order, now, &command.context);
            }
            Order { status: order.status_at(now), ..order.clone() }
        });
        outcomes.push(outcome);
    }
    save_orders(tx, &versions_before, &locked, now).await?;
    events.publish(tx).await?;
    tx.point("change_order.before_commit").await;
    Ok(outcomes)
}

/// Locks the orders among `ids` that exist, and reads the database's clock. `None` if there are none.
///
/// The clock is read before a wait for a lock ends. If another transaction has changed the row during that wait,
/// PostgreSQL computes the row again, with its clock. So each decision is right for the moment that the clock says.
async fn lock_orders(tx: &mut Tx, ids: &[OrderId]) -> Result<Option<(DateTime<Utc>, HashMap<OrderId, Order>)>> {
    let mut rows = lock_live(tx, ids).await?;
    if rows.len() < ids.len() {
        let found: HashSet<OrderId> = rows.iter().map(|row| row.id).collect();
        let missing: Vec<OrderId> = ids.iter().copied().filter(|id| !found.contains(id)).collect();
        // Archived orders are changed as all others are: where they can be locked.
        restore_orders(tx, &missing).await?;
        // Also those that another transaction has just brought back.
        rows.extend(lock_live(tx, &missing).await?);
    }
    let Some(now) = rows.iter().map(|row| row.now).max() else { return Ok(None) };
    let locked = rows.into_iter().map(|row| (row.id, row.into_stored())).collect();
    Ok(Some((now, locked)))
}

async fn lock_live(tx: &mut Tx, ids: &[OrderId]) -> Result<Vec<OrderRow>> {
    let locked = orders::table
        .filter(orders::id.eq_any(ids))
        .order(orders::id)
        .select(order_columns!(orders, order_items, shipping_info))
        .for_update();
    Ok(locked.load(tx).await?)
}

/// Writes the orders in `versions_before`. Fails if one of them does not have that version any more.
async fn save_orders(
    tx: &mut Tx,
    versions_before: &BTreeMap<OrderId, i64>,
    locked: &HashMap<OrderId, Order>,
    now: DateTime<Utc>,
) -> Result<()> {
    if versions_before.is_empty() {
        return Ok(());
    }
    let changed: Vec<&Order> = versions_before.keys().filter_map(|id| locked.get(id)).collect();
    let reserved = || changed.iter().map(|order| order.reservation);
    let save = diesel::sql_query(include_str!("change_order.sql"))
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Uuid>, _>(versions_before.keys().copied().collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(versions_before.values().copied().collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(changed.iter().map(|order| order.version).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(changed.iter().map(|order| order.status).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(reserved().map(|found| found.map(|by| by.payment)).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(reserved().map(|found| found.map(|by| by.attempt)).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(changed.iter().map(|order| array(&order.ended_attempt_ids)).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(changed.iter().map(|order| order.paid_payment_id).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(changed.iter().map(|order| array(&order.returned_payment_ids)).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(changed.iter().map(|order| order.hold_expires_at).collect::<Vec<_>>())
        .bind::<Array<Nullable<Text>>, _>(
            changed.iter().map(|order| order.cancel_reason.as_deref()).collect::<Vec<_>>(),
        );
    let saved = Prepared(save).execute(tx).await?;
    if saved != changed.len() {
        let changed: Vec<OrderId> = changed.iter().map(|order| order.id).collect();
        return Err(Error::fault(anyhow::anyhow!(
            "orders changed while they were locked: {saved} saved of {changed:?}"
        )));
    }
    Ok(())
}

/// An array as PostgreSQL writes it: `unnest` cannot take several arrays of arrays of different lengths.
fn array(ids: &[impl ToString]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("{{{}}}", ids.join(","))
}

/// The events of one transaction, until it publishes them.
#[derive(Default)]
struct PendingEvents {
    placed: Vec<EventWithContext<OrderPlaced>>,
    cancelled: Vec<EventWithContext<OrderCancelled>>,
    refund_requested: Vec<EventWithContext<OrderRefundRequested>>,
    refunded: Vec<EventWithContext<OrderRefunded>>,
}

impl PendingEvents {
    /// `order` is as it is after `change`.
    fn add(&mut self, change: Change, order: &Order, now: DateTime<Utc>, context: &Context) {
        let context = context.clone();
        match change {
            Change::AwaitPayment
            | Change::Reserve
            | Change::ReleaseReservation
            | Change::BlockAttempt
            | Change::BlockPayment => {}
            Change::Pay => self.placed.push(EventWithContext { event: order_placed(order, now), context }),
            Change::Cancel => self.cancelled.push(EventWithContext { event: order_cancelled(order, now), context }),
            Change::RequestRefund => {
                self.refund_requested.push(EventWithContext { event: order_refund_requested(order, now), context })
            }
            Change::Refund => self.refunded.push(EventWithContext { event: order_refunded(order, now), context }),
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
