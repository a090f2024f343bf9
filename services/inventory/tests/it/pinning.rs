//! What an attempt to pay has pinned is nobody else's.

use common::Error;
use contract::inventory::HoldState;
use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use crate::site::{Site, code};

#[tokio::test(flavor = "multi_thread")]
async fn one_attempt_of_many_pins_and_only_that_one_unpins() {
    let site = Site::start().await;
    let product = site.product(1).await;
    let hold = site.hold_one(&product).await.unwrap();
    let attempts: Vec<_> = (0..10).map(|_| Uuid::now_v7()).collect();
    let outcomes = join_all(attempts.iter().map(|attempt| site.pin(&hold.hold_id, *attempt))).await;
    assert_eq!(outcomes.iter().filter(|outcome| code(outcome) == "PAYMENT_IN_PROGRESS").count(), 9);
    let winner = outcomes.iter().position(Result::is_ok).unwrap();
    let pinned = outcomes[winner].as_ref().unwrap();
    assert_eq!(pinned.state(), HoldState::Pinned);
    assert_eq!(pinned.attempt_id, attempts[winner].to_string());

    let again = join_all((0..10).map(|_| site.pin(&hold.hold_id, attempts[winner]))).await;
    assert!(again.iter().all(|outcome| outcome.as_ref().unwrap() == pinned));
    let stranger = site.unpin(&hold.hold_id, Uuid::now_v7()).await.unwrap();
    assert_eq!(&stranger, pinned);
    assert_eq!(&site.get_hold(&hold.hold_id).await.unwrap(), pinned);

    let unpinned = join_all((0..10).map(|_| site.unpin(&hold.hold_id, attempts[winner]))).await;
    for unpinned in unpinned {
        // Its own time, which was longer than a minute anyway.
        assert_eq!(unpinned.unwrap(), hold);
    }
    assert_eq!(site.stock(&product).await, (1, 1));
    for unknown in [
        code(&site.pin(&Uuid::now_v7().to_string(), Uuid::now_v7()).await),
        code(&site.retake(&Uuid::now_v7().to_string(), Uuid::now_v7()).await),
        code(&site.unpin(&Uuid::now_v7().to_string(), Uuid::now_v7()).await),
    ] {
        assert_eq!(unknown, "HOLD_NOT_FOUND");
    }
    assert_eq!(code(&site.pin("not-an-id", Uuid::now_v7()).await), "VALIDATION_ERROR");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_that_arrives_after_the_end_of_its_attempt_is_refused() {
    let site = Site::start().await;
    let product = site.product(2).await;
    let (hold, gone) = (site.hold_one(&product).await.unwrap(), site.hold_one(&product).await.unwrap());
    let (first, second, third) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    assert_eq!(site.unpin(&hold.hold_id, first).await.unwrap(), hold);
    assert_eq!(code(&site.pin(&hold.hold_id, first).await), "PAYMENT_IN_PROGRESS");
    assert_eq!(code(&site.retake(&hold.hold_id, first).await), "PAYMENT_IN_PROGRESS");

    // The next attempt is none of its business, however often the end of the first is repeated.
    assert_eq!(code(&site.pin(&hold.hold_id, second).await), "OK");
    assert_eq!(site.unpin(&hold.hold_id, first).await.unwrap().attempt_id, second.to_string());
    site.unpin(&hold.hold_id, second).await.unwrap();
    assert_eq!(code(&site.pin(&hold.hold_id, second).await), "PAYMENT_IN_PROGRESS");
    assert_eq!(code(&site.pin(&hold.hold_id, third).await), "OK");

    // What has ended is not taken again by an attempt that has ended, and shows why it ended.
    site.release(&gone.hold_id).await.unwrap();
    assert_eq!(site.unpin(&gone.hold_id, first).await.unwrap().state(), HoldState::Released);
    assert_eq!(code(&site.retake(&gone.hold_id, first).await), "PAYMENT_IN_PROGRESS");
    let reason = format!(
        "select count(*) from {{inventory}}.holds where hold_id = '{}' and reason = 'order cancelled'",
        gone.hold_id
    );
    assert_eq!(site.number(&reason).await, 1);
    assert_eq!(site.stock(&product).await, (2, 1));
    assert_eq!(code(&site.retake(&gone.hold_id, second).await), "OK");
    assert_eq!(site.stock(&product).await, (2, 2));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_ends_while_its_pin_commits_leaves_nothing_pinned() {
    let site = Site::start().await;
    let product = site.product(1).await;
    let (hold, attempt) = (site.hold_one(&product).await.unwrap(), Uuid::now_v7());
    let mut uncommitted = site.pause("inventory", "pin.before_commit");
    let (pinned, unpinned) = tokio::join!(site.pin(&hold.hold_id, attempt), async {
        uncommitted.reached().await;
        let (unpinned, ()) = tokio::join!(site.unpin(&hold.hold_id, attempt), async {
            site.until_waiting(1).await;
            uncommitted.resume();
        });
        unpinned
    });
    assert_eq!((code(&pinned).as_str(), code(&unpinned).as_str()), ("OK", "OK"));
    assert_eq!(site.state(&hold).await, HoldState::Held);
    assert_eq!(code(&site.pin(&hold.hold_id, attempt).await), "PAYMENT_IN_PROGRESS");
    site.gate_agrees(&product).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_takes_its_units_again_if_they_are_there() {
    let site = Site::start().await;
    let (product, scarce) = (site.product(3).await, site.product(1).await);
    let lapsed = site.hold_lines(&[(&product, 2), (&scarce, 1)]).await.unwrap();
    let kept = site.hold_one(&product).await.unwrap();
    site.expire(&[&lapsed, &kept]).await;
    assert_eq!(code(&site.pin(&lapsed.hold_id, Uuid::now_v7()).await), "HOLD_EXPIRED");

    // Nobody has taken it over yet: it keeps what it has.
    let attempt = Uuid::now_v7();
    assert_eq!(site.retake(&kept.hold_id, attempt).await.unwrap().attempt_id, attempt.to_string());
    assert_eq!(code(&site.retake(&kept.hold_id, attempt).await), "OK");

    let rival = site.hold_one(&scarce).await.unwrap();
    let refused = site.retake(&lapsed.hold_id, Uuid::now_v7()).await;
    assert_eq!(code(&refused), "OUT_OF_STOCK");
    let Err(Error::Refused(refused)) = refused else { panic!("a fault") };
    assert_eq!(refused.details, [json!({ "productId": scarce.id, "requested": 1, "available": 0 })]);
    assert_eq!((site.stock(&product).await, site.stock(&scarce).await), ((3, 1), (1, 1)));

    // The rival's time is up as well: its unit is there for whoever asks first, under the lock.
    site.expire(&[&rival]).await;
    let late = Uuid::now_v7();
    let retaken = join_all((0..5).map(|_| site.retake(&lapsed.hold_id, late))).await;
    assert!(retaken.iter().all(|hold| hold.as_ref().unwrap().state() == HoldState::Pinned));
    assert_eq!(site.state(&rival).await, HoldState::Expired);
    assert_eq!((site.stock(&product).await, site.stock(&scarce).await), ((3, 3), (1, 1)));
    assert_eq!(code(&site.retake(&rival.hold_id, Uuid::now_v7()).await), "OUT_OF_STOCK");
    assert_eq!(code(&site.hold_one(&scarce).await), "OUT_OF_STOCK");

    site.confirm(&lapsed.hold_id).await.unwrap();
    assert_eq!(code(&site.retake(&lapsed.hold_id, late).await), "HOLD_ALREADY_CONFIRMED");
    assert_eq!((site.stock(&product).await, site.stock(&scarce).await), ((1, 1), (0, 0)));

    // A tombstone has nothing to take again.
    let tombstone = Uuid::now_v7().to_string();
    site.release(&tombstone).await.unwrap();
    assert_eq!(code(&site.pin(&tombstone, late).await), "HOLD_ALREADY_RELEASED");
    assert_eq!(code(&site.retake(&tombstone, late).await), "OUT_OF_STOCK");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_late_payments_for_few_units_oversell_nothing() {
    let site = Site::start().await;
    let product = site.product(20).await;
    let holds = join_all((0..20).map(|_| site.hold_one(&product))).await;
    let holds: Vec<_> = holds.into_iter().map(Result::unwrap).collect();
    site.expire(&holds.iter().collect::<Vec<_>>()).await;
    site.hold_lines(&[(&product, 12)]).await.unwrap();
    let attempt = Uuid::now_v7();
    let outcomes = join_all(holds.iter().map(|hold| site.retake(&hold.hold_id, attempt))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 8);
    assert!(outcomes.iter().all(|outcome| ["OK", "OUT_OF_STOCK"].contains(&code(outcome).as_str())));
    assert_eq!(site.stock(&product).await, (20, 20));
    site.gate_agrees(&product).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpinned_hold_may_be_paid_a_little_longer() {
    let site = Site::start_with(&[("inventory.unpin_seconds_min", "70")]).await;
    let product = site.product(1).await;
    let (hold, attempt) = (site.hold_one(&product).await.unwrap(), Uuid::now_v7());
    site.pin(&hold.hold_id, attempt).await.unwrap();
    site.expire(&[&hold]).await;
    assert_eq!(site.state(&hold).await, HoldState::Pinned);
    let unpinned = site.unpin(&hold.hold_id, attempt).await.unwrap();
    let given = "select extract(epoch from expires_at - updated_at)::int from {inventory}.holds where hold_id =";
    assert_eq!(site.number(&format!("{given} '{}'", hold.hold_id)).await, 70, "seconds from the unpin on");
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    // The end of the attempt, told again, makes it live no longer.
    assert_eq!(site.unpin(&hold.hold_id, attempt).await.unwrap(), unpinned);
    assert_eq!(site.unpin(&hold.hold_id, Uuid::now_v7()).await.unwrap(), unpinned);

    // The gate has learnt the new time, not the one for ever.
    site.expire(&[&hold]).await;
    assert_eq!(code(&site.pin(&hold.hold_id, Uuid::now_v7()).await), "HOLD_EXPIRED");
    assert_eq!(code(&site.hold_one(&product).await), "OK");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unpin_of_a_late_payment_puts_its_units_on_sale() {
    let site = Site::start().await;
    let product = site.product(1).await;
    let (hold, attempt) = (site.hold_one(&product).await.unwrap(), Uuid::now_v7());
    site.expire(&[&hold]).await;
    site.retake(&hold.hold_id, attempt).await.unwrap();
    assert_eq!(site.unpin(&hold.hold_id, attempt).await.unwrap().state(), HoldState::Released);
    assert_eq!(site.stock(&product).await, (1, 0));
    site.gate_agrees(&product).await;
    site.stop().await;
}
