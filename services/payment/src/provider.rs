//! What every payment provider is asked, and what its answers mean.

use contract::ids::{AccountId, PaymentAttemptId, PaymentId, RefundId};

/// Takes money and gives it back. No method returns an error: a missing or unusable answer is an outcome of its own.
pub trait Provider {
    /// Takes the money. Waits for as long as the provider may take. Idempotent by [`Attempt::key`].
    fn capture(&self, attempt: &Attempt) -> impl Future<Output = CaptureOutcome> + Send;
    /// What the provider knows about an attempt. Changes nothing.
    fn query_status(&self, attempt: &Attempt) -> impl Future<Output = ProviderStatus> + Send;
    /// Gives money back. Idempotent by [`RefundRequest::id`].
    fn refund(&self, request: &RefundRequest) -> impl Future<Output = RefundOutcome> + Send;
}

/// One attempt to take the money of one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Order and stock are reserved in its name.
    pub id: PaymentAttemptId,
    /// The provider's idempotency key, at most 64 characters. Attempts at the same authorisation share it, so that none of
    /// them can take the money again.
    pub key: String,
    /// The provider knows the payment by this id too.
    pub payment: PaymentId,
    /// Who pays.
    pub user: AccountId,
    /// The provider's id of what the buyer authorised.
    pub pg_payment_id: String,
    /// In minor units of `currency`.
    pub amount: i64,
    pub currency: String,
}

/// How a request for the money ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureOutcome {
    /// Payment, amount and currency are those that were asked for.
    Captured,
    /// The provider refuses. The buyer may try another card.
    Declined { code: String, message: String },
    /// The provider has certainly not taken the money.
    Failed { code: String, message: String },
    /// The money may have been taken: no answer, a broken answer, an answer about something else, or "in progress".
    Unknown { code: String, message: String },
}

/// What a provider knows about an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderStatus {
    /// Captured, and not refunded in full.
    Captured,
    /// Refunded in full.
    Cancelled,
    /// The provider knows no capture. This is no proof soon after a request that got no answer.
    Absent,
    /// The authorisation was captured for another payment. Nothing was taken for this one, so nothing is undone.
    Foreign,
    /// Captured for this payment, but another amount than was asked for. `left` is not refunded yet.
    WrongAmount { left: i64 },
    /// No usable answer.
    Unclear(String),
}

/// A request to give money back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundRequest {
    /// The idempotency key.
    pub id: RefundId,
    pub payment: PaymentId,
    /// Who gets the money.
    pub user: AccountId,
    pub pg_payment_id: String,
    pub amount: i64,
    pub reason: String,
}

/// How a request for a refund ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefundOutcome {
    Refunded,
    /// The provider refuses, and would refuse again.
    Refused {
        code: String,
    },
    /// Ask again with the same key.
    Unknown {
        code: String,
    },
}
