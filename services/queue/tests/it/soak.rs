//! What depends on chance: a crowd, people who do not come back, replicas that tick together, and a Redis that loses the room.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Mutex, Semaphore};

use crate::room::Guest;
use crate::site::Site;

const GUESTS: usize = 2_000;
const CAP: usize = 20;
/// Every third does not come back.
const ABSENT_EVERY: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: 2,000 people, a third of them absent, three replicas, and a room that is lost"]
async fn a_crowd_is_served_in_order_and_never_beyond_the_slots() {
    let settings = [
        ("queue.tick_period_ms", "20"),
        ("queue.sync_period_ms", "200"),
        ("queue.alive_seconds", "10"),
        ("queue.grace_seconds", "60"),
    ];
    let site = Arc::new(Site::start_with(&settings).await);
    let replicas = [site.replica_with(&settings).await, site.replica_with(&settings).await];
    let event = site.room(json!({ "maxActive": CAP, "ratePerMinute": 600_000, "claimSeconds": 10 })).await;
    site.manage(&event, "pause").await.expect(200);
    let guests = site.guests(&event, GUESTS).await;
    // Those who do not come back were last heard of long ago.
    site.set_meta(&event, "since", "1").await;
    for guest in guests.iter().step_by(ABSENT_EVERY) {
        let () = site.redis(&["ZADD", &site.key(&event, "seen"), "1", &guest.seq.unwrap().to_string()]).await;
    }

    let (admitted, polls) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(16)));
    let mut tasks = Vec::new();
    for (number, guest) in guests.into_iter().enumerate() {
        if number % ABSENT_EVERY == 0 {
            continue;
        }
        let (site, event, admitted, polls) = (site.clone(), event.clone(), admitted.clone(), polls.clone());
        tasks.push(tokio::spawn(async move { wait_and_buy(&site, &event, guest, &admitted, &polls).await }));
    }
    // Everybody else has asked by then.
    tokio::time::sleep(Duration::from_secs(6)).await;
    site.manage(&event, "resume").await.expect(200);
    let watched = async {
        loop {
            let active = site.members(&event, "active").await.len();
            assert!(active <= CAP, "{active} passes");
            let served = admitted.lock().await.len();
            if served > GUESTS / 3 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        site.lose(&event).await;
    };
    watched.await;
    for task in tasks {
        task.await.unwrap();
    }
    let admitted = admitted.lock().await;
    let mut sorted = admitted.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), admitted.len(), "nobody twice");
    assert_eq!(admitted.len(), GUESTS - GUESTS.div_ceil(ABSENT_EVERY), "everybody who was there");
    // Slots are offered in order; who has one claims it a little sooner or later.
    for (place, seq) in admitted.iter().enumerate() {
        let overtaken = admitted[..place].iter().filter(|earlier| *earlier > seq).count();
        assert!(overtaken <= 3 * CAP, "number {seq} was overtaken by {overtaken}");
    }
    for replica in replicas {
        replica.stop().await;
    }
}

async fn wait_and_buy(site: &Site, event: &str, guest: Guest, admitted: &Mutex<Vec<i64>>, polls: &Semaphore) {
    loop {
        let standing = {
            let _turn = polls.acquire().await.unwrap();
            site.standing(event, &guest).await
        };
        match standing.as_str() {
            "ADMITTED" => break,
            "WAITING" | "SERVICE_UNAVAILABLE" => tokio::time::sleep(Duration::from_millis(300)).await,
            other => panic!("number {:?} is {other}", guest.seq),
        }
    }
    admitted.lock().await.push(guest.seq.unwrap());
    site.complete(event, &guest).await;
}
