//! What the provider answers to the merchant, in its own spelling.

use actix_web::HttpResponse;
use serde::Serialize;
use serde_json::{Value, json};

use super::book::{Book, Code, Kind, Row, in_korea};

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

/// Our own failure, which the client cannot tell from one of the provider's.
pub(super) fn broken(failed: &dyn std::fmt::Debug) -> HttpResponse {
    tracing::error!(?failed, "The fake payment provider answers 500: it cannot write its book");
    HttpResponse::InternalServerError().body("Internal Server Error")
}

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
