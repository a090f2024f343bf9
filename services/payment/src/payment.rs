//! Rules of a payment's life: pure functions of a status and what happened to it.
//!
//! `PENDING → APPROVING → PAID → PARTIALLY_REFUNDED → REFUNDED`. An attempt that failed leads back to `PENDING` while the
//! order can still be paid, else to `FAILED`. An attempt without an answer leads to `UNKNOWN`, and from there to whatever
//! the provider says in the end, or to `NEEDS_REVIEW` after a day.

use common::{Code, Refusal};
use contract::codes;
use contract::ids::PaymentId;
use diesel::deserialize::FromSqlRow;
use diesel::expression::AsExpression;
use diesel::sql_types::Text;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::provider::ProviderStatus;

#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    VariantArray,
    IntoStaticStr,
    EnumString,
    AsExpression,
    FromSqlRow,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[diesel(sql_type = Text)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = PaymentStatus)]
pub enum Status {
    /// Prepared; nothing has been taken.
    Pending,
    /// The provider is being asked.
    Approving,
    /// It is not known yet whether the money was taken; the resolver asks the provider.
    Unknown,
    /// Not known after a day: an operator has to look.
    NeedsReview,
    Paid,
    PartiallyRefunded,
    Refunded,
    /// Nothing was taken, and the order cannot be paid any more.
    Failed,
    /// Nothing was taken, and the order was cancelled.
    Cancelled,
    /// Nothing was taken, and the order expired.
    Expired,
}

impl Status {
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether a provider was asked for the money and its answer is not known.
    pub fn is_open(self) -> bool {
        matches!(self, Status::Approving | Status::Unknown | Status::NeedsReview)
    }

    /// Whether the money was taken, refunded or not.
    pub fn is_captured(self) -> bool {
        matches!(self, Status::Paid | Status::PartiallyRefunded | Status::Refunded)
    }
}

/// Who takes the money.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    VariantArray,
    IntoStaticStr,
    EnumString,
    AsExpression,
    FromSqlRow,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[diesel(sql_type = Text)]
#[strum(serialize_all = "UPPERCASE")]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Naver Pay, after the buyer has authorised the payment in its window.
    NaverPay,
    /// The buyer's points, all of the amount.
    Points,
}

impl Method {
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The name in events and webhook paths.
    pub const fn provider(self) -> &'static str {
        match self {
            Method::NaverPay => "naverpay",
            Method::Points => "points",
        }
    }
}

/// What to do about a request to approve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApproveDecision {
    /// Ask the provider for the money.
    Capture,
    /// It is paid already.
    AlreadyPaid,
    /// An earlier request has no answer yet; this one gets 202 too.
    StillUnknown,
}

/// Whether a payment may be approved now.
pub fn approve(status: Status) -> Result<ApproveDecision, Refused> {
    match status {
        Status::Pending => Ok(ApproveDecision::Capture),
        Status::Paid | Status::PartiallyRefunded => Ok(ApproveDecision::AlreadyPaid),
        Status::Unknown | Status::NeedsReview => Ok(ApproveDecision::StillUnknown),
        Status::Approving => Err(Refused::InProgress),
        Status::Expired => Err(Refused::HoldExpired),
        Status::Refunded | Status::Failed | Status::Cancelled => Err(Refused::NotApprovable(status)),
    }
}

/// What to do about a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelDecision {
    /// Nothing was taken: the payment ends, or has ended.
    End,
    /// Refund all that is left, or the part that was asked for.
    Refund,
}

/// Whether a buyer or an operator may cancel a payment now. `owes_order`: the order has not been told that it is paid.
///
/// The order must be told first. An order that is not paid yet ignores the refund of a payment, and would then be paid
/// with money that is gone.
pub fn cancel(status: Status, owes_order: bool) -> Result<CancelDecision, Refused> {
    match status {
        Status::Pending | Status::Cancelled => Ok(CancelDecision::End),
        status if status.is_open() || owes_order => Err(Refused::InProgress),
        status if status.is_captured() => Ok(CancelDecision::Refund),
        _ => Err(Refused::NotRefundable(status)),
    }
}

/// What is known about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The money was taken, for this payment and in its amount.
    Captured,
    /// The money was not taken and will not be.
    NotCaptured,
    Unknown,
    /// Still unknown after a day.
    Overdue,
}

/// The status after `outcome`; None when it stays as it is. `payable`: the order may be paid by another attempt.
///
/// Only open payments move, so reporting an outcome twice changes nothing. A capture moves every payment that is not
/// captured to `PAID`, even one that had ended: the order is then paid with the money, or the money is refunded.
pub fn after_attempt(status: Status, outcome: AttemptOutcome, payable: bool) -> Option<Status> {
    let next = match (status, outcome) {
        (Status::Paid | Status::PartiallyRefunded | Status::Refunded, _) => return None,
        (_, AttemptOutcome::Captured) => Status::Paid,
        (status, _) if !status.is_open() => return None,
        (_, AttemptOutcome::NotCaptured) if payable => Status::Pending,
        (_, AttemptOutcome::NotCaptured) => Status::Failed,
        (Status::NeedsReview, AttemptOutcome::Unknown) => return None,
        (_, AttemptOutcome::Unknown) => Status::Unknown,
        (_, AttemptOutcome::Overdue) => Status::NeedsReview,
    };
    (next != status).then_some(next)
}

/// What the resolver does after it has asked the provider about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolverStep {
    /// The outcome is known.
    Record(AttemptOutcome),
    /// The provider knows no capture, and the order can still be paid: ask for the money again, under the same key.
    Retry,
    /// Query the status again later. `absent`: the provider knew no capture, from now on if not before.
    Wait { absent: bool },
    /// Refund `amount`, or all that may have been captured, and query the status again.
    Undo { amount: Option<i64> },
}

/// What the resolver knows about an attempt besides the provider's answer.
#[derive(Debug, Clone, Copy)]
pub struct AttemptFacts {
    /// The order has not expired.
    pub payable: bool,
    /// Seconds since the attempt began.
    pub age: i64,
    /// Seconds since the provider was last asked for the money. It may still begin for `provider_seconds`.
    pub requested_ago: i64,
    /// Seconds for which every answer was that the provider knows no capture; None when the last answer was another.
    pub absent_for: Option<i64>,
    /// The provider was told to undo the attempt: a capture of it is refunded.
    pub undone: bool,
}

/// Time limits of the resolver, in seconds.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// A provider that has not begun so long after it was asked for the money never will.
    pub provider_seconds: i64,
    /// Between the two answers that together prove that there is no capture.
    pub absence_seconds: i64,
    /// After this, an attempt without a clear answer is undone at the provider.
    pub undo_after_seconds: i64,
    /// After this, an operator has to look.
    pub review_after_seconds: i64,
}

/// What the resolver does when the provider answers `status` about an attempt.
pub fn resolve(status: &ProviderStatus, facts: AttemptFacts, timeouts: Timeouts) -> ResolverStep {
    let is_overdue = facts.age >= timeouts.review_after_seconds;
    match status {
        ProviderStatus::Captured if facts.undone && is_overdue => ResolverStep::Record(AttemptOutcome::Overdue),
        ProviderStatus::Captured if facts.undone => ResolverStep::Undo { amount: None },
        ProviderStatus::Captured => ResolverStep::Record(AttemptOutcome::Captured),
        ProviderStatus::Cancelled | ProviderStatus::Foreign => ResolverStep::Record(AttemptOutcome::NotCaptured),
        ProviderStatus::WrongAmount { .. } if is_overdue => ResolverStep::Record(AttemptOutcome::Overdue),
        // The buyer gets a wrong amount back at once and may try again.
        ProviderStatus::WrongAmount { left } => ResolverStep::Undo { amount: Some(*left) },
        ProviderStatus::Absent if facts.payable => ResolverStep::Retry,
        ProviderStatus::Absent if facts.requested_ago < timeouts.provider_seconds => {
            ResolverStep::Wait { absent: false }
        }
        ProviderStatus::Absent => match facts.absent_for {
            Some(seconds) if seconds >= timeouts.absence_seconds => ResolverStep::Record(AttemptOutcome::NotCaptured),
            _ => ResolverStep::Wait { absent: true },
        },
        ProviderStatus::Unclear(_) if is_overdue => ResolverStep::Record(AttemptOutcome::Overdue),
        // While the order is payable the money may be asked for again under the same key, and the provider would repeat the
        // answer from before the undo.
        ProviderStatus::Unclear(_) if facts.age >= timeouts.undo_after_seconds && !facts.payable => {
            ResolverStep::Undo { amount: None }
        }
        ProviderStatus::Unclear(_) => ResolverStep::Wait { absent: false },
    }
}

/// Seconds between the n-th question to a provider (from 1) and the next one about the same attempt or refund.
pub fn retry_delay_seconds(asked: i32) -> i32 {
    match asked {
        ..=1 => 1,
        2 => 2,
        3 => 5,
        4 => 15,
        // No longer: when a provider is back after an outage, every payment is known a minute later.
        _ => 60,
    }
}

/// The amount of a refund: `wanted`, or all that is left. `earlier`: the sum of the refunds that are done or pending.
pub fn refund_amount(status: Status, captured: i64, earlier: i64, wanted: Option<i64>) -> Result<i64, Refused> {
    if !status.is_captured() {
        return Err(Refused::NotRefundable(status));
    }
    let left = captured - earlier;
    let amount = wanted.unwrap_or(left);
    if amount <= 0 || amount > left {
        return Err(Refused::ExceedsCaptured { wanted: amount, left });
    }
    Ok(amount)
}

/// The status of a captured payment of which `refunded` was given back.
pub fn after_refund(captured: i64, refunded: i64) -> Status {
    match refunded {
        0 => Status::Paid,
        all if all >= captured => Status::Refunded,
        _ => Status::PartiallyRefunded,
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("There is no such payment.")]
    NotFound,
    #[error("Another request is approving this payment.")]
    InProgress,
    #[error("A payment that is {} cannot be approved.", .0.name())]
    NotApprovable(Status),
    #[error("The amount is not the order's.")]
    AmountMismatch { expected: i64 },
    #[error("The payment was declined: {code}.")]
    Declined { payment: PaymentId, code: String },
    #[error("The points do not suffice.")]
    InsufficientPoints,
    #[error("The payment provider could not take the payment, and nothing was charged: {code}.")]
    ProviderFailed { payment: PaymentId, code: String },
    #[error("The order's time was up; nothing was charged.")]
    HoldExpired,
    #[error("{0} attempts to pay this order came to nothing; there is no other.")]
    TooManyAttempts(i64),
    #[error("{0} payments were prepared for this order; approve one of them.")]
    TooManyPayments(i64),
    #[error("The payment provider refuses to give the money back: {code}.")]
    RefundRefused { payment: PaymentId, code: String },
    #[error("A payment that is {} has nothing to give back.", .0.name())]
    NotRefundable(Status),
    #[error("{wanted} cannot be given back: {left} is left.")]
    ExceedsCaptured { wanted: i64, left: i64 },
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
            Refused::AmountMismatch { .. } => codes::AMOUNT_MISMATCH,
            Refused::Declined { .. } => codes::PAYMENT_DECLINED,
            Refused::ProviderFailed { .. } | Refused::RefundRefused { .. } => codes::PG_ERROR,
            Refused::InsufficientPoints => codes::INSUFFICIENT_POINTS,
            Refused::HoldExpired => codes::HOLD_EXPIRED,
            Refused::NotRefundable(_) => codes::PAYMENT_NOT_REFUNDABLE,
            Refused::ExceedsCaptured { .. } => codes::REFUND_EXCEEDS_CAPTURED,
            Refused::InvalidSignature => codes::INVALID_SIGNATURE,
        }
    }

    fn details(&self) -> Vec<serde_json::Value> {
        match self {
            Refused::AmountMismatch { expected } => {
                vec![serde_json::json!({ "field": "amount", "expected": expected })]
            }
            Refused::Declined { payment, code }
            | Refused::ProviderFailed { payment, code }
            | Refused::RefundRefused { payment, code } => {
                vec![serde_json::json!({ "paymentId": payment, "pgCode": code })]
            }
            Refused::ExceedsCaptured { wanted, left } => {
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

#[cfg(test)]
mod tests;
