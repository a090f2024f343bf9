//! A broker that dies, one that comes back with nothing, and topics that are not there.

use std::sync::mpsc;
use std::time::Duration;

use common::kafka::KafkaSettings;
use futures_util::future::join_all;
use sandbox::{External, KafkaChoice, Options, Sandbox, Server};
use tokio::runtime::Runtime;

use crate::shop::{BROKER, Moved, PATIENCE, Shop, kafka_settings, outbox_settings, sandbox};
use crate::wire::Wire;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_and_comes_back_loses_nothing() {
    let _broker = BROKER.write().await;
    let shop = Shop::open("killed").await;
    let (relay, consumer) = (shop.relay(&shop.db, outbox_settings()), shop.consumer());
    let kill = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        sandbox().await.kill(Server::Kafka).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        sandbox().await.restart(Server::Kafka).await.unwrap();
    };
    tokio::join!(shop.move_much(&shop.db, 8, 150, 7), kill);
    shop.settled().await;
    shop.assert_effects_are_exact().await;
    shop.assert_log_is_complete_and_in_order().await;
    assert_eq!(shop.count("select count(*) from outbox_events where attempts > 0").await, 0, "an outage was charged");
    relay.stop().await;
    consumer.stop().await;
}

/// A consumer of the same process asks about the broker too, and so would hide a relay that had stopped asking.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_consumers_beside_it_finds_the_broker_again() {
    let _broker = BROKER.write().await;
    let shop = Shop::open("alone").await;
    let relay = shop.relay(&shop.db, outbox_settings());
    let kill = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        sandbox().await.kill(Server::Kafka).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        sandbox().await.restart(Server::Kafka).await.unwrap();
    };
    tokio::join!(shop.move_much(&shop.db, 8, 150, 7), kill);
    shop.until("select count(*) from outbox_events where status = 'NEW'", 0).await;
    shop.assert_log_is_complete_and_in_order().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_replaced_by_an_empty_one_gets_everything_again_and_no_effect_is_doubled() {
    let _broker = BROKER.write().await;
    let shop = Shop::open("wiped").await;
    let (relay, consumer) = (shop.relay(&shop.db, outbox_settings()), shop.consumer());
    shop.move_much(&shop.db, 4, 100, 5).await;
    shop.settled().await;
    let wipe = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sandbox().await.wipe_kafka().await.unwrap();
    };
    tokio::join!(shop.move_much(&shop.db, 4, 100, 5), wipe);
    shop.until("select count(*) from outbox_broker where since > (select min(created_at) from outbox_events)", 1).await;
    shop.settled().await;
    // What had been published to the old broker is in the new one too.
    shop.assert_log_is_complete_and_in_order().await;
    shop.assert_effects_are_exact().await;

    // The consumer follows the new log.
    shop.move_much(&shop.db, 1, 20, 5).await;
    shop.settled().await;
    shop.assert_effects_are_exact().await;
    relay.stop().await;
    consumer.stop().await;
}

/// A client that asks at a moment when no broker takes part is told that there are none, and goes deaf for good.
///
/// A member that asks about its group at such a moment may lose its place for good, though not often: so there are several.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_fenced_for_moments_deafens_nobody() {
    const SHOPS: usize = 6;
    let sound = broker_alone("fenced");
    // Its word that it lives comes a second later than it is waited for.
    let late = [("broker.session.timeout.ms", "1000"), ("broker.heartbeat.interval.ms", "2000")];
    let kafka_properties = late.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let fenced = Options { ephemeral: false, kafka_properties, ..sound.clone() };

    let broker = Sandbox::start(fenced).await.unwrap();
    let brokers = broker.kafka_brokers();
    let shops = (0..SHOPS).map(async |n| Shop::open_on(brokers.clone(), &format!("fenced{n}"), 1).await);
    let shops = join_all(shops).await;
    let running: Vec<_> = shops.iter().map(|shop| [shop.relay(&shop.db, outbox_settings()), shop.consumer()]).collect();
    let mut fences = 0;
    for _ in 0..100 {
        join_all(shops.iter().map(|shop| shop.move_money(&shop.db, "restless", 1))).await;
        fences += usize::from(!shops[0].has_brokers().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(fences > 0, "it was never fenced");
    broker.stop().await.unwrap();

    let broker = Sandbox::start(sound).await.unwrap();
    assert_eq!(broker.kafka_brokers(), brokers, "it has taken its old place");
    for (shop, running) in shops.iter().zip(running) {
        shop.settled().await;
        shop.assert_effects_are_exact().await;
        assert_eq!(shop.count("select count(*) from outbox_events where attempts > 0").await, 0, "a fence was charged");
        for running in running {
            running.stop().await;
        }
    }
    broker.stop().await.unwrap();
}

/// Without a broker, a member can neither commit nor leave its group: for the session's time, and in bad cases for ever.
#[test]
fn a_process_that_stops_while_its_broker_is_gone_ends() {
    let runtime = Runtime::new().unwrap();
    let broker = runtime.block_on(async {
        let broker = Sandbox::start(broker_alone("gone")).await.unwrap();
        // Longer than anybody is waited for here.
        let settings = KafkaSettings { session_timeout_ms: 300_000, ..kafka_settings(broker.kafka_brokers(), 1) };
        let shops = join_all((0..6).map(async |n| Shop::open_with(&settings, &format!("gone{n}")).await)).await;
        let running = shops.iter().map(|shop| (shop.relay(&shop.db, outbox_settings()), shop.consumer()));
        let running: Vec<_> = running.collect();
        for shop in &shops {
            shop.move_much(&shop.db, 2, 10, 3).await;
            shop.settled().await;
        }
        let kill = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            broker.kill(Server::Kafka).await.unwrap();
        };
        let moves = shops.iter().map(|shop| shop.move_much(&shop.db, 1, 100, 3));
        tokio::join!(join_all(moves), kill);
        // A consumer asks for its broker after five seconds of silence, and again and again: some are cut off while they do.
        let stops = running.into_iter().zip(0..).map(async |((relay, consumer), n)| {
            tokio::time::sleep(Duration::from_millis(5_000 + 500 * n)).await;
            consumer.stop().await;
            relay.stop().await;
        });
        join_all(stops).await;
        broker
    });
    let (ended, on_ended) = mpsc::channel();
    // As at the end of a process: whatever runs in the runtime's own threads is waited for.
    std::thread::spawn(move || {
        drop(runtime);
        ended.send(())
    });
    on_ended.recv_timeout(PATIENCE).expect("it does not end");
    drop(broker);
}

/// A cable, a firewall, a machine that lost its power: no connection ends, and nothing comes.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_die_silently_are_given_up() {
    let mut wire = Wire::lay().await;
    let mut options = broker_alone("silent");
    let listeners = format!("PLAINTEXT://{}", wire.address());
    options.kafka_properties = vec![("advertised.listeners".to_owned(), listeners)];
    let broker = Sandbox::start(options).await.unwrap();
    wire.connect_to(broker.kafka_brokers());
    let shop = Shop::open_on(wire.address(), "silent", 1).await;
    let (relay, consumer) = (shop.relay(&shop.db, outbox_settings()), shop.consumer());
    shop.move_much(&shop.db, 2, 10, 3).await;
    shop.settled().await;
    wire.cut();
    shop.move_much(&shop.db, 2, 10, 3).await;
    shop.settled().await;
    shop.assert_effects_are_exact().await;
    relay.stop().await;
    consumer.stop().await;
    broker.stop().await.unwrap();
}

/// What a cluster answers while too few of its brokers take part: for a moment after a stall, or for a whole night.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_cannot_be_created_for_now_is_waited_for_and_holds_up_no_other() {
    let _broker = BROKER.read().await;
    let shop = Shop::open_on(sandbox().await.kafka_brokers(), "scarce", 2).await;
    let (relay, consumer) = (shop.relay(&shop.db, outbox_settings()), shop.consumer());
    shop.move_much(&shop.db, 2, 10, 3).await;
    // Longer than a producer waits for a topic.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(shop.count("select count(*) from outbox_events where status = 'NEW' and attempts = 0").await, 20);

    shop.create_topic(<Moved as common::outbox::Event>::TOPIC).await;
    shop.settled().await;
    shop.assert_effects_are_exact().await;

    // With one topic there and the other not.
    relay.stop().await;
    shop.move_money(&shop.db, "of a topic that is missing", 1).await;
    shop.execute("update outbox_events set topic = 'ANOTHER' where key = 'of a topic that is missing'").await;
    shop.move_money(&shop.db, "of one that is there", 1).await;
    let relay = shop.relay(&shop.db, outbox_settings());
    shop.until("select count(*) from effects where account = 'of one that is there'", 1).await;
    assert_eq!(shop.count("select count(*) from outbox_events where status = 'NEW'").await, 1);
    shop.create_topic("ANOTHER").await;
    shop.until("select count(*) from outbox_events where status = 'NEW'", 0).await;
    relay.stop().await;
    consumer.stop().await;
}

/// Its events are gone with it, and so are its consumers' places; but the relay goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_deleted_under_way_is_created_again() {
    let _broker = BROKER.read().await;
    let shop = Shop::open("deleted").await;
    let relay = shop.relay(&shop.db, outbox_settings());
    shop.move_much(&shop.db, 2, 10, 3).await;
    shop.until("select count(*) from outbox_events where status = 'NEW'", 0).await;
    shop.delete_topic(<Moved as common::outbox::Event>::TOPIC).await;
    for account in ["after", "after", "it"] {
        shop.move_money(&shop.db, account, 1).await;
    }
    shop.until("select count(*) from outbox_events where status = 'NEW'", 0).await;
    assert_eq!(shop.count("select count(*) from outbox_events where status = 'DEAD'").await, 0);
    let mut log = shop.log().await;
    log.values_mut().for_each(Vec::dedup);
    assert_eq!((&log["after"], &log["it"]), (&vec![1, 2], &vec![1]));
    relay.stop().await;
}

/// A broker of a test's own.
fn broker_alone(name: &str) -> Options {
    let data_dir = std::env::temp_dir().join(format!("stampede-{name}-{}", std::process::id()));
    let nobody = || Some("127.0.0.1:1".to_owned());
    let external = External { postgres_url: nobody(), redis_url: nobody(), kafka_brokers: None };
    Options { data_dir, ephemeral: true, kafka: KafkaChoice::Apache, external, ..Options::default() }
}
