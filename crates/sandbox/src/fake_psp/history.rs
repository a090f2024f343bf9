//! `POST …/list/history`: what has happened to the money, for who is unsure and for reconciliation.

use actix_web::web::{Data, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, post};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::book::{Book, Code, Kind, Row, from_korea, in_korea};
use super::provider::{Answer, Provider, merchant};
use crate::connection::{FormOrJson, cut, form_or_json};

const RANGE_MAX: TimeDelta = TimeDelta::days(31);

const ROWS_ON_PAGE: usize = 20;

const ROWS_ON_PAGE_MAX: usize = 100;

/// One row, and the `detail` of a capture's answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HistoryRow<'a> {
    payment_id: &'a str,
    pay_hist_id: &'a str,
    merchant_id: &'a str,
    merchant_name: &'a str,
    merchant_pay_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    merchant_pay_transaction_key: Option<&'a str>,
    product_name: Option<&'a str>,
    /// 01 capture, 03 cancel of all that was left, 04 of a part.
    admission_type_code: &'a str,
    admission_state: &'a str,
    admission_ymdt: String,
    trade_confirm_ymdt: String,
    /// Of this row: a cancel's is what was given back.
    total_pay_amount: i64,
    primary_pay_means: &'a str,
    primary_pay_amount: i64,
    npoint_pay_amount: i64,
    gift_card_pay_amount: i64,
}

impl<'a> HistoryRow<'a> {
    pub(super) fn new(book: &'a Book, row: &'a Row) -> HistoryRow<'a> {
        let payment = book.payment(&row.payment_id);
        let at = in_korea(row.at);
        HistoryRow {
            payment_id: &row.payment_id,
            pay_hist_id: &row.pay_hist_id,
            merchant_id: "sandbox",
            merchant_name: "sandbox",
            merchant_pay_key: payment.map_or("", |payment| &payment.merchant_pay_key),
            merchant_pay_transaction_key: row.transaction_key.as_deref(),
            product_name: payment.and_then(|payment| payment.product_name.as_deref()),
            admission_type_code: match row.kind {
                Kind::Captured | Kind::Refused(_) => "01",
                Kind::Cancelled if row.rest == 0 => "03",
                Kind::Cancelled => "04",
            },
            admission_state: if matches!(row.kind, Kind::Refused(_)) { "FAIL" } else { "SUCCESS" },
            admission_ymdt: at.clone(),
            trade_confirm_ymdt: at,
            total_pay_amount: row.amount,
            primary_pay_means: "CARD",
            primary_pay_amount: row.amount,
            npoint_pay_amount: 0,
            gift_card_pay_amount: 0,
        }
    }

    /// Makes it a row of another payment.
    pub(super) fn name(&mut self, payment_id: &'a str, merchant_pay_key: &'a str) {
        self.payment_id = payment_id;
        self.merchant_pay_key = merchant_pay_key;
    }
}

/// The body of a capture's answer.
pub(super) fn captured(detail: &HistoryRow) -> Value {
    json!({ "paymentId": detail.payment_id, "detail": detail })
}

/// The body of a cancel's answer. The history's id has two names: integrations read either.
pub(super) fn cancelled(detail: &HistoryRow, row: &Row) -> Value {
    json!({
        "paymentId": detail.payment_id,
        "payHistId": detail.pay_hist_id,
        "cancelPayHistId": detail.pay_hist_id,
        "cancelYmdt": detail.admission_ymdt,
        "primaryPayMeans": detail.primary_pay_means,
        "primaryPayCancelAmount": row.amount,
        "primaryPayRestAmount": row.rest,
        "npointCancelAmount": 0,
        "npointRestAmount": 0,
        "giftCardCancelAmount": 0,
        "giftCardRestAmount": 0,
        "totalRestAmount": row.rest,
    })
}

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

pub(super) fn routes(routes: &mut ServiceConfig) {
    routes.service(list_history);
}
