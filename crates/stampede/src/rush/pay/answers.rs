//! Rules: what an answer about a payment means for its buyer, and how paying ends.

use std::time::Duration;

use client::Reply;
use serde_json::Value;
use uuid::Uuid;

/// How paying ended, as the buyer remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Told that it is paid.
    Paid,
    /// Gave up after being declined again and again. Nothing may have been captured.
    Declined,
    /// Any other definite answer. No buyer of a rush should get one.
    Refused { status: u16, code: String },
    /// No definite answer before the time was up.
    Unknown,
}

/// What a buyer remembers of paying for one order.
#[derive(Debug, Clone)]
pub struct PaymentRecord {
    pub order_id: Uuid,
    /// None: not even prepared.
    pub payment_id: Option<Uuid>,
    pub ending: Ending,
    /// First request, measured from the start of the rush.
    pub started_at: Duration,
    pub ended_at: Duration,
}

/// How a payment stands after an answer. Of several answers at once, the least one counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PaymentState {
    Paid,
    /// The service is finding out: read the payment again.
    InProgress,
    /// It is not known what became of the request: send it again.
    Unanswered,
    Declined,
    /// Certainly not captured, and not the buyer's fault: another try may succeed.
    NotCaptured,
    Refused(u16, String),
}

/// After an answer to `POST /payments/{id}/approve`.
pub fn after_approval(reply: &Reply) -> PaymentState {
    let Reply::Answered { status, .. } = reply else { return PaymentState::Unanswered };
    let body = reply.json();
    match (*status, code(&body)) {
        (200, _) if is_paid(&body) => PaymentState::Paid,
        (200 | 202, _) | (409, "PAYMENT_IN_PROGRESS" | "PAYMENT_NOT_APPROVABLE") => PaymentState::InProgress,
        (402, _) => PaymentState::Declined,
        (502, _) => PaymentState::NotCaptured,
        (status, code) => PaymentState::Refused(status, code.to_owned()),
    }
}

/// After an answer to `GET /payments/{id}`.
pub fn after_reading(reply: &Reply) -> PaymentState {
    let Reply::Answered { status, .. } = reply else { return PaymentState::InProgress };
    let body = reply.json();
    match (*status, body["status"].as_str()) {
        (200, _) if is_paid(&body) => PaymentState::Paid,
        (200, Some("APPROVING" | "UNKNOWN" | "NEEDS_REVIEW")) => PaymentState::InProgress,
        (200, Some("PENDING")) => PaymentState::NotCaptured,
        (200, Some(other)) => PaymentState::Refused(200, other.to_owned()),
        (status, _) => PaymentState::Refused(status, code(&body).to_owned()),
    }
}

fn is_paid(body: &Value) -> bool {
    matches!(body["status"].as_str(), Some("PAID" | "PARTIALLY_REFUNDED"))
}

fn code(body: &Value) -> &str {
    body["code"].as_str().unwrap_or("without a code")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answered(status: u16, body: Value) -> Reply {
        Reply::Answered { status, body: body.to_string().into() }
    }

    #[test]
    fn every_answer_to_an_approval_has_a_meaning() {
        let refused = |status, code: &str| PaymentState::Refused(status, code.to_owned());
        let cases = [
            (answered(200, json!({ "status": "PAID" })), PaymentState::Paid),
            (answered(202, json!({ "status": "UNKNOWN" })), PaymentState::InProgress),
            (answered(409, json!({ "code": "PAYMENT_IN_PROGRESS" })), PaymentState::InProgress),
            (answered(409, json!({ "code": "ORDER_NOT_PAYABLE" })), refused(409, "ORDER_NOT_PAYABLE")),
            (answered(410, json!({ "code": "HOLD_EXPIRED" })), refused(410, "HOLD_EXPIRED")),
            (answered(402, json!({ "code": "PAYMENT_DECLINED" })), PaymentState::Declined),
            (answered(502, json!({ "code": "PG_ERROR" })), PaymentState::NotCaptured),
            (Reply::Unknown, PaymentState::Unanswered),
            (Reply::Busy(Duration::ZERO), PaymentState::Unanswered),
        ];
        for (reply, state) in cases {
            assert_eq!(after_approval(&reply), state, "{reply:?}");
        }
    }

    #[test]
    fn a_payment_is_read_again_until_its_end_is_known() {
        let read = |status: &str| after_reading(&answered(200, json!({ "status": status })));
        for status in ["APPROVING", "UNKNOWN", "NEEDS_REVIEW"] {
            assert_eq!(read(status), PaymentState::InProgress);
        }
        assert_eq!(after_reading(&Reply::Unknown), PaymentState::InProgress);
        assert_eq!(read("PAID"), PaymentState::Paid);
        assert_eq!(read("PENDING"), PaymentState::NotCaptured);
        assert_eq!(read("REFUNDED"), PaymentState::Refused(200, "REFUNDED".to_owned()));
    }

    #[test]
    fn of_two_answers_at_once_the_captured_money_counts_first() {
        let mut answers = [
            PaymentState::Declined,
            PaymentState::Refused(409, String::new()),
            PaymentState::InProgress,
            PaymentState::Paid,
        ];
        answers.sort();
        assert_eq!(answers[..2], [PaymentState::Paid, PaymentState::InProgress]);
    }
}
