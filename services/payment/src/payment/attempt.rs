//! What somebody has learnt about an attempt to take a payment's money.

use crate::provider::{CaptureOutcome, ProviderStatus};

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

/// What somebody has learnt about an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptReport {
    pub outcome: AttemptOutcome,
    /// The provider refused, as against having failed.
    pub is_declined: bool,
    /// It comes from the provider's history. Without it, it is the answer to one of maybe several requests for the money.
    pub is_proof: bool,
    /// In the provider's words.
    pub code: String,
    pub message: String,
}

impl AttemptReport {
    /// Nobody knows yet whether the money was taken.
    pub fn unknown(code: &str, message: &str) -> AttemptReport {
        AttemptReport::answer(AttemptOutcome::Unknown, code.to_owned(), message.to_owned())
    }

    fn answer(outcome: AttemptOutcome, code: String, message: String) -> AttemptReport {
        AttemptReport { outcome, is_declined: false, is_proof: false, code, message }
    }

    /// What the provider's history says, and what was concluded from it.
    pub fn of_history(status: &ProviderStatus, outcome: AttemptOutcome) -> AttemptReport {
        let (code, message) = match status {
            ProviderStatus::Captured => ("Success", String::new()),
            ProviderStatus::Cancelled => ("Cancelled", "the provider has given everything back".to_owned()),
            ProviderStatus::Absent => ("Absent", "the provider has never heard of it".to_owned()),
            ProviderStatus::Foreign => ("Foreign", "captured for another payment".to_owned()),
            ProviderStatus::WrongAmount { left } => ("WrongAmount", format!("{left} was captured")),
            ProviderStatus::Unclear(why) => ("Unclear", why.clone()),
        };
        AttemptReport { outcome, is_declined: false, is_proof: true, code: code.to_owned(), message }
    }

    /// The status of the attempt's own row.
    pub fn status(&self) -> &'static str {
        match self.outcome {
            AttemptOutcome::Captured => "SUCCESS",
            AttemptOutcome::NotCaptured if self.is_declined => "DECLINED",
            AttemptOutcome::NotCaptured => "ERROR",
            AttemptOutcome::Unknown | AttemptOutcome::Overdue => "UNKNOWN",
        }
    }
}

impl From<CaptureOutcome> for AttemptReport {
    fn from(outcome: CaptureOutcome) -> AttemptReport {
        let answer = AttemptReport::answer;
        match outcome {
            CaptureOutcome::Captured => answer(AttemptOutcome::Captured, "Success".to_owned(), String::new()),
            CaptureOutcome::Declined { code, message } => {
                AttemptReport { is_declined: true, ..answer(AttemptOutcome::NotCaptured, code, message) }
            }
            CaptureOutcome::Failed { code, message } => answer(AttemptOutcome::NotCaptured, code, message),
            CaptureOutcome::Unknown { code, message } => answer(AttemptOutcome::Unknown, code, message),
        }
    }
}
