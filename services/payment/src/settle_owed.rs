//! What other services are still to be told about a payment: that order and stock are free again, or that the order is paid.
//!
//! It is owed from the commit that made it true until they have answered: whoever committed tells them at once, and a loop
//! where that was cut off. Everything here may be done twice.

use common::db::{Prepared, Tx};
use common::{Error, Result, rpc};
use contract::codes;
use contract::ids::PaymentAttemptId;
use contract::inventory::{PinHoldRequest, UnpinHoldRequest};
use contract::order::{EndApprovalRequest, MarkPaidRequest};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Integer};
use diesel_async::RunQueryDsl;
use futures_util::future::join_all;

use crate::App;
use crate::payment::Status;
use crate::provider::Attempt;
use crate::refunds::request_full_refund;
use crate::rows::{self, Payment};
use crate::schema::payments;

/// Payments that are claimed together, and settled at the same time.
const CLAIM_MAX: i64 = 16;

/// How long the loop leaves a claimed payment alone.
const RETRY_SECONDS: i32 = 2;

/// The loop: settles whatever has been owed for [`RETRY_SECONDS`].
pub async fn settle_all_owed(app: &App) -> Result<()> {
    loop {
        let owing = claim(app).await?;
        let claimed = owing.len() as i64;
        join_all(owing.into_iter().map(|payment| settle_owed(app, payment))).await;
        if claimed < CLAIM_MAX {
            return Ok(());
        }
    }
}

/// A claimed payment goes behind the others, so that one which cannot be settled holds up none of them.
async fn claim(app: &App) -> Result<Vec<Payment>> {
    app.db
        .tx("claim_owing", async |tx| {
            let query = sql_query(include_str!("settle_owed.sql"));
            Ok(Prepared(query.bind::<BigInt, _>(CLAIM_MAX).bind::<Integer, _>(RETRY_SECONDS)).load(tx).await?)
        })
        .await
}

/// Does what `payment` owes, as far as it can be done now, and returns the payment as it is then.
pub async fn settle_owed(app: &App, mut payment: Payment) -> Payment {
    let Some(attempt) = payment.attempt() else { return payment };
    let (what, settled) = match (payment.owes_release, payment.owes_order) {
        (true, _) => ("EndApproval and UnpinHold", release(app, &payment, &attempt).await),
        (_, true) => ("MarkPaid", tell_order(app, &payment, &attempt).await),
        (false, false) => return payment,
    };
    match settled {
        Ok(()) => (payment.owes_release, payment.owes_order) = (false, false),
        Err(error) => tracing::warn!(
            %error, payment.id = %payment.id, orderId = %payment.order_id,
            "Payment {}: {what} failed ({error}); retried in {RETRY_SECONDS} s", payment.id
        ),
    }
    payment
}

/// What is no longer owed.
#[derive(Clone, Copy)]
enum Owed {
    Release,
    Order,
}

async fn release(app: &App, payment: &Payment, attempt: &Attempt) -> Result<()> {
    release_reservation(app, payment, attempt.id).await?;
    app.db.point("payment.after_release").await;
    clear(app, payment, Owed::Release).await
}

/// Ends the order's reservation and unpins the stock, if `attempt` has them.
///
/// The order first: while it is reserved a late capture can pay it, and its units must still be pinned then.
async fn release_reservation(app: &App, payment: &Payment, attempt: PaymentAttemptId) -> Result<()> {
    let (order_id, attempt_id) = (payment.order_id.to_string(), attempt.to_string());
    // The order lives on for another attempt only where there can be one.
    let retry_until = match payment.status {
        Status::Pending => Some(rows::database_time(&mut *app.db.read().await?).await? + app.retry_time),
        _ => None,
    };
    let end = EndApprovalRequest {
        order_id: order_id.clone(),
        attempt_id: attempt_id.clone(),
        hold_expires_at: retry_until.map(Into::into),
    };
    let ended = rpc::retrying(|| {
        let (mut order, end) = (app.order.clone(), end.clone());
        async move { order.end_approval(end).await }
    });
    let order = ended.await?.order;
    if order.is_some_and(|order| ["PAID", "REFUND_PENDING", "REFUNDED"].contains(&order.status.as_str())) {
        // Its units are sold, or about to be.
        return Ok(());
    }
    app.db.point("payment.after_order_freed").await;
    let unpin = UnpinHoldRequest { hold_id: order_id, attempt_id };
    let unpinned = rpc::retrying(|| {
        let (mut inventory, unpin) = (app.inventory.clone(), unpin.clone());
        async move { inventory.unpin_hold(unpin).await }
    });
    match unpinned.await {
        Ok(_) => Ok(()),
        Err(error) if error.reason() == Some(&codes::HOLD_NOT_FOUND.reason) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Either the order is paid with this money, or the money is refunded.
async fn tell_order(app: &App, payment: &Payment, attempt: &Attempt) -> Result<()> {
    let told = match mark_paid(app, payment, Capture::InTime).await? {
        MarkPaid::Paid => MarkPaid::Paid,
        MarkPaid::NotPayable => pay_late(app, payment, attempt).await?,
    };
    match told {
        MarkPaid::Paid => {
            app.db.point("payment.after_order_told").await;
            clear(app, payment, Owed::Order).await
        }
        MarkPaid::NotPayable => {
            tracing::warn!(
                payment.id = %payment.id, orderId = %payment.order_id,
                "Payment {}: order {} cannot be paid any more; the money is refunded", payment.id, payment.order_id
            );
            metrics::counter!("stampede_payments_late_total", "outcome" => "refunded").increment(1);
            refund_late(app, payment).await
        }
    }
}

/// In one commit: nobody who comes later requests another refund, or has the order paid with this money.
async fn refund_late(app: &App, payment: &Payment) -> Result<()> {
    app.db
        .tx("give_back_late", async |tx| {
            request_full_refund(tx, payment.id, "late", "the order could not be paid any more").await?;
            clear_in(tx, payment, Owed::Order).await
        })
        .await?;
    app.db.point("payment.after_late_promise").await;
    app.refunds_due.notify_one();
    Ok(())
}

/// What order said to MarkPaid.
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

/// The money came after the order had expired: the order is paid all the same if its units can be taken again.
async fn pay_late(app: &App, payment: &Payment, attempt: &Attempt) -> Result<MarkPaid> {
    // Under another id: the attempt has released the hold and cannot pin it again.
    let late_attempt = PaymentAttemptId::derive(&[attempt.id.as_bytes(), b"late"]);
    let pin =
        PinHoldRequest { hold_id: payment.order_id.to_string(), attempt_id: late_attempt.to_string(), retake: true };
    let pinned = rpc::retrying(|| {
        let (mut inventory, pin) = (app.inventory.clone(), pin.clone());
        async move { inventory.pin_hold(pin).await }
    });
    match pinned.await {
        Ok(_) => {}
        // The loop of another replica may have taken them for this payment a moment ago.
        Err(Error::Refused(_)) => return mark_paid(app, payment, Capture::InTime).await,
        Err(error) => return Err(error),
    }
    app.db.point("payment.after_retake").await;
    match mark_paid(app, payment, Capture::Late).await? {
        MarkPaid::Paid => {
            metrics::counter!("stampede_payments_late_total", "outcome" => "honoured").increment(1);
            Ok(MarkPaid::Paid)
        }
        MarkPaid::NotPayable => {
            release_reservation(app, payment, late_attempt).await?;
            Ok(MarkPaid::NotPayable)
        }
    }
}

async fn clear(app: &App, payment: &Payment, owed: Owed) -> Result<()> {
    app.db.tx("clear_owed", async |tx| clear_in(tx, payment, owed).await).await
}

/// `owed` is done, unless a newer attempt owes it.
async fn clear_in(tx: &mut Tx, payment: &Payment, owed: Owed) -> Result<()> {
    let row = payments::table.find(payment.id).filter(payments::attempt_id.eq(payment.attempt_id));
    match owed {
        Owed::Release => diesel::update(row).set(payments::owes_release.eq(false)).execute(tx).await?,
        Owed::Order => diesel::update(row).set(payments::owes_order.eq(false)).execute(tx).await?,
    };
    Ok(())
}
