//! Runs as rows: requested, taken, renewed and ended, one at a time.

use chrono::{DateTime, TimeDelta, Utc};
use common::db::{Prepared, Tx};
use common::{Error, Result};
use contract::ids::AccountId;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Double, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::App;
use crate::naverpay;
use crate::schema::reconciliation_runs;

/// The longest time that one run compares.
pub const RANGE_MAX: TimeDelta = TimeDelta::days(31);

/// A row of `reconciliation_runs`.
#[derive(Debug, Clone, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = reconciliation_runs, check_for_backend(Pg))]
pub struct Run {
    pub id: Uuid,
    pub from_time: DateTime<Utc>,
    pub to_time: DateTime<Utc>,
    pub requested_by: Option<AccountId>,
    pub status: String,
    pub runner: i32,
    pub captured: i64,
    pub cancelled: i64,
    pub paid: i64,
    pub difference: i64,
    pub book_entries: i64,
    pub payments: i64,
    pub findings: i64,
    pub error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// What a run has counted so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// In won, by the provider's book.
    pub captured: i64,
    pub cancelled: i64,
    /// In won, by our payments.
    pub paid: i64,
    pub book_entries: i64,
    pub payments: i64,
}

/// What the scheduled runs have done so far.
#[derive(Debug, QueryableByName)]
pub struct Past {
    #[diesel(sql_type = Timestamptz)]
    pub now: DateTime<Utc>,
    /// Everything before this was compared, or there was nothing to compare. None while no payment has money.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub reached: Option<DateTime<Utc>>,
    /// When the last run ended, if it failed.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub failed_at: Option<DateTime<Utc>>,
}

pub async fn past(app: &App) -> Result<Past> {
    Ok(Prepared(sql_query(include_str!("runs_past.sql"))).get_result(&mut *app.db.read().await?).await?)
}

/// The run that a request led to.
pub struct Requested {
    pub run: Run,
    /// False: another run had not ended, and it is that one.
    pub is_new: bool,
}

/// Requests a run, unless one has not ended.
pub async fn request(app: &App, from: DateTime<Utc>, to: DateTime<Utc>, by: Option<AccountId>) -> Result<Requested> {
    app.db
        .tx("request_reconciliation", async |tx| {
            for _ in 0..REQUESTS_MAX {
                if let Some(run) = insert(tx, from, to, by).await? {
                    return Ok(Requested { run, is_new: true });
                }
                if let Some(run) = live(tx).await? {
                    return Ok(Requested { run, is_new: false });
                }
                // It has ended in between.
            }
            Err(Error::transient(anyhow::anyhow!("{REQUESTS_MAX} reconciliations ended while one was requested")))
        })
        .await
}

/// Runs that may end while one is being requested; each takes longer than the request.
const REQUESTS_MAX: usize = 5;

#[derive(Insertable)]
#[diesel(table_name = reconciliation_runs)]
struct NewRun {
    id: Uuid,
    provider: &'static str,
    from_time: DateTime<Utc>,
    to_time: DateTime<Utc>,
    requested_by: Option<AccountId>,
}

/// None: another run has not ended.
async fn insert(tx: &mut Tx, from: DateTime<Utc>, to: DateTime<Utc>, by: Option<AccountId>) -> Result<Option<Run>> {
    let row = NewRun { id: Uuid::now_v7(), provider: naverpay::NAME, from_time: from, to_time: to, requested_by: by };
    let insert = diesel::insert_into(reconciliation_runs::table).values(&row).on_conflict_do_nothing();
    Ok(insert.returning(Run::as_returning()).get_result(tx).await.optional()?)
}

async fn live(tx: &mut Tx) -> Result<Option<Run>> {
    let query = sql_query(include_str!("live.sql")).bind::<Text, _>(naverpay::NAME);
    Ok(Prepared(query).get_result(tx).await.optional()?)
}

/// Takes a run that no process works on.
pub async fn take(app: &App) -> Result<Option<Run>> {
    app.db
        .tx("take_reconciliation", async |tx| {
            let query = sql_query(include_str!("take.sql"));
            let query = query.bind::<Double, _>(f64::from(app.reconciliation.lease_seconds));
            Ok(Prepared(query).get_result(tx).await.optional()?)
        })
        .await
}

/// Renews the lease of a run, and says how far it is. Fails when another process has taken it.
pub async fn renew(app: &App, run: &Run, totals: &Totals) -> Result<()> {
    let renewed = app
        .db
        .tx("renew_reconciliation", async |tx| {
            let query = sql_query(include_str!("renew.sql"))
                .bind::<SqlUuid, _>(run.id)
                .bind::<Integer, _>(run.runner)
                .bind::<Double, _>(f64::from(app.reconciliation.lease_seconds))
                .bind::<BigInt, _>(totals.captured)
                .bind::<BigInt, _>(totals.cancelled)
                .bind::<BigInt, _>(totals.paid)
                .bind::<BigInt, _>(totals.book_entries)
                .bind::<BigInt, _>(totals.payments);
            Ok(Prepared(query).execute(tx).await?)
        })
        .await?;
    if renewed == 0 {
        return Err(Error::transient(anyhow::anyhow!("another process has taken reconciliation {} over", run.id)));
    }
    Ok(())
}

/// What has become of a run that this process wanted to end.
pub enum End {
    Ended(Box<Run>),
    /// Another process has taken it: it is for that one to end it.
    TakenOver,
}

/// Ends the run, with `error` if it failed.
pub async fn end(app: &App, run: &Run, error: Option<&str>) -> Result<End> {
    app.db
        .tx("end_reconciliation", async |tx| {
            let query = sql_query(include_str!("end.sql"))
                .bind::<SqlUuid, _>(run.id)
                .bind::<Integer, _>(run.runner)
                .bind::<Nullable<Text>, _>(error);
            let ended: Option<Run> = Prepared(query).get_result(tx).await.optional()?;
            Ok(ended.map_or(End::TakenOver, |run| End::Ended(Box::new(run))))
        })
        .await
}

/// Removes what is older than `[payment.reconciliation] kept_days`, with its findings.
pub async fn forget(app: &App) -> Result<()> {
    app.db
        .tx("forget_reconciliations", async |tx| {
            let query = sql_query(include_str!("forget.sql"));
            Prepared(query.bind::<Double, _>(f64::from(app.reconciliation.kept_days))).execute(tx).await?;
            Ok(())
        })
        .await
}
