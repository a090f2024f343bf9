//! Races of many, and a PostgreSQL that is killed among two hundred spends.

use std::collections::BTreeMap;
use std::time::Duration;

use contract::ids::{AccountId, PaymentId};
use futures_util::future::join_all;
use sandbox::{Sandbox, Server};
use testkit::servers;

use super::bank::{Bank, refund_of};
use super::code;
use crate::provider::{CaptureOutcome, Provider, ProviderStatus, RefundOutcome};

async fn own_servers() -> &'static Sandbox {
    Box::leak(Box::new(servers::start("points").await))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: fifty captures race, and how they meet is up to chance"]
async fn a_balance_for_ten_pays_for_ten_of_fifty() {
    let bank = Bank::open().await;
    let user = bank.user_with(10_000).await;
    let attempts = join_all((0..50).map(|_| bank.attempt(user, 1000))).await;
    let outcomes = join_all(attempts.iter().map(|attempt| bank.points.capture(attempt))).await;
    let codes: Vec<String> = outcomes.into_iter().map(code).collect();
    let count = |wanted: &str| codes.iter().filter(|code| *code == wanted).count();
    assert_eq!((count("Captured"), count("INSUFFICIENT_POINTS")), (10, 40), "{codes:?}");
    assert_eq!((bank.balance(user).await, bank.shop().await), (0, (-10_000, 10_000, 0)));
    bank.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: fifty captures race with the records of their failure"]
async fn attempts_that_race_with_the_record_of_their_failure_agree_with_it() {
    let bank = Bank::open().await;
    let user = bank.user_with(100_000).await;
    let races = join_all((0..50).map(|_| bank.attempt(user, 1000))).await;
    let outcomes =
        join_all(races.iter().map(async |race| tokio::join!(bank.points.capture(race), bank.end(race)))).await;
    let mut captured = 0;
    for outcome in outcomes {
        match outcome {
            (CaptureOutcome::Captured, false) => captured += 1,
            (CaptureOutcome::Failed { code, .. }, true) => assert_eq!(code, "ATTEMPT_ENDED"),
            wrong => panic!("{wrong:?}"),
        }
    }
    println!("{captured} captured, {} failed", 50 - captured);
    assert_eq!(bank.shop().await.1, 1000 * captured);
    bank.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: a race of sales and refunds, with servers of its own to count deadlocks"]
async fn sales_and_refunds_of_the_same_payments_race_without_deadlock() {
    let bank = Bank::open_on(own_servers().await).await;
    let users = join_all((0..4).map(|_| bank.user_with(10_000))).await;
    let payments = join_all((0..40).map(|nth| bank.attempt(users[nth % users.len()], 1000))).await;
    join_all(payments.iter().map(|payment| bank.points.capture(payment))).await;

    let ids: Vec<PaymentId> = payments.iter().map(|payment| payment.payment).collect();
    let backwards: Vec<PaymentId> = ids.iter().rev().copied().collect();
    let confirm = async |ids: &[PaymentId]| {
        for chunk in ids.chunks(10) {
            bank.confirm(chunk).await;
        }
    };
    let refunds: Vec<_> =
        payments.iter().flat_map(|payment| [refund_of(payment, 400), refund_of(payment, 500)]).collect();
    let refunding = join_all(refunds.iter().chain(&refunds).map(|refund| bank.points.refund(refund)));
    let (refunded, ..) = tokio::join!(refunding, confirm(&ids), confirm(&backwards), confirm(&ids));
    assert!(refunded.iter().all(|outcome| *outcome == RefundOutcome::Refunded), "{refunded:?}");
    assert_eq!(bank.shop().await, (-40_000, 0, 4000));
    // After a deadlock the transaction is tried again, so that no outcome shows it.
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(bank.site.number(deadlocks).await, 0);
    bank.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: kills the PostgreSQL of its own servers at a moment that is up to chance"]
async fn a_database_that_dies_leaves_no_point_unaccounted_for() {
    let servers = own_servers().await;
    let bank = Bank::open_on(servers).await;
    let users = join_all((0..8).map(|_| bank.user_with(100_000))).await;
    // One after the other: each is stored over a connection of its own, and the server has 200.
    let mut payments = Vec::new();
    for nth in 0..200 {
        payments.push(bank.attempt(users[nth % users.len()], 1000).await);
    }
    let spending = join_all(payments.iter().map(|payment| bank.points.capture(payment)));
    let killing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        servers.kill(Server::Postgres).await.expect("the server is ours");
    };
    let (outcomes, ()) = tokio::join!(spending, killing);
    let unanswered = bank.points.refund(&refund_of(&payments[0], 1)).await;
    assert!(matches!(unanswered, RefundOutcome::Unknown { .. }), "{unanswered:?}");
    let status = bank.points.query_status(&payments[0]).await;
    assert_eq!(status, ProviderStatus::Unclear("NO_ANSWER".to_owned()));
    servers.restart(Server::Postgres).await.expect("PostgreSQL starts again");
    bank.points.db.wait_until_answering(Duration::from_secs(20)).await.expect("PostgreSQL answers");

    let mut taken: BTreeMap<AccountId, i64> = BTreeMap::new();
    let mut unknown = 0;
    let statuses = join_all(payments.iter().map(|payment| bank.points.query_status(payment))).await;
    for ((payment, outcome), status) in payments.iter().zip(outcomes).zip(statuses) {
        match (outcome, &status) {
            (CaptureOutcome::Captured, ProviderStatus::Captured) => {}
            (CaptureOutcome::Unknown { .. }, ProviderStatus::Captured | ProviderStatus::Absent) => unknown += 1,
            wrong => panic!("{wrong:?}"),
        }
        if status == ProviderStatus::Captured {
            *taken.entry(payment.user).or_default() += 1000;
        }
    }
    println!("{unknown} of {} captures had no answer", payments.len());
    for user in &users {
        let spent = taken.get(user).copied().unwrap_or(0);
        assert_eq!(bank.balance(*user).await, 100_000 - spent);
    }
    assert_eq!(bank.shop().await, (-800_000, taken.values().sum(), 0));
    bank.site.stop().await;
}
