//! Two who want opposite things at the same moment: one of them gets it, and the other is told so.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use uuid::Uuid;

use crate::site::{Placed, Site, code, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_cancelled_or_reserved_and_never_both() {
    let site = Site::start("either").await;
    let beside = Site::start_beside(&site).await;
    let mut counts: HashMap<(u16, String), i64> = HashMap::new();
    for round in 0..100_u64 {
        let order = site.order().await;
        // A head start for each in turn: HTTP takes longer than gRPC.
        let begin = async {
            tokio::time::sleep(Duration::from_micros(round % 5 * 500)).await;
            code(&beside.begin(&order, Uuid::now_v7(), Uuid::now_v7()).await)
        };
        let (begun, cancelled) = tokio::join!(begin, site.cancel(&order));
        let stored = site.get(&order).await;
        match (begun.as_str(), cancelled.outcome()) {
            ("OK", (409, refused)) => {
                assert_eq!((refused.as_str(), stored.status.as_str()), ("PAYMENT_IN_PROGRESS", "CREATED"));
                assert_eq!(site.said(&order).await, ["ORDER_CREATED 1"]);
            }
            ("ORDER_NOT_PAYABLE", (200, _)) => {
                assert_eq!(stored.status, "CANCELLED");
                assert_eq!(site.said(&order).await, ["ORDER_CREATED 1", "ORDER_CANCELLED 2"]);
            }
            both => panic!("round {round}: {both:?}"),
        }
        assert_eq!(stored.version, 2);
        *counts.entry((cancelled.status.as_u16(), begun)).or_default() += 1;
    }
    assert_eq!(counts.len(), 2, "each of them wins at times: {counts:?}");
    beside.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_expires_or_is_reserved_at_the_instant_its_time_is_up() {
    let site = Site::start_with("instant", &[("order.expire_sweep_ms", "2")]).await;
    let lanes = join_all((0..4).map(async |_| {
        let mut outcomes = Vec::new();
        let mut lead = TimeDelta::milliseconds(4);
        for _ in 0..50 {
            let (order, reserved) = reserve_at_the_instant(&site, lead).await;
            // Whoever won starts later the next time, so that it stays a close race however busy the machine is.
            lead = if reserved { lead * 3 / 4 } else { lead * 4 / 3 + TimeDelta::microseconds(100) };
            outcomes.push((order, reserved));
        }
        outcomes
    }));
    let outcomes = lanes.await.concat();
    let expired = outcomes.iter().filter(|(_, reserved)| !reserved).count();
    println!("{} were reserved, {expired} had expired", 200 - expired);
    assert!((20..=180).contains(&expired), "{expired} of 200 had expired");

    let told = || async { site.told().await.get("ORDER_EXPIRED").copied().unwrap_or_default() };
    until("all that expired is told", async || told().await == expired as i64).await;
    for (order, reserved) in &outcomes {
        let (status, said) = (site.get(order).await.status, site.said(order).await);
        if *reserved {
            assert_eq!((status.as_str(), said), ("CREATED", vec!["ORDER_CREATED 1".to_owned()]));
        } else {
            assert_eq!(status, "EXPIRED");
            assert_eq!(said, ["ORDER_CREATED 1", "ORDER_EXPIRED 2"]);
        }
    }
    assert_eq!(told().await, expired as i64, "what is reserved has not expired meanwhile");
    site.stop().await;
}

/// Asks for a new order `lead` before its time is up; whether it was reserved.
async fn reserve_at_the_instant(site: &Site, lead: TimeDelta) -> (Placed, bool) {
    let order = site.order().await;
    let asked_at = Utc::now() + TimeDelta::milliseconds(30);
    site.set_expiry(&order, asked_at + lead).await;
    tokio::time::sleep((asked_at - Utc::now()).to_std().unwrap_or_default()).await;
    match code(&site.begin(&order, Uuid::now_v7(), Uuid::now_v7()).await).as_str() {
        "OK" => (order, true),
        "HOLD_EXPIRED" => (order, false),
        other => panic!("{other}"),
    }
}
