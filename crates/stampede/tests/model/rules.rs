//! The rows of the model are put before the services' own rules here, and nothing is decided that those decide.

use chrono::{DateTime, Duration, TimeDelta, Utc};
use common::{Code, Refusal};
use contract::ids::{PaymentAttemptId, PaymentId};
use inventory::hold::{self, Effect, Hold, HoldLine, HoldState, Step};
use order::order::{Action, Bill, Change, Order, Reservation};
use order::status::Status;
use payment::payment::{Action as PaymentAction, Change as PaymentChange};
use payment::payment::{Approval, AttemptOutcome, AttemptReport, Facts, Limits, Method, Payment, Refused};
use payment::provider::Attempt as ProviderAttempt;
use uuid::Uuid;

use crate::state::{Attempt, HoldRow, OrderRow, PaymentRow, Pin, Tag};

const AMOUNT: i64 = 1_000;
const CURRENCY: &str = "KRW";

/// The least that is left of a hold after a pin came to nothing, and the distance of two deadlines.
pub const TICK: Duration = Duration::hours(1);

/// The instant at which `ticks` deadlines have passed.
pub fn at(ticks: u8) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TICK * i32::from(ticks)
}

pub fn ticks(time: DateTime<Utc>) -> u8 {
    u8::try_from((time - DateTime::UNIX_EPOCH).num_hours()).expect("few deadlines")
}

fn payment_id(payment: u8) -> PaymentId {
    Uuid::from_u128(u128::from(payment)).into()
}

pub fn attempt_id(attempt: Attempt) -> PaymentAttemptId {
    Uuid::from_u128(u128::from(attempt.payment) << 8 | u128::from(attempt.number)).into()
}

pub fn attempt(id: PaymentAttemptId) -> Attempt {
    let [number, payment, ..] = id.uuid().as_u128().to_le_bytes();
    Attempt { payment, number }
}

fn payment(id: PaymentId) -> u8 {
    let [payment, ..] = id.uuid().as_u128().to_le_bytes();
    payment
}

pub fn bill(payment: u8) -> Bill {
    Bill { payment: payment_id(payment), amount: AMOUNT, currency: CURRENCY.to_owned() }
}

pub fn begin_approval(attempt: Attempt) -> Action {
    Action::BeginApproval { bill: bill(attempt.payment), attempt: attempt_id(attempt) }
}

pub fn end_approval(attempt: Attempt, hold_expires: Option<u8>) -> Action {
    Action::EndApproval { attempt: attempt_id(attempt), hold_expires_at: hold_expires.map(at) }
}

pub fn record_refund(payment: u8) -> Action {
    Action::RecordRefund { payment: payment_id(payment) }
}

pub fn pin(attempt: Attempt, retake: bool) -> Step {
    Step::Pin { attempt: attempt_id(attempt), retake }
}

pub fn unpin(attempt: Attempt) -> Step {
    Step::Unpin { attempt: attempt_id(attempt), lives_min: TICK }
}

/// As `POST /orders` and `POST /payments/prepare` leave it, at the beginning of its clock.
pub fn placed_order() -> OrderRow {
    OrderRow {
        status: Tag(Status::PendingPayment),
        version: 2,
        reserved: None,
        ended: Vec::new(),
        paid_by: None,
        returned: Vec::new(),
        expires: 1,
        placed: 0,
        paid_late: false,
        refund_wanted: false,
    }
}

pub fn new_hold() -> HoldRow {
    HoldRow { state: Tag(HoldState::Held), expires: 1, pin: None, ended: Vec::new(), order_version: None }
}

/// How many ended attempts an order, a hold and a redemption remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    Last,
    All,
    /// All, but not whose money has gone back.
    NoReturns,
}

pub fn remembered(ended: &[PaymentAttemptId], memory: Memory) -> Vec<Attempt> {
    let ended = match memory {
        Memory::Last => &ended[ended.len().saturating_sub(1)..],
        Memory::All | Memory::NoReturns => ended,
    };
    ended.iter().copied().map(attempt).collect()
}

fn order(row: &OrderRow) -> Order {
    let reservation =
        |attempt: Attempt| Reservation { payment: payment_id(attempt.payment), attempt: attempt_id(attempt) };
    Order {
        id: Uuid::nil().into(),
        user_id: Uuid::nil().into(),
        status: row.status.0,
        version: i64::from(row.version),
        amount: AMOUNT,
        currency: CURRENCY.to_owned(),
        coupon_issue_id: None,
        fingerprint: Vec::new(),
        hold_expires_at: at(row.expires),
        first_hold_expires_at: at(1),
        created_at: at(0),
        cancel_reason: None,
        reservation: row.reserved.map(reservation),
        ended_attempt_ids: row.ended.iter().copied().map(attempt_id).collect(),
        paid_payment_id: row.paid_by.map(payment_id),
        returned_payment_ids: row.returned.iter().copied().map(payment_id).collect(),
        items: Vec::new(),
        shipping: None,
    }
}

/// Whether the sweep would find it at `now`.
pub fn is_due(row: &OrderRow, now: u8) -> bool {
    order(row).status_at(at(now)) != row.status.0
}

pub fn is_open(order: &OrderRow) -> bool {
    matches!(order.status.0, Status::Created | Status::PendingPayment)
}

/// Whether a deadline is still to come that anything waits for.
pub fn is_time_of_use(order: &OrderRow, hold: &HoldRow, now: u8) -> bool {
    is_open(order) && order.expires > now
        || hold.state == Tag(HoldState::Held) && hold.expires > now
        || hold.pin.is_some() && hold.expires > now
        || now == 0
}

/// What `action` changes in `row`, each with the version that it makes.
pub fn change_order(row: &mut OrderRow, action: &Action, now: u8, memory: Memory) -> Result<Vec<(Change, u8)>, Code> {
    let mut order = order(row);
    let changes = order.decide(action, at(now)).map_err(|refused| refused.code())?;
    let mut made = Vec::new();
    for change in changes {
        order.apply(*change, action);
        made.push((*change, u8::try_from(order.version).expect("few versions")));
    }
    row.status = Tag(order.status);
    row.version = u8::try_from(order.version).expect("few versions");
    row.expires = ticks(order.hold_expires_at);
    row.reserved = order.reservation.map(|reservation| attempt(reservation.attempt));
    row.ended = remembered(&order.ended_attempt_ids, memory);
    row.paid_by = order.paid_payment_id.map(payment);
    if memory != Memory::NoReturns {
        row.returned = order.returned_payment_ids.into_iter().map(payment).collect();
    }
    Ok(made)
}

fn hold(row: &HoldRow) -> Hold {
    let line = HoldLine {
        product: Uuid::nil().into(),
        quantity: 1,
        unit_price: AMOUNT,
        currency: CURRENCY.to_owned(),
        sku: String::new(),
        name: String::new(),
        seats: Vec::new(),
    };
    Hold {
        id: Uuid::nil().into(),
        user: Some(Uuid::nil().into()),
        state: row.state.0,
        expires_at: at(row.expires),
        pin: row.pin.map(|pin| hold::Pin { attempt: attempt_id(pin.attempt), late: pin.late }),
        unpinned_by: row.ended.iter().copied().map(attempt_id).collect(),
        order_version: row.order_version.map(i64::from),
        concert: None,
        moved_to: None,
        lines: vec![line],
    }
}

/// Whether the sweeper, or a buyer who is short of units, would find it at `now`.
pub fn is_overdue(row: &HoldRow, now: u8) -> bool {
    hold(row).is_due(at(now))
}

/// What `step` comes to, before it is applied.
pub fn effect_of(row: &HoldRow, step: &Step, now: u8) -> Result<Effect, Code> {
    let hold = hold(row);
    hold::effect_of(step, hold.id, Some(&hold), at(now)).map_err(|refused| refused.code())
}

pub fn apply(row: &mut HoldRow, effect: Effect, step: &Step, now: u8, memory: Memory) {
    let mut hold = hold(row);
    hold::apply(effect, step, &mut hold, at(now));
    row.state = Tag(hold.state);
    row.expires = ticks(hold.expires_at);
    row.pin = hold.pin.map(|pin| Pin { attempt: attempt(pin.attempt), late: pin.late });
    row.ended = remembered(&hold.unpinned_by, memory);
    row.order_version = hold.order_version.map(|version| u8::try_from(version).expect("few versions"));
}

/// Who wants how many attempts is not what the model is about, and time passes whenever it likes.
const LIMITS: Limits = Limits { attempts_per_order_max: i64::MAX, head_start: TimeDelta::zero(), retry_time: TICK };

fn payment_of(row: &PaymentRow, id: u8, has_coupon: bool) -> Payment {
    let captured = if row.status.0.is_captured() { AMOUNT } else { 0 };
    Payment {
        id: payment_id(id),
        order_id: Uuid::nil().into(),
        user_id: Uuid::nil().into(),
        method: Method::NaverPay,
        amount: AMOUNT,
        currency: CURRENCY.to_owned(),
        fingerprint: Vec::new(),
        status: row.status.0,
        version: i64::from(row.attempts),
        attempt_id: row.attempt.map(|number| attempt_id(Attempt { payment: id, number })),
        pg_payment_id: row.attempt.map(|_| row.authorisation.to_string()),
        captured,
        refunded: 0,
        expires_at: at(row.expires),
        approving_since: None,
        requested_at: None,
        ask_at: None,
        asked: i32::from(row.is_asked),
        absent_since: row.absent.then(|| at(0)),
        undo_at: row.undone.then(|| at(0)),
        created_at: at(0),
        updated_at: at(0),
        coupon_issue_id: has_coupon.then(|| Uuid::nil().into()),
    }
}

/// The attempt as the provider is asked for it.
pub fn provider_attempt(attempt: Attempt, authorisation: u8) -> ProviderAttempt {
    ProviderAttempt {
        id: attempt_id(attempt),
        key: String::new(),
        payment: payment_id(attempt.payment),
        user: Uuid::nil().into(),
        pg_payment_id: authorisation.to_string(),
        amount: AMOUNT,
        currency: CURRENCY.to_owned(),
    }
}

pub fn approve(authorisation: u8) -> PaymentAction {
    let pg_payment_id = Some(authorisation.to_string());
    PaymentAction::Approve(Approval { user: Uuid::nil().into(), amount: AMOUNT, pg_payment_id })
}

pub fn report(outcome: AttemptOutcome, is_declined: bool, is_proof: bool) -> AttemptReport {
    AttemptReport { outcome, is_declined, is_proof, ..AttemptReport::unknown("", "") }
}

/// What `action` changes in the payment `id` whose row is `row`.
pub fn decide_payment(
    row: &PaymentRow,
    id: u8,
    action: &PaymentAction,
    has_coupon: bool,
    is_other_open: bool,
    now: u8,
) -> Result<Vec<PaymentChange>, Refused> {
    let facts = Facts { is_other_open, has_steps: !row.steps.is_empty(), ..Facts::default() };
    payment_of(row, id, has_coupon).decide(action, facts, LIMITS, at(now))
}

/// Makes `change` in the row of the payment `id`.
pub fn change_payment(row: &mut PaymentRow, id: u8, change: &PaymentChange, now: u8) {
    let mut payment = payment_of(row, id, false);
    payment.apply(change, at(now));
    row.status = Tag(payment.status);
    row.attempt = match change {
        // Its id is made of a hash; here it is the next number.
        PaymentChange::Begin { .. } => {
            row.attempts += 1;
            Some(row.attempts)
        }
        _ => payment.attempt_id.map(|id| attempt(id).number),
    };
    row.authorisation = payment.pg_payment_id.map_or(0, |name| name.parse().expect("a number"));
    row.is_asked = payment.asked > 0;
    row.absent = payment.absent_since.is_some();
    row.undone = payment.undo_at.is_some();
    row.expires = ticks(payment.expires_at);
    if let PaymentChange::Follow { steps, .. } = change {
        row.steps = steps;
    }
}
