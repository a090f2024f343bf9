//! Runs as rows: asked for, taken, renewed and ended, one at a time.

use chrono::{DateTime, Utc};
use common::db::{Prepared, Tx};
use common::{Error, Result};
use contract::ids::AccountId;
use diesel::sql_types::{BigInt, Double, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::App;
use crate::naverpay;

/// A row of `reconciliation_runs`.
#[derive(Debug, Clone, QueryableByName)]
pub struct Run {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = Timestamptz)]
    pub from_time: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    pub to_time: DateTime<Utc>,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub requested_by: Option<AccountId>,
    #[diesel(sql_type = Text)]
    pub status: String,
    #[diesel(sql_type = Integer)]
    pub runner: i32,
    #[diesel(sql_type = BigInt)]
    pub captured: i64,
    #[diesel(sql_type = BigInt)]
    pub cancelled: i64,
    #[diesel(sql_type = BigInt)]
    pub paid: i64,
    #[diesel(sql_type = BigInt)]
    pub difference: i64,
    #[diesel(sql_type = BigInt)]
    pub book_entries: i64,
    #[diesel(sql_type = BigInt)]
    pub payments: i64,
    #[diesel(sql_type = BigInt)]
    pub findings: i64,
    #[diesel(sql_type = Nullable<Text>)]
    pub error: Option<String>,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub started_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub ended_at: Option<DateTime<Utc>>,
}

/// What a run has counted so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Won, as the provider's book has them.
    pub captured: i64,
    pub cancelled: i64,
    /// Won that our payments have.
    pub paid: i64,
    pub book_entries: i64,
    pub payments: i64,
}

/// What has been compared by the clock.
#[derive(Debug, QueryableByName)]
pub struct Past {
    #[diesel(sql_type = Timestamptz)]
    pub now: DateTime<Utc>,
    /// Up to there; before the first run, as far as there was nothing to compare. None while there is nothing yet.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub reached: Option<DateTime<Utc>>,
    /// When the last run ended, if it failed.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub failed_at: Option<DateTime<Utc>>,
}

pub async fn past(app: &App) -> Result<Past> {
    let query = sql_query(
        "select statement_timestamp() as now,
                coalesce(
                    (select max(to_time) from reconciliation_runs where status = 'COMPLETED' and requested_by is null),
                    (select min(created_at) from payments where captured > 0)
                ) as reached,
                (select case when status = 'FAILED' then ended_at end
                 from reconciliation_runs
                 order by created_at desc
                 limit 1) as failed_at",
    );
    Ok(Prepared(query).get_result(&mut *app.db.read().await?).await?)
}

/// A new run, or the one that is still to be ended; and whether it is new.
pub async fn request(app: &App, from: DateTime<Utc>, to: DateTime<Utc>, by: Option<AccountId>) -> Result<(Run, bool)> {
    app.db
        .tx("request_reconciliation", async |tx| {
            for _ in 0..REQUESTS_MAX {
                if let Some(run) = insert(tx, from, to, by).await? {
                    return Ok((run, true));
                }
                let query = sql_query(
                    "select * from reconciliation_runs where provider = $1 and status in ('REQUESTED', 'RUNNING')",
                );
                let live = Prepared(query.bind::<Text, _>(naverpay::NAME)).get_result(tx).await.optional()?;
                if let Some(run) = live {
                    return Ok((run, false));
                }
                // It has ended in between.
            }
            Err(Error::transient(anyhow::anyhow!("one reconciliation ends after the other")))
        })
        .await
}

/// Runs that may end while one is being asked for; each takes longer than the asking.
const REQUESTS_MAX: usize = 5;

async fn insert(tx: &mut Tx, from: DateTime<Utc>, to: DateTime<Utc>, by: Option<AccountId>) -> Result<Option<Run>> {
    let query = sql_query(
        "insert into reconciliation_runs (id, provider, from_time, to_time, requested_by)
         values ($1, $2, $3, $4, $5)
         on conflict do nothing
         returning *",
    );
    let query = query.bind::<SqlUuid, _>(Uuid::now_v7()).bind::<Text, _>(naverpay::NAME);
    let query = query.bind::<Timestamptz, _>(from).bind::<Timestamptz, _>(to);
    Ok(Prepared(query.bind::<Nullable<SqlUuid>, _>(by)).get_result(tx).await.optional()?)
}

/// Takes what nobody works on. What it has found so far stays, and it begins again.
pub async fn take(app: &App) -> Result<Option<Run>> {
    app.db
        .tx("take_reconciliation", async |tx| {
            let query = sql_query(
                "update reconciliation_runs
                 set status = 'RUNNING',
                     runner = runner + 1,
                     lease_until = clock_timestamp() + $1 * interval '1 second',
                     started_at = coalesce(started_at, clock_timestamp())
                 where id = (
                     select id
                     from reconciliation_runs
                     where status = 'REQUESTED' or (status = 'RUNNING' and lease_until < statement_timestamp())
                     order by created_at
                     limit 1
                     for update skip locked
                 )
                 returning *",
            );
            let query = query.bind::<Double, _>(f64::from(app.reconciliation.lease_seconds));
            Ok(Prepared(query).get_result(tx).await.optional()?)
        })
        .await
}

/// Says that the run goes on, and how far it is. Fails when another process has taken it over.
pub async fn renew(app: &App, run: &Run, totals: &Totals) -> Result<()> {
    let renewed = app
        .db
        .tx("renew_reconciliation", async |tx| {
            let query = sql_query(
                "update reconciliation_runs
                 set lease_until = clock_timestamp() + $3 * interval '1 second',
                     captured = $4,
                     cancelled = $5,
                     paid = $6,
                     book_entries = $7,
                     payments = $8
                 where id = $1 and runner = $2 and status = 'RUNNING'",
            );
            let query = query.bind::<SqlUuid, _>(run.id).bind::<Integer, _>(run.runner);
            let query = query.bind::<Double, _>(f64::from(app.reconciliation.lease_seconds));
            let query = query.bind::<BigInt, _>(totals.captured).bind::<BigInt, _>(totals.cancelled);
            let query = query.bind::<BigInt, _>(totals.paid).bind::<BigInt, _>(totals.book_entries);
            Ok(Prepared(query.bind::<BigInt, _>(totals.payments)).execute(tx).await?)
        })
        .await?;
    if renewed == 0 {
        return Err(Error::transient(anyhow::anyhow!("another process has taken reconciliation {} over", run.id)));
    }
    Ok(())
}

/// Ends the run, with `error` if it failed. None when another process has taken it over.
pub async fn end(app: &App, run: &Run, error: Option<&str>) -> Result<Option<Run>> {
    app.db
        .tx("end_reconciliation", async |tx| {
            let query = sql_query(
                "update reconciliation_runs
                 set status = case when $3 is null then 'COMPLETED' else 'FAILED' end,
                     error = $3,
                     lease_until = null,
                     ended_at = clock_timestamp(),
                     (findings, difference) = (
                         select count(*), coalesce(sum(found - expected), 0)::bigint
                         from reconciliation_findings
                         where run_id = $1
                     )
                 where id = $1 and runner = $2 and status = 'RUNNING'
                 returning *",
            );
            let query = query.bind::<SqlUuid, _>(run.id).bind::<Integer, _>(run.runner);
            Ok(Prepared(query.bind::<Nullable<Text>, _>(error)).get_result(tx).await.optional()?)
        })
        .await
}

/// Removes what is older than `[payment.reconciliation] kept_days`, with its findings.
pub async fn forget(app: &App) -> Result<()> {
    app.db
        .tx("forget_reconciliations", async |tx| {
            let query = sql_query(
                "delete from reconciliation_runs
                 where status in ('COMPLETED', 'FAILED')
                     and created_at < statement_timestamp() - $1 * interval '1 day'",
            );
            Prepared(query.bind::<Double, _>(f64::from(app.reconciliation.kept_days))).execute(tx).await?;
            Ok(())
        })
        .await
}
