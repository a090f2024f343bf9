//! Every refund is sent to the provider until it has said yes or no, and its answer is recorded.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use common::db::{Prepared, Tx};
use common::sql::clock_timestamp;
use common::{Error, Result, outbox};
use contract::events::PaymentRefunded;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Double};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::payment::{Payment, after_refund, retry_delay_seconds};
use crate::provider::{RefundOutcome, RefundRequest};
use crate::refunds::{Refund, RefundStatus};
use crate::rows;
use crate::schema::{payments, refunds};

/// Requests that one replica has under way.
pub const IN_FLIGHT_MAX: usize = 16;

/// The loop: sends every refund that is due.
pub async fn send_refunds(app: Arc<App>) -> Result<()> {
    loop {
        let room = app.refunding.room();
        if room == 0 {
            return Ok(());
        }
        let due = claim(&app, room as i64).await?;
        let is_all = due.len() < room;
        for refund in due {
            let (id, payment) = (refund.id, refund.payment_id);
            let sending = app.clone();
            let send = async move {
                if let Err(error) = send_refund(sending.clone(), refund).await {
                    tracing::warn!(
                        %error, refund.id = %id, payment.id = %payment,
                        "Refund {id} of payment {payment} was not carried out ({error}); next try in {} s",
                        sending.claim_time.as_secs()
                    );
                }
            };
            app.refunding.begin(send).await?;
        }
        if is_all {
            return Ok(());
        }
    }
}

/// The loop that measures for how long the oldest refund has been without an answer.
pub async fn measure_pending(app: &App) -> Result<()> {
    #[derive(QueryableByName)]
    struct Pending {
        #[diesel(sql_type = Double)]
        oldest: f64,
    }
    let query = Prepared(sql_query(include_str!("measure_pending.sql")));
    let Pending { oldest } = query.get_result(&mut *app.db.read().await?).await?;
    metrics::gauge!("stampede_refunds_pending_oldest_seconds").set(oldest);
    Ok(())
}

/// Claims what is due for `claim_time`. If this process dies, another one claims it after that.
async fn claim(app: &App, max: i64) -> Result<Vec<Refund>> {
    app.db
        .tx("claim_refunds", async |tx| {
            let query = sql_query(include_str!("send_refunds.sql")).bind::<BigInt, _>(max);
            Ok(Prepared(query.bind::<Double, _>(app.claim_time.as_secs_f64())).load(tx).await?)
        })
        .await
}

/// Sends the refund to the provider and records the answer. Idempotent: the provider knows the refund by its id.
pub async fn send_refund(app: Arc<App>, refund: Refund) -> Result<(Payment, Refund)> {
    let found = rows::by_id(&mut *app.db.read().await?, refund.payment_id).await?;
    let payment = found.ok_or_else(|| Error::fault(anyhow::anyhow!("refund {} has no payment", refund.id)))?;
    let request = RefundRequest {
        id: refund.id,
        payment: payment.id,
        user: payment.user_id,
        pg_payment_id: refund.pg_payment_id.clone(),
        amount: refund.amount,
        reason: refund.reason.clone(),
    };
    app.db.point("payment.before_refund").await;
    let outcome = app.refund(payment.method, &request).await;
    app.db.point("payment.after_refund").await;
    app.db.tx("record_refund", async |tx| record(tx, &refund, &outcome).await).await
}

async fn record(tx: &mut Tx, refund: &Refund, outcome: &RefundOutcome) -> Result<(Payment, Refund)> {
    let (payment, now) = rows::lock_existing(tx, refund.payment_id).await?;
    let current: Refund = refunds::table.find(refund.id).select(Refund::as_select()).get_result(tx).await?;
    if current.status != RefundStatus::Pending {
        return Ok((payment, current));
    }
    let (status, code) = match outcome {
        RefundOutcome::Refunded => (RefundStatus::Succeeded, "Success"),
        RefundOutcome::Refused { code } => (RefundStatus::Failed, code.as_str()),
        RefundOutcome::Unknown { code } => (RefundStatus::Pending, code.as_str()),
    };
    let delay = retry_delay_seconds(refund.asked);
    let is_pending = status == RefundStatus::Pending;
    let update = diesel::update(refunds::table.find(refund.id)).set((
        refunds::status.eq(status),
        refunds::pg_code.eq(code),
        refunds::ask_at.eq(is_pending.then(|| now + TimeDelta::seconds(delay.into()))),
        refunds::ended_at.eq((!is_pending).then_some(now)),
    ));
    let refund: Refund = update.returning(Refund::as_returning()).get_result(tx).await?;
    metrics::counter!("stampede_refunds_total", "status" => status.name()).increment(1);
    match status {
        RefundStatus::Succeeded if refund.is_of_duplicate_capture => Ok((payment, refund)),
        RefundStatus::Succeeded => {
            let payment = add_refunded(tx, &payment, &refund).await?;
            announce(tx, &payment, &refund, now).await?;
            Ok((payment, refund))
        }
        RefundStatus::Failed => {
            tracing::error!(
                payment.id = %payment.id, refund.id = %refund.id, code,
                "Refund {} of payment {} is refused by the provider ({code}); an operator has to look",
                refund.id, payment.id
            );
            Ok((payment, refund))
        }
        RefundStatus::Pending => {
            tracing::warn!(
                payment.id = %payment.id, refund.id = %refund.id, code,
                "Refund {} of payment {} has no answer from the provider ({code}); next try in {delay} s",
                refund.id, payment.id
            );
            Ok((payment, refund))
        }
    }
}

/// Adds the refund to what was refunded of the payment.
async fn add_refunded(tx: &mut Tx, payment: &Payment, refund: &Refund) -> Result<Payment> {
    let refunded = payment.refunded + refund.amount;
    let update = diesel::update(payments::table.find(payment.id)).set((
        payments::refunded.eq(refunded),
        payments::status.eq(after_refund(payment.captured, refunded)),
        payments::version.eq(payments::version + 1),
        payments::updated_at.eq(clock_timestamp()),
    ));
    Ok(update.returning(Payment::as_returning()).get_result(tx).await?)
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
