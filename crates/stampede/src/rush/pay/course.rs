//! Rules: what a buyer makes of an answer about a payment, and how paying ends.

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::rush::api::Heard;

/// How paying ended, as the buyer remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Told that it is paid.
    Paid,
    /// Gave up after being declined again and again. Nothing was to be taken.
    Declined,
    /// Told something that nobody in a rush deserves.
    Refused { status: u16, code: String },
    /// Nothing definite before the time was up.
    Unknown,
}

/// What a buyer remembers of paying for one order.
#[derive(Debug, Clone)]
pub struct Paying {
    pub order_id: Uuid,
    /// None: not even prepared.
    pub payment_id: Option<Uuid>,
    pub ending: Ending,
    /// First request, measured from the start of the rush.
    pub at: Duration,
    /// The end.
    pub until: Duration,
}

/// What an answer means for the approval that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sense {
    // In the order in which they count when several requests were sent at once.
    Paid,
    /// It is being found out: ask how it stands.
    Wait,
    /// Nobody knows what became of the request: send it again.
    Again,
    Declined,
    /// Certainly not taken, for no fault of the buyer's: another try may succeed.
    NotTaken,
    Refused(u16, String),
}

/// Of an answer to `POST /payments/{id}/approve`.
pub fn approval(heard: &Heard) -> Sense {
    let Heard::Told { status, body } = heard else { return Sense::Again };
    let code = body["code"].as_str().unwrap_or("without a code");
    match (*status, code) {
        (200, _) if is_paid(body) => Sense::Paid,
        (200 | 202, _) | (409, "PAYMENT_IN_PROGRESS" | "PAYMENT_NOT_APPROVABLE") => Sense::Wait,
        (402, _) => Sense::Declined,
        (502, _) => Sense::NotTaken,
        (status, code) => Sense::Refused(status, code.to_owned()),
    }
}

/// Of an answer to `GET /payments/{id}`.
pub fn standing(heard: &Heard) -> Sense {
    let Heard::Told { status, body } = heard else { return Sense::Wait };
    match (*status, body["status"].as_str()) {
        (200, Some("PAID" | "PARTIALLY_REFUNDED")) => Sense::Paid,
        (200, Some("APPROVING" | "UNKNOWN" | "NEEDS_REVIEW")) => Sense::Wait,
        (200, Some("PENDING")) => Sense::NotTaken,
        (200, Some(other)) => Sense::Refused(200, other.to_owned()),
        (status, _) => Sense::Refused(status, body["code"].as_str().unwrap_or("without a code").to_owned()),
    }
}

fn is_paid(body: &Value) -> bool {
    matches!(body["status"].as_str(), Some("PAID" | "PARTIALLY_REFUNDED"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(status: u16, body: Value) -> Heard {
        Heard::Told { status, body }
    }

    #[test]
    fn every_answer_to_an_approval_has_its_sense() {
        let refused = |status, code: &str| Sense::Refused(status, code.to_owned());
        let cases = [
            (told(200, json!({ "status": "PAID" })), Sense::Paid),
            (told(202, json!({ "status": "UNKNOWN" })), Sense::Wait),
            (told(409, json!({ "code": "PAYMENT_IN_PROGRESS" })), Sense::Wait),
            (told(409, json!({ "code": "ORDER_NOT_PAYABLE" })), refused(409, "ORDER_NOT_PAYABLE")),
            (told(410, json!({ "code": "HOLD_EXPIRED" })), refused(410, "HOLD_EXPIRED")),
            (told(402, json!({ "code": "PAYMENT_DECLINED" })), Sense::Declined),
            (told(502, json!({ "code": "PG_ERROR" })), Sense::NotTaken),
            (Heard::Unknown, Sense::Again),
            (Heard::Later(Duration::ZERO), Sense::Again),
        ];
        for (heard, sense) in cases {
            assert_eq!(approval(&heard), sense, "{heard:?}");
        }
    }

    #[test]
    fn a_payment_is_waited_for_until_it_stands() {
        for status in ["APPROVING", "UNKNOWN", "NEEDS_REVIEW"] {
            assert_eq!(standing(&told(200, json!({ "status": status }))), Sense::Wait);
        }
        assert_eq!(standing(&Heard::Unknown), Sense::Wait);
        assert_eq!(standing(&told(200, json!({ "status": "PAID" }))), Sense::Paid);
        assert_eq!(standing(&told(200, json!({ "status": "PENDING" }))), Sense::NotTaken);
        assert_eq!(standing(&told(200, json!({ "status": "REFUNDED" }))), Sense::Refused(200, "REFUNDED".to_owned()));
    }

    #[test]
    fn of_two_answers_at_once_the_money_counts_first() {
        let mut senses = [Sense::Declined, Sense::Refused(409, String::new()), Sense::Wait, Sense::Paid];
        senses.sort();
        assert_eq!(senses[0], Sense::Paid);
        assert_eq!(senses[1], Sense::Wait);
    }
}
