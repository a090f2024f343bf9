//! A broker that does not answer, that is gone, or that was replaced, and topics that are not there.

use std::sync::mpsc;
use std::time::Duration;

use common::kafka::KafkaSettings;
use common::outbox::Event;
use futures_util::future::join_all;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use sandbox::{External, Options, Sandbox, Server};
use testkit::servers;
use tokio::runtime::Runtime;

use crate::cut_wire::CutWire;
use crate::scenario::{BalanceChanged, PATIENCE, Scenario, kafka_settings};

const TOPIC: &str = BalanceChanged::TOPIC;

/// A scenario on a broker in this process, which can be switched off and on again at once.
async fn with_mock_broker(name: &str) -> (MockCluster<'static, DefaultProducerContext>, Scenario) {
    let broker = MockCluster::new(1).unwrap();
    let settings = KafkaSettings { delivery_timeout_ms: 500, ..kafka_settings(broker.bootstrap_servers()) };
    let scenario = Scenario::with(&settings, name).await;
    broker.create_topic(&scenario.kafka.topic(TOPIC), 3, 1).unwrap();
    (broker, scenario)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_report_never_came_is_not_lost_when_its_process_dies() {
    let (broker, scenario) = with_mock_broker("unreported").await;
    scenario.change("a", 1).await;
    let mut selected = scenario.pause("relay.after_select");
    let mut marked = scenario.pause("relay.after_mark");
    let first = scenario.relay();
    selected.reached().await;
    broker.broker_down(1).unwrap();
    selected.resume();
    // The relay sends, waits for `delivery_timeout`, and marks what was acknowledged.
    marked.reached().await;
    assert_eq!(
        scenario.events("NEW").await,
        1,
        "an event without a report must stay NEW, or it is lost with its process"
    );
    first.die().await;

    let second = scenario.relay();
    broker.broker_up(1).unwrap();
    scenario.until_published().await;
    assert_eq!(
        scenario.number("select count(*) from outbox_events where attempts > 0").await,
        0,
        "an outage was charged"
    );
    assert_eq!(scenario.log().await["a"], [1]);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_broker_went_away_publishes_when_it_is_back() {
    let (broker, scenario) = with_mock_broker("back").await;
    let relay = scenario.relay();
    scenario.change("a", 1).await;
    scenario.until_published().await;
    let mut selected = scenario.pause("relay.after_select");
    scenario.change("a", 1).await;
    selected.reached().await;
    broker.broker_down(1).unwrap();
    let mut marked = scenario.pause("relay.after_mark");
    selected.resume();
    marked.reached().await;
    marked.resume();
    scenario.change("a", 1).await;
    broker.broker_up(1).unwrap();
    scenario.until_published().await;
    assert_eq!(
        scenario.number("select count(*) from outbox_events where attempts > 0").await,
        0,
        "an outage was charged"
    );
    scenario.assert_log_is_complete_and_in_order().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_does_not_wait_for_the_consumer_group() {
    let (broker, scenario) = with_mock_broker("leave").await;
    let (relay, consumer) = (scenario.relay(), scenario.consumer());
    scenario.change("a", 1).await;
    scenario.until_effects(1).await;
    relay.stop().await;
    broker.broker_down(1).unwrap();
    tokio::time::timeout(PATIENCE, consumer.stop())
        .await
        .expect("a consumer stops although its group cannot be reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_broker_gets_every_retained_event_again_and_no_effect_is_doubled() {
    let scenario = Scenario::new("replaced").await;
    let (relay, consumer) = (scenario.relay(), scenario.consumer());
    scenario.change_many(&scenario.db, 1, 9, 3).await;
    scenario.until_received().await;
    relay.stop().await;
    // As if these had been published to a broker that is gone.
    scenario.execute("update outbox_broker set cluster_id = 'gone'").await;
    let relay = scenario.relay();
    let noted = "select count(*) from outbox_broker where cluster_id <> 'gone'";
    scenario.until("the new broker is noticed", noted, 1).await;
    scenario.until_published().await;
    let sent = scenario.log().await.values().map(Vec::len).sum::<usize>();
    assert_eq!(sent, 18, "a new broker gets every retained event again");
    // Whoever applies these has received the repeated events before.
    scenario.change_many(&scenario.db, 1, 3, 3).await;
    scenario.until_effects(12).await;
    scenario.assert_effects_are_exact().await;
    scenario.assert_log_is_complete_and_in_order().await;
    relay.stop().await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_broker_acknowledged_does_not_count_as_published() {
    let scenario = Scenario::new("lost").await;
    let mut acknowledged = scenario.pause("relay.after_ack");
    let relay = scenario.relay();
    scenario.change("a", 1).await;
    acknowledged.reached().await;
    // As if another relay had met a new broker meanwhile.
    scenario.execute("update outbox_broker set cluster_id = 'new'").await;
    let mut marked = scenario.pause("relay.after_mark");
    acknowledged.resume();
    // It passes this point when it has sent the event again.
    marked.reached().await;
    assert_eq!(scenario.log().await["a"], [1, 1], "an event that only the lost broker acknowledged is sent again");
    assert_eq!(scenario.events("PUBLISHED").await, 1);
    marked.resume();
    relay.stop().await;
}

/// What a cluster answers while too few of its brokers take part: for a moment after a stall, or for a whole night.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_cannot_be_created_for_now_is_waited_for_and_holds_up_no_other() {
    // There is one broker.
    let settings = kafka_settings(servers::shared().await.kafka_brokers());
    let scenario = Scenario::with(&KafkaSettings { replication_factor: 2, ..settings }, "scarce").await;
    for _ in 0..3 {
        scenario.change("a", 1).await;
    }
    let mut once = scenario.pause("relay.after_select");
    let (relay, consumer) = (scenario.relay(), scenario.consumer());
    once.reached().await;
    let mut again = scenario.pause("relay.after_select");
    once.resume();
    // It has left them alone once and found them again.
    again.reached().await;
    let untouched = "select count(*) from outbox_events where status = 'NEW' and attempts = 0";
    assert_eq!(scenario.number(untouched).await, 3, "events of a missing topic wait uncharged");
    again.resume();
    scenario.create_topic(TOPIC).await;
    scenario.until_received().await;
    scenario.assert_effects_are_exact().await;

    // With one topic there and the other not.
    relay.stop().await;
    scenario.change("of a missing topic", 1).await;
    scenario.execute("update outbox_events set topic = 'ANOTHER' where key = 'of a missing topic'").await;
    scenario.change("of a topic that is there", 1).await;
    let relay = scenario.relay();
    let applied = "select count(*) from effects where account = 'of a topic that is there'";
    scenario.until("a missing topic holds up no other", applied, 1).await;
    assert_eq!(scenario.events("NEW").await, 1);
    scenario.create_topic("ANOTHER").await;
    scenario.until_published().await;
    relay.stop().await;
    consumer.stop().await;
}

/// Its events are gone with it, and so are its consumers' offsets; but the relay goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_is_created_again() {
    let settings = kafka_settings(servers::shared().await.kafka_brokers());
    let scenario = Scenario::with(&KafkaSettings { delivery_timeout_ms: 2000, ..settings }, "deleted").await;
    let relay = scenario.relay();
    scenario.change("before", 1).await;
    scenario.until_published().await;
    scenario.delete_topic(TOPIC).await;
    for account in ["after", "after", "it"] {
        scenario.change(account, 1).await;
    }
    scenario.until_published().await;
    let mut log = scenario.log().await;
    log.values_mut().for_each(Vec::dedup);
    assert_eq!((&log["after"], &log["it"]), (&vec![1, 2], &vec![1]));
    relay.stop().await;
}

// --- with a broker of their own

/// A real broker that the test may kill.
async fn broker_of_its_own(name: &str) -> (Sandbox, Scenario) {
    let broker = Sandbox::start(broker_alone(name)).await.unwrap();
    let scenario = Scenario::with(&kafka_settings(broker.kafka_brokers()), name).await;
    (broker, scenario)
}

fn broker_alone(name: &str) -> Options {
    let nobody = || Some("127.0.0.1:1".to_owned());
    let external = External { postgres_url: nobody(), redis_url: nobody(), kafka_brokers: None };
    Options { external, ..servers::options(name) }
}

async fn kill_for_three_seconds(broker: &Sandbox) {
    tokio::time::sleep(Duration::from_millis(500)).await;
    broker.kill(Server::Kafka).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    broker.restart(Server::Kafka).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: kills a broker of its own under load"]
async fn a_broker_that_is_killed_and_comes_back_loses_nothing() {
    let (broker, scenario) = broker_of_its_own("killed").await;
    let (relay, consumer) = (scenario.relay(), scenario.consumer());
    tokio::join!(scenario.change_many(&scenario.db, 8, 150, 7), kill_for_three_seconds(&broker));
    scenario.until_received().await;
    scenario.assert_effects_are_exact().await;
    scenario.assert_log_is_complete_and_in_order().await;
    assert_eq!(
        scenario.number("select count(*) from outbox_events where attempts > 0").await,
        0,
        "an outage was charged"
    );
    relay.stop().await;
    consumer.stop().await;
    broker.stop().await.unwrap();
}

/// A consumer of the same process asks about the broker too, and so would hide a relay that had stopped asking.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: kills a broker of its own under load"]
async fn a_relay_without_consumers_beside_it_finds_the_broker_again() {
    let (broker, scenario) = broker_of_its_own("alone").await;
    let relay = scenario.relay();
    tokio::join!(scenario.change_many(&scenario.db, 8, 150, 7), kill_for_three_seconds(&broker));
    scenario.until_published().await;
    scenario.assert_log_is_complete_and_in_order().await;
    relay.stop().await;
    broker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: replaces a broker of its own under load"]
async fn a_broker_that_is_replaced_by_an_empty_one_gets_everything_again_and_no_effect_is_doubled() {
    let (broker, scenario) = broker_of_its_own("wiped").await;
    let (relay, consumer) = (scenario.relay(), scenario.consumer());
    scenario.change_many(&scenario.db, 4, 100, 5).await;
    scenario.until_received().await;
    let wipe = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        broker.wipe_kafka().await.unwrap();
    };
    tokio::join!(scenario.change_many(&scenario.db, 4, 100, 5), wipe);
    let noted = "select count(*) from outbox_broker where since > (select min(created_at) from outbox_events)";
    scenario.until("the new broker is noticed", noted, 1).await;
    scenario.until_received().await;
    // What had been published to the old broker is in the new one too.
    scenario.assert_log_is_complete_and_in_order().await;
    scenario.assert_effects_are_exact().await;

    // The consumer follows the new log.
    scenario.change_many(&scenario.db, 1, 20, 5).await;
    scenario.until_received().await;
    scenario.assert_effects_are_exact().await;
    relay.stop().await;
    consumer.stop().await;
    broker.stop().await.unwrap();
}

/// ADR 11, no. 1 and 2. A member that asks about its group while the brokers are fenced does not often lose its place: so there
/// are several.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: a broker of its own is fenced a hundred times"]
async fn a_broker_that_is_fenced_for_moments_disconnects_nobody() {
    const SCENARIOS: usize = 6;
    let healthy = broker_alone("fenced");
    // Heartbeat interval 2 s > session timeout 1 s.
    let late = [("broker.session.timeout.ms", "1000"), ("broker.heartbeat.interval.ms", "2000")];
    let kafka_properties = late.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let fenced = Options { ephemeral: false, kafka_properties, ..healthy.clone() };

    let broker = Sandbox::start(fenced).await.unwrap();
    let brokers = broker.kafka_brokers();
    let settings = kafka_settings(brokers.clone());
    let scenarios = (0..SCENARIOS).map(async |n| Scenario::with(&settings, &format!("fenced{n}")).await);
    let scenarios = join_all(scenarios).await;
    let running: Vec<_> = scenarios.iter().map(|scenario| [scenario.relay(), scenario.consumer()]).collect();
    let mut fences = 0;
    for _ in 0..100 {
        join_all(scenarios.iter().map(|scenario| scenario.change("a", 1))).await;
        fences += usize::from(!scenarios[0].has_brokers().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(fences > 0, "it was never fenced");
    broker.stop().await.unwrap();

    let broker = Sandbox::start(Options { fresh: false, ..healthy }).await.unwrap();
    assert_eq!(broker.kafka_brokers(), brokers, "it has taken its old place");
    for (scenario, running) in scenarios.iter().zip(running) {
        scenario.until_received().await;
        scenario.assert_effects_are_exact().await;
        let charged = scenario.number("select count(*) from outbox_events where attempts > 0").await;
        assert_eq!(charged, 0, "a fence was charged");
        for running in running {
            running.stop().await;
        }
    }
    broker.stop().await.unwrap();
}

/// ADR 11, no. 3.
#[test]
#[ignore = "soak: kills a broker of its own and waits until clients notice"]
fn a_process_that_stops_while_its_broker_is_gone_ends() {
    let runtime = Runtime::new().unwrap();
    let broker = runtime.block_on(async {
        let broker = Sandbox::start(broker_alone("gone")).await.unwrap();
        // Longer than anybody is waited for here.
        let settings = KafkaSettings { session_timeout_ms: 300_000, ..kafka_settings(broker.kafka_brokers()) };
        let scenarios = join_all((0..6).map(async |n| Scenario::with(&settings, &format!("gone{n}")).await)).await;
        let running: Vec<_> = scenarios.iter().map(|scenario| (scenario.relay(), scenario.consumer())).collect();
        for scenario in &scenarios {
            scenario.change_many(&scenario.db, 2, 10, 3).await;
            scenario.until_received().await;
        }
        let kill = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            broker.kill(Server::Kafka).await.unwrap();
        };
        let changes = scenarios.iter().map(|scenario| scenario.change_many(&scenario.db, 1, 100, 3));
        tokio::join!(join_all(changes), kill);
        // A consumer pings its broker after five seconds of silence, and again and again: some are stopped while they do.
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
    on_ended.recv_timeout(2 * PATIENCE).expect("the runtime ends");
    drop(broker);
}

/// A cable, a firewall, a machine that lost its power: no connection ends, and nothing comes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: waits until the kernel's silence counts as the end of a connection"]
async fn connections_that_die_silently_are_given_up() {
    let mut wire = CutWire::listen().await;
    let mut options = broker_alone("silent");
    let listeners = format!("PLAINTEXT://{}", wire.address());
    options.kafka_properties = vec![("advertised.listeners".to_owned(), listeners)];
    let broker = Sandbox::start(options).await.unwrap();
    wire.connect_to(broker.kafka_brokers());
    let scenario = Scenario::with(&kafka_settings(wire.address()), "silent").await;
    let (relay, consumer) = (scenario.relay(), scenario.consumer());
    scenario.change_many(&scenario.db, 2, 10, 3).await;
    scenario.until_received().await;
    wire.cut();
    scenario.change_many(&scenario.db, 2, 10, 3).await;
    scenario.until_received().await;
    scenario.assert_effects_are_exact().await;
    relay.stop().await;
    consumer.stop().await;
    broker.stop().await.unwrap();
}
