//! Every status meets every action; and long random lives against a model that knows the promises and nothing else.

use std::collections::BTreeSet;

use chrono::Duration;
use proptest::prelude::*;

use super::*;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + Duration::days(20_000) + Duration::seconds(second)
}

fn payment(number: u8) -> PaymentId {
    PaymentId::derive(&[&[number]])
}

/// Attempts 1, 11, 21, ... are those of payment 1.
fn attempt(number: u8) -> PaymentAttemptId {
    PaymentAttemptId::derive(&[&[number]])
}

fn reservation(number: u8) -> Reservation {
    Reservation { payment: payment(number % 10), attempt: attempt(number) }
}

fn begin(number: u8) -> Action {
    Action::BeginApproval { bill: bill(number % 10), attempt: attempt(number) }
}

fn end(number: u8, hold_expires_at: Option<DateTime<Utc>>) -> Action {
    Action::EndApproval { attempt: attempt(number), hold_expires_at }
}

fn bill(number: u8) -> Bill {
    Bill { payment: payment(number), amount: 1000, currency: "KRW".to_owned() }
}

/// An order whose time is up at second 10, reserved for an attempt, paid by a payment.
fn order(status: Status, reserved: Option<u8>, paid: Option<u8>) -> Order {
    Order {
        id: OrderId::derive(&[b"1"]),
        user_id: AccountId::derive(&[b"1"]),
        status,
        version: 7,
        amount: 1000,
        currency: "KRW".to_owned(),
        fingerprint: Vec::new(),
        hold_expires_at: at(10),
        first_hold_expires_at: at(10),
        created_at: at(0),
        cancel_reason: None,
        reservation: reserved.map(reservation),
        ended_attempt_ids: Vec::new(),
        paid_payment_id: paid.map(payment),
        items: Vec::new(),
        shipping: None,
    }
}

/// Does all of `action`; what it changed, or the code of its refusal.
fn act(order: &mut Order, action: &Action, now: DateTime<Utc>) -> Result<&'static [Change], String> {
    let changes = order.decide(action, now).map_err(|refused| refused.code().reason.to_string())?;
    changes.iter().for_each(|change| order.take(*change, action));
    Ok(changes)
}

/// Asks the questions of payment 1 and its attempt 1, and a cancellation, at `second` of an order like `given`, and compares the answers with
/// those for BeginPayment, BeginApproval, EndApproval, MarkPaid, MarkPaid late, NoteRefund, Cancel.
#[track_caller]
fn check(given: &Order, second: i64, expected: [Result<&'static [Change], &str>; 7]) {
    let actions = [
        Action::BeginPayment(bill(1)),
        begin(1),
        end(1, Some(at(70))),
        Action::MarkPaid { bill: bill(1), late: false },
        Action::MarkPaid { bill: bill(1), late: true },
        Action::NoteRefund { payment: payment(1) },
        Action::Cancel { reason: "mind".to_owned() },
    ];
    for (action, expected) in actions.into_iter().zip(expected) {
        let mut order = given.clone();
        let outcome = act(&mut order, &action, at(second));
        assert_eq!(outcome, expected.map_err(str::to_owned), "{action:?}");
        let steps = outcome.map_or(0, <[Change]>::len);
        assert_eq!(order.version, given.version + i64::try_from(steps).unwrap(), "{action:?}");
        assert!(steps > 0 || order == *given, "{action:?}");
    }
}

const NOTHING: Result<&[Change], &str> = Ok(&[]);
const AWAIT: Result<&[Change], &str> = Ok(&[Change::AwaitPayment]);
const RESERVE: Result<&[Change], &str> = Ok(&[Change::Reserve]);
const FREE: Result<&[Change], &str> = Ok(&[Change::Free]);
const BAR: Result<&[Change], &str> = Ok(&[Change::Bar]);
const PAY: Result<&[Change], &str> = Ok(&[Change::Pay]);
const CANCEL: Result<&[Change], &str> = Ok(&[Change::Cancel]);
const REQUEST: Result<&[Change], &str> = Ok(&[Change::RequestRefund]);
const REFUND: Result<&[Change], &str> = Ok(&[Change::Refund]);
const PAY_REFUND: Result<&[Change], &str> = Ok(&[Change::Pay, Change::Refund]);
const NOT_PAYABLE: Result<&[Change], &str> = Err("ORDER_NOT_PAYABLE");
const NOT_CANCELLABLE: Result<&[Change], &str> = Err("ORDER_NOT_CANCELLABLE");
const HOLD_EXPIRED: Result<&[Change], &str> = Err("HOLD_EXPIRED");
const IN_PROGRESS: Result<&[Change], &str> = Err("PAYMENT_IN_PROGRESS");

#[test]
fn an_open_order_can_be_paid_or_cancelled_until_the_instant_its_time_is_up() {
    let due = [HOLD_EXPIRED, HOLD_EXPIRED, NOTHING, NOT_PAYABLE, PAY, NOTHING, NOT_CANCELLABLE];
    for (status, begun) in [(Status::Created, AWAIT), (Status::PendingPayment, NOTHING)] {
        let open = order(status, None, None);
        check(&open, 9, [begun, RESERVE, BAR, NOT_PAYABLE, PAY, NOTHING, CANCEL]);
        assert_eq!((open.status_at(at(9)), open.status_at(at(10))), (status, Status::Expired));
        check(&open, 10, due);
    }
    check(&order(Status::Expired, None, None), 9, due);
}

#[test]
fn a_reserved_order_belongs_to_one_attempt_whatever_the_time() {
    for (status, begun) in [(Status::Created, AWAIT), (Status::PendingPayment, NOTHING)] {
        for second in [9, 10, 1000] {
            let own = order(status, Some(1), None);
            check(&own, second, [begun, NOTHING, FREE, PAY, PAY, PAY_REFUND, IN_PROGRESS]);
            let other = order(status, Some(2), None);
            check(&other, second, [begun, IN_PROGRESS, BAR, NOT_PAYABLE, NOT_PAYABLE, NOTHING, IN_PROGRESS]);
            let earlier = order(status, Some(11), None);
            check(&earlier, second, [begun, IN_PROGRESS, BAR, PAY, PAY, PAY_REFUND, IN_PROGRESS]);
        }
    }
}

#[test]
fn an_attempt_that_has_ended_never_begins() {
    for status in [Status::Created, Status::PendingPayment] {
        let begun = if status == Status::Created { AWAIT } else { NOTHING };
        let mut overtaken = order(status, None, None);
        assert_eq!(act(&mut overtaken, &end(1, Some(at(70))), at(9)).unwrap(), [Change::Bar]);
        assert_eq!((overtaken.hold_expires_at, overtaken.reservation), (at(10), None), "its hold was never pinned");
        check(&overtaken, 9, [begun, IN_PROGRESS, NOTHING, NOT_PAYABLE, PAY, NOTHING, CANCEL]);
        check(&overtaken, 10, [HOLD_EXPIRED, HOLD_EXPIRED, NOTHING, NOT_PAYABLE, PAY, NOTHING, NOT_CANCELLABLE]);

        let mut next = overtaken.clone();
        assert_eq!(act(&mut next, &begin(11), at(9)).unwrap(), [Change::Reserve], "the payment may try again");
        assert_eq!(act(&mut next, &end(11, None), at(9)).unwrap(), [Change::Free]);
        assert_eq!(act(&mut next, &begin(11), at(9)).unwrap_err(), "PAYMENT_IN_PROGRESS");

        // The end of one attempt while another has the order.
        let mut reserved = order(status, Some(2), None);
        assert_eq!(act(&mut reserved, &end(1, Some(at(70))), at(1000)).unwrap(), [Change::Bar]);
        assert_eq!((reserved.hold_expires_at, reserved.reservation), (at(10), Some(reservation(2))));
        assert_eq!(act(&mut reserved, &end(1, Some(at(70))), at(1000)).unwrap(), []);
    }
}

#[test]
fn an_attempt_is_one_payments() {
    let mut order = order(Status::PendingPayment, Some(1), None);
    let stolen = Action::BeginApproval { bill: bill(2), attempt: attempt(1) };
    assert_eq!(act(&mut order, &stolen, at(0)).unwrap_err(), "PAYMENT_IN_PROGRESS");
}

#[test]
fn a_paid_order_is_paid_by_one_payment_and_ends_by_a_refund() {
    for second in [9, 10] {
        let own = |status| order(status, None, Some(1));
        check(&own(Status::Paid), second, [NOT_PAYABLE, NOT_PAYABLE, NOTHING, NOTHING, NOTHING, REFUND, REQUEST]);
        check(
            &own(Status::RefundPending),
            second,
            [NOT_PAYABLE, NOT_PAYABLE, NOTHING, NOTHING, NOTHING, REFUND, NOTHING],
        );
        check(&own(Status::Refunded), second, [NOT_PAYABLE, NOT_PAYABLE, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING]);
        for (status, cancelled) in
            [(Status::Paid, REQUEST), (Status::RefundPending, NOTHING), (Status::Refunded, NOTHING)]
        {
            let other = order(status, None, Some(2));
            check(&other, second, [NOT_PAYABLE, NOT_PAYABLE, NOTHING, NOT_PAYABLE, NOT_PAYABLE, NOTHING, cancelled]);
        }
        let cancelled = order(Status::Cancelled, None, None);
        check(&cancelled, second, [NOT_PAYABLE, NOT_PAYABLE, NOTHING, NOT_PAYABLE, NOT_PAYABLE, NOTHING, NOTHING]);
    }
}

#[test]
fn only_the_right_money_pays() {
    for wrong in [Bill { amount: 999, ..bill(1) }, Bill { currency: "USD".to_owned(), ..bill(1) }] {
        let open = order(Status::Created, None, None);
        let code = |action| act(&mut open.clone(), &action, at(0)).unwrap_err();
        assert_eq!(code(Action::BeginPayment(wrong.clone())), "AMOUNT_MISMATCH");
        assert_eq!(code(Action::BeginApproval { bill: wrong.clone(), attempt: attempt(1) }), "AMOUNT_MISMATCH");
        assert_eq!(code(Action::MarkPaid { bill: wrong.clone(), late: true }), "ORDER_NOT_PAYABLE");
        let details = open.decide(&Action::BeginPayment(wrong), at(0)).unwrap_err().details();
        assert_eq!(details, [json!({ "amount": 1000, "currency": "KRW" })]);
    }
}

#[test]
fn an_approval_that_came_to_nothing_leaves_the_later_of_two_times() {
    for (given, expected) in [(Some(at(70)), at(70)), (Some(at(5)), at(10)), (None, at(10))] {
        let mut order = order(Status::PendingPayment, Some(1), None);
        act(&mut order, &end(1, given), at(8)).unwrap();
        assert_eq!((order.hold_expires_at, order.reservation), (expected, None));
        assert_eq!(order.ended_attempt_ids, [attempt(1)]);
        assert_eq!(order.into_placed().hold_expires_at, at(10), "a replay says what the first answer said");
    }
}

#[test]
fn a_status_is_read_as_it_is_written() {
    for status in Status::ALL {
        assert_eq!(Status::parse(status.as_str()), Some(status));
        assert_eq!(json!(status), json!(status.as_str()));
    }
    assert_eq!(Status::parse("COMPLETED"), None);
}

/// What has been promised of an order, told apart from how it is decided.
#[derive(Debug, Default)]
struct Model {
    second: i64,
    /// When nobody pays.
    ends: i64,
    /// A payment has been prepared.
    awaited: bool,
    /// An attempt.
    reserved: Option<u8>,
    /// The attempts that were ended.
    barred: BTreeSet<u8>,
    /// A payment.
    payer: Option<u8>,
    cancelled: bool,
    swept: bool,
    asked_back: bool,
    given_back: bool,
}

impl Model {
    fn over(&self) -> bool {
        self.swept || (self.reserved.is_none() && self.ends <= self.second)
    }

    fn status(&self) -> Status {
        match () {
            () if self.given_back => Status::Refunded,
            () if self.asked_back => Status::RefundPending,
            () if self.payer.is_some() => Status::Paid,
            () if self.cancelled => Status::Cancelled,
            () if self.over() => Status::Expired,
            () if self.awaited => Status::PendingPayment,
            () => Status::Created,
        }
    }

    /// Whether it succeeds; how many versions it makes; what is announced.
    fn act(&mut self, step: Step) -> (bool, i64, Vec<Change>) {
        let ended = self.payer.is_some() || self.cancelled;
        let open = !ended && !self.over();
        match step {
            Step::BeginPayment if open => {
                let first = !std::mem::replace(&mut self.awaited, true);
                (true, i64::from(first), vec![])
            }
            Step::BeginApproval(by)
                if open && !self.barred.contains(&by) && self.reserved.is_none_or(|other| other == by) =>
            {
                let first = self.reserved.replace(by).is_none();
                (true, i64::from(first), vec![])
            }
            Step::EndApproval(by, ends) if open => {
                if self.reserved == Some(by) {
                    (self.reserved, self.ends) = (None, self.ends.max(ends));
                }
                let first = self.barred.insert(by);
                (true, i64::from(first), vec![])
            }
            Step::EndApproval(..) => (true, 0, vec![]),
            Step::MarkPaid(by, _) if self.payer == Some(by) => (true, 0, vec![]),
            Step::MarkPaid(by, late) if !ended && self.reserved.map_or(late, |attempt| attempt % 10 == by) => {
                (self.payer, self.reserved) = (Some(by), None);
                (true, 1, vec![Change::Pay])
            }
            Step::NoteRefund(by) if self.payer == Some(by) && !self.given_back => {
                self.given_back = true;
                (true, 1, vec![Change::Refund])
            }
            Step::NoteRefund(by) if self.reserved.is_some_and(|attempt| attempt % 10 == by) => {
                (self.payer, self.reserved, self.given_back) = (Some(by), None, true);
                (true, 2, vec![Change::Pay, Change::Refund])
            }
            Step::NoteRefund(_) => (true, 0, vec![]),
            Step::Cancel if self.cancelled || self.asked_back || self.given_back => (true, 0, vec![]),
            Step::Cancel if self.payer.is_some() => {
                self.asked_back = true;
                (true, 1, vec![Change::RequestRefund])
            }
            Step::Cancel if open && self.reserved.is_none() => {
                self.cancelled = true;
                (true, 1, vec![Change::Cancel])
            }
            Step::BeginPayment | Step::BeginApproval(_) | Step::MarkPaid(..) | Step::Cancel => (false, 0, vec![]),
            Step::Wait(_) | Step::Sweep => (true, 0, vec![]),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    BeginPayment,
    BeginApproval(u8),
    EndApproval(u8, i64),
    MarkPaid(u8, bool),
    NoteRefund(u8),
    Cancel,
    Wait(i64),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let by = 0_u8..3;
    let attempt = (by.clone(), 0_u8..2).prop_map(|(by, nth)| nth * 10 + by);
    prop_oneof![
        Just(Step::BeginPayment),
        attempt.clone().prop_map(Step::BeginApproval),
        attempt.clone().prop_map(Step::BeginApproval),
        (attempt, 0_i64..40).prop_map(|(by, ends)| Step::EndApproval(by, ends)),
        (by.clone(), any::<bool>()).prop_map(|(by, late)| Step::MarkPaid(by, late)),
        by.prop_map(Step::NoteRefund),
        Just(Step::Cancel),
        (0_i64..8).prop_map(Step::Wait),
        Just(Step::Sweep),
    ]
}

fn action(step: Step) -> Option<Action> {
    Some(match step {
        Step::BeginPayment => Action::BeginPayment(bill(0)),
        Step::BeginApproval(by) => begin(by),
        Step::EndApproval(by, ends) => end(by, Some(at(ends))),
        Step::MarkPaid(by, late) => Action::MarkPaid { bill: bill(by), late },
        Step::NoteRefund(by) => Action::NoteRefund { payment: payment(by) },
        Step::Cancel => Action::Cancel { reason: "mind".to_owned() },
        Step::Wait(_) | Step::Sweep => return None,
    })
}

fn is_announced(change: &Change) -> bool {
    match change {
        Change::Pay | Change::Cancel | Change::RequestRefund | Change::Refund => true,
        Change::AwaitPayment | Change::Reserve | Change::Free | Change::Bar => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_life_keeps_every_promise(steps in proptest::collection::vec(step(), 1..40)) {
        let mut order = order(Status::Created, None, None);
        let mut model = Model { ends: 10, ..Model::default() };
        let mut announced = Vec::new();
        for step in steps {
            match step {
                Step::Wait(seconds) => model.second += seconds,
                // As expire_orders.sql does it.
                Step::Sweep if order.status_at(at(model.second)) == Status::Expired => {
                    order.version += i64::from(order.status != Status::Expired);
                    order.status = Status::Expired;
                    model.swept = true;
                }
                _ => {}
            }
            let (version, now) = (order.version, at(model.second));
            let (succeeds, versions, told) = model.act(step);
            if let Some(action) = action(step) {
                let outcome = act(&mut order, &action, now);
                prop_assert_eq!(outcome.is_ok(), succeeds, "{:?} {:?}", step, outcome);
                let news: Vec<Change> = outcome.unwrap_or_default().iter().copied().filter(is_announced).collect();
                prop_assert_eq!(&news, &told, "{:?}", step);
                announced.extend(news);
            }
            prop_assert_eq!(order.version, version + versions, "{:?}", step);
            prop_assert_eq!(order.status_at(now), model.status(), "{:?}", step);
            prop_assert_eq!(order.reservation, model.reserved.map(reservation));
            prop_assert_eq!(order.paid_payment_id, model.payer.map(payment));
        }
        let times = |change| announced.iter().filter(|told| **told == change).count();
        prop_assert!(times(Change::Pay) <= 1 && times(Change::Refund) <= times(Change::Pay));
        prop_assert!(times(Change::Pay) + times(Change::Cancel) <= 1);
        prop_assert!(times(Change::RequestRefund) <= times(Change::Pay));
    }
}
