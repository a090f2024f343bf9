//! What other services are still to hear of a payment: that they may let go of it, or that it is paid.
//!
//! Owed from the commit that made it true until they have answered: at once by whoever made it true, and by a loop
//! where that was cut off. Everything here may be done twice.

use common::db::{Prepared, Tx};
use common::{Error, Result, rpc};
use contract::codes;
use contract::ids::PaymentAttemptId;
use contract::inventory::{PinHoldRequest, UnpinHoldRequest};
use contract::order::{EndApprovalRequest, MarkPaidRequest};
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Nullable, Uuid};
use diesel_async::RunQueryDsl;
use futures_util::future::join_all;

use crate::App;
use crate::payment::Status;
use crate::provider::Approval;
use crate::refund_payment::owe_refund_in;
use crate::rows::{self, Payment};

/// Payments that are taken together, and settled at the same time.
const TOGETHER: i64 = 16;

/// The loop: whatever has been owed for a while.
pub async fn settle_all_owed(app: &App) -> Result<()> {
    loop {
        let owing = claim(app).await?;
        let taken = owing.len() as i64;
        join_all(owing.into_iter().map(|payment| settle_owed(app, payment))).await;
        if taken < TOGETHER {
            return Ok(());
        }
    }
}

/// Whoever takes a payment moves it behind the others, so that one which cannot be settled holds up none of them.
async fn claim(app: &App) -> Result<Vec<Payment>> {
    app.db
        .tx("claim_owing", async |tx| {
            let query = sql_query(
                "with owing as (
                     select id
                     from payments
                     where (owes_release or owes_order) and settle_at <= statement_timestamp()
                     order by settle_at
                     limit $1
                     for update skip locked
                 )
                 update payments
                 set settle_at = clock_timestamp() + interval '2 seconds'
                 from owing
                 where payments.id = owing.id
                 returning payments.*",
            );
            Ok(Prepared(query.bind::<BigInt, _>(TOGETHER)).load(tx).await?)
        })
        .await
}

/// Does what `payment` owes, as far as it can be done now, and returns the payment as it is then.
pub async fn settle_owed(app: &App, mut payment: Payment) -> Payment {
    let Some(approval) = payment.approval() else { return payment };
    let settled = match (payment.owes_release, payment.owes_order) {
        (true, _) => release(app, &payment, &approval).await,
        (_, true) => tell_order(app, &payment, &approval).await,
        (false, false) => return payment,
    };
    match settled {
        Ok(()) => (payment.owes_release, payment.owes_order) = (false, false),
        Err(error) => tracing::warn!(%error, payment.id = %payment.id, "What a payment owes to others waits"),
    }
    payment
}

async fn release(app: &App, payment: &Payment, approval: &Approval) -> Result<()> {
    give_reservation_back(app, payment, approval.attempt).await?;
    app.db.point("payment.after_release").await;
    clear(app, payment, true).await
}

/// Frees the order and unpins the stock, as far as they are this attempt's.
///
/// The order first: as long as it is reserved, late news of the money pays it, and then its units must still be pinned.
async fn give_reservation_back(app: &App, payment: &Payment, attempt: PaymentAttemptId) -> Result<()> {
    let (order_id, attempt_id) = (payment.order_id.to_string(), attempt.to_string());
    // Whoever cannot try again is not waited for.
    let retry_until = match payment.status() {
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

/// The order is paid with this money, or the money goes back: there is no third way.
async fn tell_order(app: &App, payment: &Payment, approval: &Approval) -> Result<()> {
    if !mark_paid(app, payment, false).await? && !honour_late(app, payment, approval).await? {
        tracing::warn!(
            payment.id = %payment.id, orderId = %payment.order_id,
            "The order cannot be paid any more; its money goes back"
        );
        metrics::counter!("stampede_payments_late_total", "outcome" => "refunded").increment(1);
        return give_back_late(app, payment).await;
    }
    app.db.point("payment.after_order_told").await;
    clear(app, payment, false).await
}

/// One commit: whoever comes later neither promises it again nor has the order paid with it after all.
async fn give_back_late(app: &App, payment: &Payment) -> Result<()> {
    app.db
        .tx("give_back_late", async |tx| {
            owe_refund_in(tx, payment.id, "late", "the order could not be paid any more").await?;
            clear_in(tx, payment, false).await
        })
        .await?;
    app.db.point("payment.after_late_promise").await;
    app.refunds_due.notify_one();
    Ok(())
}

/// False: the order has ended, or another payment has paid it.
async fn mark_paid(app: &App, payment: &Payment, late: bool) -> Result<bool> {
    let mark = MarkPaidRequest {
        order_id: payment.order_id.to_string(),
        payment_id: payment.id.to_string(),
        amount: payment.amount,
        currency: payment.currency.clone(),
        late,
    };
    let marked = rpc::retrying(|| {
        let (mut order, mark) = (app.order.clone(), mark.clone());
        async move { order.mark_paid(mark).await }
    });
    match marked.await {
        Ok(_) => Ok(true),
        Err(error) if is_lost(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether no repeat will make the order be paid with it.
fn is_lost(error: &Error) -> bool {
    let lost = [codes::ORDER_NOT_PAYABLE, codes::ORDER_NOT_FOUND];
    lost.iter().any(|code| error.reason() == Some(&code.reason))
}

/// The money came after the order's time was up: it is honoured if its units can be had again.
async fn honour_late(app: &App, payment: &Payment, approval: &Approval) -> Result<bool> {
    // In a name of its own: the attempt has let go of the hold already and cannot pin it again.
    let attempt = PaymentAttemptId::derive(&[approval.attempt.as_bytes(), b"late"]);
    let pin = PinHoldRequest { hold_id: payment.order_id.to_string(), attempt_id: attempt.to_string(), retake: true };
    let pinned = rpc::retrying(|| {
        let (mut inventory, pin) = (app.inventory.clone(), pin.clone());
        async move { inventory.pin_hold(pin).await }
    });
    match pinned.await {
        Ok(_) => {}
        // Somebody else may have honoured it a moment ago.
        Err(Error::Refused(_)) => return mark_paid(app, payment, false).await,
        Err(error) => return Err(error),
    }
    app.db.point("payment.after_retake").await;
    if mark_paid(app, payment, true).await? {
        metrics::counter!("stampede_payments_late_total", "outcome" => "honoured").increment(1);
        return Ok(true);
    }
    give_reservation_back(app, payment, attempt).await?;
    Ok(false)
}

/// Nothing is owed any more, unless a newer attempt owes it.
async fn clear(app: &App, payment: &Payment, release: bool) -> Result<()> {
    app.db.tx("clear_owed", async |tx| clear_in(tx, payment, release).await).await
}

async fn clear_in(tx: &mut Tx, payment: &Payment, release: bool) -> Result<()> {
    let query = sql_query(
        "update payments
         set owes_release = owes_release and not $3, owes_order = owes_order and $3
         where id = $1 and attempt_id = $2",
    );
    let query = query.bind::<Uuid, _>(payment.id).bind::<Nullable<Uuid>, _>(payment.attempt_id);
    Prepared(query.bind::<Bool, _>(release)).execute(tx).await?;
    Ok(())
}
