//! Every action on an order of every status.

mod histories;

use chrono::Duration;

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
        coupon_issue_id: None,
        fingerprint: Vec::new(),
        hold_expires_at: at(10),
        first_hold_expires_at: at(10),
        created_at: at(0),
        cancel_reason: None,
        reservation: reserved.map(reservation),
        ended_attempt_ids: Vec::new(),
        returned_payment_ids: Vec::new(),
        paid_payment_id: paid.map(payment),
        items: Vec::new(),
        shipping: None,
    }
}

/// Does `action`. Returns what it changed, or the code of its refusal.
fn act(order: &mut Order, action: &Action, now: DateTime<Utc>) -> Result<&'static [Change], String> {
    let changes = order.decide(action, now).map_err(|refused| refused.code().reason.to_string())?;
    changes.iter().for_each(|change| order.apply(*change, action));
    Ok(changes)
}

/// Tries every action of payment 1 and its attempt 1, and a cancellation, at `second` on an order like `given`. `expected` is
/// for BeginPayment, BeginApproval, EndApproval, MarkPaid, late MarkPaid, RecordRefund, Cancel.
#[track_caller]
fn check(given: &Order, second: i64, expected: [Result<&'static [Change], &str>; 7]) {
    let actions = [
        Action::BeginPayment(bill(1)),
        begin(1),
        end(1, Some(at(70))),
        Action::MarkPaid { bill: bill(1), late: false },
        Action::MarkPaid { bill: bill(1), late: true },
        Action::RecordRefund { payment: payment(1) },
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
const RELEASE: Result<&[Change], &str> = Ok(&[Change::ReleaseReservation]);
const BLOCK: Result<&[Change], &str> = Ok(&[Change::BlockAttempt]);
const BLOCK_PAYMENT: Result<&[Change], &str> = Ok(&[Change::BlockPayment]);
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
    let due = [HOLD_EXPIRED, HOLD_EXPIRED, NOTHING, NOT_PAYABLE, PAY, BLOCK_PAYMENT, NOT_CANCELLABLE];
    for (status, begun) in [(Status::Created, AWAIT), (Status::PendingPayment, NOTHING)] {
        let open = order(status, None, None);
        check(&open, 9, [begun, RESERVE, BLOCK, NOT_PAYABLE, PAY, BLOCK_PAYMENT, CANCEL]);
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
            check(&own, second, [begun, NOTHING, RELEASE, PAY, PAY, PAY_REFUND, IN_PROGRESS]);
            let other = order(status, Some(2), None);
            check(&other, second, [begun, IN_PROGRESS, BLOCK, NOT_PAYABLE, NOT_PAYABLE, BLOCK_PAYMENT, IN_PROGRESS]);
            let earlier = order(status, Some(11), None);
            check(&earlier, second, [begun, IN_PROGRESS, BLOCK, PAY, PAY, PAY_REFUND, IN_PROGRESS]);
        }
    }
}

#[test]
fn an_attempt_that_has_ended_never_begins() {
    for status in [Status::Created, Status::PendingPayment] {
        let begun = if status == Status::Created { AWAIT } else { NOTHING };
        let mut overtaken = order(status, None, None);
        assert_eq!(act(&mut overtaken, &end(1, Some(at(70))), at(9)).unwrap(), [Change::BlockAttempt]);
        assert_eq!(
            (overtaken.hold_expires_at, overtaken.reservation),
            (at(10), None),
            "the end of an attempt that never reserved it adds no time"
        );
        check(&overtaken, 9, [begun, IN_PROGRESS, NOTHING, NOT_PAYABLE, PAY, BLOCK_PAYMENT, CANCEL]);
        check(&overtaken, 10, [HOLD_EXPIRED, HOLD_EXPIRED, NOTHING, NOT_PAYABLE, PAY, BLOCK_PAYMENT, NOT_CANCELLABLE]);

        let mut next = overtaken.clone();
        assert_eq!(act(&mut next, &begin(11), at(9)).unwrap(), [Change::Reserve], "another attempt of the payment may");
        assert_eq!(act(&mut next, &end(11, None), at(9)).unwrap(), [Change::ReleaseReservation]);
        assert_eq!(act(&mut next, &begin(11), at(9)).unwrap_err(), "PAYMENT_IN_PROGRESS");

        // One attempt ends while the order is reserved for another.
        let mut reserved = order(status, Some(2), None);
        assert_eq!(act(&mut reserved, &end(1, Some(at(70))), at(1000)).unwrap(), [Change::BlockAttempt]);
        assert_eq!((reserved.hold_expires_at, reserved.reservation), (at(10), Some(reservation(2))));
        assert_eq!(act(&mut reserved, &end(1, Some(at(70))), at(1000)).unwrap(), []);
    }
}

#[test]
fn a_payment_that_was_refunded_first_never_pays() {
    for (status, second) in
        [(Status::Created, 9), (Status::PendingPayment, 9), (Status::PendingPayment, 10), (Status::Expired, 9)]
    {
        let mut order = order(status, None, None);
        let refund = Action::RecordRefund { payment: payment(1) };
        assert_eq!(act(&mut order, &refund, at(second)).unwrap(), [Change::BlockPayment]);
        assert_eq!((order.status, act(&mut order, &refund, at(second)).unwrap()), (status, &[][..]));
        for late in [false, true] {
            let outcome = act(&mut order, &Action::MarkPaid { bill: bill(1), late }, at(second));
            assert_eq!(outcome.unwrap_err(), "ORDER_NOT_PAYABLE", "{status:?} {late}");
        }
        let other = Action::MarkPaid { bill: bill(2), late: true };
        assert_eq!(act(&mut order, &other, at(second)).unwrap(), [Change::Pay], "another payment may");
    }
}

#[test]
fn an_attempt_belongs_to_one_payment() {
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
fn a_payment_of_another_amount_or_currency_is_refused() {
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
fn ending_an_attempt_keeps_the_later_of_two_expiry_times() {
    for (given, expected) in [(Some(at(70)), at(70)), (Some(at(5)), at(10)), (None, at(10))] {
        let mut order = order(Status::PendingPayment, Some(1), None);
        act(&mut order, &end(1, given), at(8)).unwrap();
        assert_eq!((order.hold_expires_at, order.reservation), (expected, None));
        assert_eq!(order.ended_attempt_ids, [attempt(1)]);
        assert_eq!(order.into_placed().hold_expires_at, at(10), "a replay is equal to the first answer");
    }
}
