//! A listener alone: what it is told as past and as new.

use std::sync::Arc;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::RDKafkaRespErr;
use serde::{Deserialize, Serialize};
use testkit::{PATIENCE, eventually};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Hear, Heard, Listen, Listener, Reception, Since};
use crate::inbox::Received;
use crate::kafka::{Kafka, KafkaSettings};
use crate::outbox::Event;

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    key: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Told {
    key: String,
}

impl Event for Kept {
    const TOPIC: &'static str = "KEPT";
    const AGGREGATE: &'static str = "thing";

    fn key(&self) -> &str {
        &self.key
    }

    fn version(&self) -> i64 {
        1
    }
}

impl Event for Told {
    const TOPIC: &'static str = "TOLD";
    const AGGREGATE: &'static str = "thing";

    fn key(&self) -> &str {
        &self.key
    }

    fn version(&self) -> i64 {
        1
    }
}

/// What was heard: `+` before what is new.
#[derive(Default)]
struct App(Mutex<Vec<String>>);

impl App {
    fn note(&self, key: &str, is_past: bool) {
        self.0.lock().push(format!("{}{key}", if is_past { "" } else { "+" }));
    }
}

impl Hear<Kept> for App {
    fn hear(&self, heard: Received<Kept>, when: Reception) {
        self.note(&heard.event.key, when.is_past);
    }
}

impl Hear<Told> for App {
    fn hear(&self, heard: Received<Told>, when: Reception) {
        self.note(&heard.event.key, when.is_past);
    }
}

impl Listen for App {
    fn caught_up(&self) {
        self.0.lock().push("caught up".to_owned());
    }

    fn log_replaced(&self) {
        self.0.lock().push("replaced".to_owned());
    }
}

/// A listener that runs, and what it has heard.
struct Running {
    app: Arc<App>,
    stopping: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(settings: &KafkaSettings) -> Running {
        let app = Arc::new(App::default());
        let listener =
            Listener::new("test", &app).hears::<Kept, App>(&app, Since::Retained).hears::<Told, App>(&app, Since::Now);
        let stopping = CancellationToken::new();
        let task = tokio::spawn(listener.run(Kafka::open(settings, "").unwrap(), stopping.clone()));
        Running { app, stopping, task }
    }

    /// All that was heard, once there is so much.
    async fn heard(&self, count: usize) -> Vec<String> {
        eventually("the listener hears", async || {
            let heard = self.app.0.lock().clone();
            (heard.len() >= count).then_some(heard)
        })
        .await
    }

    async fn stop(self) {
        self.stopping.cancel();
        self.task.await.unwrap();
    }
}

fn settings(brokers: &str) -> KafkaSettings {
    KafkaSettings {
        brokers: brokers.to_owned(),
        partitions: 1,
        replication_factor: 1,
        retention_hours: 1,
        request_timeout_ms: 30_000,
        cluster_check_ms: 500,
        linger_ms: 0,
        delivery_timeout_ms: 1_000,
        session_timeout_ms: 6_000,
        ..crate::settings::Settings::defaults().unwrap().section("kafka").unwrap()
    }
}

fn producer(brokers: &str) -> FutureProducer {
    ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap()
}

async fn publish(producer: &FutureProducer, topic: &str, payload: &str) {
    let record = FutureRecord::to(topic).key("k").payload(payload);
    producer.send(record, PATIENCE).await.unwrap();
}

fn thing(key: &str) -> String {
    format!("{{\"key\":\"{key}\"}}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_hears_the_past_of_what_it_keeps_and_of_the_rest_only_what_is_new() {
    let broker = MockCluster::new(1).unwrap();
    for topic in ["KEPT", "TOLD"] {
        broker.create_topic(topic, 1, 1).unwrap();
    }
    let brokers = broker.bootstrap_servers();
    let producer = producer(&brokers);
    publish(&producer, "KEPT", &thing("old")).await;
    publish(&producer, "TOLD", &thing("missed")).await;
    let running = Running::start(&settings(&brokers));
    assert_eq!(running.heard(2).await, ["old", "caught up"]);
    publish(&producer, "TOLD", &thing("one")).await;
    assert_eq!(running.heard(3).await[2..], ["+one"]);
    publish(&producer, "TOLD", "this is no event").await;
    publish(&producer, "TOLD", &thing("two")).await;
    assert_eq!(running.heard(4).await[3..], ["+two"], "what cannot be read does not stop it");
    publish(&producer, "KEPT", &thing("new")).await;
    assert_eq!(running.heard(5).await[4..], ["+new"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_partitions_are_not_told_yet_is_waited_for() {
    let broker = MockCluster::new(1).unwrap();
    for topic in ["KEPT", "TOLD"] {
        broker.create_topic(topic, 1, 1).unwrap();
    }
    publish(&producer(&broker.bootstrap_servers()), "KEPT", &thing("old")).await;
    let kafka = Kafka::open(&settings(&broker.bootstrap_servers()), "").unwrap();
    let (app, mut heard) = (Arc::new(App::default()), Heard::default());
    let listener = Listener::new("test", &app).hears::<Kept, App>(&app, Since::Retained);
    broker.topic_error("KEPT", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let refused = listener.open(&kafka, &mut heard).await.map(|_| ()).unwrap_err();
    assert!(format!("{refused:?}").contains("does not tell the partitions of KEPT"), "{refused:?}");
    assert!(app.0.lock().is_empty(), "it does not say that it has heard the past");

    broker.topic_error("KEPT", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    let stopping = CancellationToken::new();
    let running = Running { app, stopping: stopping.clone(), task: tokio::spawn(listener.run(kafka, stopping)) };
    assert_eq!(running.heard(2).await, ["old", "caught up"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: replaces a broker of its own"]
async fn a_new_log_is_said_to_be_new_and_heard_on() {
    let sandbox = testkit::servers::start("listener").await;
    let settings = settings(&sandbox.kafka_brokers());
    let running = Running::start(&settings);
    assert_eq!(running.heard(1).await, ["caught up"]);
    publish(&producer(&settings.brokers), "TOLD", &thing("before")).await;
    assert_eq!(running.heard(2).await[1..], ["+before"]);
    sandbox.wipe_kafka().await.unwrap();
    assert_eq!(running.heard(4).await[2..], ["replaced", "caught up"]);
    publish(&producer(&settings.brokers), "TOLD", &thing("after")).await;
    assert_eq!(running.heard(5).await[4..], ["+after"]);
    running.stop().await;
    sandbox.stop().await.unwrap();
}
