//! Points on a real PostgreSQL: repeats, two transactions in every order, and a database that does not answer.

use std::time::Duration;

use common::Error;
use common::db::{Db, DbSettings};
use contract::ids::{AccountId, PaymentId};
use diesel::result::DatabaseErrorKind::{self, CheckViolation, RestrictViolation};
use diesel_async::SimpleAsyncConnection;
use tokio::task::JoinHandle;

use super::Points;
use super::charge_points::Charged;
use super::read_points::{EntriesQuery, entries};
use crate::provider::{Attempt, CaptureOutcome, Provider, ProviderStatus, RefundOutcome, RefundRequest};

mod bank;
mod soak;

use bank::{Bank, attempt_of, refund_of};

/// What an outcome is called in the attempt's row.
fn code(outcome: CaptureOutcome) -> String {
    match outcome {
        CaptureOutcome::Captured => "Captured".to_owned(),
        CaptureOutcome::Declined { code, .. }
        | CaptureOutcome::Failed { code, .. }
        | CaptureOutcome::Unknown { code, .. } => code,
    }
}

/// Captures in a task of its own, for a test that has it wait.
fn capturing(bank: &Bank, attempt: &Attempt) -> JoinHandle<CaptureOutcome> {
    let (points, attempt) = (bank.points.clone(), attempt.clone());
    tokio::spawn(async move { points.capture(&attempt).await })
}

/// Waits until all of `tasks` wait for locks. Fails with `promise` when one of them ends without waiting.
async fn wait_for_locks<T: Send + 'static>(bank: &Bank, tasks: &[JoinHandle<T>], promise: &str) {
    let ended = async {
        while !tasks.iter().any(JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = bank.site.until_blocked("payment", tasks.len() as i64) => {}
        () = ended => panic!("{promise}"),
    }
}

fn row_of(user: AccountId) -> String {
    format!("select from {{payment}}.point where account_id = '{user}' for update")
}

/// Both have begun, and decide under the lock of the balance.
#[tokio::test(flavor = "multi_thread")]
async fn two_payments_at_once_do_not_spend_the_same_points() {
    let bank = Bank::open().await;
    let user = bank.user_with(1000).await;
    let (first, second) = (bank.attempt(user, 1000).await, bank.attempt(user, 1000).await);
    let lock = bank.site.begin(&row_of(user)).await;
    let captures = [capturing(&bank, &first), capturing(&bank, &second)];
    wait_for_locks(&bank, &captures, "points are taken under the lock of the balance").await;
    lock.commit().await;
    let [one, other] = captures;
    let mut codes = [code(one.await.unwrap()), code(other.await.unwrap())];
    codes.sort();
    assert_eq!(codes, ["Captured", "INSUFFICIENT_POINTS"], "points are spent once");
    assert_eq!((bank.balance(user).await, bank.shop().await), (0, (-1000, 1000, 0)));
    bank.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_attempts_at_a_payment_take_its_points_once() {
    let bank = Bank::open().await;
    let user = bank.user_with(10_000).await;
    let attempt = bank.attempt(user, 1000).await;
    let again = bank.again(&attempt).await;
    let lock = bank.site.begin(&row_of(user)).await;
    let captures = [capturing(&bank, &attempt), capturing(&bank, &again)];
    wait_for_locks(&bank, &captures, "points are taken under the lock of the balance").await;
    lock.commit().await;
    for capture in captures {
        assert_eq!(capture.await.unwrap(), CaptureOutcome::Captured);
    }
    assert_eq!(bank.points.query_status(&again).await, ProviderStatus::Captured);
    for wrong in
        [Attempt { amount: 999, ..attempt.clone() }, Attempt { user: bank.user_with(5000).await, ..attempt.clone() }]
    {
        assert_eq!(code(bank.points.capture(&wrong).await), "HOLD_MISMATCH");
        let status = bank.points.query_status(&wrong).await;
        assert_eq!(status, ProviderStatus::Unclear("HOLD_MISMATCH".to_owned()));
    }
    assert_eq!((bank.balance(user).await, bank.shop().await.1), (9000, 1000));
    bank.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_charges_with_one_key_charge_once() {
    let bank = Bank::open().await;
    let user = bank.user_with(1).await;
    let lock = bank.site.begin(&row_of(user)).await;
    let charge = |amount| {
        let points = bank.points.clone();
        let key = common::idempotency::IdempotencyKey::parse(b"key").unwrap();
        let body = super::charge_points::ChargePoints { amount: contract::money::Money::krw(amount) };
        tokio::spawn(async move { super::charge_points::charge(&points, user, &key, &body).await })
    };
    let charges = [charge(500), charge(500)];
    wait_for_locks(&bank, &charges, "points are charged under the lock of the balance").await;
    lock.commit().await;
    let [one, other] = charges;
    let (one, other) = (one.await.unwrap().unwrap(), other.await.unwrap().unwrap());
    assert_ne!(one.replayed, other.replayed, "one of the two is a replay");
    assert_eq!(Charged { replayed: true, ..one }, Charged { replayed: true, ..other });
    assert_eq!(bank.charge(user, "other", 1).await.unwrap().balance, 502);
    assert_eq!(bank.charge(user, "key", 500).await.unwrap().balance, 501, "as it was answered first");

    let reason = |error: Error| error.reason().unwrap().to_owned();
    assert_eq!(reason(bank.charge(user, "key", 501).await.unwrap_err()), "IDEMPOTENCY_KEY_REUSED");
    for amount in [0, -1, 1_000_001, i64::MIN, i64::MAX] {
        assert_eq!(reason(bank.charge(user, "wrong", amount).await.unwrap_err()), "VALIDATION_ERROR");
    }
    let off = Bank { points: Points { charge_max: 0, ..bank.points.clone() }, ..bank };
    assert_eq!(reason(off.charge(user, "off", 1).await.unwrap_err()), "FORBIDDEN");
    assert_eq!((off.balance(user).await, off.shop().await), (502, (-502, 0, 0)));
    off.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_recorded_as_failed_takes_no_points() {
    let bank = Bank::open().await;
    let user = bank.user_with(10_000).await;
    let late = bank.attempt(user, 1000).await;
    assert_eq!(bank.points.query_status(&late).await, ProviderStatus::Absent);
    assert!(bank.end(&late).await);
    assert_eq!(code(bank.points.capture(&late).await), "ATTEMPT_ENDED");
    let never_begun = attempt_of(late.payment, user, 1000);
    assert_eq!(code(bank.points.capture(&never_begun).await), "ATTEMPT_ENDED");
    let next = bank.again(&late).await;
    assert_eq!(bank.points.capture(&next).await, CaptureOutcome::Captured, "the next attempt may");
    let repeated = bank.points.capture(&late).await;
    assert_eq!(repeated, CaptureOutcome::Captured, "a payment is its own authorisation");
    assert_eq!(bank.shop().await.1, 1000);
    bank.site.stop().await;
}

/// The failure is being recorded, and not committed, when the attempt asks for its points.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_waits_for_the_record_of_its_failure_and_takes_nothing() {
    let bank = Bank::open().await;
    let user = bank.user_with(1000).await;
    let attempt = bank.attempt(user, 1000).await;
    let end = format!("update {{payment}}.payment_attempt set status = 'ERROR' where id = '{}'", attempt.id);
    let ending = bank.site.begin(&end).await;
    let captures = [capturing(&bank, &attempt)];
    wait_for_locks(&bank, &captures, "an attempt takes points only while it is open").await;
    ending.commit().await;
    let [capture] = captures;
    assert_eq!(code(capture.await.unwrap()), "ATTEMPT_ENDED");
    assert_eq!((bank.balance(user).await, bank.shop().await), (1000, (-1000, 0, 0)));
    bank.site.stop().await;
}

/// The attempt has its own lock, and not its points, when somebody records that it has failed.
#[tokio::test(flavor = "multi_thread")]
async fn the_record_of_a_failure_waits_for_points_that_are_being_taken_and_sees_them() {
    let bank = std::sync::Arc::new(Bank::open().await);
    let user = bank.user_with(1000).await;
    let attempt = bank.attempt(user, 1000).await;
    let lock = bank.site.begin(&row_of(user)).await;
    let captures = [capturing(&bank, &attempt)];
    wait_for_locks(&bank, &captures, "points are taken under the lock of the balance").await;
    let ending = tokio::spawn({
        let (bank, attempt) = (bank.clone(), attempt.clone());
        async move { bank.end(&attempt).await }
    });
    bank.site.until_blocked("payment", 2).await;
    assert!(!ending.is_finished(), "the record waits for the attempt");
    lock.commit().await;
    let [capture] = captures;
    assert_eq!(capture.await.unwrap(), CaptureOutcome::Captured);
    assert!(!ending.await.unwrap(), "the record sees the points that were taken");
    assert_eq!(bank.shop().await, (-1000, 1000, 0));
    std::sync::Arc::into_inner(bank).unwrap().site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refunds_come_from_wherever_the_points_are() {
    let bank = Bank::open().await;
    let user = bank.user_with(10_000).await;
    let mut attempts = Vec::new();
    for _ in 0..3 {
        let attempt = bank.attempt(user, 1000).await;
        assert_eq!(bank.points.capture(&attempt).await, CaptureOutcome::Captured);
        attempts.push(attempt);
    }
    let [early, sold, split] = &attempts[..] else { panic!("three") };

    // In full, before the order is placed: nothing is left to sell for.
    let all = refund_of(early, 1000);
    assert_eq!(bank.points.refund(&all).await, RefundOutcome::Refunded);
    assert_eq!(bank.points.query_status(early).await, ProviderStatus::Cancelled);
    assert_eq!(code(bank.points.capture(early).await), "ALREADY_GIVEN_BACK");
    let part = refund_of(split, 300);
    assert_eq!(bank.points.refund(&part).await, RefundOutcome::Refunded);

    let unknown = PaymentId::generate();
    for _ in 0..2 {
        bank.confirm(&[unknown, split.payment, early.payment, sold.payment, sold.payment]).await;
        assert_eq!(bank.shop().await, (-10_000, 0, 1700));
    }

    // After it: from the sales, never more than was paid, and once.
    for repeated in [&all, &part, &part] {
        assert_eq!(bank.points.refund(repeated).await, RefundOutcome::Refunded);
    }
    let refused = async |request: &RefundRequest| match bank.points.refund(request).await {
        RefundOutcome::Refused { code } => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&RefundRequest { amount: 301, ..part.clone() }).await, "REFUND_MISMATCH");
    assert_eq!(refused(&RefundRequest { payment: sold.payment, ..part.clone() }).await, "REFUND_MISMATCH");
    assert_eq!(refused(&refund_of(split, 701)).await, "REFUND_EXCEEDS_HOLD");
    assert_eq!(refused(&refund_of(early, 1)).await, "REFUND_EXCEEDS_HOLD");
    assert_eq!(refused(&refund_of(&attempt_of(unknown, user, 5), 5)).await, "HOLD_NOT_FOUND");
    let thief = AccountId::generate();
    assert_eq!(refused(&RefundRequest { user: thief, ..refund_of(sold, 1000) }).await, "HOLD_MISMATCH");
    assert_eq!(bank.points.refund(&refund_of(split, 700)).await, RefundOutcome::Refunded);
    assert_eq!(bank.points.query_status(split).await, ProviderStatus::Cancelled);
    assert_eq!((bank.balance(user).await, bank.shop().await), (9000, (-10_000, 0, 1000)));

    let page = async |limit, cursor| {
        let page = entries(&bank.points, user, &EntriesQuery { limit: Some(limit), cursor }).await.unwrap();
        serde_json::to_value(page).unwrap()
    };
    let newest = page(4, None).await;
    let kinds: Vec<_> = newest["items"].as_array().unwrap().iter().map(|item| &item["kind"]).collect();
    assert_eq!(kinds, ["RETURN", "RETURN", "RETURN", "HOLD"]);
    assert_eq!(newest["items"][0]["paymentId"], split.payment.to_string());
    assert_eq!(newest["items"][0]["balance"]["amount"], 9000);
    assert_eq!(newest["items"][3]["amount"]["amount"], -1000);
    let oldest = page(100, newest["nextCursor"].as_str().map(str::to_owned)).await;
    assert_eq!((oldest["items"].as_array().unwrap().len(), &oldest["nextCursor"]), (3, &serde_json::Value::Null));
    for (limit, cursor) in [(0, None), (101, None), (1, Some("x".to_owned()))] {
        let refused = entries(&bank.points, user, &EntriesQuery { limit: Some(limit), cursor }).await.unwrap_err();
        assert_eq!(refused.reason(), Some("VALIDATION_ERROR"));
    }
    bank.site.stop().await;
}

/// Two batches that lock holds in one order cannot wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn sales_lock_holds_in_the_order_of_their_payments() {
    let bank = Bank::open().await;
    let user = bank.user_with(10_000).await;
    let mut payments = Vec::new();
    for _ in 0..3 {
        let attempt = bank.attempt(user, 1000).await;
        assert_eq!(bank.points.capture(&attempt).await, CaptureOutcome::Captured);
        payments.push(attempt.payment);
    }
    payments.sort();
    let first = format!("select from {{payment}}.point_holds where payment_id = '{}' for update", payments[0]);
    let lock = bank.site.begin(&first).await;
    let confirms = [tokio::spawn({
        let (db, backwards) = (bank.points.db.clone(), payments.iter().rev().copied().collect::<Vec<_>>());
        async move { db.tx("confirm_points", async |tx| super::confirm_points(tx, &backwards).await).await }
    })];
    wait_for_locks(&bank, &confirms, "a sale locks the holds that it changes").await;
    let free = bank.site.rows("select payment_id from {payment}.point_holds for update skip locked").await;
    assert_eq!(free.len(), 2, "the lowest payment is locked first, so nothing is locked while it waits for that one");
    lock.commit().await;
    let [confirm] = confirms;
    confirm.await.unwrap().unwrap();
    assert_eq!(bank.shop().await, (-10_000, 0, 3000));
    bank.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_refuses_to_be_rewritten_or_to_be_wrong() {
    let bank = Bank::open().await;
    let user = bank.user_with(1000).await;
    let (nobody, transfer) = (AccountId::generate(), uuid::Uuid::now_v7());
    let entries = |values: &str| {
        let values = values.replace('T', &format!("'{transfer}'"));
        format!("insert into point_entries (transfer_id, account, amount, created_at) values {values}")
    };
    let cases = [
        ("update point_entries set amount = amount + 1".to_owned(), RestrictViolation),
        ("delete from point_entries".to_owned(), RestrictViolation),
        ("truncate point_entries".to_owned(), RestrictViolation),
        ("update point_transfers set amount = 1".to_owned(), RestrictViolation),
        ("delete from point_transfers".to_owned(), RestrictViolation),
        ("truncate point_transfers".to_owned(), RestrictViolation),
        (format!("update point set balance = -1 where account_id = '{user}'"), CheckViolation),
        (entries("(T, 'SALES', 5, now())"), CheckViolation),
        (entries("(T, 'SALES', 5, now()), (T, 'ESCROW', -4, now())"), CheckViolation),
        // A user's side without a user.
        (entries("(T, 'SALES', 5, now()), (T, 'USER', -5, now())"), CheckViolation),
        (
            format!(
                "insert into point_holds (payment_id, user_id, amount, given_back) values ('{nobody}', '{user}', 5, 6)"
            ),
            CheckViolation,
        ),
    ];
    for (statement, expected) in cases {
        let error = bank.points.db.dedicated().await.unwrap().batch_execute(&statement).await.unwrap_err();
        let diesel::result::Error::DatabaseError(kind, _) = &error else { panic!("{statement}: {error}") };
        let name = |kind: &DatabaseErrorKind| format!("{kind:?}");
        assert_eq!(name(kind), name(&expected), "{statement}: {error}");
    }
    // What is refused is the imbalance, and not the form of these statements.
    let balanced = entries("(T, 'SALES', 5, now()), (T, 'ESCROW', -5, now())");
    let balanced = format!("begin; {balanced}; rollback");
    bank.points.db.dedicated().await.unwrap().batch_execute(&balanced).await.unwrap();
    assert_eq!((bank.balance(user).await, bank.shop().await), (1000, (-1000, 0, 0)));
    bank.site.stop().await;
}

/// The session dies in the middle of a transaction, as with a PostgreSQL that is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_capture_whose_session_dies_is_unknown_and_has_taken_nothing() {
    let bank = Bank::open().await;
    let user = bank.user_with(1000).await;
    let attempt = bank.attempt(user, 1000).await;
    let lock = bank.site.begin(&row_of(user)).await;
    let captures = [capturing(&bank, &attempt)];
    wait_for_locks(&bank, &captures, "points are taken under the lock of the balance").await;
    let schema = bank.site.schema("payment");
    let killed = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = '{schema}' and wait_event_type = 'Lock'"
    );
    assert_eq!(bank.site.rows(&killed).await.len(), 1);
    let [capture] = captures;
    let outcome = capture.await.unwrap();
    assert!(matches!(&outcome, CaptureOutcome::Unknown { code, .. } if code == "NO_ANSWER"), "{outcome:?}");
    lock.commit().await;
    assert_eq!(bank.points.query_status(&attempt).await, ProviderStatus::Absent);
    assert_eq!((bank.balance(user).await, bank.shop().await), (1000, (-1000, 0, 0)));
    assert_eq!(bank.points.capture(&attempt).await, CaptureOutcome::Captured, "asked again, it takes them");
    bank.site.stop().await;
}

#[tokio::test]
async fn a_database_that_does_not_answer_proves_nothing() {
    let defaults = common::settings::Settings::defaults().unwrap();
    let postgres: DbSettings = defaults.section("postgres").unwrap();
    // Nobody listens there.
    let url = "postgres://nobody@127.0.0.1:1/nothing".into();
    let db = Db::open(&DbSettings { url, ..postgres }, "nothing").await.unwrap();
    let points = Points::new(&db, &defaults.section("payment.points").unwrap());
    let attempt = attempt_of(PaymentId::generate(), AccountId::generate(), 1000);
    let outcome = points.capture(&attempt).await;
    assert!(matches!(&outcome, CaptureOutcome::Unknown { code, .. } if code == "NO_ANSWER"), "{outcome:?}");
    assert_eq!(points.query_status(&attempt).await, ProviderStatus::Unclear("NO_ANSWER".to_owned()));
    assert_eq!(points.refund(&refund_of(&attempt, 1)).await, RefundOutcome::Unknown { code: "NO_ANSWER".to_owned() });
}
