//! What is done about a finding: it is written down, then helped as far as that can be done without a guess.

use common::Error;
use common::Result;
use common::db::Prepared;
use contract::ids::RefundId;
use diesel::sql_types::{BigInt, Nullable, Text, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use super::compare::{Finding, Remedy};
use super::runs::Run;
use crate::App;
use crate::provider::GivenBack;
use crate::webhooks::ask_soon;

/// A run that finds more has not found mistakes in payments, but is one: a wrong database, a wrong shop at the provider.
const FINDINGS_MAX: u32 = 10_000;

/// What one run has found so far, and what all runs of the last day have given back.
#[derive(Debug)]
pub struct Remedies {
    findings: u32,
    cancels: u32,
}

impl Remedies {
    /// Runs follow each other by the clock: counted for each alone, the bound would only slow a mistake down.
    pub async fn of_today(app: &App) -> Result<Remedies> {
        #[derive(QueryableByName)]
        struct Count {
            #[diesel(sql_type = BigInt)]
            count: i64,
        }
        let query = "select count(*) as count
                     from reconciliation_findings
                     where action = 'CANCELLED' and found_at > statement_timestamp() - interval '1 day'";
        let Count { count } = Prepared(sql_query(query)).get_result(&mut *app.db.read().await?).await?;
        Ok(Remedies { findings: 0, cancels: u32::try_from(count).unwrap_or(u32::MAX) })
    }
}

/// Records `finding`, once for each run, and does what can be done about it.
pub async fn report(app: &App, run: &Run, finding: &Finding, so_far: &mut Remedies) -> Result<()> {
    so_far.findings += 1;
    if so_far.findings > FINDINGS_MAX {
        return Err(Error::fault(anyhow::anyhow!("more than {FINDINGS_MAX} findings: are both sides the same shop?")));
    }
    let Finding { kind, merchant_pay_key, payment, order, pg_payment_id, expected, found, detail, .. } = finding;
    tracing::error!(
        run.id = %run.id, kind = kind.name(), merchant_pay_key, payment.id = ?payment, orderId = ?order,
        pg_payment_id, expected, found, "Reconciliation: {detail}"
    );
    metrics::counter!("stampede_reconciliation_findings_total", "kind" => kind.name()).increment(1);
    // Before anything is done about it: what was helped is no finding any more for whoever begins again.
    let id = record(app, run, finding).await?;
    app.db.point("reconcile.after_finding").await;
    let (action, code) = help(app, finding, so_far).await?;
    act_recorded(app, id, action, code.as_deref()).await
}

/// What was done, and what the provider said if it refused.
async fn help(app: &App, finding: &Finding, so_far: &mut Remedies) -> Result<(&'static str, Option<String>)> {
    match (finding.remedy, finding.payment, &finding.pg_payment_id) {
        (Remedy::Ask, Some(payment), _) => {
            let is_asked = app.db.tx("ask_soon", async |tx| ask_soon(tx, payment).await).await?;
            app.unclear.notify_one();
            Ok((if is_asked { "ASKED" } else { "REPORTED" }, None))
        }
        (Remedy::Cancel(amount), _, Some(pg)) if so_far.cancels < app.reconciliation.cancels_max => {
            so_far.cancels += 1;
            // Of the money that is left: the same finding again is the same request.
            let key = RefundId::derive(&[b"reconciliation", pg.as_bytes(), &amount.to_be_bytes()]).to_string();
            let name = &finding.merchant_pay_key;
            match app.naverpay.cancel(pg, name, amount, "captured without a payment", &key).await {
                GivenBack::Done => Ok(("CANCELLED", None)),
                GivenBack::Refused { code } | GivenBack::Unknown { code } => Ok(("CANCEL_FAILED", Some(code))),
            }
        }
        (Remedy::Report | Remedy::Ask | Remedy::Cancel(_), _, _) => Ok(("REPORTED", None)),
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
            let query = sql_query(
                "insert into reconciliation_findings
                     (run_id, kind, merchant_pay_key, payment_id, order_id, pg_payment_id, expected, found, action, detail)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, 'REPORTED', $9)
                 on conflict (run_id, kind, merchant_pay_key, pg_payment_id) do update set found_at = excluded.found_at
                 returning id",
            );
            let query = query.bind::<SqlUuid, _>(run.id).bind::<Text, _>(finding.kind.name());
            let query = query.bind::<Text, _>(&finding.merchant_pay_key);
            let query = query.bind::<Nullable<SqlUuid>, _>(finding.payment);
            let query = query.bind::<Nullable<SqlUuid>, _>(finding.order);
            let query = query.bind::<Nullable<Text>, _>(&finding.pg_payment_id);
            let query = query.bind::<BigInt, _>(finding.expected).bind::<BigInt, _>(finding.found);
            Ok(Prepared(query.bind::<Text, _>(&finding.detail)).get_result(tx).await?)
        })
        .await?;
    Ok(recorded.id)
}

async fn act_recorded(app: &App, id: i64, action: &'static str, code: Option<&str>) -> Result<()> {
    app.db
        .tx("record_remedy", async |tx| {
            let query = sql_query(
                "update reconciliation_findings
                 set action = $2, detail = concat_ws(' The provider: ', detail, $3)
                 where id = $1",
            );
            let query = query.bind::<BigInt, _>(id).bind::<Text, _>(action);
            Prepared(query.bind::<Nullable<Text>, _>(code)).execute(tx).await?;
            Ok(())
        })
        .await
}
