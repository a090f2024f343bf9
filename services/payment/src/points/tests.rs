//! Points on a real PostgreSQL: races, repeats and a database that dies.

use std::collections::BTreeMap;
use std::time::Duration;

use contract::ids::{AccountId, PaymentId};
use diesel_async::SimpleAsyncConnection;
use futures_util::future::join_all;
use sandbox::Server;

use super::Points;
use super::charge_points::Charged;
use super::read_points::{EntriesQuery, entries};
use crate::provider::{Approval, Approved, Giveback, GivenBack, Known, Provider};

mod site;

use site::{PEACE, attempt_of, code, giveback, is_insufficient, open, server};

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_for_ten_pays_for_ten_of_fifty() {
    let _peace = PEACE.read().await;
    let points = open("ten").await;
    let user = points.user_with(10_000).await;
    let approvals = join_all((0..50).map(|_| points.approval(user, 1000))).await;
    let approved = join_all(approvals.iter().map(|approval| points.approve(approval))).await;
    let captured = approved.iter().filter(|approved| **approved == Approved::Captured).count();
    let declined = approved.iter().filter(|approved| is_insufficient(approved)).count();
    assert_eq!((captured, declined), (10, 40), "{approved:?}");
    assert_eq!((points.balance(user).await, points.shop().await), (0, (-10_000, 10_000, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_payment_approved_twenty_times_takes_its_points_once() {
    let _peace = PEACE.read().await;
    let points = open("once").await;
    let user = points.user_with(10_000).await;
    let approval = points.approval(user, 1000).await;
    let approved = join_all((0..20).map(|_| points.approve(&approval))).await;
    assert!(approved.iter().all(|approved| *approved == Approved::Captured), "{approved:?}");
    let again = points.again(&approval).await;
    assert_eq!(points.approve(&again).await, Approved::Captured);
    assert_eq!(points.known(&again).await, Known::Captured);
    for wrong in [
        Approval { amount: 999, ..approval.clone() },
        Approval { user: points.user_with(5000).await, ..approval.clone() },
    ] {
        assert_eq!(code(points.approve(&wrong).await), "HOLD_MISMATCH");
        assert_eq!(points.known(&wrong).await, Known::Unclear("HOLD_MISMATCH".to_owned()));
    }
    assert_eq!((points.balance(user).await, points.shop().await.1), (9000, 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_retries_of_one_charge_charge_once() {
    let _peace = PEACE.read().await;
    let points = open("charge").await;
    let user = AccountId::generate();
    let charged = join_all((0..20).map(|_| points.charge(user, "key", 500))).await;
    let charged: Vec<_> = charged.into_iter().map(Result::unwrap).collect();
    assert_eq!(charged.iter().filter(|charged| !charged.replayed).count(), 1);
    assert!(charged.iter().all(|one| Charged { replayed: true, ..*one } == Charged { replayed: true, ..charged[0] }));
    assert_eq!(points.charge(user, "other", 1).await.unwrap().balance, 501);
    assert_eq!(points.charge(user, "key", 500).await.unwrap().balance, 500, "as it was answered then");

    let reason =
        async |key: &str, amount: i64| points.charge(user, key, amount).await.unwrap_err().reason().unwrap().to_owned();
    assert_eq!(reason("key", 501).await, "IDEMPOTENCY_KEY_REUSED");
    for amount in [0, -1, 1_000_001, i64::MIN, i64::MAX] {
        assert_eq!(reason("wrong", amount).await, "VALIDATION_ERROR");
    }
    let off = Points { charge_max: 0, ..points.clone() };
    assert_eq!(off.charge(user, "off", 1).await.unwrap_err().reason(), Some("FORBIDDEN"));
    assert_eq!((points.balance(user).await, points.shop().await), (501, (-501, 0, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_of_which_it_was_said_that_it_took_nothing_takes_nothing() {
    let _peace = PEACE.read().await;
    let points = open("closed").await;
    let user = points.user_with(100_000).await;
    let late = points.approval(user, 1000).await;
    assert_eq!(points.known(&late).await, Known::Absent);
    assert!(points.end(&late).await);
    assert_eq!(code(points.approve(&late).await), "ATTEMPT_ENDED");
    let never_begun = attempt_of(late.payment, user, 1000);
    assert_eq!(code(points.approve(&never_begun).await), "ATTEMPT_ENDED");
    let next = points.again(&late).await;
    assert_eq!(points.approve(&next).await, Approved::Captured, "the next attempt may");
    assert_eq!(points.approve(&late).await, Approved::Captured, "a payment is its own authorisation");

    let races = join_all((0..50).map(|_| points.approval(user, 1000))).await;
    let outcomes = join_all(races.iter().map(async |race| tokio::join!(points.approve(race), points.end(race)))).await;
    let mut captured = 0;
    for outcome in outcomes {
        match outcome {
            (Approved::Captured, false) => captured += 1,
            (Approved::NotDone { code, .. }, true) => assert_eq!(code, "ATTEMPT_ENDED"),
            wrong => panic!("{wrong:?}"),
        }
    }
    assert_eq!(points.shop().await.1, 1000 * (captured + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn refunds_come_from_wherever_the_points_are() {
    let _peace = PEACE.read().await;
    let points = open("refunds").await;
    let user = points.user_with(10_000).await;
    let payments = join_all((0..3).map(|_| points.approval(user, 1000))).await;
    for approval in &payments {
        assert_eq!(points.approve(approval).await, Approved::Captured);
    }
    let [early, sold, split] = &payments[..] else { panic!("three") };

    // In full, before the order is placed: nothing is left to sell for.
    let all = giveback(early, 1000);
    assert_eq!(points.give_back(&all).await, GivenBack::Done);
    assert_eq!(points.known(early).await, Known::Cancelled);
    assert_eq!(code(points.approve(early).await), "ALREADY_GIVEN_BACK");
    let part = giveback(split, 300);
    assert_eq!(points.give_back(&part).await, GivenBack::Done);

    let unknown = PaymentId::generate();
    for _ in 0..2 {
        points.confirm(&[unknown, split.payment, early.payment, sold.payment, sold.payment]).await;
        assert_eq!(points.shop().await, (-10_000, 0, 1700));
    }

    // After it: from the sales, never more than was paid, and once.
    for repeated in [&all, &part, &part] {
        assert_eq!(points.give_back(repeated).await, GivenBack::Done);
    }
    let refused = async |giveback: &Giveback| match points.give_back(giveback).await {
        GivenBack::Refused { code } => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&Giveback { amount: 301, ..part.clone() }).await, "REFUND_MISMATCH");
    assert_eq!(refused(&Giveback { payment: sold.payment, ..part.clone() }).await, "REFUND_MISMATCH");
    assert_eq!(refused(&giveback(split, 701)).await, "REFUND_EXCEEDS_HOLD");
    assert_eq!(refused(&giveback(early, 1)).await, "REFUND_EXCEEDS_HOLD");
    assert_eq!(refused(&giveback(&attempt_of(unknown, user, 5), 5)).await, "HOLD_NOT_FOUND");
    let thief = AccountId::generate();
    assert_eq!(refused(&Giveback { user: thief, ..giveback(sold, 1000) }).await, "HOLD_MISMATCH");
    assert_eq!(points.give_back(&giveback(split, 700)).await, GivenBack::Done);
    assert_eq!(points.known(split).await, Known::Cancelled);
    assert_eq!((points.balance(user).await, points.shop().await), (9000, (-10_000, 0, 1000)));

    let page = async |limit, cursor| {
        let page = entries(&points, user, &EntriesQuery { limit: Some(limit), cursor }).await.unwrap();
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
        let refused = entries(&points, user, &EntriesQuery { limit: Some(limit), cursor }).await.unwrap_err();
        assert_eq!(refused.reason(), Some("VALIDATION_ERROR"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sales_and_refunds_of_the_same_payments_race_without_deadlock() {
    let _peace = PEACE.read().await;
    let points = open("deadlock").await;
    let users = join_all((0..4).map(|_| points.user_with(10_000))).await;
    let payments = join_all((0..40).map(|nth| points.approval(users[nth % users.len()], 1000))).await;
    join_all(payments.iter().map(|payment| points.approve(payment))).await;

    let ids: Vec<PaymentId> = payments.iter().map(|payment| payment.payment).collect();
    let backwards: Vec<PaymentId> = ids.iter().rev().copied().collect();
    let confirm = async |ids: &[PaymentId]| {
        for chunk in ids.chunks(10) {
            points.confirm(chunk).await;
        }
    };
    let refunds: Vec<_> =
        payments.iter().flat_map(|payment| [giveback(payment, 400), giveback(payment, 500)]).collect();
    let refunding = join_all(refunds.iter().chain(&refunds).map(|refund| points.give_back(refund)));
    let (given_back, ..) = tokio::join!(refunding, confirm(&ids), confirm(&backwards), confirm(&ids));
    assert!(given_back.iter().all(|given_back| *given_back == GivenBack::Done), "{given_back:?}");
    assert_eq!(points.shop().await, (-40_000, 0, 4000));
    // A deadlock would have been tried again, and nobody would have seen it.
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(points.number(deadlocks).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_refuses_to_be_rewritten_or_to_be_wrong() {
    let _peace = PEACE.read().await;
    let points = open("append_only").await;
    let user = points.user_with(1000).await;
    let nobody = AccountId::generate();
    let transfer = uuid::Uuid::now_v7();
    let statements = [
        ("update point_entries set amount = amount + 1".to_owned(), "are not changed or deleted"),
        ("delete from point_entries".to_owned(), "are not changed or deleted"),
        ("truncate point_entries".to_owned(), "are not changed or deleted"),
        ("update point_transfers set amount = 1".to_owned(), "are not changed or deleted"),
        ("delete from point_transfers".to_owned(), "are not changed or deleted"),
        ("truncate point_transfers".to_owned(), "are not changed or deleted"),
        (format!("update point set balance = -1 where account_id = '{user}'"), "point_balance_check"),
        (
            format!(
                "insert into point_entries (transfer_id, account, amount, created_at)
                 values ('{transfer}', 'SALES', 5, now())"
            ),
            "add up to nothing",
        ),
        (
            format!(
                "insert into point_entries (transfer_id, account, amount, created_at)
                 values ('{transfer}', 'SALES', 5, now()), ('{transfer}', 'ESCROW', -4, now())"
            ),
            "add up to nothing",
        ),
        // A user's side that is nobody's.
        (
            format!(
                "insert into point_entries (transfer_id, account, amount, created_at)
                 values ('{transfer}', 'SALES', 5, now()), ('{transfer}', 'USER', -5, now())"
            ),
            "violates check constraint",
        ),
        (
            format!(
                "insert into point_holds (payment_id, user_id, amount, given_back)
                 values ('{nobody}', '{user}', 5, 6)"
            ),
            "violates check constraint",
        ),
    ];
    for (statement, refusal) in statements {
        let mut conn = points.db.read().await.unwrap();
        let error = conn.batch_execute(&statement).await.unwrap_err().to_string();
        assert!(error.contains(refusal), "{statement}: {error}");
    }
    // What it refuses is the imbalance, and nothing about the form of these statements.
    let balanced = format!(
        "begin; insert into point_entries (transfer_id, account, amount, created_at)
         values ('{transfer}', 'SALES', 5, now()), ('{transfer}', 'ESCROW', -5, now()); rollback"
    );
    points.db.read().await.unwrap().batch_execute(&balanced).await.unwrap();
    assert_eq!((points.balance(user).await, points.shop().await), (1000, (-1000, 0, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_dies_leaves_no_point_unaccounted_for() {
    let _peace = PEACE.write().await;
    let points = open("death").await;
    let users = join_all((0..8).map(|_| points.user_with(100_000))).await;
    let payments = join_all((0..200).map(|nth| points.approval(users[nth % users.len()], 1000))).await;
    let spending = join_all(payments.iter().map(|payment| points.approve(payment)));
    let killing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        server().await.kill(Server::Postgres).await.unwrap();
    };
    let (approved, ()) = tokio::join!(spending, killing);
    assert!(matches!(points.give_back(&giveback(&payments[0], 1)).await, GivenBack::Unknown { .. }));
    assert_eq!(points.known(&payments[0]).await, Known::Unclear("NO_ANSWER".to_owned()));
    server().await.restart(Server::Postgres).await.unwrap();
    points.db.wait_until_reachable(Duration::from_secs(20)).await.unwrap();

    let mut taken: BTreeMap<AccountId, i64> = BTreeMap::new();
    let mut unknown = 0;
    let known = join_all(payments.iter().map(|payment| points.known(payment))).await;
    for ((payment, approved), known) in payments.iter().zip(approved).zip(known) {
        match (approved, &known) {
            (Approved::Captured, Known::Captured) => {}
            (Approved::Unknown { .. }, Known::Captured | Known::Absent) => unknown += 1,
            wrong => panic!("{wrong:?}"),
        }
        if known == Known::Captured {
            *taken.entry(payment.user).or_default() += 1000;
        }
    }
    assert!(unknown > 0, "it died too late");
    for user in &users {
        let spent = taken.get(user).copied().unwrap_or(0);
        assert_eq!(points.balance(*user).await, 100_000 - spent);
    }
    assert_eq!(points.shop().await, (-800_000, taken.values().sum(), 0));
}
