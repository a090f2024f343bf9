//! Storing what the gate has let through: one transaction for everybody who is waiting.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::batch::{Batch, BatchSettings};
use common::db::{Db, Prepared, Tx};
use common::outbox::{EventWithContext, publish_with_contexts};
use common::{Error, Result};
use contract::events::CouponIssued;
use contract::ids::{AccountId, CouponId, CouponIssueId};
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use crate::coupon::Offer;
use crate::gate::Gate;
use crate::issue::{Decision, Issued, Locked, Wanted, decide};
use crate::refused::Refused;

/// What a batch made of one request that it did not refuse.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It is stored, maybe by an earlier take.
    Stored(Issued),
    /// The gate that has let it through is not the newest one.
    Stale { epoch: i64 },
}

/// Starts the queue in front of the transaction.
pub fn start_batch(settings: &BatchSettings, db: &Db, gate: &Gate) -> Batch<Wanted, Outcome> {
    let (db, gate) = (db.clone(), gate.clone());
    Batch::start("issue_coupons", settings, move |wanted| {
        let (db, gate) = (db.clone(), gate.clone());
        async move { commit_batch(&db, &gate, wanted).await }
    })
}

/// Serves one batch, then tells the gate. Idempotent.
async fn commit_batch(db: &Db, gate: &Gate, wanted: Arc<[Wanted]>) -> Result<Vec<Result<Outcome>>> {
    let requests = &wanted;
    let outcomes = db.tx("issue_coupons", async |tx| store(tx, requests).await).await?;
    db.point("coupon.after_commit").await;
    let stored = wanted.iter().zip(&outcomes).filter_map(|(wanted, outcome)| match outcome {
        Ok(Outcome::Stored(_)) => Some((wanted.coupon, wanted.user, wanted.take.clone()?)),
        Ok(Outcome::Stale { .. }) | Err(_) => None,
    });
    gate.settle_later(stored.collect());
    Ok(outcomes.into_iter().map(|outcome| outcome.map_err(Error::from)).collect())
}

async fn store(tx: &mut Tx, wanted: &[Wanted]) -> Result<Vec<Result<Outcome, Refused>>> {
    let coupons: BTreeSet<CouponId> = wanted.iter().map(|wanted| wanted.coupon).collect();
    // In this order, and in statements of their own: what commits while this one waits for the lock is seen by the next.
    let (coupons, now) = lock_coupons(tx, Vec::from_iter(coupons)).await?;
    let mut issues = read_issues(tx, wanted).await?;

    let stored: HashSet<CouponIssueId> = issues.keys().copied().collect();
    let decisions = decide(wanted, &coupons, &stored, now);
    let created = wanted.iter().zip(&decisions).filter(|(_, decision)| **decision == Ok(Decision::Create));
    let created: Vec<&Wanted> = created.map(|(wanted, _)| wanted).collect();
    if !created.is_empty() {
        insert_issues(tx, &created, now).await?;
        publish_with_contexts(tx, &events(&created, &coupons, now)).await?;
        tx.point("coupon.before_commit").await;
    }
    for Wanted { issue, take_id, .. } in &created {
        issues.insert(*issue, Issued { issue: *issue, take_id: take_id.clone(), issued_at: now });
    }
    let outcome = |(wanted, decision): (&Wanted, Result<Decision, Refused>)| match decision? {
        Decision::Stale { epoch } => Ok(Outcome::Stale { epoch }),
        Decision::Create | Decision::Exists => {
            let issued = issues.get(&wanted.issue).cloned().ok_or(Refused::IssueNotFound(wanted.issue))?;
            Ok(Outcome::Stored(issued))
        }
    };
    Ok(wanted.iter().zip(decisions).map(outcome).collect())
}

#[derive(QueryableByName)]
struct CouponRow {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Uuid>)]
    id: Option<CouponId>,
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    total: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    issued: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    epoch: Option<i64>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    starts_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    expires_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Bool>)]
    closed: Option<bool>,
}

impl CouponRow {
    fn into_entry(self) -> Option<(CouponId, Locked)> {
        let offer = Offer {
            total: self.total?,
            issued: self.issued?,
            starts_at: self.starts_at?,
            expires_at: self.expires_at?,
            closed: self.closed?,
        };
        Some((self.id?, Locked { offer, epoch: self.epoch?, name: self.name? }))
    }
}

/// The coupons, and the database's clock after the wait for their locks.
async fn lock_coupons(tx: &mut Tx, ids: Vec<CouponId>) -> Result<(HashMap<CouponId, Locked>, DateTime<Utc>)> {
    let query = sql_query(include_str!("commit_issues_lock.sql")).bind::<Array<Uuid>, _>(ids);
    let rows: Vec<CouponRow> = Prepared(query).load(tx).await?;
    let now =
        rows.iter().map(|row| row.now).max().ok_or_else(|| Error::fault(anyhow::anyhow!("the clock is missing")))?;
    Ok((rows.into_iter().filter_map(CouponRow::into_entry).collect(), now))
}

#[derive(QueryableByName)]
struct IssueRow {
    #[diesel(sql_type = Uuid)]
    id: CouponIssueId,
    #[diesel(sql_type = Text)]
    take_id: String,
    #[diesel(sql_type = Timestamptz)]
    issued_at: DateTime<Utc>,
}

/// Those that exist. They cannot come or go before the commit: whoever issues a coupon locks it.
async fn read_issues(tx: &mut Tx, wanted: &[Wanted]) -> Result<HashMap<CouponIssueId, Issued>> {
    let ids: Vec<CouponIssueId> = wanted.iter().map(|wanted| wanted.issue).collect();
    let query = sql_query(include_str!("commit_issues_read.sql")).bind::<Array<Uuid>, _>(ids);
    let rows: Vec<IssueRow> = Prepared(query).load(tx).await?;
    let issued = |row: IssueRow| Issued { issue: row.id, take_id: row.take_id, issued_at: row.issued_at };
    Ok(rows.into_iter().map(issued).map(|issued| (issued.issue, issued)).collect())
}

async fn insert_issues(tx: &mut Tx, created: &[&Wanted], now: DateTime<Utc>) -> Result<()> {
    let query = sql_query(include_str!("commit_issues.sql"))
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Uuid>, _>(created.iter().map(|wanted| wanted.issue).collect::<Vec<CouponIssueId>>())
        .bind::<Array<Uuid>, _>(created.iter().map(|wanted| wanted.coupon).collect::<Vec<CouponId>>())
        .bind::<Array<Uuid>, _>(created.iter().map(|wanted| wanted.user).collect::<Vec<AccountId>>())
        .bind::<Array<Text>, _>(created.iter().map(|wanted| wanted.take_id.as_str()).collect::<Vec<_>>());
    Prepared(query).execute(tx).await?;
    Ok(())
}

fn events(
    created: &[&Wanted],
    coupons: &HashMap<CouponId, Locked>,
    now: DateTime<Utc>,
) -> Vec<EventWithContext<CouponIssued>> {
    let event = |wanted: &&Wanted| {
        let coupon = coupons.get(&wanted.coupon)?;
        let event = CouponIssued {
            issue_id: wanted.issue.to_string(),
            coupon_id: wanted.coupon.to_string(),
            user_id: wanted.user.to_string(),
            coupon_and_user: format!("{}:{}", wanted.coupon, wanted.user),
            coupon_name: coupon.name.clone(),
            issued_at: Some(now.into()),
            expires_at: Some(coupon.offer.expires_at.into()),
        };
        Some(EventWithContext { event, context: wanted.context.clone() })
    };
    created.iter().filter_map(event).collect()
}
