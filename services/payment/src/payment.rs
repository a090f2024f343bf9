//! Rules of a payment's life. Nothing here does anything.
//!
//! `PENDING → APPROVING → PAID → PARTIALLY_REFUNDED → REFUNDED`. An approval that came to nothing leads back to `PENDING`
//! while the order can still be paid, else to `FAILED`; one of which nobody knows leads to `UNKNOWN`, and from there
//! wherever the provider says in the end, or after a day to a person.

use common::{Code, Refusal};
use contract::codes;
use contract::ids::PaymentId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::provider::Known;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = PaymentStatus)]
pub enum Status {
    /// Prepared; nothing has been taken.
    Pending,
    /// The provider is being asked.
    Approving,
    /// Nobody knows yet whether the money was taken; it is being found out.
    Unknown,
    /// Nobody could find out within a day; a person has to look.
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
    pub const ALL: [Status; 10] = [
        Status::Pending,
        Status::Approving,
        Status::Unknown,
        Status::NeedsReview,
        Status::Paid,
        Status::PartiallyRefunded,
        Status::Refunded,
        Status::Failed,
        Status::Cancelled,
        Status::Expired,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Status::Pending => "PENDING",
            Status::Approving => "APPROVING",
            Status::Unknown => "UNKNOWN",
            Status::NeedsReview => "NEEDS_REVIEW",
            Status::Paid => "PAID",
            Status::PartiallyRefunded => "PARTIALLY_REFUNDED",
            Status::Refunded => "REFUNDED",
            Status::Failed => "FAILED",
            Status::Cancelled => "CANCELLED",
            Status::Expired => "EXPIRED",
        }
    }

    pub fn parse(name: &str) -> Option<Status> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Whether the money may be on its way: a provider was asked, and its answer is not known.
    pub fn is_open(self) -> bool {
        matches!(self, Status::Approving | Status::Unknown | Status::NeedsReview)
    }

    /// Whether the money was taken, given back or not.
    pub fn is_captured(self) -> bool {
        matches!(self, Status::Paid | Status::PartiallyRefunded | Status::Refunded)
    }
}

/// Who takes the money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Naver Pay, after the buyer has authorised the payment in its window.
    NaverPay,
    /// The buyer's points, all of the amount.
    Points,
}

impl Method {
    pub const ALL: [Method; 2] = [Method::NaverPay, Method::Points];

    pub const fn name(self) -> &'static str {
        match self {
            Method::NaverPay => "NAVERPAY",
            Method::Points => "POINTS",
        }
    }

    pub fn parse(name: &str) -> Option<Method> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// As events and webhook paths name it.
    pub const fn provider(self) -> &'static str {
        match self {
            Method::NaverPay => "naverpay",
            Method::Points => "points",
        }
    }
}

/// What a request to approve comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approve {
    /// Ask the provider.
    Ask,
    /// It was approved before.
    AlreadyPaid,
    /// It is being found out; a repeated request learns as much as its first.
    StillUnknown,
}

/// Whether a payment may be approved now.
pub fn approve(status: Status) -> Result<Approve, Refused> {
    match status {
        Status::Pending => Ok(Approve::Ask),
        Status::Paid | Status::PartiallyRefunded => Ok(Approve::AlreadyPaid),
        Status::Unknown | Status::NeedsReview => Ok(Approve::StillUnknown),
        Status::Approving => Err(Refused::InProgress),
        Status::Expired => Err(Refused::HoldExpired),
        Status::Refunded | Status::Failed | Status::Cancelled => Err(Refused::NotApprovable(status)),
    }
}

/// What a request to give the money back comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// There is none: the payment ends, or has ended.
    End,
    /// Promise all that is left, or the part that was asked for.
    GiveBack,
}

/// Whether a buyer or an operator may have the money back now. `owes_order`: the order has not been told that it is paid.
///
/// It hears of the money's coming first. Were the money to go before that, its return would mean nothing to an order that
/// is not paid yet, and the order would be paid afterwards, with money that is gone.
pub fn cancel(status: Status, owes_order: bool) -> Result<Cancel, Refused> {
    match status {
        Status::Pending | Status::Cancelled => Ok(Cancel::End),
        status if status.is_open() || owes_order => Err(Refused::InProgress),
        status if status.is_captured() => Ok(Cancel::GiveBack),
        _ => Err(Refused::NotRefundable(status)),
    }
}

/// How an attempt stands, as far as anybody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Our money, of our payment, in our amount.
    Captured,
    /// Certainly not taken, and it will not be.
    NotCaptured,
    Unknown,
    /// Still not known after a day.
    Overdue,
}

/// The status after `found`; None when nothing changes. `payable`: the order may be paid by another try.
///
/// Only open payments move, so whoever comes second with the same or another finding changes nothing. A payment that
/// was given up and turns out to be captured all the same is money without an order: it moves to `PAID` too, and is
/// then honoured or given back like every other.
pub fn settle(status: Status, found: Found, payable: bool) -> Option<Status> {
    let next = match (status, found) {
        (Status::Paid | Status::PartiallyRefunded | Status::Refunded, _) => return None,
        (_, Found::Captured) => Status::Paid,
        (status, _) if !status.is_open() => return None,
        (_, Found::NotCaptured) if payable => Status::Pending,
        (_, Found::NotCaptured) => Status::Failed,
        (Status::NeedsReview, Found::Unknown) => return None,
        (_, Found::Unknown) => Status::Unknown,
        (_, Found::Overdue) => Status::NeedsReview,
    };
    (next != status).then_some(next)
}

/// What the resolver does after the provider was asked about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is known.
    Record(Found),
    /// The provider has never heard of it, and the order still waits: ask for the money again, under the same key.
    Retry,
    /// Ask again later. `absent`: the provider has never heard of it, from now on if not before.
    Wait { absent: bool },
    /// Have it undone, so much or all that there may be, and ask again.
    Undo { amount: Option<i64> },
}

/// What is known besides the answer when the resolver decides.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The order's time is not up.
    pub payable: bool,
    /// Seconds since the attempt began.
    pub age: i64,
    /// Seconds since the money was last asked for: what a provider has heard so late it may still begin.
    pub requested_ago: i64,
    /// Seconds since the provider first said that it knew nothing of it; None when it has not, or has said otherwise since.
    pub absent_for: Option<i64>,
    /// The provider was told to undo it: what it did all the same is not wanted any more.
    pub undone: bool,
}

/// Bounds of the resolver, in seconds.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patience {
    /// So long after it was asked for money, what a provider has not begun it never will.
    pub provider_seconds: i64,
    /// Between the two negative answers that prove absence.
    pub absence_seconds: i64,
    /// After this, what is unclear is undone at the provider.
    pub undo_after_seconds: i64,
    /// After this, a person has to look.
    pub review_after_seconds: i64,
}

/// What follows from `known` of an attempt.
pub fn resolve(known: &Known, asked: Asked, patience: Patience) -> Next {
    let is_overdue = asked.age >= patience.review_after_seconds;
    match known {
        Known::Captured if asked.undone && is_overdue => Next::Record(Found::Overdue),
        Known::Captured if asked.undone => Next::Undo { amount: None },
        Known::Captured => Next::Record(Found::Captured),
        // Nothing is left of the money, or was never taken for this payment.
        Known::Cancelled | Known::Foreign => Next::Record(Found::NotCaptured),
        Known::WrongAmount { .. } if is_overdue => Next::Record(Found::Overdue),
        // Whoever authorised another amount than was asked for gets that back at once, and may try again.
        Known::WrongAmount { left } => Next::Undo { amount: Some(*left) },
        Known::Absent if asked.payable => Next::Retry,
        Known::Absent if asked.requested_ago < patience.provider_seconds => Next::Wait { absent: false },
        Known::Absent => match asked.absent_for {
            Some(seconds) if seconds >= patience.absence_seconds => Next::Record(Found::NotCaptured),
            _ => Next::Wait { absent: true },
        },
        Known::Unclear(_) if is_overdue => Next::Record(Found::Overdue),
        // Not while the money may still be asked for again: under the same key, a provider would repeat its first answer.
        Known::Unclear(_) if asked.age >= patience.undo_after_seconds && !asked.payable => Next::Undo { amount: None },
        Known::Unclear(_) => Next::Wait { absent: false },
    }
}

/// Seconds until the provider is asked for the n-th time (from 1) about the same attempt.
pub fn pause_seconds(asked: i32) -> i32 {
    match asked {
        ..=1 => 1,
        2 => 2,
        3 => 5,
        4 => 15,
        // No longer: an outage of the provider's is over for everybody a minute after it is over.
        _ => 60,
    }
}

/// How much of a captured payment a refund takes, `wanted` or all that is left. `promised`: given back or about to be.
pub fn refund(status: Status, captured: i64, promised: i64, wanted: Option<i64>) -> Result<i64, Refused> {
    if !status.is_captured() {
        return Err(Refused::NotRefundable(status));
    }
    let left = captured - promised;
    let amount = wanted.unwrap_or(left);
    if amount <= 0 || amount > left {
        return Err(Refused::ExceedsCaptured { wanted: amount, left });
    }
    Ok(amount)
}

/// The status of a captured payment of which `refunded` is back with the buyer.
pub fn after_refund(captured: i64, refunded: i64) -> Status {
    match refunded {
        0 => Status::Paid,
        all if all >= captured => Status::Refunded,
        _ => Status::PartiallyRefunded,
    }
}

/// Why payment says no.
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
