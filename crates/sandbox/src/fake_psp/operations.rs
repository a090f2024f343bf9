//! Capture and cancel, with the faults that they are to have.

use std::sync::Arc;

use actix_web::web::{Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, post};
use chrono::Utc;
use serde::Deserialize;

use super::answers::{Answer, HistoryRow, broken, cancelled, captured};
use super::book::{Book, Cancel, Capture, Code, Decision, Kind};
use super::faults::{Fault, Operation};
use super::provider::{Provider, Work, idempotency_key};
use crate::connection::{FormOrJson, cut, form_or_json};

const TEXT_CHARS_MAX: usize = 128;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApplyPayment {
    payment_id: String,
}

#[post("/naverpay-partner/naverpay/payments/v2.2/apply/payment")]
async fn apply_payment(provider: Data<Provider>, request: HttpRequest, body: FormOrJson<ApplyPayment>) -> HttpResponse {
    let ApplyPayment { payment_id } = form_or_json(body);
    let key = match idempotency_key(request.headers()) {
        Ok(key) => key,
        Err(answer) => return HttpResponse::Ok().json(answer),
    };
    let amount = provider.book().payment(&payment_id).map(|payment| payment.amount);
    let decide = move |book: &mut Book, payment_id: &str, key: &str, fault: Option<Fault>| {
        let declined = match fault {
            Some(Fault::Declined(code)) => Some(code),
            Some(Fault::DeclinedLate) => Some(Code::NotEnoughAccountBalance),
            _ => None,
        };
        book.capture(Capture { payment_id, key, declined }, Utc::now())
    };
    perform(provider.into_inner(), &request, Operation::Capture, payment_id, key, amount, decide).await
}

/// Other members that integrations send are accepted and ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CancelPayment {
    payment_id: String,
    merchant_pay_transaction_key: Option<String>,
    cancel_amount: i64,
    cancel_reason: Option<String>,
    tax_scope_amount: Option<i64>,
    tax_ex_scope_amount: Option<i64>,
}

#[post("/naverpay-partner/naverpay/payments/v1/cancel")]
async fn cancel(provider: Data<Provider>, request: HttpRequest, body: FormOrJson<CancelPayment>) -> HttpResponse {
    let body = form_or_json(body);
    let key = match idempotency_key(request.headers()) {
        Ok(key) => key,
        Err(answer) => return HttpResponse::Ok().json(answer),
    };
    let amount = body.cancel_amount;
    let taxes = body.tax_scope_amount.map(|scope| scope.saturating_add(body.tax_ex_scope_amount.unwrap_or_default()));
    if taxes.is_some_and(|taxes| taxes != amount) {
        let answer = Answer::new(Code::Fail, "taxScopeAmount and taxExScopeAmount do not add up to cancelAmount");
        return HttpResponse::Ok().json(answer);
    }
    let texts = [&body.merchant_pay_transaction_key, &body.cancel_reason];
    if texts.into_iter().flatten().any(|text| text.chars().count() > TEXT_CHARS_MAX) {
        return HttpResponse::Ok().json(Answer::new(Code::Fail, "a text is too long"));
    }
    let (transaction_key, reason) = (body.merchant_pay_transaction_key, body.cancel_reason);
    let decide = move |book: &mut Book, payment_id: &str, key: &str, fault: Option<Fault>| {
        let refused = matches!(fault, Some(Fault::Declined(_) | Fault::DeclinedLate));
        book.cancel(Cancel { payment_id, key, amount, transaction_key, reason, refused }, Utc::now())
    };
    perform(provider.into_inner(), &request, Operation::Cancel, body.payment_id, key, Some(amount), decide).await
}

/// Does the work of one request, and answers as its fault demands.
async fn perform(
    provider: Arc<Provider>,
    request: &HttpRequest,
    operation: Operation,
    payment_id: String,
    key: String,
    amount: Option<i64>,
    decide: impl FnOnce(&mut Book, &str, &str, Option<Fault>) -> Decision + Send + 'static,
) -> HttpResponse {
    let Some(work) = Work::begin(&provider, &payment_id, &key) else {
        let code = match operation {
            Operation::Capture => Code::AlreadyOnGoing,
            Operation::Cancel => Code::CancelNotComplete,
        };
        return HttpResponse::Ok().json(Answer::new(code, "another request for this is being worked on"));
    };
    let fault = provider.faults.pick(operation, &payment_id, amount);
    match fault {
        Some(Fault::LostBefore) => return cut(request),
        Some(Fault::ErrorBefore) => return HttpResponse::InternalServerError().body("Internal Server Error"),
        Some(Fault::Maintenance) => {
            return HttpResponse::Ok().json(Answer::new(Code::MaintenanceOngoing, "nothing was done"));
        }
        Some(Fault::Hang) => {
            provider.silences.keep(provider.faults.hang()).await;
            return cut(request);
        }
        _ => {}
    }
    let worked = tokio::spawn(async move {
        if matches!(fault, Some(Fault::Late | Fault::DeclinedLate)) {
            provider.silences.keep(provider.faults.late()).await;
        }
        let decision = decide(&mut provider.book(), &payment_id, &key, fault);
        let answer = match decision {
            Decision::Refuse(code, message) => Answer::new(code, message),
            Decision::Replay(row) => answer(&provider.book(), row, fault),
            Decision::Write(entry) => {
                let row = provider.record(entry).await?.expect("only an authorisation makes no row");
                provider.notify(row);
                answer(&provider.book(), row, fault)
            }
        };
        drop(work);
        anyhow::Ok(answer)
    });
    match (worked.await, fault) {
        (Ok(Ok(_)), Some(Fault::LostAfter)) => cut(request),
        (Ok(Ok(_)), Some(Fault::ErrorAfter)) => HttpResponse::InternalServerError().body("Internal Server Error"),
        (Ok(Ok(answer)), _) => HttpResponse::Ok().json(answer),
        (failed, _) => broken(&failed),
    }
}

fn answer(book: &Book, row: usize, fault: Option<Fault>) -> Answer {
    let row = &book.rows[row];
    if let Kind::Refused(code) = row.kind {
        return Answer::new(code, "declined");
    }
    let mut detail = HistoryRow::new(book, row);
    if fault == Some(Fault::WrongPayment) {
        match book.captured().rev().find(|payment| payment.payment_id != row.payment_id) {
            Some(other) => detail.name(&other.payment_id, &other.merchant_pay_key),
            None => detail.name("20200101NP0000000000", "nobody-asked-for-this"),
        }
    }
    match row.kind {
        Kind::Cancelled => Answer::success(cancelled(&detail, row)),
        Kind::Captured | Kind::Refused(_) => Answer::success(captured(&detail)),
    }
}

pub(super) fn routes(routes: &mut ServiceConfig) {
    routes.service(apply_payment).service(cancel);
}
