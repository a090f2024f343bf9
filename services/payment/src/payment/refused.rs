//! Why a payment refuses what is asked of it.

use common::error::{FORBIDDEN, VALIDATION_ERROR};
use common::{Code, Refusal};
use contract::codes;
use contract::ids::PaymentId;

use super::Status;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("There is no such payment.")]
    NotFound,
    #[error("Another request is approving this payment.")]
    InProgress,
    #[error("A payment that is {} cannot be approved.", .0.name())]
    NotApprovable(Status),
    #[error("{0}")]
    WrongAuthorisation(&'static str),
    #[error("The amount is not the amount of the order.")]
    AmountMismatch { expected: i64 },
    #[error("The payment was declined: {code}.")]
    Declined { payment: PaymentId, code: String },
    #[error("There are not enough points.")]
    InsufficientPoints,
    #[error("The payment provider could not take the payment, and nothing was charged: {code}.")]
    ProviderFailed { payment: PaymentId, code: String },
    #[error("The time to pay the order was over; nothing was charged.")]
    HoldExpired,
    #[error("{0} attempts to pay this order have failed; no further attempt is allowed.")]
    TooManyAttempts(i64),
    #[error("{0} payments were prepared for this order; approve one of them.")]
    TooManyPayments(i64),
    #[error("The payment provider refuses the refund: {code}.")]
    RefundRefused { payment: PaymentId, code: String },
    #[error("A payment that is {} cannot be refunded.", .0.name())]
    NotRefundable(Status),
    #[error("{wanted} cannot be refunded: only {left} is left.")]
    ExceedsCaptured { wanted: i64, left: i64 },
    #[error("Only an administrator may refund a part: {left} is left, and {wanted} was asked for.")]
    OnlyAPart { wanted: i64, left: i64 },
    #[error("The signature is missing, wrong or too old.")]
    InvalidSignature,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Refused::NotFound => codes::PAYMENT_NOT_FOUND,
            Refused::InProgress => codes::PAYMENT_IN_PROGRESS,
            Refused::NotApprovable(_) | Refused::TooManyAttempts(_) => codes::PAYMENT_NOT_APPROVABLE,
            Refused::TooManyPayments(_) => codes::ORDER_NOT_PAYABLE,
            Refused::WrongAuthorisation(_) => VALIDATION_ERROR,
            Refused::AmountMismatch { .. } => codes::AMOUNT_MISMATCH,
            Refused::Declined { .. } => codes::PAYMENT_DECLINED,
            Refused::ProviderFailed { .. } | Refused::RefundRefused { .. } => codes::PG_ERROR,
            Refused::InsufficientPoints => codes::INSUFFICIENT_POINTS,
            Refused::HoldExpired => codes::HOLD_EXPIRED,
            Refused::NotRefundable(_) => codes::PAYMENT_NOT_REFUNDABLE,
            Refused::ExceedsCaptured { .. } => codes::REFUND_EXCEEDS_CAPTURED,
            Refused::OnlyAPart { .. } => FORBIDDEN,
            Refused::InvalidSignature => codes::INVALID_SIGNATURE,
        }
    }

    fn details(&self) -> Vec<serde_json::Value> {
        match self {
            Refused::WrongAuthorisation(rule) => {
                vec![serde_json::json!({ "field": "pgPaymentId", "message": rule })]
            }
            Refused::AmountMismatch { expected } => {
                vec![serde_json::json!({ "field": "amount", "expected": expected })]
            }
            Refused::Declined { payment, code }
            | Refused::ProviderFailed { payment, code }
            | Refused::RefundRefused { payment, code } => {
                vec![serde_json::json!({ "paymentId": payment, "pgCode": code })]
            }
            Refused::ExceedsCaptured { wanted, left } | Refused::OnlyAPart { wanted, left } => {
                vec![serde_json::json!({ "field": "amount", "requested": wanted, "available": left })]
            }
            Refused::NotFound
            | Refused::InProgress
            | Refused::NotApprovable(_)
            | Refused::TooManyAttempts(_)
            | Refused::TooManyPayments(_)
            | Refused::InsufficientPoints
            | Refused::HoldExpired
            | Refused::NotRefundable(_)
            | Refused::InvalidSignature => Vec::new(),
        }
    }
}
