//! Telling: complete, in order, at once, by one relay per shard.

use std::time::Duration;

use chrono::DateTime;
use common::outbox::{self, OutboxSettings};

use crate::shop::{BROKER, Shop, outbox_settings};

/// Longer than any of these tests waits: only the wake-up can explain an event that arrives.
const LAZY: u64 = 600_000;

#[tokio::test(flavor = "multi_thread")]
async fn events_of_concurrent_writers_all_arrive_once_and_in_the_order_of_their_versions() {
    let _broker = BROKER.read().await;
    let shop = Shop::open("writers").await;
    let (relay, consumer) = (shop.relay(&shop.db, outbox_settings()), shop.consumer());
    shop.move_much(&shop.db, 12, 100, 7).await;
    shop.settled().await;
    shop.assert_effects_are_exact().await;
    shop.assert_log_is_complete_and_in_order().await;
    relay.stop().await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_relay_waits_takes_over_from_a_dead_one_and_order_survives() {
    let _broker = BROKER.read().await;
    let shop = Shop::open("two_relays").await;
    let other = shop.another_db().await;
    let first = shop.relay(&shop.db, outbox_settings());
    shop.until("select count(*) from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock' and classid = (select hashtext('outbox of ' || current_schema())::bigint & 4294967295)::oid", 8).await;
    let second = shop.relay(&other, outbox_settings());
    let consumer = shop.consumer();
    let dies_in_the_middle = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        first.die().await;
    };
    tokio::join!(shop.move_much(&shop.db, 6, 100, 5), shop.move_much(&other, 6, 100, 5), dies_in_the_middle);
    shop.settled().await;
    shop.assert_effects_are_exact().await;
    shop.assert_log_is_complete_and_in_order().await;
    second.stop().await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_wakes_the_relay_wherever_it_runs() {
    let _broker = BROKER.read().await;
    let shop = Shop::open("wake").await;
    let other = shop.another_db().await;
    let lazy = OutboxSettings { poll_ms: LAZY, ..outbox_settings() };
    let (holder, consumer) = (shop.relay(&shop.db, lazy.clone()), shop.consumer());
    shop.move_money(&shop.db, "a", 1).await;
    shop.settled().await;
    let neighbour = shop.relay(&other, lazy);
    tokio::time::sleep(Duration::from_millis(500)).await;
    for db in [&shop.db, &other] {
        shop.move_money(db, "a", 1).await;
        shop.settled().await;
    }
    for running in [holder, neighbour, consumer] {
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stops_hands_its_shards_over_at_once() {
    let _broker = BROKER.read().await;
    let shop = Shop::open("handover").await;
    let other = shop.another_db().await;
    let lazy = OutboxSettings { poll_ms: LAZY, ..outbox_settings() };
    let first = shop.relay(&shop.db, lazy.clone());
    shop.move_money(&shop.db, "a", 1).await;
    shop.until("select count(*) from outbox_events where status = 'PUBLISHED'", 1).await;
    let second = shop.relay(&other, lazy);
    tokio::time::sleep(Duration::from_millis(500)).await;
    first.stop().await;
    shop.move_money(&other, "a", 1).await;
    shop.until("select count(*) from outbox_events where status = 'PUBLISHED'", 2).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_event_blocks_its_key_alone_until_a_redrive() {
    let _broker = BROKER.read().await;
    let shop = Shop::open("refused").await;
    for account in ["bad", "good"] {
        for _ in 0..3 {
            shop.move_money(&shop.db, account, 1).await;
        }
    }
    // No broker has a topic of this name, nor can one be made.
    shop.execute("update outbox_events set topic = 'no such topic!' where key = 'bad'").await;
    let (relay, consumer) = (shop.relay(&shop.db, outbox_settings()), shop.consumer());
    shop.until("select count(*) from outbox_events where status = 'DEAD'", 1).await;
    shop.until("select count(*) from effects", 3).await;
    // Time for a mistake.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stats = outbox::stats(&shop.db).await.unwrap();
    assert_eq!((stats.pending, stats.dead), (2, 1));
    assert!(stats.oldest_age_seconds > 1.0);
    assert_eq!(shop.count("select aggregate_version from outbox_events where status = 'DEAD'").await, 1);

    shop.execute("update outbox_events set topic = 'ACCOUNT_MOVED' where key = 'bad'").await;
    assert_eq!(outbox::redrive(&shop.db).await.unwrap(), 1);
    shop.settled().await;
    shop.assert_effects_are_exact().await;
    relay.stop().await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_sends_again_and_cleaning_removes_only_what_is_old_and_published() {
    let _broker = BROKER.read().await;
    let shop = Shop::open("replay").await;
    let (relay, consumer) = (shop.relay(&shop.db, outbox_settings()), shop.consumer());
    shop.move_much(&shop.db, 1, 250, 3).await;
    shop.settled().await;
    assert_eq!(outbox::replay(&shop.db, DateTime::UNIX_EPOCH).await.unwrap(), 250);
    shop.settled().await;
    assert_eq!(shop.log().await.values().map(Vec::len).sum::<usize>(), 500);
    shop.assert_effects_are_exact().await;
    shop.assert_log_is_complete_and_in_order().await;
    relay.stop().await;
    consumer.stop().await;

    shop.execute("update outbox_events set published_at = now() - interval '25 hours' where id % 5 > 0").await;
    shop.execute("update outbox_events set status = 'NEW' where id % 5 = 1").await;
    outbox::clean(&shop.db, &outbox_settings()).await.unwrap();
    assert_eq!(shop.count("select count(*) from outbox_events where status = 'PUBLISHED'").await, 50);
    assert_eq!(shop.count("select count(*) from outbox_events where status = 'NEW'").await, 50);
}
