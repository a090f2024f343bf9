//! The model itself: which steps are possible in a state, and what each of them leaves.

use order::order::Action as OrderAction;
use payment::payment::AttemptOutcome;
use stateright::{Model, Property};

use crate::actions::{Action, Answer};
use crate::coupons;
use crate::flows::Fate;
use crate::properties::properties;
use crate::rules::{self, Memory, is_open, is_time_of_use};
use crate::servers::{may_decline, spend_decline};
use crate::state::{At, Authorisation, Budget, Click, Event, PaymentRow, Refund, Request, Role, State, Tag, Task};

/// A small world: its buyers, what they do, and what may go wrong.
#[derive(Debug, Clone)]
pub struct Protocol {
    /// The order of each payment. The first order is there at the beginning, the second is placed when there is a unit.
    pub payments: Vec<u8>,
    pub clicks: Vec<Click>,
    pub budget: Budget,
    /// At the beginning; the first order holds one.
    pub units: i8,
    /// Whether all orders want to use one and the same coupon.
    pub has_coupon: bool,
    /// How many may settle what one payment owes at the same time.
    pub settlers: usize,
    pub mutation: Option<Mutation>,
}

/// A mistake that the model must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    ApproveWithoutReservation,
    ReleaseWithoutAttemptFence,
    TimeoutIsAFailure,
    ExpiryIgnoresThePin,
    ConfirmWithoutStateCheck,
    /// What the provider has undone can be approved again under the same key, which is answered as before.
    UndoWhileItCanBePaid,
    /// A request that arrives after its end, and after the end of another attempt, reserves for nobody.
    OnlyTheLastEndIsRemembered,
    /// The approver, who was only slow, records what is being undone.
    UndoIsNotWrittenDown,
    /// The unit goes back on sale while its order can still be paid.
    HoldIsUnpinnedFirst,
    /// Two ask for the same attempt, and one of them was never sent.
    OneOfTwoIsBelieved,
    /// News of its return means nothing to an order that has not heard of the money yet, and is paid with it afterwards.
    MoneyGoesBackFirst,
    /// The provider is asked although the coupon may be gone.
    CouponIsNotPinned,
    /// An attempt that came to nothing keeps its pin of the coupon.
    CouponIsNotFreed,
    /// Late money takes a coupon that another order has.
    CouponIsTakenFromAnother,
    /// The same, where two settle what one payment owes: one gives the money back, the other has it pay.
    ReturnIsForgotten,
}

impl Protocol {
    pub fn memory(&self) -> Memory {
        match self.mutation {
            Some(Mutation::OnlyTheLastEndIsRemembered) => Memory::Last,
            Some(Mutation::MoneyGoesBackFirst | Mutation::ReturnIsForgotten) => Memory::NoReturns,
            _ => Memory::All,
        }
    }

    pub fn order_of(&self, payment: u8) -> usize {
        usize::from(self.payments[usize::from(payment)])
    }

    /// Nothing happens any more unless somebody wants something new.
    pub fn is_at_rest(&self, state: &State) -> bool {
        if !state.tasks.is_empty() || !state.events.is_empty() || !state.copies.is_empty() {
            return false;
        }
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        actions.into_iter().filter(|action| !action.is_wish()).all(|action| self.next_state(state, action).is_none())
    }

    fn payment_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (payment, row) in (0..).zip(&state.payments) {
            if row.refund == Refund::Owed {
                actions.push(Action::Refund { payment, is_answered: true });
                if state.left.lost_calls[Role::Provider as usize] > 0 {
                    actions.push(Action::Refund { payment, is_answered: false });
                }
            }
            let settling = |task: &&Task| task.attempt.payment == payment && task.is_settling();
            if !row.steps.is_empty() && state.tasks.iter().filter(settling).count() < self.settlers {
                actions.push(Action::TakeSteps { payment });
            }
            if state.left.regrets > 0 {
                actions.push(Action::CancelPayment { payment });
            }
            let is_payable = self.is_payable(state, payment);
            let is_allowed = match (is_slow(state, payment, row), is_payable) {
                (false, _) => true,
                (true, true) => state.left.overlaps > 0,
                (true, false) => state.left.zombies > 0,
            };
            let is_undoing = state.tasks.iter().any(|task| task.attempt.payment == payment && task.at == At::Undo);
            if row.status.0.is_open() && is_allowed && !is_undoing {
                actions.push(Action::Resolve { payment, answer: Answer::Clear });
                if state.left.unclear > 0 {
                    actions.push(Action::Resolve { payment, answer: Answer::Unclear });
                }
                if state.left.reviews > 0 && !is_payable {
                    actions.push(Action::Resolve { payment, answer: Answer::NeverClear });
                }
            }
        }
        for task in state.tasks.iter().filter(|task| state.left.waits > 0 && task.is_approving() && !task.is_retry) {
            actions.push(Action::TellToWait(task.attempt));
        }
        let duplicates = (0..)
            .zip(&state.authorisations)
            .filter(|(_, book)| book.is_duplicate_capture && book.refunds < book.captures);
        actions.extend(duplicates.map(|(authorisation, _)| Action::RefundDuplicateCapture { authorisation }));
        actions.extend((0..state.authorisations.len() as u8).map(|authorisation| Action::Reconcile { authorisation }));
    }

    fn task_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let mut before = None;
        for task in &state.tasks {
            if before == Some(task) {
                continue;
            }
            before = Some(task);
            for task in task.alternatives() {
                self.advances(state, task, actions);
            }
        }
    }

    fn advances(&self, state: &State, task: Task, actions: &mut Vec<Action>) {
        let Some(request) = task.request() else {
            actions.push(Action::Advance { task, fate: Fate::Answered, declines: false });
            return;
        };
        let is_losable = state.left.lost_calls[request.role() as usize] > 0;
        let is_late = state.left.late_copies > 0;
        for fate in Fate::ALL {
            let is_possible = match fate {
                Fate::Answered => true,
                Fate::Lost | Fate::Unanswered => is_losable,
                Fate::Delayed | Fate::Doubled => is_late,
            };
            if is_possible {
                actions.push(Action::Advance { task, fate, declines: false });
                if may_decline(state, request) && !matches!(fate, Fate::Lost | Fate::Delayed) {
                    actions.push(Action::Advance { task, fate, declines: true });
                }
            }
        }
    }

    fn arrive(&self, state: &mut State, request: Request, declines: bool) {
        let place = state.copies.iter().position(|copy| *copy == request).expect("a copy that was offered");
        state.copies.remove(place);
        spend_decline(state, request, declines);
        self.serve(state, request, declines);
    }

    fn advance_task(&self, state: &mut State, task: Task, fate: Fate, declines: bool) {
        let place = state
            .tasks
            .iter()
            .position(|other| other.alternatives().any(|alternative| alternative == task))
            .expect("a task that was offered");
        state.tasks.remove(place);
        if let Some(request) = task.request() {
            match fate {
                Fate::Answered => {}
                Fate::Lost | Fate::Unanswered => state.left.lost_calls[request.role() as usize] -= 1,
                Fate::Delayed | Fate::Doubled => state.left.late_copies -= 1,
            }
            spend_decline(state, request, declines);
        }
        self.advance(state, task, fate, declines);
    }

    fn place(&self, state: &mut State) {
        state.holds[1] = Some(rules::new_hold());
        state.orders[1] = Some(rules::placed_order());
        state.held += 1;
        if self.has_coupon {
            self.expire_coupon(state, 0);
            state.redemptions[1] = Some(coupons::reserved());
        }
    }

    fn expire_order(&self, state: &mut State, order: u8) {
        let row = state.orders[usize::from(order)].as_mut().expect("an order that was offered");
        row.status = Tag(order::status::Status::Expired);
        row.version += 1;
        let version = row.version;
        state.publish(Event::OrderExpired { order, version });
        if self.has_coupon {
            state.publish(Event::CouponOfEnded { order, version });
        }
    }

    fn cancel(&self, state: &mut State, order: u8) {
        let before = state.orders[usize::from(order)].clone();
        self.ask_order(state, usize::from(order), &OrderAction::Cancel { reason: String::new() });
        let is_cancelled = |event: &Event| matches!(event, Event::OrderCancelled { order: it, .. } if *it == order);
        if state.orders[usize::from(order)] != before {
            state.left.cancellations -= 1;
            if state.events.iter().any(is_cancelled) && state.left.late_copies > 0 {
                state.left.late_copies -= 1;
                state.leave_copy(Request::ReleaseHold { order });
            }
        }
    }
}

/// Whether somebody is still at the attempt under way, who is only slow.
fn is_slow(state: &State, payment: u8, row: &PaymentRow) -> bool {
    let mut tasks = state.tasks.iter();
    let mut copies = state.copies.iter();
    tasks.any(|task| task.attempt.payment == payment && Some(task.attempt.number) == row.attempt && task.is_approving())
        || copies.any(|copy| matches!(copy, Request::Approve { attempt, .. } if attempt.payment == payment))
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let authorisations = self.clicks.iter().map(|click| usize::from(click.authorisation) + 1).max().unwrap_or(0);
        let payment = PaymentRow {
            status: Tag(payment::payment::Status::Pending),
            attempts: 0,
            attempt: None,
            authorisation: 0,
            is_asked: false,
            absent: false,
            undone: false,
            expires: 1,
            steps: &[],
            refund: Refund::None,
        };
        vec![State {
            now: [0; 2],
            on_hand: self.units,
            held: 1,
            orders: [Some(rules::placed_order()), None],
            holds: [Some(rules::new_hold()), None],
            redemptions: [self.has_coupon.then(coupons::reserved), None],
            payments: vec![payment; self.payments.len()],
            authorisations: vec![Authorisation::default(); authorisations],
            clicked: 0,
            tasks: Vec::new(),
            events: Vec::new(),
            copies: Vec::new(),
            left: self.budget,
            stuck: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let is_missing = self.payments.contains(&1) && state.orders[1].is_none();
        if is_missing && state.on_hand > state.held && self.is_coupon_free(state) {
            actions.push(Action::Place);
        }
        for (click, wish) in (0..).zip(&self.clicks) {
            let order = state.orders[self.order_of(wish.payment)].as_ref();
            if state.clicked & 1 << click == 0 && order.is_some_and(is_open) {
                actions.push(Action::Click { click });
            }
        }
        for order in 0..2u8 {
            let place = usize::from(order);
            let (Some(row), Some(hold)) = (&state.orders[place], &state.holds[place]) else { continue };
            let now = state.now[place];
            let redemption = state.redemptions[place].as_ref();
            if is_time_of_use(row, hold, now) || redemption.is_some_and(|row| coupons::is_time_of_use(row, now)) {
                actions.push(Action::Tick { order });
            }
            if rules::is_due(row, now) {
                actions.push(Action::ExpireOrder { order });
            }
            if self.may_expire(hold, now) {
                actions.push(Action::ExpireHold { order });
            }
            if redemption.is_some_and(|row| coupons::is_overdue(row, now)) {
                actions.push(Action::ExpireCoupon { order });
            }
            if state.left.cancellations > 0 {
                actions.push(Action::Cancel { order });
            }
        }
        self.payment_actions(state, actions);
        self.task_actions(state, actions);
        if state.left.crashes > 0 && !state.tasks.is_empty() {
            actions.push(Action::Crash);
        }
        actions.extend(state.events.iter().map(|event| Action::Deliver(*event)));
        for request in &state.copies {
            actions.push(Action::Arrive { request: *request, declines: false });
            if may_decline(state, *request) {
                actions.push(Action::Arrive { request: *request, declines: true });
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Place => self.place(&mut state),
            Action::Click { click } => {
                let Click { payment, authorisation } = self.clicks[usize::from(click)];
                if self.begin_attempt(&mut state, payment, authorisation) {
                    state.clicked |= 1 << click;
                }
            }
            Action::Cancel { order } => self.cancel(&mut state, order),
            Action::CancelPayment { payment } => {
                self.cancel_payment(&mut state, payment);
                state.left.regrets -= u8::from(state != *last);
            }
            Action::Tick { order } => state.now[usize::from(order)] += 1,
            Action::ExpireOrder { order } => self.expire_order(&mut state, order),
            Action::ExpireHold { order } => {
                let hold = state.holds[usize::from(order)].as_mut().expect("a hold that was offered");
                hold.state = Tag(inventory::hold::HoldState::Expired);
                hold.pin = None;
                state.held -= 1;
            }
            Action::ExpireCoupon { order } => self.expire_coupon(&mut state, usize::from(order)),
            Action::Advance { task, fate, declines } => self.advance_task(&mut state, task, fate, declines),
            Action::Crash => {
                state.tasks.clear();
                state.left.crashes -= 1;
            }
            Action::TakeSteps { payment } => self.take_steps(&mut state, payment),
            Action::Resolve { payment, answer } => {
                let is_slow = is_slow(&state, payment, &state.payments[usize::from(payment)]);
                self.resolve(&mut state, payment, answer);
                if state == *last && answer == Answer::Clear {
                    return None;
                }
                let is_payable = self.is_payable(&state, payment);
                state.left.overlaps -= u8::from(is_slow && is_payable);
                state.left.zombies -= u8::from(is_slow && !is_payable);
                state.left.unclear -= u8::from(answer == Answer::Unclear);
                state.left.reviews -= u8::from(answer == Answer::NeverClear);
            }
            Action::Refund { payment, is_answered } => {
                self.refund(&mut state, payment, is_answered);
                state.left.lost_calls[Role::Provider as usize] -= u8::from(!is_answered);
            }
            Action::TellToWait(attempt) => {
                let authorisation = state.payments[usize::from(attempt.payment)].authorisation;
                self.record(&mut state, attempt, authorisation, AttemptOutcome::Unknown);
                if state != *last {
                    state.left.waits -= 1;
                }
            }
            Action::RefundDuplicateCapture { authorisation } => {
                state.authorisations[usize::from(authorisation)].refunds = 1
            }
            Action::Reconcile { authorisation } => self.reconcile(&mut state, authorisation),
            Action::Deliver(event) => {
                state.events.retain(|other| *other != event);
                state.stuck |= !self.deliver(&mut state, event);
            }
            Action::Arrive { request, declines } => self.arrive(&mut state, request, declines),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        properties()
    }
}
