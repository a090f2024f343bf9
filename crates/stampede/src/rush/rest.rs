//! After the last answer: wait until the system is at rest, then look at what it has and ask for what it promised.

use std::collections::HashMap;
use std::time::Duration;

use client::{Buyer, Client, Reply};
use common::settings::Settings;
use diesel::{QueryableByName, sql_types};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::coupons::Coupons;
use super::coupons::judge::{Found, Issue};
use super::money::{Money, Paid};
use super::record::Record;
use super::verdict::{Notified, Observed, Stored};
use crate::audit::Ledger;
use crate::audit::provider_book::{self, Ours, Totals};
use crate::audit::unfinished::{DEAD, UNPUBLISHED, Undone};

/// The resolution of `outboxDrainMs`. A look costs a few milliseconds of the processor that does the work.
const LOOK: Duration = Duration::from_millis(50);
const READS_PARALLEL: usize = 16;
const READ_AGAIN: Duration = Duration::from_millis(200);

/// Waits until nothing happens by itself any more, or until `deadline`; returns how many events are not published.
pub async fn wait(settings: &Settings, deadline: Instant) -> anyhow::Result<u64> {
    let mut ledger = Ledger::open(settings).await?;
    loop {
        let undone = ledger.unfinished().await?;
        if undone.iter().all(Undone::is_stuck) || Instant::now() >= deadline {
            let pending = undone.iter().filter(|kind| [UNPUBLISHED, DEAD].contains(&kind.what.as_str()));
            return Ok(pending.map(|kind| kind.count.unsigned_abs()).sum());
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[derive(QueryableByName)]
struct StoredRow {
    #[diesel(sql_type = sql_types::Uuid)]
    order_id: Uuid,
    #[diesel(sql_type = sql_types::Uuid)]
    buyer: Uuid,
    #[diesel(sql_type = sql_types::BigInt)]
    units: i64,
}

#[derive(QueryableByName)]
struct AbandonedRow {
    #[diesel(sql_type = sql_types::BigInt)]
    units: i64,
}

#[derive(QueryableByName)]
struct NotifiedRow {
    #[diesel(sql_type = sql_types::Uuid)]
    order_id: Uuid,
    #[diesel(sql_type = sql_types::BigInt)]
    notifications: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    sent: i64,
}

#[derive(QueryableByName)]
struct PaidRow {
    #[diesel(sql_type = sql_types::Uuid)]
    order_id: Uuid,
    #[diesel(sql_type = sql_types::BigInt)]
    amount: i64,
    #[diesel(sql_type = sql_types::Nullable<sql_types::Uuid>)]
    payment_id: Option<Uuid>,
    #[diesel(sql_type = sql_types::Bool)]
    is_sold: bool,
    #[diesel(sql_type = sql_types::BigInt)]
    announced: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    receipts: i64,
}

#[derive(QueryableByName)]
struct PaymentRow {
    #[diesel(embed)]
    payment: Ours,
    #[diesel(sql_type = sql_types::Bool)]
    is_open: bool,
}

/// What the databases and the provider at `address` say about the money for `product`. `before`: the provider's book
/// when the rush began.
pub async fn money(settings: &Settings, product: Uuid, address: &str, before: Totals) -> anyhow::Result<Money> {
    let book = provider_book::read(address).await?;
    let mut ledger = Ledger::open(settings).await?;
    ledger.freeze().await?;
    let about =
        |ledger: &Ledger, statement: &str| ledger.statement(statement).into_boxed().bind::<sql_types::Uuid, _>(product);
    let paid: Vec<PaidRow> = ledger.bound_rows(about(&ledger, include_str!("paid.sql"))).await?;
    let payments: Vec<PaymentRow> = ledger.bound_rows(about(&ledger, include_str!("payments.sql"))).await?;
    let open = payments.iter().filter(|row| row.is_open).count() as u64;
    let ours: Vec<Ours> = payments.into_iter().map(|row| row.payment).collect();
    let paid = paid.into_iter().map(|row| {
        let PaidRow { order_id, amount, payment_id, is_sold, announced, receipts } = row;
        let (announced, receipts) = (announced.unsigned_abs(), receipts.unsigned_abs());
        (order_id, Paid { amount, payment_id, is_sold, announced, receipts })
    });
    Ok(Money {
        captured: book.totals.captured - before.captured,
        cancelled: book.totals.cancelled - before.cancelled,
        kept: ours.iter().map(|payment| payment.captured - payment.refunded).sum(),
        double_charges: provider_book::charged_twice(&ours, &book),
        open,
        paid: paid.collect(),
    })
}

#[derive(QueryableByName)]
struct IssueRow {
    #[diesel(sql_type = sql_types::Uuid)]
    id: Uuid,
    #[diesel(sql_type = sql_types::Uuid)]
    user_id: Uuid,
    #[diesel(sql_type = sql_types::BigInt)]
    events: i64,
}

#[derive(QueryableByName)]
struct DifferenceRow {
    #[diesel(sql_type = sql_types::BigInt)]
    difference: i64,
}

/// What the databases say about the coupon and what orders of `product` cost less, beside what the buyers were told.
pub async fn coupons(settings: &Settings, product: Uuid, coupons: &Coupons) -> anyhow::Result<Found> {
    let mut ledger = Ledger::open(settings).await?;
    ledger.freeze().await?;
    let about = |ledger: &Ledger, statement: &str, id: Uuid| {
        ledger.statement(statement).into_boxed().bind::<sql_types::Uuid, _>(id)
    };
    let issues = about(&ledger, include_str!("issues.sql"), coupons.offer.coupon);
    let issues: Vec<IssueRow> = ledger.bound_rows(issues).await?;
    let differences = about(&ledger, include_str!("discounts.sql"), product);
    let differences: Vec<DifferenceRow> = ledger.bound_rows(differences).await?;
    let (asked, thefts) = coupons.told();
    let issue = |row: IssueRow| Issue { id: row.id, user: row.user_id, events: row.events.unsigned_abs() };
    Ok(Found {
        offer: coupons.offer,
        asked,
        thefts,
        issues: issues.into_iter().map(issue).collect(),
        stored_difference: differences.iter().map(|row| row.difference).sum(),
    })
}

/// What the databases say about `product`.
pub async fn observe(settings: &Settings, product: Uuid) -> anyhow::Result<Observed> {
    let mut ledger = Ledger::open(settings).await?;
    ledger.freeze().await?;
    let about =
        |ledger: &Ledger, statement: &str| ledger.statement(statement).into_boxed().bind::<sql_types::Uuid, _>(product);
    let stored: Vec<StoredRow> = ledger.bound_rows(about(&ledger, include_str!("stored.sql"))).await?;
    let abandoned: Vec<AbandonedRow> = ledger.bound_rows(about(&ledger, include_str!("abandoned.sql"))).await?;
    let notified: Vec<NotifiedRow> = ledger.bound_rows(about(&ledger, include_str!("notified.sql"))).await?;
    let stored = stored.into_iter().map(|StoredRow { order_id, buyer, units }| Stored {
        order_id,
        buyer,
        units: units.unsigned_abs(),
    });
    let notified = notified.into_iter().map(|NotifiedRow { order_id, notifications, sent }| {
        (order_id, Notified { notifications: notifications.unsigned_abs(), sent: sent.unsigned_abs() })
    });
    Ok(Observed {
        stored: stored.collect(),
        abandoned: abandoned.iter().map(|row| row.units.unsigned_abs()).sum(),
        notified: notified.collect(),
        ..Observed::default()
    })
}

/// Asks for every acknowledged order over the API, as its buyer, and returns those that are not as they were promised.
pub async fn lost(client: &Client, buyers: &[Buyer], records: &[Record], deadline: Instant) -> Vec<Uuid> {
    let mut promised: HashMap<Uuid, (&Buyer, &[u8])> = HashMap::new();
    for (buyer, record) in buyers.iter().zip(records) {
        promised.extend(record.placed().map(|(order, body)| (order, (buyer, body))));
    }
    let reads = stream::iter(promised).map(async |(order, (buyer, body))| {
        let is_there = is_as_promised(client, order, buyer, body, deadline).await;
        (!is_there).then_some(order)
    });
    reads.buffer_unordered(READS_PARALLEL).filter_map(async |lost| lost).collect().await
}

async fn is_as_promised(client: &Client, order: Uuid, buyer: &Buyer, body: &[u8], deadline: Instant) -> bool {
    loop {
        match client.read_for(buyer, &format!("/orders/{order}")).await {
            Reply::Answered { status: 200, body: found } => {
                let (promised, found) = (serde_json::from_slice(body), serde_json::from_slice(&found));
                return promised.ok().zip(found.ok()).is_some_and(|(promised, found)| is_same(promised, found));
            }
            Reply::Answered { .. } => return false,
            Reply::Busy(_) | Reply::Unknown if Instant::now() >= deadline => return false,
            Reply::Busy(_) | Reply::Unknown => tokio::time::sleep(READ_AGAIN).await,
        }
    }
}

/// Status and version move on, as when an order expires, its payment is named when there is one, and its time may
/// become longer; all else was promised.
fn is_same(mut promised: Value, mut found: Value) -> bool {
    for order in [&mut promised, &mut found] {
        if let Some(fields) = order.as_object_mut() {
            fields.remove("status");
            fields.remove("version");
            fields.remove("paymentId");
        }
    }
    let times = (promised["holdExpiresAt"].as_str(), found["holdExpiresAt"].as_str());
    // Both of one form, so that texts compare as the times do.
    if let (Some(then), Some(now)) = times
        && then <= now
    {
        found["holdExpiresAt"] = Value::from(then);
    }
    promised == found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_payment_may_be_named_and_the_time_may_become_longer() {
        let promised = json!({ "orderId": "a", "holdExpiresAt": "2026-01-01T00:10:00.000Z" });
        let order = |until: &str| json!({ "orderId": "a", "holdExpiresAt": until, "paymentId": "p" });
        assert!(is_same(promised.clone(), order("2026-01-01T00:10:00.000Z")));
        assert!(is_same(promised.clone(), order("2026-01-01T00:10:01.000Z")));
        assert!(!is_same(promised, order("2026-01-01T00:09:59.999Z")));
    }

    #[test]
    fn only_status_and_version_may_move_on() {
        let promised = json!({ "orderId": "a", "status": "CREATED", "version": 1, "totals": { "amount": 5 } });
        let expired = json!({ "orderId": "a", "status": "EXPIRED", "version": 2, "totals": { "amount": 5 } });
        assert!(is_same(promised.clone(), expired));
        assert!(!is_same(
            promised,
            json!({ "orderId": "a", "status": "CREATED", "version": 1, "totals": { "amount": 6 } })
        ));
    }
}
