//! The flows of the payment service, each step between two points at which it can be cut off.

use contract::codes::{HOLD_EXPIRED, ORDER_NOT_PAYABLE, REDEMPTION_ENDED};
use payment::payment::{Action, AttemptOutcome, CancelDecision, Change, Status, Step, cancel};

use crate::protocol::{Mutation, Protocol};
use crate::rules;
use crate::servers::{Reply, owe_refund};
use crate::state::{At, Attempt, Event, Heard, Refund, Request, Reserved, State, Tag, Task, Why};

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
            At::Begin { .. } => Some(Request::BeginApproval(attempt)),
            At::Pin { .. } => Some(Request::PinHold { attempt, retake: false }),
            At::PinCoupon { .. } => Some(Request::PinCoupon { attempt, retake: false }),
            At::RetakeCoupon => Some(Request::PinCoupon { attempt: attempt.late(), retake: true }),
            At::UnpinCoupon => Some(Request::UnpinCoupon(attempt)),
            At::UnpinCouponAgain => Some(Request::UnpinCoupon(attempt.late())),
            At::Ask => Some(Request::Approve { attempt, authorisation }),
            At::Unpin => Some(Request::UnpinHold(attempt)),
            At::UnpinAgain => Some(Request::UnpinHold(attempt.late())),
            At::End { hold_expires } => Some(Request::EndApproval { attempt, hold_expires }),
            At::EndAgain { hold_expires } => Some(Request::EndApproval { attempt: attempt.late(), hold_expires }),
            At::MarkPaid | At::MarkPaidAgain | At::MarkPaidWithoutCoupon => {
                Some(Request::MarkPaid { payment: attempt.payment, late: false })
            }
            At::MarkPaidLate => Some(Request::MarkPaid { payment: attempt.payment, late: true }),
            At::Retake => Some(Request::PinHold { attempt: attempt.late(), retake: true }),
            At::Undo => Some(Request::Undo { authorisation }),
            At::Record(_)
            | At::Withdraw(_)
            | At::Request
            | At::NoteAbsence
            | At::ClearRelease
            | At::OweRefund
            | At::ClearOrder => None,
        }
    }

    /// Whether it is paying what is owed to order and stock.
    pub fn is_settling(self) -> bool {
        !self.is_approving() && self.at != At::Undo
    }

    /// Whether it is still about to ask the provider or to record what it said.
    pub fn is_approving(self) -> bool {
        matches!(
            self.at,
            At::Begin { .. }
                | At::Pin { .. }
                | At::PinCoupon { .. }
                | At::Ask
                | At::Record(_)
                | At::Withdraw(_)
                | At::Request
                | At::NoteAbsence
        )
    }

    /// The steps that may be next: of order and inventory, which are asked at once, either may be the first.
    pub fn alternatives(self) -> impl Iterator<Item = Task> {
        let pin_first = Task { at: At::Pin { begun: None }, ..self };
        let both = self.at == At::Begin { pinned: None };
        std::iter::once(self).chain(both.then_some(pin_first))
    }
}

impl Protocol {
    /// T1: the attempt is written down before anybody is asked. False: refused, or it is paid already.
    pub fn begin_attempt(&self, state: &mut State, payment: u8, authorisation: u8) -> bool {
        let (is_other_open, now) = (self.is_other_open(state, payment), state.now[self.order_of(payment)]);
        let row = &mut state.payments[usize::from(payment)];
        let approve = rules::approve(authorisation);
        let decided = rules::decide_payment(row, payment, &approve, self.has_coupon, is_other_open, now);
        let Some([Change::Begin { .. }]) = decided.as_deref().ok() else { return false };
        decided.iter().flatten().for_each(|change| rules::change_payment(row, payment, change, now));
        let attempt = Attempt { payment, number: row.attempts };
        let is_unreserved = self.mutation == Some(Mutation::ApproveWithoutReservation);
        let at = if is_unreserved { At::Ask } else { At::Begin { pinned: None } };
        state.add_task(Task { attempt, authorisation, is_retry: false, at });
        true
    }

    /// The unique index says the same: of an order's payments one at most may be getting the money.
    fn is_other_open(&self, state: &State, payment: u8) -> bool {
        let others = state.payments.iter().enumerate().filter(|(other, _)| *other != usize::from(payment));
        let mut siblings = others.filter(|(other, _)| self.payments[*other] == self.payments[usize::from(payment)]);
        siblings.any(|(_, row)| row.status.0.is_open())
    }

    /// T2: what the resolver has found out is recorded, and the event with it.
    pub fn record(&self, state: &mut State, attempt: Attempt, authorisation: u8, outcome: AttemptOutcome) {
        let attempt_there = rules::provider_attempt(attempt, authorisation);
        let report = rules::report(outcome, false, true);
        self.change(state, attempt, authorisation, &Action::Report { attempt: attempt_there, report });
    }

    /// One transaction of change_payments.rs. Returns whether anything has changed.
    pub fn change(&self, state: &mut State, attempt: Attempt, authorisation: u8, action: &Action) -> bool {
        let payment = attempt.payment;
        let now = state.now[self.order_of(payment)];
        let row = &state.payments[usize::from(payment)];
        let changes = rules::decide_payment(row, payment, action, self.frees_coupon(), false, now).unwrap_or_default();
        for change in &changes {
            let is_forgotten = self.mutation == Some(Mutation::UndoIsNotWrittenDown) && *change == Change::Undo;
            if !is_forgotten {
                rules::change_payment(&mut state.payments[usize::from(payment)], payment, change, now);
            }
            match change {
                Change::ReturnDuplicate { .. } => {
                    state.authorisations[usize::from(authorisation)].is_duplicate_capture = true;
                }
                // The resolver is made to look, and has it undone.
                Change::AskNow => self.begin_undo(state, attempt, authorisation),
                Change::Begin { .. }
                | Change::Note { .. }
                | Change::Move { .. }
                | Change::Announce { .. }
                | Change::Follow { .. }
                | Change::Request
                | Change::Undo => {}
            }
        }
        !changes.is_empty()
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
            (At::Begin { pinned: None }, answer) => Some(At::Pin { begun: Some(reserved(answer)) }),
            (At::Pin { begun: None }, answer) => Some(At::Begin { pinned: Some(reserved(answer)) }),
            (At::Begin { pinned: Some(pinned) }, answer) => self.after_pinning(task, reserved(answer).and(pinned)),
            (At::Pin { begun: Some(begun) }, answer) => self.after_pinning(task, begun.and(reserved(answer))),
            (At::PinCoupon { reserved: others }, answer) => after_reserving(task, others.and(reserved(answer))),
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
            (At::Unpin, Some(Reply::Hold { .. })) if self.frees_coupon() => Some(At::UnpinCoupon),
            (At::Unpin | At::UnpinCoupon, Some(Reply::Hold { .. })) => Some(At::ClearRelease),
            (At::End { .. }, Some(Reply::Done)) if self.frees_order_last() => Some(At::ClearRelease),
            // Paid meanwhile: the pin is the sale's now.
            (At::End { .. }, Some(Reply::Done)) if self.is_order_paid(state, task) => Some(At::ClearRelease),
            (At::End { .. }, Some(Reply::Done)) => Some(At::Unpin),
            (At::MarkPaid | At::MarkPaidAgain | At::MarkPaidWithoutCoupon | At::MarkPaidLate, Some(Reply::Done)) => {
                Some(At::ClearOrder)
            }
            (At::MarkPaid, Some(Reply::Refused(code))) if not_payable(&code) => Some(At::Retake),
            (At::Retake, Some(Reply::Hold { .. })) if self.has_coupon => Some(At::RetakeCoupon),
            (At::Retake | At::RetakeCoupon, Some(Reply::Hold { .. })) => Some(At::MarkPaidLate),
            (At::RetakeCoupon, Some(Reply::Refused(_))) => Some(At::MarkPaidWithoutCoupon),
            (At::Retake, Some(Reply::Refused(_))) => Some(At::MarkPaidAgain),
            (At::MarkPaidAgain, Some(Reply::Refused(code))) if not_payable(&code) => Some(At::OweRefund),
            (At::MarkPaidLate | At::MarkPaidWithoutCoupon, Some(Reply::Refused(code))) if not_payable(&code) => {
                Some(At::EndAgain { hold_expires: None })
            }
            (At::EndAgain { .. }, Some(Reply::Done)) if self.is_order_paid(state, task) => Some(At::OweRefund),
            (At::EndAgain { .. }, Some(Reply::Done)) => Some(At::UnpinAgain),
            (At::UnpinAgain, Some(Reply::Hold { .. })) if self.frees_coupon() => Some(At::UnpinCouponAgain),
            (At::UnpinAgain | At::UnpinCouponAgain, Some(Reply::Hold { .. })) => Some(At::OweRefund),
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
                    Heard::NotCaptured | Heard::NotSent => AttemptOutcome::NotCaptured,
                    Heard::Nothing => AttemptOutcome::Unknown,
                };
                let is_believed = self.mutation == Some(Mutation::OneOfTwoIsBelieved);
                let report = rules::report(outcome, heard == Heard::NotCaptured, is_believed);
                let attempt = rules::provider_attempt(task.attempt, task.authorisation);
                self.change(state, task.attempt, task.authorisation, &Action::Report { attempt, report });
                self.take_steps(state, payment);
            }
            At::Withdraw(why) => {
                self.withdraw(state, task, why);
                self.take_steps(state, payment);
            }
            At::Request => {
                let attempt = rules::provider_attempt(task.attempt, task.authorisation);
                if self.change(state, task.attempt, task.authorisation, &Action::RequestAgain { attempt }) {
                    state.add_task(Task { at: At::Ask, ..task });
                }
            }
            At::NoteAbsence => self.give_up(state, task.attempt, task.authorisation),
            At::OweRefund => {
                owe_refund(state, payment);
                clear(state, task);
            }
            At::ClearRelease | At::ClearOrder => clear(state, task),
            _ => {}
        }
    }

    /// Somebody does what is to be done because of a payment, at once or in the loop.
    pub fn take_steps(&self, state: &mut State, payment: u8) {
        let row = &state.payments[usize::from(payment)];
        let Some(number) = row.attempt else { return };
        let at = match row.steps.first() {
            Some(Step::FreeOrder | Step::FreeHold | Step::FreeCoupon) if self.frees_order_last() => At::Unpin,
            // Who may try again gets the time for it.
            Some(Step::FreeOrder | Step::FreeHold | Step::FreeCoupon) if row.status.0 == Status::Pending => {
                At::End { hold_expires: Some(state.now[self.order_of(payment)] + 1) }
            }
            Some(Step::FreeOrder | Step::FreeHold | Step::FreeCoupon) => At::End { hold_expires: None },
            Some(Step::PayOrder) => At::MarkPaid,
            None => return,
        };
        let attempt = Attempt { payment, number };
        state.add_task(Task { attempt, authorisation: row.authorisation, is_retry: false, at });
    }

    fn is_order_paid(&self, state: &State, task: Task) -> bool {
        state.orders[self.order_of(task.attempt.payment)].as_ref().is_some_and(|order| order.paid_by.is_some())
    }

    /// Order and hold have been asked; the coupon is next, where there is one.
    fn after_pinning(&self, task: Task, reserved: Reserved) -> Option<At> {
        if self.has_coupon && self.mutation != Some(Mutation::CouponIsNotPinned) {
            return Some(At::PinCoupon { reserved });
        }
        after_reserving(task, reserved)
    }

    fn frees_coupon(&self) -> bool {
        self.has_coupon && self.mutation != Some(Mutation::CouponIsNotFreed)
    }

    pub fn frees_order_last(&self) -> bool {
        self.mutation == Some(Mutation::HoldIsUnpinnedFirst)
    }

    /// An attempt was refused before the provider was asked.
    fn withdraw(&self, state: &mut State, task: Task, why: Why) {
        let reason = match why {
            Why::HoldExpired => HOLD_EXPIRED.reason.into_owned(),
            Why::RedemptionEnded => REDEMPTION_ENDED.reason.into_owned(),
            Why::NotPayable => ORDER_NOT_PAYABLE.reason.into_owned(),
            Why::Other => "UNAVAILABLE".to_owned(),
        };
        let is_believed = self.mutation == Some(Mutation::OneOfTwoIsBelieved);
        let row = &mut state.payments[usize::from(task.attempt.payment)];
        let is_asked = row.is_asked;
        row.is_asked &= !is_believed;
        let attempt = rules::provider_attempt(task.attempt, task.authorisation);
        self.change(state, task.attempt, task.authorisation, &Action::Withdraw { attempt, reason });
        state.payments[usize::from(task.attempt.payment)].is_asked = is_asked;
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
        let owes_order = row.steps.contains(&Step::PayOrder) && self.mutation != Some(Mutation::MoneyGoesBackFirst);
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

fn reserved(answer: Option<Reply>) -> Reserved {
    match answer {
        Some(Reply::Refused(code)) if code == HOLD_EXPIRED => Reserved::Refused(Why::HoldExpired),
        Some(Reply::Refused(code)) if code == REDEMPTION_ENDED => Reserved::Refused(Why::RedemptionEnded),
        Some(Reply::Refused(code)) if code == ORDER_NOT_PAYABLE => Reserved::Refused(Why::NotPayable),
        Some(Reply::Refused(_)) => Reserved::Refused(Why::Other),
        Some(_) => Reserved::Done,
        None => Reserved::Unknown,
    }
}

/// All have been asked.
fn after_reserving(task: Task, reserved: Reserved) -> Option<At> {
    match reserved {
        Reserved::Done if task.is_retry => Some(At::Request),
        Reserved::Done => Some(At::Ask),
        Reserved::Refused(_) if task.is_retry => Some(At::NoteAbsence),
        Reserved::Unknown if task.is_retry => None,
        Reserved::Refused(why) => Some(At::Withdraw(why)),
        Reserved::Unknown => Some(At::Withdraw(Why::Other)),
    }
}

/// The steps that the task has done are done, and no others.
fn clear(state: &mut State, task: Task) {
    let row = &mut state.payments[usize::from(task.attempt.payment)];
    let are_these = row.steps.contains(&Step::PayOrder) == (task.at != At::ClearRelease);
    if row.attempt == Some(task.attempt.number) && are_these {
        row.steps = &[];
    }
}
