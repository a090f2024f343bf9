//! The rules of a payment's life: [`Payment::decide`] says what an [`Action`] changes, and [`Payment::apply`] changes it.
//!
//! `PENDING → APPROVING → PAID → PARTIALLY_REFUNDED → REFUNDED`. An attempt that failed leads back to `PENDING` while the
//! order can still be paid, else to `FAILED`. An attempt without an answer leads to `UNKNOWN`, and from there to whatever
//! the provider says in the end, or to `NEEDS_REVIEW` after a day.
//!
//! The flows, the property tests and the model decide with the same functions. Nothing here reads a clock or a database.

mod attempt;
mod refund;
mod refused;
mod resolve;
mod status;
mod step;

use chrono::{DateTime, TimeDelta, Utc};
use common::id::derive_uuid;
use contract::codes;
use contract::ids::{AccountId, CouponIssueId, OrderId, PaymentAttemptId, PaymentId};
use diesel::pg::Pg;
use diesel::prelude::*;

pub use self::attempt::{AttemptOutcome, AttemptReport};
pub use self::refund::{CancelDecision, Wanted, after_refund, cancel, refund_amount};
pub use self::refused::Refused;
pub use self::resolve::{AttemptFacts, ResolverStep, Timeouts, resolve, retry_delay_seconds};
pub use self::status::{Method, Status};
pub use self::step::{AFTER_CAPTURE, Step, after_failure};
use crate::provider::Attempt;
use crate::schema::payments;

/// A payment, as its row has it.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = payments, check_for_backend(Pg))]
pub struct Payment {
    pub id: PaymentId,
    pub order_id: OrderId,
    pub user_id: AccountId,
    pub method: Method,
    /// What is to be captured, all at once or not at all.
    pub amount: i64,
    pub currency: String,
    pub fingerprint: Vec<u8>,
    pub status: Status,
    /// Counts the changes of this payment, from 1.
    pub version: i64,
    /// The attempt under way or the last one, and the provider's name for what the buyer authorised.
    pub attempt_id: Option<PaymentAttemptId>,
    pub pg_payment_id: Option<String>,
    pub captured: i64,
    pub refunded: i64,
    /// Nobody approves after this.
    pub expires_at: DateTime<Utc>,
    pub approving_since: Option<DateTime<Utc>>,
    /// When the money was last asked for.
    pub requested_at: Option<DateTime<Utc>>,
    /// When the resolver asks the provider next.
    pub ask_at: Option<DateTime<Utc>>,
    /// How often the resolver has asked about the attempt.
    pub asked: i32,
    pub absent_since: Option<DateTime<Utc>>,
    /// The provider was told to undo the attempt.
    pub undo_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// The issued coupon that the order uses.
    pub coupon_issue_id: Option<CouponIssueId>,
}

/// What happens to a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Somebody asks for the money to be taken.
    Approve(Approval),
    /// Somebody has learnt something about an attempt.
    Report { attempt: Attempt, report: AttemptReport },
    /// Order, inventory or coupon has refused an attempt, so that the provider was not asked. `reason`: the code of the refusal.
    Withdraw { attempt: Attempt, reason: String },
    /// The resolver is about to ask the provider for the money again.
    RequestAgain { attempt: Attempt },
    /// The resolver is about to have the provider undo the attempt.
    BeginUndo { attempt: Attempt },
}

/// A request to approve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Who asks. Another's payment is not found.
    pub user: AccountId,
    pub amount: i64,
    /// What the provider's payment window returned. Points have none.
    pub pg_payment_id: Option<String>,
}

/// What a decision needs besides the payment's own row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// Attempts at all payments of the order so far.
    pub attempts: i64,
    /// Another payment of the order is open, and may get the money.
    pub is_other_open: bool,
    /// A step is still to be done because of an earlier attempt.
    pub has_steps: bool,
    /// Points are held for the payment: they are in the same database, so nobody's word is needed.
    pub are_points_held: bool,
}

/// Limits of attempts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub attempts_per_order_max: i64,
    /// The resolver leaves a new attempt alone for so long.
    pub head_start: TimeDelta,
    /// What a buyer has at least to try again after an attempt that failed.
    pub retry_time: TimeDelta,
}

/// The resolver asks about an open payment again after this.
const ASK_AGAIN: TimeDelta = TimeDelta::seconds(1);

/// One change of a payment, of its attempts, or of what others are to do or to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An attempt begins: from its commit on something may be reserved or captured in its name.
    Begin { attempt: Attempt, ask_at: DateTime<Utc> },
    /// What is known of an attempt now. One that has ended stays as it is, unless the money was captured.
    Note { attempt: PaymentAttemptId, report: AttemptReport },
    /// The payment moves.
    Move { status: Status, attempt: Attempt, expires_at: DateTime<Utc> },
    /// Others hear of the move.
    Announce { attempt: Attempt, report: AttemptReport },
    /// These steps are to be done, in this order, and no others any more.
    Follow { attempt: PaymentAttemptId, steps: &'static [Step] },
    /// Money beside the payment's own was captured: it goes back.
    ReturnDuplicate { attempt: Attempt },
    /// The resolver asks the provider at once.
    AskNow,
    /// The provider is asked for the money again, and what it said before counts no more.
    Request,
    /// The provider is told to undo the attempt: from now on a capture of it does not pay the order.
    Undo,
}

impl Payment {
    /// The attempt under way or the last one.
    pub fn attempt(&self) -> Option<Attempt> {
        Some(self.attempt_with(self.attempt_id?, self.pg_payment_id.clone()?))
    }

    /// The attempt that begins with this version of the payment.
    fn next_attempt(&self, pg_payment_id: String) -> Attempt {
        let id = PaymentAttemptId::derive(&[self.id.as_bytes(), &self.version.to_be_bytes()]);
        self.attempt_with(id, pg_payment_id)
    }

    fn attempt_with(&self, id: PaymentAttemptId, pg_payment_id: String) -> Attempt {
        let key = derive_uuid("approval", &[self.id.as_bytes(), pg_payment_id.as_bytes()]).to_string();
        let (payment, user, amount, currency) = (self.id, self.user_id, self.amount, self.currency.clone());
        Attempt { id, key, payment, user, pg_payment_id, amount, currency }
    }

    /// What the resolver knows about the attempt under way or the last one, besides the provider's answer.
    pub fn attempt_facts(&self, now: DateTime<Utc>) -> AttemptFacts {
        let began = self.approving_since.unwrap_or(self.created_at);
        AttemptFacts {
            // Nobody waits for a payment that has ended: it is not charged again.
            payable: self.status.is_open() && self.expires_at > now,
            age: (now - began).num_seconds(),
            requested_ago: (now - self.requested_at.unwrap_or(began)).num_seconds(),
            absent_for: self.absent_since.map(|since| (now - since).num_seconds()),
            undone: self.undo_at.is_some(),
        }
    }

    /// What `action` changes at `now`. Empty when it was done before, or changes nothing any more.
    pub fn decide(
        &self,
        action: &Action,
        facts: Facts,
        limits: Limits,
        now: DateTime<Utc>,
    ) -> Result<Vec<Change>, Refused> {
        match action {
            Action::Approve(approval) => self.approve(approval, facts, limits, now),
            Action::Report { attempt, report } => Ok(self.report(attempt, report, facts, limits, now)),
            Action::Withdraw { attempt, reason } => Ok(self.withdraw(attempt, reason, limits, now)),
            Action::RequestAgain { attempt } => Ok(self.request_again(attempt)),
            Action::BeginUndo { attempt } => Ok(self.begin_undo(attempt)),
        }
    }

    /// An attempt begins, unless the payment is paid already or nobody knows yet whether it is: then nothing changes, and
    /// the status is the answer.
    fn approve(
        &self,
        approval: &Approval,
        facts: Facts,
        limits: Limits,
        now: DateTime<Utc>,
    ) -> Result<Vec<Change>, Refused> {
        if approval.user != self.user_id {
            return Err(Refused::NotFound);
        }
        if approval.amount != self.amount {
            return Err(Refused::AmountMismatch { expected: self.amount });
        }
        match self.status {
            Status::Pending => {}
            Status::Paid | Status::PartiallyRefunded | Status::Unknown | Status::NeedsReview => return Ok(Vec::new()),
            Status::Approving => return Err(Refused::InProgress),
            Status::Expired => return Err(Refused::HoldExpired),
            Status::Refunded | Status::Failed | Status::Cancelled => return Err(Refused::NotApprovable(self.status)),
        }
        let pg_payment_id = match (self.method, &approval.pg_payment_id) {
            (Method::NaverPay, Some(given)) => given.clone(),
            // Points need no payment window, so a payment authorises itself.
            (Method::Points, None) => self.id.to_string(),
            (Method::NaverPay, None) => return Err(Refused::WrongAuthorisation("Must be given for this method.")),
            (Method::Points, Some(_)) => return Err(Refused::WrongAuthorisation("Must be absent for this method.")),
        };
        // The reservation of the last attempt is still being released, or another payment may get the money.
        if facts.has_steps || facts.is_other_open {
            return Err(Refused::InProgress);
        }
        // Each attempt keeps the order's units from other buyers for a while, so their number is limited.
        if facts.attempts >= limits.attempts_per_order_max {
            return Err(Refused::TooManyAttempts(facts.attempts));
        }
        let attempt = self.next_attempt(pg_payment_id);
        Ok(vec![Change::Begin { attempt, ask_at: now + limits.head_start }])
    }

    fn report(
        &self,
        attempt: &Attempt,
        report: &AttemptReport,
        facts: Facts,
        limits: Limits,
        now: DateTime<Utc>,
    ) -> Vec<Change> {
        let report = AttemptReport { outcome: self.believe(report, facts), ..report.clone() };
        let note = Change::Note { attempt: attempt.id, report: report.clone() };
        let is_current = self.attempt_id == Some(attempt.id);
        let is_captured = report.outcome == AttemptOutcome::Captured;
        match is_captured {
            true if self.status.is_captured() && self.pg_payment_id.as_deref() == Some(&attempt.pg_payment_id) => {
                return vec![note];
            }
            true if self.status.is_captured() => {
                return vec![note, Change::ReturnDuplicate { attempt: attempt.clone() }];
            }
            // The provider was told to undo it, or is being told: the resolver decides.
            true if is_current && self.undo_at.is_some() => return vec![note, Change::AskNow],
            // A later attempt is under way.
            false if !is_current => return vec![note],
            true | false => {}
        }
        // A buyer whose card was declined may try another one, even if the order expired while the provider was asked.
        let payable = self.expires_at > now || report.is_declined;
        let Some(status) = after_attempt(self.status, report.outcome, payable) else { return vec![note] };
        let announce = Change::Announce { attempt: attempt.clone(), report };
        let mut changes = vec![note];
        changes.extend(self.move_to(status, attempt, limits, now));
        changes.push(announce);
        changes
    }

    /// What is taken for true of what was reported.
    fn believe(&self, report: &AttemptReport, facts: Facts) -> AttemptOutcome {
        let is_failure = report.outcome == AttemptOutcome::NotCaptured;
        // Once the resolver asks for the money too, the failure of one request says nothing about the other.
        if is_failure && self.asked > 0 && !report.is_declined && !report.is_proof {
            return AttemptOutcome::Unknown;
        }
        if is_failure && facts.are_points_held { AttemptOutcome::Captured } else { report.outcome }
    }

    fn withdraw(&self, attempt: &Attempt, reason: &str, limits: Limits, now: DateTime<Utc>) -> Vec<Change> {
        // Once the resolver has taken the attempt up, it may get the reservation that was refused here.
        let is_mine = self.attempt_id == Some(attempt.id) && self.asked == 0;
        if !is_mine || self.status != Status::Approving {
            return Vec::new();
        }
        let status = match reason {
            // A coupon's reservation ends with the hold.
            _ if reason == codes::HOLD_EXPIRED.reason || reason == codes::REDEMPTION_ENDED.reason => Status::Expired,
            _ if reason == codes::ORDER_NOT_PAYABLE.reason || self.expires_at <= now => Status::Failed,
            _ => Status::Pending,
        };
        let report = AttemptReport {
            outcome: AttemptOutcome::NotCaptured,
            ..AttemptReport::unknown(reason, "the provider was not asked")
        };
        // No event tells of it: only the buyer is concerned, who gets the refusal as an answer.
        let mut changes = vec![Change::Note { attempt: attempt.id, report }];
        changes.extend(self.move_to(status, attempt, limits, now));
        changes
    }

    fn move_to(
        &self,
        status: Status,
        attempt: &Attempt,
        limits: Limits,
        now: DateTime<Utc>,
    ) -> impl Iterator<Item = Change> {
        let steps = match status {
            Status::Paid => Some(AFTER_CAPTURE),
            status if status.is_open() => None,
            _ => Some(after_failure(self.coupon_issue_id.is_some())),
        };
        // Order and hold are told the same.
        let expires_at = match status {
            Status::Pending => self.expires_at.max(now + limits.retry_time),
            _ => self.expires_at,
        };
        let follow = steps.map(|steps| Change::Follow { attempt: attempt.id, steps });
        [Change::Move { status, attempt: attempt.clone(), expires_at }].into_iter().chain(follow)
    }

    fn request_again(&self, attempt: &Attempt) -> Vec<Change> {
        let is_wanted = self.attempt_id == Some(attempt.id) && self.status.is_open() && self.undo_at.is_none();
        if is_wanted { vec![Change::Request] } else { Vec::new() }
    }

    fn begin_undo(&self, attempt: &Attempt) -> Vec<Change> {
        // Otherwise a later attempt is under way, or somebody has found out more.
        let is_current = self.attempt_id == Some(attempt.id) && !self.status.is_captured();
        let is_wanted = is_current && (self.status.is_open() || self.undo_at.is_some());
        if is_wanted { vec![Change::Undo] } else { Vec::new() }
    }

    /// Makes `change`, as far as it is one of the payment's own row.
    pub fn apply(&mut self, change: &Change, now: DateTime<Utc>) {
        match change {
            Change::Begin { attempt, ask_at } => {
                self.status = Status::Approving;
                self.version += 1;
                (self.attempt_id, self.pg_payment_id) = (Some(attempt.id), Some(attempt.pg_payment_id.clone()));
                (self.approving_since, self.requested_at) = (Some(now), Some(now));
                (self.ask_at, self.asked) = (Some(*ask_at), 0);
                (self.absent_since, self.undo_at) = (None, None);
            }
            Change::Move { status, attempt, expires_at } => {
                self.status = *status;
                self.version += 1;
                (self.attempt_id, self.pg_payment_id) = (Some(attempt.id), Some(attempt.pg_payment_id.clone()));
                self.captured = if *status == Status::Paid { attempt.amount } else { 0 };
                self.ask_at = status.is_open().then(|| now + ASK_AGAIN);
                self.absent_since = None;
                self.expires_at = *expires_at;
            }
            Change::AskNow => self.ask_at = Some(now),
            Change::Request => (self.requested_at, self.absent_since) = (Some(now), None),
            Change::Undo => self.undo_at = self.undo_at.or(Some(now)),
            Change::Note { .. } | Change::Announce { .. } | Change::Follow { .. } | Change::ReturnDuplicate { .. } => {
                return;
            }
        }
        self.updated_at = now;
    }
}

/// The status after `outcome`; None when it stays as it is. `payable`: the order may be paid by another attempt.
///
/// Only open payments move, so reporting an outcome twice changes nothing. A capture moves every payment that is not
/// captured to `PAID`, even one that had ended: the order is then paid with the money, or the money is refunded.
fn after_attempt(status: Status, outcome: AttemptOutcome, payable: bool) -> Option<Status> {
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

#[cfg(test)]
mod tests;
