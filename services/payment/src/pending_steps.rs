//! What is to be done at other services because of what a payment has become: see [`Step`].
//!
//! A step is a row from the commit that makes it necessary until it is done. The flow that commits it does it at once, and a
//! loop where that was cut off. Each step may be done twice.

use std::sync::Arc;

use common::batch::{Batch, BatchSettings};
use common::db::{Db, Prepared};
use common::{Error, Result, rpc};
use contract::codes;
use contract::ids::{PaymentAttemptId, PaymentId};
use contract::order::MarkPaidRequest;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Integer, Text, Uuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::future::join_all;

use crate::App;
use crate::payment::{Payment, Step};
use crate::refunds::request_full_refund;
use crate::reservations::{FreedOrder, Retaken, free_coupon, free_hold, free_order, retake};
use crate::rows;
use crate::schema::pending_steps;

/// How long the loop leaves a step alone: after the commit that makes it necessary, and after a claim.
pub const RETRY_SECONDS: i32 = 2;

/// Payments that the loop claims together.
const CLAIM_MAX: i64 = 16;

/// A step that is done.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    payment: PaymentId,
    step: Step,
    attempt: PaymentAttemptId,
}

/// Starts the queue of steps that are done.
pub fn start_batch(db: &Db, settings: &BatchSettings) -> Batch<Done, ()> {
    let db = db.clone();
    Batch::start("steps_done", settings, move |done: Arc<[Done]>| {
        let db = db.clone();
        async move {
            db.tx("steps_done", async |tx| {
                let query = sql_query(include_str!("pending_steps_done.sql"))
                    .bind::<Array<Uuid>, _>(done.iter().map(|row| row.payment).collect::<Vec<_>>())
                    .bind::<Array<Text>, _>(done.iter().map(|row| row.step.name()).collect::<Vec<_>>())
                    .bind::<Array<Uuid>, _>(done.iter().map(|row| row.attempt).collect::<Vec<_>>());
                Ok(Prepared(query).execute(tx).await?)
            })
            .await?;
            Ok(done.iter().map(|_| Ok(())).collect())
        }
    })
}

/// What has become of the steps of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// All are done. The order is paid with the money, if [`Step::PayOrder`] was among them.
    Done,
    /// The order cannot be paid any more, so the money goes back.
    Refunded,
    /// One failed for now; the loop does it again.
    Failed,
}

/// The loop: does whatever nobody has done for [`RETRY_SECONDS`].
pub async fn take_due_steps(app: &App) -> Result<()> {
    loop {
        let due = claim(app).await?;
        let claimed = due.len() as i64;
        join_all(due.into_iter().map(|(payment, attempt, steps)| async move {
            take_steps(app, &payment, attempt, &steps, Note::Awaited).await;
        }))
        .await;
        if claimed < CLAIM_MAX {
            return Ok(());
        }
    }
}

/// Claimed steps go behind the others, so that one which cannot be done holds up none of them.
async fn claim(app: &App) -> Result<Vec<(Payment, PaymentAttemptId, Vec<Step>)>> {
    #[derive(QueryableByName)]
    struct Due {
        #[diesel(sql_type = Uuid)]
        payment_id: PaymentId,
        #[diesel(sql_type = Uuid)]
        attempt_id: PaymentAttemptId,
        #[diesel(sql_type = Text)]
        step: Step,
    }
    app.db
        .tx("claim_steps", async |tx| {
            let query = sql_query(include_str!("pending_steps_claim.sql"));
            let due: Vec<Due> =
                Prepared(query.bind::<BigInt, _>(CLAIM_MAX).bind::<Integer, _>(RETRY_SECONDS)).load(tx).await?;
            let mut ids: Vec<PaymentId> = due.iter().map(|due| due.payment_id).collect();
            ids.sort();
            ids.dedup();
            let payments = rows::by_ids(tx, &ids).await?;
            let claimed = payments.into_iter().filter_map(|payment| {
                let of_payment = || due.iter().filter(|due| due.payment_id == payment.id);
                let attempt = of_payment().next()?.attempt_id;
                let mut steps: Vec<Step> = of_payment().map(|due| due.step).collect();
                steps.sort();
                Some((payment, attempt, steps))
            });
            Ok(claimed.collect())
        })
        .await
}

/// The steps of a payment that are still to be done, and for which attempt.
pub async fn read_steps(
    conn: &mut AsyncPgConnection,
    payment: PaymentId,
) -> Result<Option<(PaymentAttemptId, Vec<Step>)>> {
    let rows: Vec<(PaymentAttemptId, Step)> = pending_steps::table
        .filter(pending_steps::payment_id.eq(payment))
        .select((pending_steps::attempt_id, pending_steps::step))
        .load(conn)
        .await?;
    let [(attempt, _), ..] = rows[..] else { return Ok(None) };
    let mut steps: Vec<Step> = rows.into_iter().map(|(_, step)| step).collect();
    steps.sort();
    Ok(Some((attempt, steps)))
}

/// Whether the caller waits until it is noted that the steps are done. A step that is not noted as done is done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    Awaited,
    InBackground,
}

/// Does `steps` in their order, as far as they can be done now, and notes that they are done.
pub async fn take_steps(app: &App, payment: &Payment, attempt: PaymentAttemptId, steps: &[Step], note: Note) -> Taken {
    let (taken, done) = try_steps(app, payment, attempt, steps).await;
    if note == Note::InBackground {
        done.into_iter().for_each(|done| app.steps_done.post(done));
        return taken;
    }
    let notes = join_all(done.into_iter().map(|done| app.steps_done.submit(done))).await;
    match notes.into_iter().find_map(Result::err) {
        Some(error) => {
            tracing::warn!(
                %error, payment.id = %payment.id,
                "Payment {}: its steps are done, and this could not be noted ({error}); they are repeated in \
                 {RETRY_SECONDS} s", payment.id
            );
            Taken::Failed
        }
        None => taken,
    }
}

async fn try_steps(app: &App, payment: &Payment, attempt: PaymentAttemptId, steps: &[Step]) -> (Taken, Vec<Done>) {
    let mut done = Vec::with_capacity(steps.len());
    let mut taken = Taken::Done;
    for step in steps {
        match take_step(app, payment, attempt, *step).await {
            Ok(Outcome::Done) => done.push(*step),
            // What comes after it is not to be done any more.
            Ok(Outcome::AllDone) => {
                done = steps.to_vec();
                break;
            }
            Ok(Outcome::Refunded) => taken = Taken::Refunded,
            Err(error) => {
                tracing::warn!(
                    %error, payment.id = %payment.id, orderId = %payment.order_id,
                    "Payment {}: step {} failed ({error}); retried in {RETRY_SECONDS} s", payment.id, step.name()
                );
                taken = Taken::Failed;
                break;
            }
        }
    }
    (taken, done.into_iter().map(|step| Done { payment: payment.id, step, attempt }).collect())
}

enum Outcome {
    Done,
    /// This step shows that those after it are not wanted.
    AllDone,
    /// The refund is written down, and the step is noted as done with it.
    Refunded,
}

async fn take_step(app: &App, payment: &Payment, attempt: PaymentAttemptId, step: Step) -> Result<Outcome> {
    match step {
        Step::FreeOrder => {
            let freed = free_order(app, payment, attempt).await?;
            app.db.point("payment.after_order_freed").await;
            Ok(if freed == FreedOrder::IsPaid { Outcome::AllDone } else { Outcome::Done })
        }
        Step::FreeHold => {
            free_hold(app, payment, attempt).await?;
            app.db.point("payment.after_release").await;
            Ok(Outcome::Done)
        }
        Step::FreeCoupon => {
            free_coupon(app, payment, attempt).await?;
            app.db.point("payment.after_coupon_freed").await;
            Ok(Outcome::Done)
        }
        Step::PayOrder => pay_order(app, payment, attempt).await,
    }
}

/// Either the order is paid with this money, or the money is refunded.
async fn pay_order(app: &App, payment: &Payment, attempt: PaymentAttemptId) -> Result<Outcome> {
    let told = match mark_paid(app, payment, Capture::InTime).await? {
        MarkPaid::Paid => MarkPaid::Paid,
        MarkPaid::NotPayable => pay_late(app, payment, attempt).await?,
    };
    match told {
        MarkPaid::Paid => {
            app.db.point("payment.after_order_told").await;
            Ok(Outcome::Done)
        }
        MarkPaid::NotPayable => {
            tracing::warn!(
                payment.id = %payment.id, orderId = %payment.order_id,
                "Payment {}: order {} cannot be paid any more; the money is refunded", payment.id, payment.order_id
            );
            metrics::counter!("stampede_payments_late_total", "outcome" => "refunded").increment(1);
            refund_late(app, payment, attempt).await?;
            Ok(Outcome::Refunded)
        }
    }
}

/// In one commit: nobody who comes later requests another refund, or has the order paid with this money.
async fn refund_late(app: &App, payment: &Payment, attempt: PaymentAttemptId) -> Result<()> {
    app.db
        .tx("refund_late", async |tx| {
            request_full_refund(tx, payment.id, "late", "the order could not be paid any more").await?;
            let step = pending_steps::table.find((payment.id, Step::PayOrder));
            diesel::delete(step.filter(pending_steps::attempt_id.eq(attempt))).execute(tx).await?;
            Ok(())
        })
        .await?;
    app.db.point("payment.after_late_promise").await;
    app.refunds_due.notify_one();
    Ok(())
}

/// What order said to MarkPaid.
#[derive(Clone, Copy, PartialEq)]
enum MarkPaid {
    Paid,
    /// The order has ended, or another payment has paid it.
    NotPayable,
}

/// Whether the order's units are still pinned for the attempt, or were taken again.
#[derive(Clone, Copy, PartialEq)]
enum Capture {
    InTime,
    Late,
}

async fn mark_paid(app: &App, payment: &Payment, capture: Capture) -> Result<MarkPaid> {
    let mark = MarkPaidRequest {
        order_id: payment.order_id.to_string(),
        payment_id: payment.id.to_string(),
        amount: payment.amount,
        currency: payment.currency.clone(),
        late: capture == Capture::Late,
    };
    let marked = rpc::retrying(|| {
        let (mut order, mark) = (app.order.clone(), mark.clone());
        async move { order.mark_paid(mark).await }
    });
    match marked.await {
        Ok(_) => Ok(MarkPaid::Paid),
        Err(error) if is_final(&error) => Ok(MarkPaid::NotPayable),
        Err(error) => Err(error),
    }
}

/// Whether order would refuse again.
fn is_final(error: &Error) -> bool {
    let refusals = [codes::ORDER_NOT_PAYABLE, codes::ORDER_NOT_FOUND];
    refusals.iter().any(|code| error.reason() == Some(&code.reason))
}

/// The money came after the order had expired: the order is paid all the same if its units and its coupon can be taken again.
async fn pay_late(app: &App, payment: &Payment, attempt: PaymentAttemptId) -> Result<MarkPaid> {
    // Under another id: the attempt has freed them and cannot pin them again.
    let late_attempt = PaymentAttemptId::derive(&[attempt.as_bytes(), b"late"]);
    let retaken = retake(app, payment, late_attempt).await?;
    if retaken == Retaken::All {
        app.db.point("payment.after_retake").await;
    }
    let marked = match retaken {
        Retaken::All => mark_paid(app, payment, Capture::Late).await?,
        // The loop of another replica may have taken them for this payment a moment ago, and the order is paid.
        Retaken::HoldOnly | Retaken::Nothing => mark_paid(app, payment, Capture::InTime).await?,
    };
    match (marked, retaken) {
        (MarkPaid::Paid, Retaken::All) => {
            metrics::counter!("stampede_payments_late_total", "outcome" => "honoured").increment(1);
        }
        (MarkPaid::Paid, _) | (MarkPaid::NotPayable, Retaken::Nothing) => {}
        (MarkPaid::NotPayable, Retaken::All | Retaken::HoldOnly) => {
            if free_order(app, payment, late_attempt).await? == FreedOrder::Freed {
                app.db.point("payment.after_order_freed").await;
                free_hold(app, payment, late_attempt).await?;
                free_coupon(app, payment, late_attempt).await?;
            }
        }
    }
    Ok(marked)
}
