//! Every refund that was promised is asked for until the provider has said yes or no, and what it says is recorded.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::db::{Prepared, Tx};
use common::{Error, Result, outbox};
use contract::events::PaymentRefunded;
use diesel::sql_types::{BigInt, Double, Integer, Text, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::payment::{Refused, after_refund, pause_seconds};
use crate::provider::{Giveback, GivenBack};
use crate::rows::{self, Payment, Refund};

/// Questions that one replica has on their way.
pub const AT_ONCE: usize = 16;

/// The loop: every refund that is due is asked for again.
pub async fn settle_refunds(app: Arc<App>) -> Result<()> {
    loop {
        let room = app.refunding.room();
        if room == 0 {
            return Ok(());
        }
        let due = claim(&app, room as i64).await?;
        let is_all = due.len() < room;
        for refund in due {
            let refunding = app.clone();
            let asking = async move {
                let id = refund.id;
                if let Err(error) = carry_out(refunding, refund).await {
                    tracing::warn!(%error, refund.id = %id, "A refund waits");
                }
            };
            app.refunding.begin(asking).await?;
        }
        if is_all {
            return Ok(());
        }
    }
}

/// For how long the oldest promise has been without an answer. The provider is asked for ever; a person may do more.
pub async fn measure_pending(app: &App) -> Result<()> {
    #[derive(QueryableByName)]
    struct Pending {
        #[diesel(sql_type = Double)]
        oldest: f64,
    }
    let query = "select coalesce(extract(epoch from statement_timestamp() - min(created_at)), 0)::float8 as oldest
                 from refunds
                 where status = 'PENDING'";
    let Pending { oldest } = Prepared(sql_query(query)).get_result(&mut *app.db.read().await?).await?;
    metrics::gauge!("stampede_refunds_pending_oldest_seconds").set(oldest);
    Ok(())
}

/// Takes what is due and moves it away for a while: whoever dies now has only postponed it.
async fn claim(app: &App, max: i64) -> Result<Vec<Refund>> {
    app.db
        .tx("claim_refunds", async |tx| {
            let query = sql_query(include_str!("settle_refunds.sql")).bind::<BigInt, _>(max);
            Ok(Prepared(query.bind::<Double, _>(app.claim_time.as_secs_f64())).load(tx).await?)
        })
        .await
}

/// Asks the provider and records what it says. Repeatable: the provider knows the refund by its id.
pub async fn carry_out(app: Arc<App>, refund: Refund) -> Result<(Payment, Refund)> {
    let found = rows::by_id(&mut *app.db.read().await?, refund.payment_id).await?;
    let payment = found.ok_or_else(|| Error::fault(anyhow::anyhow!("refund {} of no payment", refund.id)))?;
    let giveback = Giveback {
        refund: refund.id,
        payment: payment.id,
        user: payment.user_id,
        pg_payment_id: refund.pg_payment_id.clone(),
        amount: refund.amount,
        reason: refund.reason.clone(),
    };
    app.db.point("payment.before_refund").await;
    let given_back = app.give_back(payment.method(), &giveback).await;
    app.db.point("payment.after_refund").await;
    app.db.tx("record_refund", async |tx| record(tx, &refund, &given_back).await).await
}

async fn record(tx: &mut Tx, refund: &Refund, given_back: &GivenBack) -> Result<(Payment, Refund)> {
    let Some((payment, now)) = rows::lock(tx, refund.payment_id).await? else { return Err(Refused::NotFound.into()) };
    let current = sql_query("select * from refunds where id = $1").bind::<Uuid, _>(refund.id);
    let current: Refund = Prepared(current).get_result(tx).await?;
    if !current.is_pending() {
        return Ok((payment, current));
    }
    let (status, code) = match given_back {
        GivenBack::Done => ("SUCCEEDED", "Success"),
        GivenBack::Refused { code } => ("FAILED", code.as_str()),
        GivenBack::Unknown { code } => ("PENDING", code.as_str()),
    };
    let query = sql_query(
        "update refunds
         set status = $2, pg_code = $3,
             ask_at = case when $2 = 'PENDING' then clock_timestamp() + $4 * interval '1 second' end,
             ended_at = case when $2 <> 'PENDING' then clock_timestamp() end
         where id = $1
         returning *",
    );
    let query = query.bind::<Uuid, _>(refund.id).bind::<Text, _>(status).bind::<Text, _>(code);
    let ended: Refund = Prepared(query.bind::<Integer, _>(pause_seconds(refund.asked))).get_result(tx).await?;
    metrics::counter!("stampede_refunds_total", "status" => status).increment(1);
    match given_back {
        GivenBack::Done if !ended.stray => {
            let payment = take_off(tx, &payment, &ended).await?;
            announce(tx, &payment, &ended, now).await?;
            Ok((payment, ended))
        }
        GivenBack::Refused { code } => {
            tracing::error!(payment.id = %payment.id, refund.id = %ended.id, code, "The provider refuses a refund; a person has to look");
            Ok((payment, ended))
        }
        GivenBack::Done | GivenBack::Unknown { .. } => Ok((payment, ended)),
    }
}

/// The payment without the money that went back.
async fn take_off(tx: &mut Tx, payment: &Payment, refund: &Refund) -> Result<Payment> {
    let refunded = payment.refunded + refund.amount;
    let query = sql_query(
        "update payments
         set refunded = $2, status = $3, version = payments.version + 1, updated_at = clock_timestamp()
         where id = $1
         returning *",
    );
    let query = query.bind::<Uuid, _>(payment.id).bind::<BigInt, _>(refunded);
    Ok(Prepared(query.bind::<Text, _>(after_refund(payment.captured, refunded).name())).get_result(tx).await?)
}

async fn announce(tx: &mut Tx, payment: &Payment, refund: &Refund, now: DateTime<Utc>) -> Result<()> {
    let event = PaymentRefunded {
        payment_id: payment.id.to_string(),
        order_id: payment.order_id.to_string(),
        user_id: payment.user_id.to_string(),
        version: payment.version,
        refund_id: refund.id.to_string(),
        amount: refund.amount,
        refunded_total: payment.refunded,
        captured: payment.captured,
        currency: payment.currency.clone(),
        reason: refund.reason.clone(),
        refunded_at: Some(now.into()),
    };
    outbox::publish(tx, &event).await
}
