//! The resolver: what it asks the provider, and what it does with the answer.

use payment::payment::{Action, AttemptFacts, ResolverStep, Timeouts, resolve};
use payment::provider::ProviderStatus;

use crate::actions::Answer;
use crate::protocol::{Mutation, Protocol};
use crate::rules;
use crate::state::{At, Attempt, PaymentRow, State, Task};

/// Only the order of these matters: time passes between them whenever it likes.
const TIMEOUTS: Timeouts =
    Timeouts { provider_seconds: 1, absence_seconds: 1, undo_after_seconds: 1, review_after_seconds: 3 };

impl Protocol {
    /// The resolver asks the provider about the attempt under way.
    pub fn resolve(&self, state: &mut State, payment: u8, answer: Answer) {
        let row = &state.payments[usize::from(payment)];
        let Some(number) = row.attempt else { return };
        let (attempt, authorisation) = (Attempt { payment, number }, row.authorisation);
        let row = &mut state.payments[usize::from(payment)];
        row.is_asked = true;
        let row = &state.payments[usize::from(payment)];
        let status = match answer {
            Answer::Clear => self.provider_status(state, row),
            Answer::Unclear | Answer::NeverClear => ProviderStatus::Unclear(String::new()),
        };
        // Nothing is undone before the order's time is up: the same authorisation may be used again.
        let forgets =
            matches!(status, ProviderStatus::Unclear(_)) && self.mutation == Some(Mutation::UndoWhileItCanBePaid);
        let facts = AttemptFacts {
            payable: row.status.0.is_open() && self.is_payable(state, payment) && !forgets,
            age: if answer == Answer::NeverClear { TIMEOUTS.review_after_seconds } else { 2 },
            requested_ago: 2,
            absent_for: row.absent.then_some(2),
            undone: row.undone,
        };
        self.follow(state, attempt, authorisation, resolve(&status, facts, TIMEOUTS));
    }

    /// The provider has never heard of it, and it is not to be tried again: believed when it is heard twice.
    pub fn give_up(&self, state: &mut State, attempt: Attempt, authorisation: u8) {
        let row = &state.payments[usize::from(attempt.payment)];
        let facts = AttemptFacts {
            payable: false,
            age: 2,
            requested_ago: 2,
            absent_for: row.absent.then_some(2),
            undone: row.undone,
        };
        self.follow(state, attempt, authorisation, resolve(&ProviderStatus::Absent, facts, TIMEOUTS));
    }

    fn follow(&self, state: &mut State, attempt: Attempt, authorisation: u8, step: ResolverStep) {
        match step {
            ResolverStep::Record(outcome) => self.record(state, attempt, authorisation, outcome),
            ResolverStep::Retry => {
                state.add_task(Task { attempt, authorisation, is_retry: true, at: At::Begin { pinned: None } })
            }
            ResolverStep::Wait { absent } => {
                let row = &mut state.payments[usize::from(attempt.payment)];
                row.absent |= absent && row.attempt == Some(attempt.number) && row.status.0.is_open();
            }
            ResolverStep::Undo { .. } => self.begin_undo(state, attempt, authorisation),
        }
    }

    /// Written down before the provider is told, and only while nobody has found out more.
    pub fn begin_undo(&self, state: &mut State, attempt: Attempt, authorisation: u8) {
        let undo = Action::BeginUndo { attempt: rules::provider_attempt(attempt, authorisation) };
        if self.change(state, attempt, authorisation, &undo) {
            state.add_task(Task { attempt, authorisation, is_retry: false, at: At::Undo });
        }
    }

    fn provider_status(&self, state: &State, row: &PaymentRow) -> ProviderStatus {
        let book = &state.authorisations[usize::from(row.authorisation)];
        match (book.captures, book.refunds) {
            (0, _) => ProviderStatus::Absent,
            (captures, refunds) if refunds >= captures => ProviderStatus::Cancelled,
            _ => ProviderStatus::Captured,
        }
    }
}
