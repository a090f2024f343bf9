//! What an attempt to pay has pinned is nobody else's, to the instant.

use std::time::Duration;

use chrono::Utc;
use contract::inventory::{Hold, HoldState};
use futures_util::future::join_all;
use uuid::Uuid;

use crate::site::{Site, code, until};

/// Milliseconds until the hold's time is up; negative after it.
fn left_ms(hold: &Hold) -> i64 {
    let expires_at = hold.expires_at.as_ref().unwrap();
    expires_at.seconds * 1000 + i64::from(expires_at.nanos) / 1_000_000 - Utc::now().timestamp_millis()
}

async fn sleep_ms(ms: i64) {
    tokio::time::sleep(Duration::from_millis(u64::try_from(ms).unwrap_or(0))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_attempt_of_many_pins_and_only_that_one_unpins() {
    let site = Site::start("pins").await;
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
    assert_eq!(&site.read_hold(&hold.hold_id).await.unwrap(), pinned);

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
async fn an_attempt_that_was_overtaken_by_its_end_pins_nothing() {
    let site = Site::start("overtaken").await;
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
    let reason =
        format!("select count(*) from holds where hold_id = '{}' and reason = 'order cancelled'", gone.hold_id);
    assert_eq!(site.number(&reason).await, 1);
    assert_eq!(site.stock(&product).await, (2, 1));
    assert_eq!(code(&site.retake(&gone.hold_id, second).await), "OK");
    assert_eq!(site.stock(&product).await, (2, 2));

    // Racing each other, they leave nothing pinned.
    let product = site.product(30).await;
    let races = join_all((0..30).map(|_| async {
        let (hold, attempt) = (site.hold_one(&product).await.unwrap().hold_id, Uuid::now_v7());
        let (pinned, unpinned) = tokio::join!(site.pin(&hold, attempt), site.unpin(&hold, attempt));
        assert_eq!(code(&unpinned), "OK");
        assert!(["OK", "PAYMENT_IN_PROGRESS"].contains(&code(&pinned).as_str()));
        assert_eq!(site.read_hold(&hold).await.unwrap().state(), HoldState::Held);
        assert_eq!(code(&site.pin(&hold, attempt).await), "PAYMENT_IN_PROGRESS");
    }));
    races.await;
    site.stop().await;
}

/// The sweepers of two replicas run all the time.
const RACING: [(&str, &str); 2] = [("inventory.hold_ttl_seconds", "1"), ("inventory.sweep_period_ms", "5")];
const WAVES: usize = 4;
const ROUNDS: usize = 50;
/// Between two rounds of a wave, so that each has the machine for its instant.
const STAGGER_MS: i64 = 30;

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_at_the_last_instant_is_kept_or_refused() {
    let site = Site::start_with("instant", &RACING).await;
    let rivals = Site::start_beside(&site, &RACING).await;
    let (mut pinned, mut expired, mut outbid) = (Vec::new(), 0, 0);
    for _ in 0..WAVES {
        let mut products = Vec::new();
        for _ in 0..ROUNDS {
            products.push(site.product(1).await);
        }
        let rounds = join_all((0_i64..).zip(products).map(|(round, product)| {
            let (site, rivals) = (&site, &rivals);
            async move {
                sleep_ms(round * STAGGER_MS).await;
                // From well before the end of its time to just after it.
                race(site, rivals, product, round % 20 * 3 - 50).await
            }
        }));
        for round in rounds.await {
            match round {
                Race::Pinned { hold, product } => pinned.push((hold, product)),
                Race::Expired { outbid: by_rival } => {
                    expired += 1;
                    outbid += usize::from(by_rival);
                }
            }
        }
    }
    println!("{} pinned, {expired} expired, {outbid} of these to a rival", pinned.len());
    assert_eq!(pinned.len() + expired, WAVES * ROUNDS);
    assert!(!pinned.is_empty() && outbid > 0, "the race was none");

    // Long after their time, with everybody still trying.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (hold, product) in &pinned {
        assert_eq!(code(&rivals.hold_one(product).await), "OUT_OF_STOCK");
        assert_eq!(site.read_hold(hold).await.unwrap().state(), HoldState::Pinned);
        assert_eq!(site.stock(product).await, (1, 1));
    }
    rivals.stop().await;
    site.stop().await;
}

enum Race {
    Pinned { hold: String, product: String },
    Expired { outbid: bool },
}

/// One hold, its payment some milliseconds `off` the end of its time, and a rival who waits for just that.
async fn race(site: &Site, rivals: &Site, product: String, off: i64) -> Race {
    let (hold, attempt) = (site.hold_one(&product).await.unwrap(), Uuid::now_v7());
    let pay = async {
        sleep_ms(left_ms(&hold) + off).await;
        site.pin(&hold.hold_id, attempt).await
    };
    let outbid = async {
        sleep_ms(left_ms(&hold) - 10).await;
        while left_ms(&hold) > -60 {
            if rivals.hold_one(&product).await.is_ok() {
                return true;
            }
        }
        false
    };
    let (paid, outbid) = tokio::join!(pay, outbid);
    let state = site.read_hold(&hold.hold_id).await.unwrap().state();
    match code(&paid).as_str() {
        "OK" => {
            assert!(!outbid, "a rival has what is pinned");
            assert_eq!(state, HoldState::Pinned);
            Race::Pinned { hold: hold.hold_id, product }
        }
        "HOLD_EXPIRED" => {
            assert_eq!(state, HoldState::Expired);
            Race::Expired { outbid }
        }
        other => panic!("{other}"),
    }
}

/// Nobody tidies: whoever needs lapsed units takes them over.
const UNSWEPT: [(&str, &str); 2] = [("inventory.hold_ttl_seconds", "2"), ("inventory.sweep_period_ms", "600000")];

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_takes_its_units_again_if_they_are_there() {
    let site = Site::start_with("late", &UNSWEPT).await;
    let (product, scarce) = (site.product(3).await, site.product(1).await);
    let lines = [(product.as_str(), 2), (scarce.as_str(), 1)];
    let lapsed = site.hold(Uuid::now_v7(), Uuid::now_v7(), &lines).await.unwrap().hold.unwrap();
    let kept = site.hold_one(&product).await.unwrap();
    sleep_ms(left_ms(&kept) + 20).await;
    assert_eq!(code(&site.pin(&lapsed.hold_id, Uuid::now_v7()).await), "HOLD_EXPIRED");

    // Nobody has taken them over yet: it keeps what it has.
    let attempt = Uuid::now_v7();
    assert_eq!(site.retake(&kept.hold_id, attempt).await.unwrap().attempt_id, attempt.to_string());
    assert_eq!(code(&site.retake(&kept.hold_id, attempt).await), "OK");

    let rival = site.hold_one(&scarce).await.unwrap();
    let refused = site.retake(&lapsed.hold_id, Uuid::now_v7()).await;
    assert_eq!(code(&refused), "OUT_OF_STOCK");
    let common::Error::Refused(refused) = refused.unwrap_err() else { panic!("a fault") };
    assert_eq!(refused.details, [serde_json::json!({ "productId": scarce, "requested": 1, "available": 0 })]);
    assert_eq!((site.stock(&product).await, site.stock(&scarce).await), ((3, 1), (1, 1)));

    // The rival's time is up as well: its unit is there for whoever asks first, under the lock.
    sleep_ms(left_ms(&rival) + 20).await;
    let late = Uuid::now_v7();
    let retaken = join_all((0..5).map(|_| site.retake(&lapsed.hold_id, late))).await;
    assert!(retaken.iter().all(|hold| hold.as_ref().unwrap().state() == HoldState::Pinned));
    assert_eq!(site.read_hold(&rival.hold_id).await.unwrap().state(), HoldState::Expired);
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
    let site = Site::start_with("latecomers", &RACING).await;
    let product = site.product(20).await;
    let holds = join_all((0..20).map(|_| site.hold_one(&product))).await;
    until("all are swept", async || site.stock(&product).await == (20, 0)).await;
    until("12 others hold", async || site.hold(Uuid::now_v7(), Uuid::now_v7(), &[(&product, 12)]).await.is_ok()).await;
    let attempt = Uuid::now_v7();
    let outcomes = join_all(holds.iter().map(|hold| site.retake(&hold.as_ref().unwrap().hold_id, attempt))).await;
    let retaken = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(outcomes.iter().all(|outcome| ["OK", "OUT_OF_STOCK"].contains(&code(outcome).as_str())));
    assert!((8..=20).contains(&retaken), "{retaken}");
    let (on_hand, held) = site.stock(&product).await;
    assert!(on_hand == 20 && held >= retaken as i64, "{retaken} retaken, {held} held");
    until("only they are left", async || site.stock(&product).await == (20, retaken as i64)).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpinned_hold_may_be_paid_a_little_longer() {
    let settings = [("inventory.hold_ttl_seconds", "1"), ("inventory.unpin_seconds_min", "2")];
    let site = Site::start_with("longer", &settings).await;
    let product = site.product(1).await;
    let (hold, attempt) = (site.hold_one(&product).await.unwrap(), Uuid::now_v7());
    site.pin(&hold.hold_id, attempt).await.unwrap();
    sleep_ms(left_ms(&hold) + 300).await;
    assert_eq!(site.read_hold(&hold.hold_id).await.unwrap().state(), HoldState::Pinned);
    let unpinned = site.unpin(&hold.hold_id, attempt).await.unwrap();
    assert!((1000..=2000).contains(&left_ms(&unpinned)), "{}", left_ms(&unpinned));
    assert_eq!(code(&site.hold_one(&product).await), "OUT_OF_STOCK");
    // The end of the attempt, told again, makes it live no longer.
    assert_eq!(site.unpin(&hold.hold_id, attempt).await.unwrap(), unpinned);
    assert_eq!(site.unpin(&hold.hold_id, Uuid::now_v7()).await.unwrap(), unpinned);

    sleep_ms(left_ms(&unpinned) + 20).await;
    assert_eq!(code(&site.pin(&hold.hold_id, Uuid::now_v7()).await), "HOLD_EXPIRED");
    // The gate has learnt the new time, not the one for ever.
    until("the unit is on sale", async || site.hold_one(&product).await.is_ok()).await;
    site.stop().await;
}
