//! The payment provider's doors for the merchant: capture and cancel; and its accounts, for audits.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::HeaderMap;
use actix_web::web::{Data, Json, Query, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, get, post};
use chrono::Utc;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::book::{Book, Cancel, Capture, Code, Decision, Entry, Kind, Totals};
use super::faults::{Fault, Faults, Operation};
use super::history::{HistoryRow, cancelled, captured};
use super::journal::Journal;
use super::webhooks::{Webhook, Webhooks};
use crate::connection::{FormOrJson, cut, form_or_json};

const KEY_BYTES_MAX: usize = 64;

const TEXT_CHARS_MAX: usize = 128;

const PAYMENTS_ON_PAGE_MAX: usize = 10_000;

/// What the handlers share.
pub(super) struct Provider {
    book: Mutex<Book>,
    journal: Option<Journal>,
    pub(super) faults: Arc<Faults>,
    webhooks: Arc<Webhooks>,
    /// Payments and idempotency keys whose requests are worked on now.
    busy: Mutex<HashSet<String>>,
}

impl Provider {
    pub(super) fn new(book: Book, journal: Option<Journal>, faults: Arc<Faults>, webhooks: Arc<Webhooks>) -> Provider {
        Provider { book: Mutex::new(book), journal, faults, webhooks, busy: Mutex::default() }
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }

    /// Writes an entry down, and then makes it true.
    pub(super) async fn enter(&self, entry: Entry) -> anyhow::Result<Option<usize>> {
        if let Some(journal) = &self.journal {
            journal.append(&entry).await?;
        }
        self.book().apply(entry)
    }
}

/// The exclusive work on a payment under an idempotency key. Ends when dropped.
struct Work {
    provider: Arc<Provider>,
    names: [String; 2],
}

impl Work {
    fn begin(provider: &Arc<Provider>, payment_id: &str, key: &str) -> Option<Work> {
        let names = [format!("payment {payment_id}"), format!("key {key}")];
        let mut busy = provider.busy.lock();
        if names.iter().any(|name| busy.contains(name)) {
            return None;
        }
        busy.extend(names.clone());
        drop(busy);
        Some(Work { provider: Arc::clone(provider), names })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut busy = self.provider.busy.lock();
        for name in &self.names {
            busy.remove(name);
        }
    }
}

/// The form of every answer. What is no success has no body.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn new(code: Code, message: &str) -> Answer {
        Answer { code, message: message.to_owned(), body: Value::Null }
    }

    pub(super) fn success(body: Value) -> Answer {
        Answer { code: Code::Success, message: "Success".to_owned(), body }
    }
}

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

/// Does one request's work, and what befalls it.
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
    let fault = provider.faults.strike(operation, &payment_id, amount);
    match fault {
        Some(Fault::LostBefore) => return cut(request),
        Some(Fault::ErrorBefore) => return HttpResponse::InternalServerError().body("Internal Server Error"),
        Some(Fault::Maintenance) => {
            return HttpResponse::Ok().json(Answer::new(Code::MaintenanceOngoing, "nothing was done"));
        }
        Some(Fault::Hang) => {
            sleep(Duration::from_millis(provider.faults.hang_ms())).await;
            return cut(request);
        }
        _ => {}
    }
    let worked = tokio::spawn(async move {
        if matches!(fault, Some(Fault::Late | Fault::DeclinedLate)) {
            sleep(Duration::from_millis(provider.faults.late_ms())).await;
        }
        let decision = decide(&mut provider.book(), &payment_id, &key, fault);
        let answer = match decision {
            Decision::Refuse(code, message) => Answer::new(code, message),
            Decision::Replay(row) => answer(&provider.book(), row, fault),
            Decision::Write(entry) => {
                let row = provider.enter(entry).await?.expect("only an authorisation makes no row");
                tell(&provider, row);
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

/// Tells whoever listens about money that has moved.
fn tell(provider: &Provider, row: usize) {
    let book = provider.book();
    let row = &book.rows[row];
    let kind = match row.kind {
        Kind::Captured => "payment.approved",
        Kind::Cancelled => "payment.cancelled",
        Kind::Refused(_) => return,
    };
    let merchant_pay_key = book.payment(&row.payment_id).map(|payment| payment.merchant_pay_key.clone());
    provider.webhooks.tell(Webhook {
        id: format!("msg_{}", row.pay_hist_id),
        kind,
        at: row.at,
        payment_id: row.payment_id.clone(),
        merchant_pay_key: merchant_pay_key.unwrap_or_default(),
        amount: row.amount,
    });
}

/// The merchant is whoever names itself; nobody is turned away but the nameless.
pub(super) fn merchant(headers: &HeaderMap) -> Result<(), Answer> {
    let named = |name: &str| headers.get(name).is_some_and(|value| !value.is_empty());
    if ["x-naver-client-id", "x-naver-client-secret", "x-naverpay-chain-id"].into_iter().all(named) {
        return Ok(());
    }
    Err(Answer::new(
        Code::InvalidMerchant,
        "X-Naver-Client-Id, X-Naver-Client-Secret or X-NaverPay-Chain-Id is missing",
    ))
}

fn idempotency_key(headers: &HeaderMap) -> Result<String, Answer> {
    merchant(headers)?;
    let key = headers.get("x-naverpay-idempotency-key").and_then(|value| value.to_str().ok());
    match key.filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX) {
        Some(key) => Ok(key.to_owned()),
        None => Err(Answer::new(Code::Fail, "X-NaverPay-Idempotency-Key has 1 to 64 visible characters")),
    }
}

/// Our own failure, which the client cannot tell from one of the provider's.
pub(super) fn broken(failed: &dyn std::fmt::Debug) -> HttpResponse {
    tracing::error!(?failed, "The payment provider cannot work");
    HttpResponse::InternalServerError().body("Internal Server Error")
}

#[get("/book/totals")]
async fn read_totals(provider: Data<Provider>) -> Json<Totals> {
    Json(provider.book().totals())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PaymentsQuery {
    /// How many to leave out.
    from: Option<usize>,
    limit: Option<usize>,
    merchant_pay_key: Option<String>,
}

/// Captured payments, oldest first.
#[get("/book/payments")]
async fn read_payments(provider: Data<Provider>, query: Query<PaymentsQuery>) -> Json<Value> {
    let PaymentsQuery { from, limit, merchant_pay_key } = query.into_inner();
    let book = provider.book();
    let wanted = |key: &String| merchant_pay_key.as_ref().is_none_or(|wanted| wanted == key);
    let total = book.captured().filter(|payment| wanted(&payment.merchant_pay_key)).count();
    let payments: Vec<Value> = book
        .captured()
        .filter(|payment| wanted(&payment.merchant_pay_key))
        .skip(from.unwrap_or_default())
        .take(limit.unwrap_or(PAYMENTS_ON_PAGE_MAX).min(PAYMENTS_ON_PAGE_MAX))
        .map(|payment| {
            json!({
                "paymentId": payment.payment_id,
                "merchantPayKey": payment.merchant_pay_key,
                "captured": payment.amount,
                "cancelled": payment.amount - payment.rest,
                "rest": payment.rest,
                "capturedAt": payment.captured_at,
            })
        })
        .collect();
    Json(json!({ "total": total, "payments": payments }))
}

pub(super) fn routes(routes: &mut ServiceConfig) {
    routes.service(apply_payment).service(cancel).service(read_totals).service(read_payments);
}
