//! Takes that could not be stored: they were undone at once, and are recorded and told when PostgreSQL is there again.

use common::db::{Prepared, Tx};
use common::redis::cmd;
use common::{Error, Result, outbox};
use contract::events::CouponIssueFailed;
use contract::ids::{AccountId, CouponId, CouponIssueId};
use diesel::sql_types::{Array, Bool, Text, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};

use crate::App;
use crate::gate::Take;
use crate::issue::Wanted;

/// Failures that one transaction records.
const FAILURES_MAX: usize = 200;

const REASON: &str = "The issue could not be stored; the coupon was given back.";

/// A take that was undone because PostgreSQL was away. It waits in Redis, in the step that undid it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    issue: CouponIssueId,
    user: AccountId,
    epoch: i64,
    entry: String,
}

impl Failure {
    pub fn of(wanted: &Wanted) -> Failure {
        let (epoch, entry) = wanted.take.as_ref().map_or((0, String::new()), |take| (take.epoch, take.entry.clone()));
        Failure { issue: wanted.issue, user: wanted.user, epoch, entry }
    }

    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Records the failures of `coupon` that wait, each once. What is stored after all is no failure: the gate is told.
pub async fn record_failures(app: &App, coupon: CouponId) -> Result<()> {
    let key = app.gate.key(coupon, "failed");
    loop {
        let range = cmd("LRANGE").arg(&key).arg(0).arg(FAILURES_MAX as i64 - 1).to_owned();
        let texts: Vec<String> = app.gate.redis.command(&range).await.map_err(Error::transient)?;
        if texts.is_empty() {
            return Ok(());
        }
        let failures: Vec<Failure> = texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        let recorded = &failures;
        let stored = app.db.tx("record_failures", async |tx| record(tx, coupon, recorded).await).await?;
        let told = failures
            .iter()
            .filter(|failure| stored.contains(&failure.issue))
            .map(|failure| (coupon, failure.user, Take { epoch: failure.epoch, entry: failure.entry.clone() }));
        app.gate.settle(&told.collect::<Vec<_>>()).await;
        for text in &texts {
            // By value: another replica may have removed some.
            let remove = cmd("LREM").arg(&key).arg(1).arg(text).to_owned();
            app.gate.redis.command::<i64>(&remove).await.map_err(Error::transient)?;
        }
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Uuid)]
    id: CouponIssueId,
    #[diesel(sql_type = Uuid)]
    user_id: AccountId,
    #[diesel(sql_type = Bool)]
    is_stored: bool,
    #[diesel(sql_type = Timestamptz)]
    failed_at: chrono::DateTime<chrono::Utc>,
}

/// Returns those that are stored. The others are recorded, with an event for each that is new.
async fn record(tx: &mut Tx, coupon: CouponId, failures: &[Failure]) -> Result<Vec<CouponIssueId>> {
    let query = sql_query(include_str!("record_failures.sql"))
        .bind::<Uuid, _>(coupon)
        .bind::<Array<Uuid>, _>(failures.iter().map(|failure| failure.issue).collect::<Vec<_>>())
        .bind::<Array<Uuid>, _>(failures.iter().map(|failure| failure.user).collect::<Vec<_>>())
        .bind::<Text, _>(REASON);
    let rows: Vec<Row> = Prepared(query).load(tx).await?;
    let (stored, failed): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.is_stored);
    let event = |row: &Row| CouponIssueFailed {
        issue_id: row.id.to_string(),
        coupon_id: coupon.to_string(),
        user_id: row.user_id.to_string(),
        reason: REASON.to_owned(),
        failed_at: Some(row.failed_at.into()),
    };
    let events: Vec<CouponIssueFailed> = failed.iter().map(event).collect();
    outbox::publish_all(tx, &events).await?;
    Ok(stored.into_iter().map(|row| row.id).collect())
}
