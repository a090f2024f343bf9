//! The facts about librdkafka that the work-arounds rest on: lines of its log and words of its statistics. Nothing promises
//! that a new version keeps them. Its own mock cluster shows them quickly; the soak shows them with a real broker.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, StreamConsumer};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer, ProducerContext};
use sandbox::{Sandbox, Server};
use tokio::runtime::Runtime;

use super::group_health::JoinState;
use super::{ClosedElsewhere, ClusterIdGuard, GroupHealth, in_own_thread};
use crate::kafka::tests::settings;
use crate::kafka::{Kafka, KafkaSettings};

impl ClientContext for ClusterIdGuard {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.read_log(facility, message);
    }
}

impl ConsumerContext for ClusterIdGuard {}

impl ProducerContext for ClusterIdGuard {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &rdkafka::producer::DeliveryResult<'_>, (): ()) {}
}

fn mock_cluster() -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("t", 1, 1).unwrap();
    cluster
}

fn client_config(brokers: &str) -> ClientConfig {
    crate::kafka::client_config(&KafkaSettings { brokers: brokers.to_owned(), ..settings() })
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < testkit::PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn cluster_id<C: ClientContext>(client: &Client<C>) -> Arc<str> {
    client.fetch_cluster_id(testkit::PATIENCE).unwrap().into()
}

fn producer(brokers: &str, cluster: &Arc<str>) -> BaseProducer<ClusterIdGuard> {
    client_config(brokers).create_with_context(ClusterIdGuard::new(cluster.clone())).unwrap()
}

#[test]
fn a_client_that_was_made_for_another_cluster_is_told_at_its_first_answer() {
    let cluster = mock_cluster();
    let brokers = cluster.bootstrap_servers();
    let right = producer(&brokers, &cluster_id(producer(&brokers, &"any".into()).client()));
    let wrong = producer(&brokers, &"another".into());
    until("a client made for another cluster is told", || wrong.context().cluster_changed(wrong.client()));
    until("a client meets its cluster", || {
        assert!(!right.context().cluster_changed(right.client()), "a client took its own cluster for another");
        right.context().has_met_one()
    });
}

#[test]
fn a_client_is_told_when_it_meets_a_second_cluster() {
    let (first, second) = (mock_cluster(), mock_cluster());
    let brokers = first.bootstrap_servers();
    let cluster = cluster_id(producer(&brokers, &"any".into()).client());
    let producer = producer(&format!("{brokers},{}", second.bootstrap_servers()), &cluster);
    let other = producer.client().fetch_cluster_id(testkit::PATIENCE).unwrap() != *cluster;
    // Whichever it met first goes down, so that it turns to the other.
    let met = if other { &second } else { &first };
    met.broker_down(1).unwrap();
    until("a client that was connected to another cluster is told", || {
        producer.poll(Duration::from_millis(10));
        producer.context().cluster_changed(producer.client())
    });
}

async fn until_state(client: &StreamConsumer<GroupHealth>, wanted: JoinState) {
    let started = Instant::now();
    while client.context().state() != Some(wanted) {
        let state = client.context().state();
        assert!(started.elapsed() < testkit::PATIENCE, "the statistics say {state:?} and never {wanted:?}");
        // Statistics come the same way as messages.
        drop(tokio::time::timeout(Duration::from_millis(10), client.recv()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_say_whether_a_member_has_its_place() {
    let cluster = mock_cluster();
    let brokers = cluster.bootstrap_servers();
    let kafka = Kafka::open(&KafkaSettings { brokers, request_timeout_ms: 30_000, ..settings() }, "").unwrap();
    let id = kafka.cluster_id().await.unwrap();
    let client: StreamConsumer<GroupHealth> = kafka
        .consumer_config("g", &id)
        .set("statistics.interval.ms", "50")
        .create_with_context(GroupHealth::new(id, Duration::from_secs(6)))
        .unwrap();
    client.subscribe(&["t"]).unwrap();
    until_state(&client, JoinState::Stable).await;
    cluster.broker_down(1).unwrap();
    until_state(&client, JoinState::WaitingForBroker).await;
    cluster.broker_up(1).unwrap();
    until_state(&client, JoinState::Stable).await;
}

/// A client whose closing never ends, unless the test lets it.
struct NeverCloses(mpsc::Receiver<()>);

impl Drop for NeverCloses {
    fn drop(&mut self) {
        // An error is the end of the test.
        let _ = self.0.recv();
    }
}

/// ADR 11, no. 3: a process that ends drops what its tasks still hold.
#[test]
fn a_client_is_closed_in_a_thread_that_nobody_waits_for() {
    let (_let_it_close, closing) = mpsc::channel();
    let client = ClosedElsewhere::new(NeverCloses(closing));
    let runtime = Runtime::new().unwrap();
    runtime.spawn(async move {
        std::future::pending::<()>().await;
        drop(client);
    });
    let (ended, on_ended) = mpsc::channel();
    std::thread::spawn(move || {
        drop(runtime);
        ended.send(())
    });
    on_ended.recv_timeout(Duration::from_secs(20)).expect("the runtime waits until a client is closed");
}

/// A real broker and the settings that lead to it.
async fn broker(purpose: &str) -> (Sandbox, KafkaSettings) {
    let sandbox = testkit::servers::start(purpose).await;
    let brokers = sandbox.kafka_brokers();
    (sandbox, KafkaSettings { brokers, request_timeout_ms: 30_000, ..settings() })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: replaces a broker of its own"]
async fn clients_are_told_that_their_broker_was_replaced() {
    let (sandbox, settings) = broker("replaced").await;
    let cluster = Kafka::open(&settings, "").unwrap().cluster_id().await.unwrap();
    let consumer: BaseConsumer<ClusterIdGuard> = client_config(&settings.brokers)
        .set("group.id", "g")
        .create_with_context(ClusterIdGuard::new(cluster.clone()))
        .unwrap();
    consumer.subscribe(&["t"]).unwrap();
    let producer = producer(&settings.brokers, &cluster);
    let (of_consumer, of_producer) = (consumer.context(), producer.context());
    until("a consumer meets its cluster", || {
        consumer.poll(Duration::from_millis(10));
        !of_consumer.cluster_changed(consumer.client()) && of_consumer.has_met_one()
    });
    until("a producer meets its cluster", || {
        !of_producer.cluster_changed(producer.client()) && of_producer.has_met_one()
    });

    sandbox.wipe_kafka().await.unwrap();
    until("a consumer is told", || {
        consumer.poll(Duration::from_millis(10));
        of_consumer.cluster_changed(consumer.client())
    });
    until("a producer is told", || {
        producer.poll(Duration::from_millis(10));
        of_producer.cluster_changed(producer.client())
    });
    drop((consumer, producer));
    sandbox.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: kills a broker of its own"]
async fn a_member_of_a_real_group_is_told_whether_it_has_its_place() {
    let (sandbox, settings) = broker("group").await;
    let kafka = Kafka::open(&settings, "").unwrap();
    let cluster = kafka.cluster_id().await.unwrap();
    kafka.ensure_topics(&["t"]).await.unwrap();
    let client = kafka.consumer("g", &cluster, &["t"]).unwrap();

    until_state(&client, JoinState::Stable).await;
    assert_eq!(client.assignment().unwrap().count(), 1);
    sandbox.kill(Server::Kafka).await.unwrap();
    until_state(&client, JoinState::WaitingForBroker).await;
    sandbox.restart(Server::Kafka).await.unwrap();
    until_state(&client, JoinState::Stable).await;
    drop(client);
    sandbox.stop().await.unwrap();
}

/// The broker of all tests, with a topic `t` that nobody else uses.
async fn shared_broker(purpose: &str) -> (Kafka, Arc<str>) {
    let namespace = format!("{purpose}-{}-", std::process::id());
    let brokers = testkit::servers::shared().await.kafka_brokers();
    let kafka = Kafka::open(&KafkaSettings { brokers, request_timeout_ms: 30_000, ..settings() }, &namespace).unwrap();
    let cluster = kafka.cluster_id().await.unwrap();
    kafka.ensure_topics(&["t"]).await.unwrap();
    (kafka, cluster)
}

/// ADR 11, no. 6: closing a member while an answer of its group is on its way can crash librdkafka.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_gives_up_its_subscription_before_it_is_closed_however_far_it_has_come() {
    let (kafka, cluster) = shared_broker("leaving").await;
    let members = (0_u64..32).map(|number| {
        // Two members of each group, of which one leaves while the other joins.
        let member = kafka.consumer(&format!("g{}", number / 2), &cluster, &["t"]).unwrap();
        tokio::spawn(async move {
            let ask = async {
                loop {
                    drop(member.recv().await);
                }
            };
            let _: Result<(), _> = tokio::time::timeout(Duration::from_millis(10 * number), ask).await;
            in_own_thread(move || member.give_up_subscription()).await.unwrap()
        })
    });
    for (number, member) in members.collect::<Vec<_>>().into_iter().enumerate() {
        assert!(member.await.unwrap(), "member {number} is closed although it still has its subscription");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_has_stored_is_committed_when_it_is_dropped() {
    let (kafka, cluster) = shared_broker("committing").await;
    let topic = kafka.topic("t");
    let producer: BaseProducer = kafka.client_config().create().unwrap();
    for payload in ["first", "second"] {
        producer.send(BaseRecord::<str, str>::to(&topic).partition(0).payload(payload)).unwrap();
    }
    producer.flush(testkit::PATIENCE).unwrap();

    let member = kafka.consumer("g", &cluster, &["t"]).unwrap();
    member.store_offset_from_message(&member.recv().await.unwrap()).unwrap();
    member.close().await.unwrap();

    let next = kafka.consumer("g", &cluster, &["t"]).unwrap();
    assert_eq!(next.recv().await.unwrap().payload(), Some(&b"second"[..]), "the first is applied and comes no more");
}

/// A runtime whose tasks consume, which ends after `time`.
fn consume_for(time: Duration, kafka: &Kafka, cluster: &Arc<str>, groups: &[String]) {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        for group in groups {
            let member = kafka.consumer(group, cluster, &["t"]).unwrap();
            tokio::spawn(async move {
                loop {
                    drop(member.recv().await);
                }
            });
        }
        tokio::time::sleep(time).await;
    });
}

/// Shows the crash of ADR 11, no. 6, within seconds where librdkafka is built with AddressSanitizer, and hardly ever elsewhere.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: some thousand members join and are closed"]
async fn members_that_are_closed_while_they_join_crash_nothing() {
    let (kafka, cluster) = shared_broker("closing").await;
    let until = Instant::now() + Duration::from_secs(60);
    let threads = (0..8).map(|number| {
        let (kafka, cluster) = (kafka.clone(), cluster.clone());
        std::thread::spawn(move || {
            let rounds = (0_u64..).take_while(|_| Instant::now() < until);
            let consume = |round| {
                // Two members of one group, and one that is alone.
                let groups = ["a", "a", "b"].map(|group| format!("{group}{number}-{}", round % 20));
                consume_for(Duration::from_millis(round * 7 % 400), &kafka, &cluster, &groups);
            };
            rounds.map(consume).count()
        })
    });
    let rounds: usize = threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).sum();
    println!("{rounds} times three members joined and were closed");
}
