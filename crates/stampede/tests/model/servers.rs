//! What order, inventory, coupon and the provider do with a request or an event: one transaction each.

use common::Code;
use inventory::hold::{Effect, HoldState, Step};
use order::order::{Action, Change};

use crate::coupons;
use crate::protocol::{Mutation, Protocol};
use crate::rules;
use crate::state::{Attempt, Event, HoldRow, Refund, Request, Role, State, Tag};

/// What a caller hears if it hears anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Done,
    /// With the time until which the hold lives now.
    Hold {
        expires: u8,
    },
    Refused(Code),
    Captured,
    Declined,
}

impl Request {
    pub fn role(self) -> Role {
        match self {
            Request::BeginApproval(_) | Request::EndApproval { .. } | Request::MarkPaid { .. } => Role::Order,
            Request::PinHold { .. } | Request::UnpinHold(_) | Request::ReleaseHold { .. } => Role::Inventory,
            Request::PinCoupon { .. } | Request::UnpinCoupon(_) => Role::Inventory,
            Request::Approve { .. } | Request::Undo { .. } => Role::Provider,
        }
    }
}

impl Protocol {
    /// `declines`: what the provider decides if it is asked for the first time.
    pub fn serve(&self, state: &mut State, request: Request, declines: bool) -> Reply {
        match request {
            Request::BeginApproval(attempt) => {
                self.ask_order(state, self.order_of(attempt.payment), &rules::begin_approval(attempt))
            }
            Request::EndApproval { attempt, hold_expires } => {
                let order = self.order_of(attempt.payment);
                let attempt = match self.mutation {
                    Some(Mutation::ReleaseWithoutAttemptFence) => reserved_by(state, order).unwrap_or(attempt),
                    _ => attempt,
                };
                self.ask_order(state, order, &rules::end_approval(attempt, hold_expires))
            }
            Request::MarkPaid { payment, late } => {
                let action = Action::MarkPaid { bill: rules::bill(payment), late };
                self.ask_order(state, self.order_of(payment), &action)
            }
            Request::PinHold { attempt, retake } => {
                self.ask_inventory(state, self.order_of(attempt.payment), &rules::pin(attempt, retake))
            }
            Request::UnpinHold(attempt) => {
                let order = self.order_of(attempt.payment);
                let attempt = match self.mutation {
                    Some(Mutation::ReleaseWithoutAttemptFence) => pinned_by(state, order).unwrap_or(attempt),
                    _ => attempt,
                };
                self.ask_inventory(state, order, &rules::unpin(attempt))
            }
            Request::PinCoupon { attempt, retake } => {
                self.ask_coupon(state, self.order_of(attempt.payment), &coupons::pin(attempt, retake))
            }
            Request::UnpinCoupon(attempt) => {
                self.ask_coupon(state, self.order_of(attempt.payment), &coupons::unpin(attempt))
            }
            Request::ReleaseHold { order } => {
                let step = Step::Release { reason: String::new(), order_version: None };
                self.ask_inventory(state, usize::from(order), &step)
            }
            Request::Approve { attempt, authorisation } => self.capture(state, attempt, authorisation, declines),
            Request::Undo { authorisation } => {
                let book = &mut state.authorisations[usize::from(authorisation)];
                book.refunds = book.captures;
                Reply::Done
            }
        }
    }

    pub fn ask_order(&self, state: &mut State, order: usize, action: &Action) -> Reply {
        let now = state.now[order];
        let row = state.orders[order].as_mut().expect("payments are of orders that are there");
        let made = match rules::change_order(row, action, now, self.memory()) {
            Ok(made) => made,
            Err(code) => return Reply::Refused(code),
        };
        let id = u8::try_from(order).expect("two orders");
        let paid_by = row.paid_by;
        let mut news_of_coupon = Vec::new();
        for (change, version) in made {
            match change {
                Change::Pay => {
                    row.placed += 1;
                    row.paid_late |= matches!(action, Action::MarkPaid { late: true, .. });
                    state.events.push(Event::OrderPlaced { order: id, version });
                    news_of_coupon.push(Event::CouponOfPlaced { order: id, version });
                }
                Change::Cancel => {
                    state.events.push(Event::OrderCancelled { order: id, version });
                    news_of_coupon.push(Event::CouponOfEnded { order: id, version });
                }
                Change::RequestRefund => {
                    row.refund_wanted = true;
                    let payment = paid_by.expect("an order that is paid");
                    state.events.push(Event::OrderRefundRequested { payment });
                }
                Change::Refund => {
                    state.events.push(Event::OrderRefunded { order: id, version });
                    news_of_coupon.push(Event::CouponOfRefunded { order: id, version });
                }
                Change::AwaitPayment
                | Change::Reserve
                | Change::ReleaseReservation
                | Change::BlockAttempt
                | Change::BlockPayment => {}
            }
        }
        if self.has_coupon {
            state.events.extend(news_of_coupon);
        }
        state.events.sort();
        Reply::Done
    }

    pub fn ask_inventory(&self, state: &mut State, order: usize, step: &Step) -> Reply {
        let now = state.now[order];
        let row = state.holds[order].as_mut().expect("orders have holds");
        let effect = match rules::effect_of(row, step, now) {
            _ if self.confirms_anything(step) => Effect::Confirm,
            Ok(effect) => effect,
            Err(code) => return Reply::Refused(code),
        };
        if effect == Effect::Retake && state.on_hand - state.held < 1 {
            return Reply::Refused(contract::codes::OUT_OF_STOCK);
        }
        rules::apply(row, effect, step, now, self.memory());
        let (on_hand, held) = movement(effect);
        state.on_hand += on_hand;
        state.held += held;
        Reply::Hold { expires: row.expires }
    }

    fn confirms_anything(&self, step: &Step) -> bool {
        self.mutation == Some(Mutation::ConfirmWithoutStateCheck) && matches!(step, Step::Confirm { .. })
    }

    /// Asked again under the same key, a provider says the same again.
    fn capture(&self, state: &mut State, attempt: Attempt, authorisation: u8, declines: bool) -> Reply {
        let order = self.order_of(attempt.payment);
        let has_coupon =
            state.redemptions[order].as_ref().is_none_or(|row| row.pin.is_some_and(|pin| pin.attempt == attempt));
        let is_reserved =
            reserved_by(state, order) == Some(attempt) && pinned_by(state, order) == Some(attempt) && has_coupon;
        let book = &mut state.authorisations[usize::from(authorisation)];
        if book.captures > 0 {
            return Reply::Captured;
        }
        if book.declined || declines {
            book.declined = true;
            return Reply::Declined;
        }
        book.captures += 1;
        book.unreserved |= !is_reserved;
        Reply::Captured
    }

    /// Whether its consumer has taken it in.
    pub fn deliver(&self, state: &mut State, event: Event) -> bool {
        let of_coupon = match event {
            Event::CouponOfPlaced { order, version } => Some((order, coupons::confirm(version))),
            Event::CouponOfEnded { order, version } => Some((order, coupons::release(version))),
            Event::CouponOfRefunded { order, version } => Some((order, coupons::refund(version))),
            _ => None,
        };
        if let Some((order, step)) = of_coupon {
            return !matches!(self.ask_coupon(state, usize::from(order), &step), Reply::Refused(_));
        }
        let release = |version| Step::Release { reason: String::new(), order_version: Some(version) };
        let (order, step) = match event {
            Event::PaymentRefunded { payment } => {
                self.ask_order(state, self.order_of(payment), &rules::record_refund(payment));
                return true;
            }
            Event::OrderRefundRequested { payment } => {
                owe_refund(state, payment);
                return true;
            }
            Event::OrderPlaced { order, version } => (order, Step::Confirm { order_version: version.into() }),
            Event::OrderRefunded { order, version } => (order, Step::Refund { order_version: version.into() }),
            Event::OrderCancelled { order, version } | Event::OrderExpired { order, version } => {
                (order, release(version.into()))
            }
            Event::CouponOfPlaced { .. } | Event::CouponOfEnded { .. } | Event::CouponOfRefunded { .. } => {
                unreachable!("told to the coupon service")
            }
        };
        !matches!(self.ask_inventory(state, usize::from(order), &step), Reply::Refused(_))
    }

    /// The sweeper, or a buyer who is short of the unit.
    pub fn may_expire(&self, hold: &HoldRow, now: u8) -> bool {
        let is_pin_ignored = self.mutation == Some(Mutation::ExpiryIgnoresThePin);
        let is_lapsed_pin = hold.state == Tag(HoldState::Pinned) && hold.expires <= now;
        rules::is_overdue(hold, now) || is_pin_ignored && is_lapsed_pin
    }
}

/// Whether the provider may say no now, who has not decided yet.
pub fn may_decline(state: &State, request: Request) -> bool {
    let Request::Approve { authorisation, .. } = request else { return false };
    let book = &state.authorisations[usize::from(authorisation)];
    state.left.declines > 0 && book.captures == 0 && !book.declined
}

pub fn spend_decline(state: &mut State, request: Request, declines: bool) {
    if declines && may_decline(state, request) {
        state.left.declines -= 1;
    }
}

pub fn owe_refund(state: &mut State, payment: u8) {
    let row = &mut state.payments[usize::from(payment)];
    if row.refund == Refund::None {
        row.refund = Refund::Owed;
    }
}

pub fn reserved_by(state: &State, order: usize) -> Option<Attempt> {
    state.orders[order].as_ref().and_then(|row| row.reserved)
}

pub fn pinned_by(state: &State, order: usize) -> Option<Attempt> {
    state.holds[order].as_ref().and_then(|row| row.pin).map(|pin| pin.attempt)
}

/// On hand and held, as inventory's plan moves them.
fn movement(effect: Effect) -> (i8, i8) {
    match effect {
        Effect::Retake => (0, 1),
        Effect::Release => (0, -1),
        Effect::Confirm => (-1, -1),
        Effect::Return => (1, 0),
        Effect::ConfirmAndReturn => (0, -1),
        Effect::Pin | Effect::Unpin | Effect::BlockAttempt | Effect::Nothing | Effect::Tombstone => (0, 0),
    }
}
