//! The races of `racing.rs` left to chance, many times over.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use uuid::Uuid;

use crate::site::{NO_SWEEP, OrderSite, Placed, code, outcome};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: a race of which each side must win at times"]
async fn an_order_is_cancelled_or_reserved_and_never_both() {
    let site = OrderSite::start().await;
    let replica = site.replica(&NO_SWEEP).await;
    let mut counts: HashMap<(u16, String), i64> = HashMap::new();
    for round in 0..100_u64 {
        let order = site.order().await;
        // Different delays, since HTTP takes longer than gRPC.
        let begin = async {
            tokio::time::sleep(Duration::from_micros(round % 5 * 500)).await;
            code(&replica.begin_approval(&order, Uuid::now_v7(), Uuid::now_v7()).await)
        };
        let (begun, cancelled) = tokio::join!(begin, site.cancel(&order));
        let stored = site.get(&order).await;
        match (begun.as_str(), outcome(&cancelled)) {
            ("OK", (409, refused)) => {
                assert_eq!((refused.as_str(), stored.status.as_str()), ("PAYMENT_IN_PROGRESS", "CREATED"));
                assert_eq!(site.events(&order).await, ["ORDER_CREATED 1"]);
            }
            ("ORDER_NOT_PAYABLE", (200, _)) => {
                assert_eq!(stored.status, "CANCELLED");
                assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_CANCELLED 2"]);
            }
            both => panic!("round {round}: {both:?}"),
        }
        assert_eq!(stored.version, 2);
        *counts.entry((cancelled.status.as_u16(), begun)).or_default() += 1;
    }
    println!("an order is cancelled or reserved: {counts:?}");
    assert_eq!(counts.len(), 2, "each side wins at times: {counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: a race of which each side must win at times"]
async fn an_order_expires_or_is_reserved_at_the_instant_its_time_is_up() {
    let site = OrderSite::start_with(&[("order.expire_sweep_ms", "2")]).await;
    let lanes = join_all((0..4).map(async |_| {
        let mut outcomes = Vec::new();
        let mut lead = TimeDelta::milliseconds(4);
        for _ in 0..50 {
            let (order, reserved) = reserve_at_the_instant(&site, lead).await;
            // The winner starts later the next time, so that the race stays close however busy the machine is.
            lead = if reserved { lead * 3 / 4 } else { lead * 4 / 3 + TimeDelta::microseconds(100) };
            outcomes.push((order, reserved));
        }
        outcomes
    }));
    let outcomes = lanes.await.concat();
    let expired = outcomes.iter().filter(|(_, reserved)| !reserved).count();
    println!("an order expires or is reserved: {} were reserved, {expired} had expired", 200 - expired);
    assert!((20..=180).contains(&expired), "{expired} of 200 had expired");

    let announced = "select count(*) from {order}.outbox_events where topic = 'ORDER_EXPIRED'";
    site.until_number(announced, expired as i64).await;
    for (order, reserved) in &outcomes {
        let (status, events) = (site.get(order).await.status, site.events(order).await);
        if *reserved {
            assert_eq!((status.as_str(), events), ("CREATED", vec!["ORDER_CREATED 1".to_owned()]));
        } else {
            assert_eq!(status, "EXPIRED");
            assert_eq!(events, ["ORDER_CREATED 1", "ORDER_EXPIRED 2"]);
        }
    }
    assert_eq!(site.number(announced).await, expired as i64, "a reserved order does not expire meanwhile");
}

/// Asks for a new order `lead` before its time is up. Returns whether it was reserved.
async fn reserve_at_the_instant(site: &OrderSite, lead: TimeDelta) -> (Placed, bool) {
    let order = site.order().await;
    let asked_at = Utc::now() + TimeDelta::milliseconds(30);
    let move_expiry = format!(
        "update {{order}}.orders set hold_expires_at = '{}' where id = '{}'",
        (asked_at + lead).to_rfc3339(),
        order.id
    );
    site.execute(&move_expiry).await;
    tokio::time::sleep((asked_at - Utc::now()).to_std().unwrap_or_default()).await;
    match code(&site.begin_approval(&order, Uuid::now_v7(), Uuid::now_v7()).await).as_str() {
        "OK" => (order, true),
        "HOLD_EXPIRED" => (order, false),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: many rounds of eight attempts"]
async fn of_many_attempts_at_once_one_reserves_the_order() {
    let site = OrderSite::start().await;
    let replica = site.replica(&NO_SWEEP).await;
    for _ in 0..25 {
        let order = site.order().await;
        let asked = join_all((0..8).map(async |number| {
            let attempt = Uuid::now_v7();
            let door = if number % 2 == 0 { &site } else { &replica };
            (attempt, code(&door.begin_approval(&order, Uuid::now_v7(), attempt).await))
        }));
        let outcomes = asked.await;
        let winners: Vec<Uuid> =
            outcomes.iter().filter(|(_, code)| code == "OK").map(|(attempt, _)| *attempt).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert!(outcomes.iter().all(|(_, code)| code == "OK" || code == "PAYMENT_IN_PROGRESS"), "{outcomes:?}");
        let stored = format!(
            "select count(*) from {{order}}.orders where id = '{}' and version = 2 and approving_attempt_id = '{}'",
            order.id, winners[0]
        );
        assert_eq!(site.number(&stored).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: many rounds of eight calls"]
async fn an_order_that_many_calls_pay_at_once_is_announced_once() {
    let site = OrderSite::start().await;
    let replica = site.replica(&NO_SWEEP).await;
    for round in 0..20 {
        let (order, payment) = (site.order().await, Uuid::now_v7());
        site.begin_payment(&order, payment).await.unwrap();
        site.reserve(&order, payment).await;
        let calls = join_all((0..8).map(|number| {
            let door = if number % 2 == 0 { &site } else { &replica };
            door.mark_paid(&order, payment, number % 3 == 0)
        }));
        for paid in calls.await {
            let paid = paid.unwrap();
            assert_eq!((paid.status.as_str(), paid.version), ("PAID", 4), "round {round}");
        }
        assert_eq!(site.events(&order).await, ["ORDER_CREATED 1", "ORDER_PLACED 4"]);
    }
}
