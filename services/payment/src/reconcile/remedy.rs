//! What is done about a finding: it is recorded, then remedied where that needs no guess.

use common::db::Prepared;
use common::{Error, Result};
use contract::ids::RefundId;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;

use super::compare::{Finding, Remedy};
use super::runs::Run;
use crate::App;
use crate::naverpay::Cancellation;
use crate::provider::RefundOutcome;
use crate::resolve_payments::{QuerySoon, query_soon};

/// More findings mean that the two sides do not belong together: a wrong database, or a wrong shop at the provider.
const FINDINGS_MAX: u32 = 10_000;

/// How much one run has found so far, and how many captures all runs of the last day have refunded.
#[derive(Debug)]
pub struct Remedies {
    findings: u32,
    cancels: u32,
}

impl Remedies {
    /// The limit is for a day: with one for each run, many runs could refund much because of one mistake.
    pub async fn of_today(app: &App) -> Result<Remedies> {
        #[derive(QueryableByName)]
        struct Count {
            #[diesel(sql_type = BigInt)]
            count: i64,
        }
        let query = Prepared(sql_query(include_str!("cancels_of_today.sql")));
        let Count { count } = query.get_result(&mut *app.db.read().await?).await?;
        Ok(Remedies { findings: 0, cancels: u32::try_from(count).unwrap_or(u32::MAX) })
    }
}

/// Records `finding`, once for each run, and remedies it if that needs no guess.
pub async fn report(app: &App, run: &Run, finding: &Finding, so_far: &mut Remedies) -> Result<()> {
    so_far.findings += 1;
    if so_far.findings > FINDINGS_MAX {
        return Err(Error::fault(anyhow::anyhow!("more than {FINDINGS_MAX} findings: are both sides the same shop?")));
    }
    let Finding { kind, merchant_pay_key, payment, order, pg_payment_id, expected, found, detail, .. } = finding;
    tracing::error!(
        run.id = %run.id, kind = kind.name(), merchant_pay_key, payment.id = ?payment, orderId = ?order,
        pg_payment_id, expected, found,
        "Reconciliation {}: {} for payment {merchant_pay_key}: {detail}", run.id, kind.name()
    );
    metrics::counter!("stampede_reconciliation_findings_total", "kind" => kind.name()).increment(1);
    // Recorded first: a run that begins again after a crash does not find what was remedied.
    let id = record(app, run, finding).await?;
    app.db.point("reconcile.after_finding").await;
    let (action, code) = remedy(app, finding, so_far).await?;
    record_remedy(app, id, action, code.as_deref()).await
}

/// What was done, and what the provider said if it refused.
async fn remedy(app: &App, finding: &Finding, so_far: &mut Remedies) -> Result<(&'static str, Option<String>)> {
    match (finding.remedy, finding.payment, &finding.pg_payment_id) {
        (Remedy::QueryStatus, Some(payment), _) => {
            let action = match query_soon(app, payment).await? {
                QuerySoon::Scheduled => "ASKED",
                QuerySoon::NothingToAsk => "REPORTED",
            };
            Ok((action, None))
        }
        (Remedy::Cancel(amount), _, Some(pg)) if so_far.cancels < app.reconciliation.cancels_max => {
            so_far.cancels += 1;
            // The same finding again leads to the same key.
            let key = RefundId::derive(&[b"reconciliation", pg.as_bytes(), &amount.to_be_bytes()]).to_string();
            let cancellation = Cancellation {
                pg_payment_id: pg,
                merchant_pay_key: &finding.merchant_pay_key,
                amount,
                reason: "captured without a payment",
                key: &key,
            };
            match app.naverpay.cancel(&cancellation).await {
                RefundOutcome::Refunded => Ok(("CANCELLED", None)),
                RefundOutcome::Refused { code } | RefundOutcome::Unknown { code } => Ok(("CANCEL_FAILED", Some(code))),
            }
        }
        (Remedy::Report | Remedy::QueryStatus | Remedy::Cancel(_), _, _) => Ok(("REPORTED", None)),
    }
}

async fn record(app: &App, run: &Run, finding: &Finding) -> Result<i64> {
    #[derive(QueryableByName)]
    struct Recorded {
        #[diesel(sql_type = BigInt)]
        id: i64,
    }
    let recorded: Recorded = app
        .db
        .tx("record_finding", async |tx| {
            let query = sql_query(include_str!("record.sql"))
                .bind::<SqlUuid, _>(run.id)
                .bind::<Text, _>(finding.kind.name())
                .bind::<Text, _>(&finding.merchant_pay_key)
                .bind::<Nullable<SqlUuid>, _>(finding.payment)
                .bind::<Nullable<SqlUuid>, _>(finding.order)
                .bind::<Nullable<Text>, _>(&finding.pg_payment_id)
                .bind::<BigInt, _>(finding.expected)
                .bind::<BigInt, _>(finding.found)
                .bind::<Text, _>(&finding.detail);
            Ok(Prepared(query).get_result(tx).await?)
        })
        .await?;
    Ok(recorded.id)
}

async fn record_remedy(app: &App, id: i64, action: &'static str, code: Option<&str>) -> Result<()> {
    app.db
        .tx("record_remedy", async |tx| {
            let query = sql_query(include_str!("record_remedy.sql"))
                .bind::<BigInt, _>(id)
                .bind::<Text, _>(action)
                .bind::<Nullable<Text>, _>(code);
            Prepared(query).execute(tx).await?;
            Ok(())
        })
        .await
}
