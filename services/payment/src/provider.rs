//! What every payment provider is asked, and what may be believed of its answers.

use contract::ids::{AccountId, PaymentAttemptId, PaymentId, RefundId};

/// Takes money and gives it back. Nothing here fails: what is not an answer is an outcome of its own.
pub trait Provider {
    /// Takes the money. Waits for as long as the provider may take; asked again with the same key, it does nothing again.
    fn approve(&self, approval: &Approval) -> impl Future<Output = Approved> + Send;
    /// What the provider knows about an attempt.
    fn known(&self, approval: &Approval) -> impl Future<Output = Known> + Send;
    /// Gives money back; asked again for the same refund, it does nothing again.
    fn give_back(&self, giveback: &Giveback) -> impl Future<Output = GivenBack> + Send;
}

/// One attempt to take the money of one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Of this attempt alone. Order and stock are reserved in its name.
    pub attempt: PaymentAttemptId,
    /// The provider's idempotency key, at most 64 characters. Attempts at the same authorisation share it, so that none of
    /// them can take the money again.
    pub key: String,
    /// Our name for the payment, which the provider knows it by too.
    pub payment: PaymentId,
    /// Who pays.
    pub user: AccountId,
    /// The provider's name for what the buyer authorised.
    pub pg_payment_id: String,
    /// In minor units of `currency`.
    pub amount: i64,
    pub currency: String,
}

/// What an approval came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Approved {
    /// Payment, amount and currency are those that were asked for.
    Captured,
    /// The provider says no. The buyer may try something else.
    Declined { code: String, message: String },
    /// The provider has certainly not done it.
    NotDone { code: String, message: String },
    /// It may have been done: no answer, a broken answer, an answer about something else, or "wait".
    Unknown { code: String, message: String },
}

/// What a provider knows about an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Captured and not given back.
    Captured,
    /// Given back in full: nothing is left of it.
    Cancelled,
    /// It has never heard of a capture. No proof, so soon after a request that got no answer.
    Absent,
    /// What the buyer named was captured for another payment: nothing was taken for this one, and nothing of that is ours
    /// to undo.
    Foreign,
    /// Captured for this payment, but not its amount. So much of it is left.
    WrongAmount { left: i64 },
    /// No usable answer.
    Unclear(String),
}

/// Money to be given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Giveback {
    /// The idempotency key.
    pub refund: RefundId,
    pub payment: PaymentId,
    /// Whose money it is.
    pub user: AccountId,
    pub pg_payment_id: String,
    pub amount: i64,
    pub reason: String,
}

/// What a refund came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GivenBack {
    Done,
    /// The provider says that this cannot be done, and asking again would not help.
    Refused {
        code: String,
    },
    /// Ask again with the same key.
    Unknown {
        code: String,
    },
}
