//! The flows of the payment service, each step between two points at which it can be cut off.

use contract::codes::{HOLD_EXPIRED, ORDER_NOT_PAYABLE};
use payment::payment::{ApproveDecision, AttemptOutcome, CancelDecision, Status, after_attempt, approve, cancel};

use crate::protocol::{Mutation, Protocol};
use crate::servers::{Reply, owe_refund};
use crate::state::{At, Attempt, Event, Heard, Refund, Request, State, Tag, Task, Why};

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    Answered,
    /// Lost on the way there.
    Lost,
    /// Done, and the answer lost.
    Unanswered,
    /// Given up by the caller, and done later.
    Delayed,
    /// Done and answered, and done again later.
    Doubled,
}

impl Fate {
    pub const ALL: [Fate; 5] = [Fate::Answered, Fate::Lost, Fate::Unanswered, Fate::Delayed, Fate::Doubled];
}

impl Task {
    /// The call that is its next step; None for a transaction in its own database.
    pub fn request(self) -> Option<Request> {
        let Task { attempt, authorisation, at, .. } = self;
        match at {
            At::Begin => Some(Request::BeginApproval(attempt)),
            At::Pin => Some(Request::PinHold { attempt, retake: false }),
            At::Ask => Some(Request::Approve { attempt, authorisation }),
            At::Unpin => Some(Request::UnpinHold(attempt)),
            At::UnpinAgain => Some(Request::UnpinHold(attempt.late())),
            At::End { hold_expires } => Some(Request::EndApproval { attempt, hold_expires }),
            At::EndAgain { hold_expires } => Some(Request::EndApproval { attempt: attempt.late(), hold_expires }),
            At::MarkPaid | At::MarkPaidAgain => Some(Request::MarkPaid { payment: attempt.payment, late: false }),
            At::MarkPaidLate => Some(Request::MarkPaid { payment: attempt.payment, late: true }),
            At::Retake => Some(Request::PinHold { attempt: attempt.late(), retake: true }),
            At::Undo => Some(Request::Undo { authorisation }),
            At::Record(_) | At::Withdraw(_) | At::NoteAbsence | At::ClearRelease | At::OweRefund | At::ClearOrder => {
                None
            }
        }
    }

    /// Whether it is paying what is owed to order and stock.
    pub fn is_settling(self) -> bool {
        !self.is_approving() && self.at != At::Undo
    }

    /// Whether it is still about to ask the provider or to record what it said.
    pub fn is_approving(self) -> bool {
        matches!(self.at, At::Begin | At::Pin | At::Ask | At::Record(_) | At::Withdraw(_) | At::NoteAbsence)
    }
}

impl Protocol {
    /// T1: the attempt is written down before anybody is asked. False: refused.
    pub fn begin_attempt(&self, state: &mut State, payment: u8, authorisation: u8) -> bool {
        let row = &state.payments[usize::from(payment)];
        if approve(row.status.0) != Ok(ApproveDecision::Capture) || row.owes_release || self.is_taken(state, payment) {
            return false;
        }
        let row = &mut state.payments[usize::from(payment)];
        row.attempts += 1;
        let attempt = Attempt { payment, number: row.attempts };
        row.status = Tag(Status::Approving);
        row.attempt = Some(attempt.number);
        row.authorisation = authorisation;
        row.is_asked = false;
        row.absent = false;
        row.undone = false;
        let at = if self.mutation == Some(Mutation::ApproveWithoutReservation) { At::Ask } else { At::Begin };
        state.add_task(Task { attempt, authorisation, is_retry: false, at });
        true
    }

    /// The unique index: of an order's payments one at most may be getting the money.
    fn is_taken(&self, state: &State, payment: u8) -> bool {
        let others = state.payments.iter().enumerate().filter(|(other, _)| *other != usize::from(payment));
        let mut siblings = others.filter(|(other, _)| self.payments[*other] == self.payments[usize::from(payment)]);
        siblings.any(|(_, row)| row.status.0.is_open())
    }

    /// T2: what became known is recorded, and the event with it.
    pub fn record(&self, state: &mut State, attempt: Attempt, authorisation: u8, outcome: AttemptOutcome) {
        self.record_answer(state, attempt, authorisation, outcome, false);
    }

    fn record_answer(
        &self,
        state: &mut State,
        attempt: Attempt,
        authorisation: u8,
        outcome: AttemptOutcome,
        is_declined: bool,
    ) {
        let row = &state.payments[usize::from(attempt.payment)];
        if outcome == AttemptOutcome::Captured && row.status.0.is_captured() {
            state.authorisations[usize::from(authorisation)].is_duplicate_capture |= row.authorisation != authorisation;
            return;
        }
        if row.attempt != Some(attempt.number) && outcome != AttemptOutcome::Captured {
            return;
        }
        if row.attempt == Some(attempt.number) && outcome == AttemptOutcome::Captured && row.undone {
            // The resolver is made to look, and has it undone.
            self.begin_undo(state, attempt, authorisation);
            return;
        }
        let is_payable = is_declined || self.is_payable(state, attempt.payment);
        let Some(next) = after_attempt(row.status.0, outcome, is_payable) else { return };
        self.move_on(state, attempt, authorisation, next);
    }

    fn move_on(&self, state: &mut State, attempt: Attempt, authorisation: u8, next: Status) {
        let now = state.now[self.order_of(attempt.payment)];
        let row = &mut state.payments[usize::from(attempt.payment)];
        row.status = Tag(next);
        row.attempt = Some(attempt.number);
        row.authorisation = authorisation;
        row.absent = false;
        if next == Status::Pending {
            row.expires = row.expires.max(now + 1);
        }
        row.owes_release = !next.is_open() && next != Status::Paid;
        row.owes_order = next == Status::Paid;
        if next == Status::Paid {
            state.publish(Event::PaymentApproved { payment: attempt.payment });
        }
    }

    /// The task's next step, of which `fate` decides if it is a call.
    pub fn advance(&self, state: &mut State, task: Task, fate: Fate, declines: bool) {
        let Some(request) = task.request() else { return self.commit(state, task) };
        let answer = match fate {
            Fate::Answered => Some(self.serve(state, request, declines)),
            Fate::Lost => None,
            Fate::Unanswered => {
                self.serve(state, request, declines);
                None
            }
            Fate::Delayed => {
                state.leave_copy(request);
                None
            }
            Fate::Doubled => {
                state.leave_copy(request);
                Some(self.serve(state, request, declines))
            }
        };
        if let Some(at) = self.after(state, task, fate, answer) {
            state.add_task(Task { at, ..task });
        }
    }

    /// Where a task goes on; None: a loop comes back to it.
    fn after(&self, state: &mut State, task: Task, fate: Fate, answer: Option<Reply>) -> Option<At> {
        let not_payable = |code: &common::Code| *code == ORDER_NOT_PAYABLE;
        match (task.at, answer) {
            (At::Begin, Some(Reply::Done)) => Some(At::Pin),
            (At::Pin, Some(Reply::Hold { .. })) => Some(At::Ask),
            (At::Begin | At::Pin, Some(_)) if task.is_retry => Some(At::NoteAbsence),
            (At::Begin | At::Pin, None) if task.is_retry => None,
            (At::Begin | At::Pin, Some(Reply::Refused(code))) if code == HOLD_EXPIRED => {
                Some(At::Withdraw(Why::HoldExpired))
            }
            (At::Begin | At::Pin, Some(Reply::Refused(code))) if not_payable(&code) => {
                Some(At::Withdraw(Why::NotPayable))
            }
            (At::Begin | At::Pin, _) => Some(At::Withdraw(Why::Other)),
            (At::Ask, Some(Reply::Captured)) => Some(At::Record(Heard::Captured)),
            (At::Ask, Some(Reply::Declined)) => Some(At::Record(Heard::NotCaptured)),
            (At::Ask, None) if self.mutation == Some(Mutation::TimeoutIsAFailure) => {
                Some(At::Record(Heard::NotCaptured))
            }
            (At::Ask, None) if fate == Fate::Lost => Some(At::Record(Heard::NotSent)),
            (At::Ask, None) => Some(At::Record(Heard::Nothing)),
            (At::Unpin, Some(Reply::Hold { expires })) if self.frees_order_last() => {
                Some(At::End { hold_expires: Some(expires) })
            }
            (At::Unpin, Some(Reply::Hold { .. })) => Some(At::ClearRelease),
            (At::End { .. }, Some(Reply::Done)) if self.frees_order_last() => Some(At::ClearRelease),
            // Paid meanwhile: the pin is the sale's now.
            (At::End { .. }, Some(Reply::Done)) if self.is_order_paid(state, task) => Some(At::ClearRelease),
            (At::End { .. }, Some(Reply::Done)) => Some(At::Unpin),
            (At::MarkPaid | At::MarkPaidAgain | At::MarkPaidLate, Some(Reply::Done)) => Some(At::ClearOrder),
            (At::MarkPaid, Some(Reply::Refused(code))) if not_payable(&code) => Some(At::Retake),
            (At::Retake, Some(Reply::Hold { .. })) => Some(At::MarkPaidLate),
            (At::Retake, Some(Reply::Refused(_))) => Some(At::MarkPaidAgain),
            (At::MarkPaidAgain, Some(Reply::Refused(code))) if not_payable(&code) => Some(At::OweRefund),
            (At::MarkPaidLate, Some(Reply::Refused(code))) if not_payable(&code) => {
                Some(At::EndAgain { hold_expires: None })
            }
            (At::EndAgain { .. }, Some(Reply::Done)) if self.is_order_paid(state, task) => Some(At::OweRefund),
            (At::EndAgain { .. }, Some(Reply::Done)) => Some(At::UnpinAgain),
            (At::UnpinAgain, Some(Reply::Hold { .. })) => Some(At::OweRefund),
            // Whether it was done shows in the provider's history.
            (At::Undo, _) => None,
            (_, None) => None,
            (_, Some(_)) => {
                state.stuck = true;
                None
            }
        }
    }

    /// A step in payment's own database.
    fn commit(&self, state: &mut State, task: Task) {
        let payment = task.attempt.payment;
        match task.at {
            At::Record(heard) => {
                let outcome = match heard {
                    Heard::Captured => AttemptOutcome::Captured,
                    Heard::NotCaptured => AttemptOutcome::NotCaptured,
                    Heard::NotSent if !self.may_be_asked_twice(state, task) => AttemptOutcome::NotCaptured,
                    Heard::NotSent | Heard::Nothing => AttemptOutcome::Unknown,
                };
                let is_declined = heard == Heard::NotCaptured;
                self.record_answer(state, task.attempt, task.authorisation, outcome, is_declined);
                self.settle_owed(state, payment);
            }
            At::Withdraw(why) => {
                self.withdraw(state, task, why);
                self.settle_owed(state, payment);
            }
            At::NoteAbsence => self.give_up(state, task.attempt, task.authorisation),
            At::OweRefund => {
                owe_refund(state, payment);
                let row = &mut state.payments[usize::from(payment)];
                row.owes_order &= row.attempt != Some(task.attempt.number);
            }
            At::ClearRelease | At::ClearOrder => {
                let row = &mut state.payments[usize::from(payment)];
                if row.attempt == Some(task.attempt.number) {
                    row.owes_release &= task.at != At::ClearRelease;
                    row.owes_order &= task.at != At::ClearOrder;
                }
            }
            _ => {}
        }
    }

    /// Somebody takes up what a payment owes to others, at once or in the loop.
    pub fn settle_owed(&self, state: &mut State, payment: u8) {
        let row = &state.payments[usize::from(payment)];
        let Some(number) = row.attempt else { return };
        let at = match (row.owes_release, row.owes_order) {
            (true, _) if self.frees_order_last() => At::Unpin,
            // Who may try again gets the time for it.
            (true, _) if row.status.0 == Status::Pending => {
                At::End { hold_expires: Some(state.now[self.order_of(payment)] + 1) }
            }
            (true, _) => At::End { hold_expires: None },
            (_, true) => At::MarkPaid,
            (false, false) => return,
        };
        let attempt = Attempt { payment, number };
        state.add_task(Task { attempt, authorisation: row.authorisation, is_retry: false, at });
    }

    fn is_order_paid(&self, state: &State, task: Task) -> bool {
        state.orders[self.order_of(task.attempt.payment)].as_ref().is_some_and(|order| order.paid_by.is_some())
    }

    pub fn frees_order_last(&self) -> bool {
        self.mutation == Some(Mutation::HoldIsUnpinnedFirst)
    }

    /// An attempt was refused before the provider was asked.
    fn withdraw(&self, state: &mut State, task: Task, why: Why) {
        let is_payable = self.is_payable(state, task.attempt.payment);
        let row = &state.payments[usize::from(task.attempt.payment)];
        if row.attempt != Some(task.attempt.number) || row.status.0 != Status::Approving {
            return;
        }
        if self.may_be_asked_twice(state, task) {
            return;
        }
        let next = match why {
            Why::HoldExpired => Status::Expired,
            Why::NotPayable => Status::Failed,
            Why::Other if !is_payable => Status::Failed,
            Why::Other => Status::Pending,
        };
        self.move_on(state, task.attempt, task.authorisation, next);
    }

    /// Then what one of them could not send proves nothing.
    fn may_be_asked_twice(&self, state: &State, task: Task) -> bool {
        self.mutation != Some(Mutation::OneOfTwoIsBelieved)
            && state.payments[usize::from(task.attempt.payment)].is_asked
    }

    pub fn is_payable(&self, state: &State, payment: u8) -> bool {
        state.now[self.order_of(payment)] < state.payments[usize::from(payment)].expires
    }

    /// The loop of refunds: the provider gives the money back, then it is recorded unless the answer is lost.
    pub fn refund(&self, state: &mut State, payment: u8, is_answered: bool) {
        let row = &mut state.payments[usize::from(payment)];
        state.authorisations[usize::from(row.authorisation)].refunds = 1;
        if is_answered {
            row.refund = Refund::Done;
            row.status = Tag(payment::payment::after_refund(1, 1));
            state.publish(Event::PaymentRefunded { payment });
        }
    }

    /// Its buyer wants the money of a payment back, or to end it.
    pub fn cancel_payment(&self, state: &mut State, payment: u8) {
        let order = self.order_of(payment);
        let row = &mut state.payments[usize::from(payment)];
        let owes_order = row.owes_order && self.mutation != Some(Mutation::MoneyGoesBackFirst);
        match cancel(row.status.0, owes_order) {
            Ok(CancelDecision::End) => row.status = Tag(Status::Cancelled),
            Ok(CancelDecision::Refund) => {
                owe_refund(state, payment);
                let paid = state.orders[order].as_mut().filter(|order| order.paid_by == Some(payment));
                paid.into_iter().for_each(|order| order.refund_wanted = true);
            }
            Err(_) => {}
        }
    }

    /// Reconciliation or a webhook finds money that no row speaks of: its payment is looked at again, and a second
    /// capture of a payment that has been captured is cancelled.
    pub fn reconcile(&self, state: &mut State, authorisation: u8) {
        let Some(click) = self.clicks.iter().find(|click| click.authorisation == authorisation) else { return };
        let book = &state.authorisations[usize::from(authorisation)];
        let row = &state.payments[usize::from(click.payment)];
        let is_watched = state.tasks.iter().any(|task| task.attempt.payment == click.payment);
        if book.captures <= book.refunds || row.status.0.is_open() || is_watched {
            return;
        }
        if row.authorisation != authorisation {
            state.authorisations[usize::from(authorisation)].refunds = 1;
        } else if !row.status.0.is_captured() {
            let attempt = Attempt { payment: click.payment, number: row.attempt.expect("asked for") };
            self.record(state, attempt, authorisation, AttemptOutcome::Captured);
        }
    }
}
