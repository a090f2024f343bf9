//! Consuming: each event is applied once, however often it comes; a bad one stops nothing but its own key.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::inbox;
use common::outbox::Event;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use uuid::Uuid;

use crate::scenario::{BalanceChanged, GROUP, PATIENCE, Scenario};

/// Writes a message past the outbox.
async fn produce(scenario: &Scenario, event_id: Uuid, key: &str, payload: &str) {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &scenario.brokers).create().unwrap();
    let id = event_id.to_string();
    let headers = OwnedHeaders::new().insert(Header { key: "ce_id", value: Some(&id) });
    let topic = scenario.kafka.topic(BalanceChanged::TOPIC);
    let record = FutureRecord::to(&topic).key(key).payload(payload).headers(headers);
    producer.send(record, PATIENCE).await.unwrap();
}

fn version(version: i64) -> String {
    format!(r#"{{"account":"a","version":{version},"amount":1}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_twice_has_one_effect() {
    let scenario = Scenario::new("twice").await;
    scenario.kafka.ensure_topics(&[BalanceChanged::TOPIC]).await.unwrap();
    let id = Uuid::now_v7();
    produce(&scenario, id, "a", &version(1)).await;
    produce(&scenario, id, "a", &version(1)).await;
    let consumer = scenario.consumer();
    scenario.until_effects(1).await;
    produce(&scenario, id, "a", &version(1)).await;
    // Whoever applies this has received the repeated one before.
    produce(&scenario, Uuid::now_v7(), "a", &version(2)).await;
    scenario.until_effects(2).await;
    assert_eq!(scenario.effects().await["a"], [1, 2]);
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_none_of_its_consumers_concern_is_ignored_and_leaves_no_trace() {
    let scenario = Scenario::new("ignored").await;
    scenario.kafka.ensure_topics(&[BalanceChanged::TOPIC]).await.unwrap();
    for (version, amount) in [(1, 1), (2, 0), (3, 1), (4, 0)] {
        let payload = format!(r#"{{"account":"a","version":{version},"amount":{amount}}}"#);
        produce(&scenario, Uuid::now_v7(), "a", &payload).await;
    }
    let consumer = scenario.consumer();
    scenario.until_effects(2).await;
    assert_eq!(scenario.effects().await["a"], [1, 3]);
    assert_eq!(scenario.number("select count(*) from inbox").await, 2);
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_dies_before_it_commits_its_offsets_applies_nothing_twice() {
    let scenario = Scenario::new("offsets").await;
    scenario.kafka.ensure_topics(&[BalanceChanged::TOPIC]).await.unwrap();
    produce(&scenario, Uuid::now_v7(), "a", &version(1)).await;
    let mut applied = scenario.pause("inbox.after_commit");
    let first = scenario.consumer();
    applied.reached().await;
    assert_eq!(scenario.effects().await["a"], [1]);
    first.die().await;

    let second = scenario.consumer();
    produce(&scenario, Uuid::now_v7(), "a", &version(2)).await;
    scenario.until_effects(2).await;
    assert_eq!(scenario.effects().await["a"], [1, 2]);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_applied_parks_its_key_while_others_flow_and_a_replay_keeps_the_order() {
    let scenario = Scenario::new("parked").await;
    let (relay, consumer) = (scenario.relay(), scenario.consumer());
    for amount in [1, -1, 1, 1] {
        scenario.change("bad", amount).await;
        scenario.change("good", 1).await;
    }
    scenario.until_received().await;
    let parked = "select count(*) from parked";
    assert_eq!(scenario.number(parked).await, 3, "an event that cannot be applied and those behind it are parked");
    // A later one finds its key blocked.
    scenario.change("bad", 1).await;
    scenario.until_received().await;
    assert_eq!(scenario.effects().await["bad"], [1]);
    assert_eq!(scenario.effects().await["good"], [1, 2, 3, 4]);
    let found = inbox::parked(&scenario.db, Some(GROUP), 0, 10).await.unwrap();
    assert_eq!(found.len(), 4);
    assert!(found[0].error.contains("a negative amount"), "{}", found[0].error);
    assert!(found[1..].iter().all(|parked| parked.error.starts_with("behind")));
    assert_eq!(found[0].headers["ce_type"], BalanceChanged::TOPIC);

    // Nothing has changed, so a replay ends where it began.
    assert_eq!(inbox::request_replay(&scenario.db, GROUP, Some("bad")).await.unwrap(), 4);
    let requested = "select count(*) from parked where replay_requested_at is not null";
    scenario.until("a replay that fails ends", requested, 0).await;
    assert_eq!(scenario.number(parked).await, 4);

    scenario.recorder.accepts_negative.store(true, Ordering::SeqCst);
    inbox::request_replay(&scenario.db, GROUP, None).await.unwrap();
    scenario.until("a replay applies what was parked", parked, 0).await;
    scenario.assert_effects_are_exact().await;
    relay.stop().await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_can_read_is_parked_and_can_be_given_up() {
    let scenario = Scenario::new("garbage").await;
    scenario.kafka.ensure_topics(&[BalanceChanged::TOPIC]).await.unwrap();
    let garbage = Uuid::now_v7();
    produce(&scenario, garbage, "a", "\u{fffd} this is no JSON").await;
    produce(&scenario, Uuid::now_v7(), "a", &version(1)).await;
    let consumer = scenario.consumer();
    let parked = "select count(*) from parked";
    scenario.until("both messages are received", "select count(*) from inbox", 2).await;
    assert_eq!(scenario.number(parked).await, 2, "a message that nobody can read and the one behind it are parked");
    assert!(inbox::discard_parked(&scenario.db, GROUP, garbage).await.unwrap());
    assert!(!inbox::discard_parked(&scenario.db, GROUP, garbage).await.unwrap());
    inbox::request_replay(&scenario.db, GROUP, None).await.unwrap();
    scenario.until("a replay applies what was parked", parked, 0).await;
    assert_eq!(scenario.effects().await["a"], [1]);
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_fails_for_now_leaves_no_trace_and_is_called_again() {
    let scenario = Scenario::new("transient").await;
    scenario.recorder.failures_left.store(u32::MAX, Ordering::SeqCst);
    let (relay, consumer) = (scenario.relay(), scenario.consumer());
    scenario.change_many(&scenario.db, 1, 20, 1).await;
    let started = Instant::now();
    while scenario.recorder.failures_left.load(Ordering::SeqCst) == u32::MAX {
        assert!(started.elapsed() < PATIENCE, "the handler is called");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(scenario.number("select count(*) from inbox").await, 0, "a transient failure leaves no trace");
    assert_eq!(scenario.number("select count(*) from effects").await, 0, "a transient failure leaves no trace");
    scenario.recorder.failures_left.store(0, Ordering::SeqCst);
    // Whoever applies this has received the others before.
    scenario.change("account-0", 1).await;
    scenario.until("a later event is applied", "select count(*) from effects where version = 21", 1).await;
    let all: Vec<i64> = (1..=21).collect();
    assert_eq!(scenario.effects().await["account-0"], all, "events whose handler failed for now are applied after all");
    relay.stop().await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: consumers come, go and die at random moments of a load"]
async fn consumers_that_come_and_go_and_die_apply_each_event_once() {
    let scenario = Scenario::new("members").await;
    let relay = scenario.relay();
    let members = async {
        let first = scenario.consumer();
        tokio::time::sleep(Duration::from_millis(700)).await;
        let second = scenario.consumer();
        tokio::time::sleep(Duration::from_millis(700)).await;
        first.die().await;
        let third = scenario.consumer();
        tokio::time::sleep(Duration::from_millis(700)).await;
        second.stop().await;
        third
    };
    let (third, ()) = tokio::join!(members, scenario.change_many(&scenario.db, 4, 150, 9));
    scenario.until_received().await;
    scenario.assert_effects_are_exact().await;
    third.stop().await;
    relay.stop().await;
}
