//! What has happened to the money: the merchant's history (`POST …/list/history`), and the provider's own accounts for
//! audits.

use actix_web::web::{Data, Json, Query, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, get, post};
use chrono::TimeDelta;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answers::{Answer, HistoryRow};
use super::book::{Book, Code, Kind, Row, Totals, from_korea};
use super::provider::{Provider, merchant};
use crate::connection::{FormOrJson, cut, form_or_json};

const RANGE_MAX: TimeDelta = TimeDelta::days(31);

const ROWS_ON_PAGE: usize = 20;

const ROWS_ON_PAGE_MAX: usize = 100;

const PAYMENTS_ON_PAGE_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum ApprovalType {
    #[default]
    All,
    Approval,
    Cancel,
}

/// By payment, by the merchant's name for it, or by time (`yyyyMMddHHmmss` in Korea, both ends included).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListHistory {
    payment_id: Option<String>,
    merchant_pay_key: Option<String>,
    start_time: Option<String>,
    end_time: Option<String>,
    approval_type: Option<ApprovalType>,
    page_number: Option<usize>,
    rows_per_page: Option<usize>,
}

#[post("/naverpay-partner/naverpay/payments/v2.2/list/history")]
async fn list_history(provider: Data<Provider>, request: HttpRequest, body: FormOrJson<ListHistory>) -> HttpResponse {
    if provider.faults.loses_query() {
        return cut(&request);
    }
    let query = form_or_json(body);
    let listed = merchant(request.headers()).and_then(|()| list(&provider.book(), &query));
    HttpResponse::Ok().json(listed.unwrap_or_else(|answer| answer))
}

/// Rows in the order they came, so that pages do not shift while new ones come.
fn list(book: &Book, query: &ListHistory) -> Result<Answer, Answer> {
    let fail = |message| Err(Answer::new(Code::Fail, message));
    let page = query.page_number.unwrap_or(1);
    let rows_per_page = query.rows_per_page.unwrap_or(ROWS_ON_PAGE);
    if page < 1 || !(1..=ROWS_ON_PAGE_MAX).contains(&rows_per_page) {
        return fail("pageNumber begins at 1 and rowsPerPage is 1 to 100");
    }
    let of_payments = |ids: &[String]| -> Vec<&Row> {
        let mut rows: Vec<usize> = ids.iter().filter_map(|id| book.payment(id)).flat_map(|p| p.rows.clone()).collect();
        rows.sort_unstable();
        rows.into_iter().map(|row| &book.rows[row]).collect()
    };
    let found = match (&query.payment_id, &query.merchant_pay_key, &query.start_time, &query.end_time) {
        (Some(payment_id), ..) => of_payments(std::slice::from_ref(payment_id)),
        (None, Some(merchant_pay_key), ..) => of_payments(book.payments_for(merchant_pay_key)),
        (None, None, Some(start), Some(end)) => {
            let (Some(first), Some(last)) = (from_korea(start), from_korea(end)) else {
                return fail("startTime and endTime are yyyyMMddHHmmss");
            };
            if last < first || last - first > RANGE_MAX {
                return fail("endTime is at most 31 days after startTime");
            }
            // The last second belongs to the range.
            let range = first..last + TimeDelta::seconds(1);
            book.rows.iter().filter(|row| range.contains(&row.at)).collect()
        }
        _ => return fail("one of paymentId, merchantPayKey, or startTime and endTime"),
    };
    let wanted = |row: &&&Row| match query.approval_type.unwrap_or_default() {
        ApprovalType::All => true,
        ApprovalType::Approval => row.kind != Kind::Cancelled,
        ApprovalType::Cancel => row.kind == Kind::Cancelled,
    };
    let total = found.iter().filter(wanted).count();
    let rows = found.iter().filter(wanted).skip((page - 1).saturating_mul(rows_per_page)).take(rows_per_page);
    let rows: Vec<HistoryRow> = rows.map(|row| HistoryRow::new(book, row)).collect();
    Ok(Answer::success(json!({
        "totalCount": total,
        "responseCount": rows.len(),
        "totalPageCount": total.div_ceil(rows_per_page),
        "currentPageNumber": page,
        "list": rows,
    })))
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
    routes.service(list_history).service(read_totals).service(read_payments);
}
