//! Listening: each event once, however often it comes; a bad one stops nothing but its own key.

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::inbox;
use common::outbox::Event;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use uuid::Uuid;

use crate::shop::{BROKER, GROUP, Moved, Shop, outbox_settings, sandbox};

/// Writes a message past the outbox.
async fn produce(shop: &Shop, event_id: Uuid, key: &str, payload: &str) {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", sandbox().await.kafka_brokers()).create().unwrap();
    let id = event_id.to_string();
    let headers = OwnedHeaders::new().insert(Header { key: "ce_id", value: Some(&id) });
    let topic = shop.kafka.topic(Moved::TOPIC);
    let record = FutureRecord::to(&topic).key(key).payload(payload).headers(headers);
    producer.send(record, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_twice_has_one_effect() {
    let _broker = BROKER.read().await;
    let shop = Shop::open("twice").await;
    shop.kafka.ensure_topics(&[Moved::TOPIC]).await.unwrap();
    let id = Uuid::now_v7();
    let payload = r#"{"account":"a","version":1,"amount":1}"#;
    // Twice in the first batch, and once more when it has been applied.
    produce(&shop, id, "a", payload).await;
    produce(&shop, id, "a", payload).await;
    let consumer = shop.consumer();
    shop.until("select count(*) from effects", 1).await;
    produce(&shop, id, "a", payload).await;
    produce(&shop, Uuid::now_v7(), "a", r#"{"account":"a","version":2,"amount":1}"#).await;
    shop.until("select count(*) from effects where version = 2", 1).await;
    assert_eq!(shop.effects().await["a"], [1, 2]);
    consumer.stop().await;

    // A consumer that comes later finds nothing to do, whatever became of the offsets.
    let consumer = shop.consumer();
    produce(&shop, Uuid::now_v7(), "a", r#"{"account":"a","version":3,"amount":1}"#).await;
    shop.until("select count(*) from effects where version = 3", 1).await;
    assert_eq!(shop.effects().await["a"], [1, 2, 3]);
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_applied_parks_its_key_while_others_flow_and_a_replay_keeps_the_order() {
    let _broker = BROKER.read().await;
    let shop = Shop::open("poison").await;
    let (relay, consumer) = (shop.relay(&shop.db, outbox_settings()), shop.consumer());
    for amount in [1, -1, 1, 1] {
        shop.move_money(&shop.db, "bad", amount).await;
        shop.move_money(&shop.db, "good", 1).await;
    }
    shop.settled().await;
    shop.until("select count(*) from parked", 3).await;
    // A later one finds its key blocked.
    shop.move_money(&shop.db, "bad", 1).await;
    shop.settled().await;
    assert_eq!(shop.effects().await["bad"], [1]);
    assert_eq!(shop.effects().await["good"], [1, 2, 3, 4]);
    let parked = inbox::parked(&shop.db, Some(GROUP), 0, 10).await.unwrap();
    assert_eq!(parked.len(), 4);
    assert!(parked[0].error.contains("a negative amount"), "{}", parked[0].error);
    assert!(parked[1..].iter().all(|parked| parked.error.starts_with("behind")));
    assert_eq!(parked[0].headers["ce_type"], Moved::TOPIC);

    // Nothing has changed, so a replay ends where it was.
    assert_eq!(inbox::request_replay(&shop.db, GROUP, Some("bad")).await.unwrap(), 4);
    shop.until("select count(*) from parked where replay_requested_at is not null", 0).await;
    assert_eq!(shop.count("select count(*) from parked").await, 4);

    shop.ledger.knows_negative.store(true, Ordering::SeqCst);
    inbox::request_replay(&shop.db, GROUP, None).await.unwrap();
    shop.until("select count(*) from parked", 0).await;
    shop.move_money(&shop.db, "bad", 1).await;
    shop.settled().await;
    shop.assert_effects_are_exact().await;
    relay.stop().await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_can_read_is_parked_and_can_be_given_up() {
    let _broker = BROKER.read().await;
    let shop = Shop::open("garbage").await;
    shop.kafka.ensure_topics(&[Moved::TOPIC]).await.unwrap();
    let garbage = Uuid::now_v7();
    produce(&shop, garbage, "a", "\u{fffd} this is no JSON").await;
    produce(&shop, Uuid::now_v7(), "a", r#"{"account":"a","version":1,"amount":1}"#).await;
    let consumer = shop.consumer();
    shop.until("select count(*) from parked", 2).await;
    assert!(inbox::discard_parked(&shop.db, GROUP, garbage).await.unwrap());
    assert!(!inbox::discard_parked(&shop.db, GROUP, garbage).await.unwrap());
    inbox::request_replay(&shop.db, GROUP, None).await.unwrap();
    shop.until("select count(*) from parked", 0).await;
    assert_eq!(shop.effects().await["a"], [1]);
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_fails_for_now_leaves_no_trace_and_is_called_again() {
    let _broker = BROKER.read().await;
    let shop = Shop::open("transient").await;
    shop.ledger.failures.store(u32::MAX, Ordering::SeqCst);
    let (relay, consumer) = (shop.relay(&shop.db, outbox_settings()), shop.consumer());
    shop.move_much(&shop.db, 1, 20, 3).await;
    shop.until("select count(*) from outbox_events where status = 'PUBLISHED'", 20).await;
    // Time for a few attempts; the consumer stays in its group meanwhile.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(shop.ledger.failures.load(Ordering::SeqCst) < u32::MAX, "no attempt was made");
    assert_eq!(shop.count("select count(*) from inbox").await, 0);
    assert_eq!(shop.count("select count(*) from effects").await, 0);
    shop.ledger.failures.store(0, Ordering::SeqCst);
    shop.move_much(&shop.db, 1, 20, 3).await;
    shop.settled().await;
    shop.assert_effects_are_exact().await;
    relay.stop().await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_come_and_go_and_die_apply_each_event_once() {
    let _broker = BROKER.read().await;
    let shop = Shop::open("members").await;
    let relay = shop.relay(&shop.db, outbox_settings());
    let members = async {
        let first = shop.consumer();
        tokio::time::sleep(Duration::from_millis(700)).await;
        let second = shop.consumer();
        tokio::time::sleep(Duration::from_millis(700)).await;
        first.die().await;
        let third = shop.consumer();
        tokio::time::sleep(Duration::from_millis(700)).await;
        second.stop().await;
        third
    };
    let (third, ()) = tokio::join!(members, shop.move_much(&shop.db, 4, 150, 9));
    shop.settled().await;
    shop.assert_effects_are_exact().await;
    third.stop().await;
    relay.stop().await;
}
