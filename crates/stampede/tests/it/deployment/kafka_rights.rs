//! An Apache Kafka that has the users of the manifests, and exactly their rights: each service can do its work with its own,
//! and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use client::fresh_key;
use common::kafka::{Kafka, KafkaSettings, client_config};
use common::manifest::{ServiceSpec, identifier};
use common::settings::Settings;
use contract::events::TOPICS;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use sandbox::{External, Extras, KafkaListener, Sandbox};
use stampede::services::SERVICES;
use testkit::{PATIENCE, Site, eventually, servers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use super::kafka_users::{Right, reads, rights};
use super::rendered;
use crate::ledger::Ledger;

/// Everybody's: who somebody is, is said by the name.
const PASSWORD: &str = "hunter2kafka";

/// A broker with an authorizer. Without a password its own address is for an administrator, who may do everything.
struct Broker {
    sandbox: Sandbox,
    /// Here each user has to log in.
    port: u16,
}

async fn broker() -> &'static Broker {
    static BROKER: OnceCell<Broker> = OnceCell::const_new();
    BROKER.get_or_init(start).await
}

async fn start() -> Broker {
    let (shared, port) = (servers::shared().await, servers::port());
    let mut options = servers::options("kafka-users");
    options.external = External {
        postgres_url: Some(shared.postgres_url()),
        redis_url: Some(shared.redis_url()),
        kafka_brokers: None,
    };
    let properties = [
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("super.users", "User:ANONYMOUS"),
        ("listener.name.sasl.sasl.enabled.mechanisms", "SCRAM-SHA-512"),
        (
            "listener.name.sasl.scram-sha-512.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        ),
    ];
    // A busy machine lets it wait.
    options.kafka_properties.push(("broker.session.timeout.ms".to_owned(), "60000".to_owned()));
    options.kafka_properties.extend(properties.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let users = SERVICES.iter().map(|service| service.name).chain(["keda", "operator"]);
    options.extras = Extras {
        kafka_listeners: vec![KafkaListener { name: "SASL".to_owned(), protocol: "SASL_PLAINTEXT".to_owned(), port }],
        kafka_users: users.map(|name| (name.to_owned(), PASSWORD.to_owned())).collect(),
        ..Extras::default()
    };
    Broker { sandbox: Sandbox::start(options).await.expect("Kafka starts with an authorizer"), port }
}

impl Broker {
    /// How `user` gets in.
    fn settings(&self, user: &str) -> Vec<(String, String)> {
        let brokers = format!("localhost:{}", self.port);
        let pairs = [
            ("kafka.brokers", brokers.as_str()),
            ("kafka.security", "sasl_plaintext"),
            ("kafka.username", user),
            ("kafka.password", PASSWORD),
        ];
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
    }

    /// Makes the topics of the contract, and gives the users their rights, all with names that begin with `namespace`.
    async fn prepare(&self, namespace: &str) {
        let brokers = self.sandbox.kafka_brokers();
        let kafka = KafkaSettings { partitions: 1, ..section(&[("kafka.brokers".to_owned(), brokers.clone())]) };
        let kafka = Kafka::open(&kafka, namespace).expect("it opens");
        eventually("all topics are made", async || {
            let missing = kafka.ensure_topics(&TOPICS).await;
            missing.is_ok_and(|missing| missing.is_empty()).then_some(())
        })
        .await;
        allow(&brokers, &rights(&rendered().overlays["sale-day"]), namespace).await;
    }
}

fn section(overrides: &[(String, String)]) -> KafkaSettings {
    Settings::load(&[], overrides).and_then(|settings| settings.section("kafka")).expect("the settings are right")
}

/// Asks the broker for rights, in version 1 of Kafka's request CreateAcls: the client library cannot.
async fn allow(brokers: &str, rights: &[Right], namespace: &str) {
    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend((text.len() as i16).to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    const CREATE_ACLS: i16 = 30;
    let mut bytes = [CREATE_ACLS, 1].map(i16::to_be_bytes).concat();
    bytes.extend(7_i32.to_be_bytes());
    text(&mut bytes, "tests");
    bytes.extend((rights.len() as i32).to_be_bytes());
    for right in rights {
        bytes.push(if right.kind == "topic" { 2 } else { 3 });
        text(&mut bytes, &format!("{namespace}{}", right.name));
        bytes.push(if right.is_prefix { 4 } else { 3 });
        text(&mut bytes, &format!("User:{}", right.user));
        text(&mut bytes, "*");
        let operations = [("Read", 3), ("Write", 4), ("Describe", 8)];
        bytes.push(operations.iter().find(|(name, _)| right.operation == *name).expect("it is known").1);
        // It is allowed.
        bytes.push(3);
    }
    let mut stream = TcpStream::connect(brokers).await.expect("the broker is there");
    stream.write_all(&[&(bytes.len() as i32).to_be_bytes(), bytes.as_slice()].concat()).await.expect("it listens");
    let length = stream.read_i32().await.expect("it answers");
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).await.expect("the answer is as long as it says");
    // The number of the request, a pause, how many there are, and for each a code, which is 0, and the length of a message.
    let (head, codes) = answer.split_at_checked(12).expect("a head");
    assert_eq!(head, [7_i32.to_be_bytes(), [0; 4], (rights.len() as i32).to_be_bytes()].concat());
    assert_eq!(codes.len(), 4 * rights.len(), "the broker refuses a right: {}", String::from_utf8_lossy(codes));
    assert!(codes.chunks(4).all(|each| each.starts_with(&[0, 0])), "the broker refuses a right: {codes:?}");
}

/// Each service in a process of its own, as it were, with its own user.
async fn sites(broker: &'static Broker, namespace: &str) -> BTreeMap<&'static str, Site> {
    let ports: BTreeMap<&str, u16> = SERVICES.iter().map(|service| (service.name, servers::port())).collect();
    let mut sites = BTreeMap::new();
    for service in SERVICES {
        let mut builder = Site::builder(&[*service])
            .on(&broker.sandbox)
            .namespace(namespace)
            .settings(&broker.settings(service.name))
            .set("host.grpc_listen", format!("127.0.0.1:{}", ports[service.name]));
        for other in SERVICES.iter().filter(|other| other.name != service.name) {
            let key = format!("upstreams.{}", identifier(other.name));
            builder = builder.set(&key, format!("http://127.0.0.1:{}", ports[other.name])).caller(other.name);
        }
        sites.insert(service.name, builder.start().await);
    }
    sites
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_placed_and_told_by_services_of_which_each_has_its_own_rights() {
    let broker = broker().await;
    let namespace = format!("rights{}_", std::process::id());
    broker.prepare(&namespace).await;
    let sites = sites(broker, &namespace).await;
    let product = sites["inventory"].product(1).await;
    let buyer = sites["order"].buyer().await;
    buyer.order(&fresh_key(), &product, 1).await.expect(201);
    let is_told = async || (notifications(&sites).await == 1).then_some(());
    eventually("the order's event has gone through Kafka to the hub", is_told).await;
    // Everybody else has applied it, and what was said of the last unit has been published.
    sites["order"].settled().await;
    for site in sites.values() {
        site.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_refuses_a_service_whatever_its_manifest_does_not_say() {
    let broker = broker().await;
    let namespace = format!("refused{}_", std::process::id());
    broker.prepare(&namespace).await;
    let administrator = section(&[("kafka.brokers".to_owned(), broker.sandbox.kafka_brokers())]);
    let written = writes(&administrator, &namespace, false).await;
    assert!(written.values().all(Option::is_none), "an administrator may write: {written:?}");
    for service in SERVICES {
        let own = section(&broker.settings(service.name));
        let refused = |written: BTreeMap<&'static str, Option<RDKafkaErrorCode>>| -> BTreeSet<&str> {
            let strange = written.values().flatten().find(|code| **code != RDKafkaErrorCode::TopicAuthorizationFailed);
            assert_eq!(strange, None, "{}", service.name);
            written.into_iter().filter(|(_, code)| code.is_some()).map(|(topic, _)| topic).collect()
        };
        let others: BTreeSet<&str> = TOPICS.into_iter().filter(|topic| !service.produces.contains(topic)).collect();
        // The rights come to the broker a moment after they were accepted.
        eventually(&format!("{} may write its topics, and only those", service.name), async || {
            let written = writes(&own, &namespace, !service.produces.is_empty()).await;
            (refused(written) == others).then_some(())
        })
        .await;
        let kafka = Kafka::open(&own, &namespace).expect("it opens");
        eventually("the broker answers", async || kafka.ensure_topics(&["MADE"]).await.ok()).await;
        let (own, service, namespace) = (own.clone(), *service, namespace.clone());
        let reading = tokio::task::spawn_blocking(move || read_and_be_refused(&own, &service, &namespace));
        reading.await.expect("it reads what it may, and nothing else");
    }
    let topics = described(&consumer(&administrator, "administrator"), &namespace);
    assert!(!topics.contains("MADE"), "a service has made a topic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_read_everything_and_keda_only_counts_what_waits() {
    let broker = broker().await;
    let namespace = format!("looks{}_", std::process::id());
    broker.prepare(&namespace).await;
    let administrator = section(&[("kafka.brokers".to_owned(), broker.sandbox.kafka_brokers())]);
    writes(&administrator, &namespace, false).await;
    let all: BTreeSet<String> = TOPICS.iter().map(|topic| (*topic).to_owned()).collect();
    let consumed: BTreeSet<String> =
        SERVICES.iter().flat_map(|service| service.consumes).map(|topic| (*topic).to_owned()).collect();
    let names: Vec<String> = consumed.iter().map(|topic| format!("{namespace}{topic}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (user, group, seen) in [("operator", "audit-1", &all), ("keda", "order@cluster", &consumed)] {
        let own = section(&broker.settings(user));
        let client = consumer(&own, &format!("{namespace}{group}"));
        let described = async || tokio::task::block_in_place(|| described(&client, &namespace));
        eventually(&format!("{user} sees its topics"), async || (described().await == *seen).then_some(())).await;
        let written = writes(&own, &namespace, false).await;
        let refused = |code: &Option<RDKafkaErrorCode>| *code == Some(RDKafkaErrorCode::TopicAuthorizationFailed);
        assert!(written.values().all(refused), "{user} writes nothing: {written:?}");
        tokio::task::block_in_place(|| {
            client.assign(&beginning(&names)).expect("it is assigned");
            if user == "operator" {
                assert!(hear(&client, names.len()).is_ok(), "the audit reads the topics");
                return;
            }
            client.committed_offsets(beginning(&names), PATIENCE).expect("it sees what the group has committed");
            client.fetch_watermarks(names[0], 0, PATIENCE).expect("it sees how much there is");
            assert_eq!(hear(&client, 1), Err(RDKafkaErrorCode::TopicAuthorizationFailed), "it reads nothing");
        });
    }
}

/// Writes a message to each topic, as a relay does if `is_relay`. Says why it was refused, if it was.
async fn writes(
    settings: &KafkaSettings,
    namespace: &str,
    is_relay: bool,
) -> BTreeMap<&'static str, Option<RDKafkaErrorCode>> {
    let mut config = client_config(settings);
    config.set("enable.idempotence", is_relay.to_string()).set("message.timeout.ms", "30000");
    let producer: FutureProducer = config.create().expect("the settings are right");
    let write = async |topic: &'static str| {
        let name = format!("{namespace}{topic}");
        let record = FutureRecord::<str, str>::to(&name).payload("{}");
        let outcome = producer.send(record, PATIENCE).await;
        (topic, outcome.err().and_then(|(error, _)| error.rdkafka_error_code()))
    };
    futures_util::future::join_all(TOPICS.into_iter().map(write)).await.into_iter().collect()
}

/// Reads a message of each topic that it may read, in a group of its own. Blocks.
fn read_and_be_refused(settings: &KafkaSettings, service: &ServiceSpec, namespace: &str) {
    let wanted = reads(service);
    let known: BTreeSet<String> = service.topics().map(str::to_owned).collect();
    let names: Vec<String> = wanted.iter().map(|topic| format!("{namespace}{topic}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let group = |of: &str| format!("{namespace}{of}@cluster");
    let own = consumer(settings, &group(service.name));
    assert_eq!(described(&own, namespace), known, "{} sees the topics of its manifest", service.name);
    if !service.consumes.is_empty() {
        own.subscribe(&names).expect("it subscribes");
        let heard = hear(&own, wanted.len());
        assert_eq!(heard, Ok(names.iter().map(|name| (*name).to_owned()).collect()), "{}", service.name);
        let other = SERVICES.iter().find(|other| other.name != service.name && !other.consumes.is_empty());
        let strange = consumer(settings, &group(other.expect("others consume").name));
        strange.subscribe(&names).expect("it subscribes");
        let refused = hear(&strange, 1);
        assert_eq!(refused, Err(RDKafkaErrorCode::GroupAuthorizationFailed), "{}: another's group", service.name);
    }
    if !service.hears.is_empty() {
        let reader = consumer(settings, &format!("{namespace}{}-1@cluster", service.name));
        reader.assign(&beginning(&names)).expect("it is assigned");
        assert!(hear(&reader, wanted.len()).is_ok(), "{} hears its topics", service.name);
    }
    if let Some(told) = service.produces.iter().find(|topic| !wanted.contains(*topic)) {
        let reader = consumer(settings, &group(service.name));
        reader.assign(&beginning(&[&format!("{namespace}{told}")])).expect("it is assigned");
        let refused = hear(&reader, 1);
        assert_eq!(refused, Err(RDKafkaErrorCode::TopicAuthorizationFailed), "{} reads {told}", service.name);
    }
}

fn consumer(settings: &KafkaSettings, group: &str) -> BaseConsumer {
    let mut config = client_config(settings);
    config.set("group.id", group).set("auto.offset.reset", "earliest");
    config.create().expect("the settings are right")
}

fn beginning(names: &[&str]) -> TopicPartitionList {
    let mut places = TopicPartitionList::new();
    for name in names {
        places.add_partition_offset(name, 0, Offset::Beginning).expect("it is a place");
    }
    places
}

/// The topics of the namespace that the client is told of, without it.
fn described(client: &BaseConsumer, namespace: &str) -> BTreeSet<String> {
    let metadata = client.fetch_metadata(None, PATIENCE).expect("the broker answers");
    metadata.topics().iter().filter_map(|topic| topic.name().strip_prefix(namespace).map(str::to_owned)).collect()
}

/// The names of so many topics, of each of which there was a message; or why the broker gives none.
fn hear(client: &BaseConsumer, count: usize) -> Result<BTreeSet<String>, RDKafkaErrorCode> {
    let (mut heard, started) = (BTreeSet::new(), Instant::now());
    while heard.len() < count {
        assert!(started.elapsed() < PATIENCE, "after {heard:?} nothing comes");
        match client.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => drop(heard.insert(message.topic().to_owned())),
            Some(Err(KafkaError::MessageConsumption(
                code @ (RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed),
            ))) => return Err(code),
            // A partition or a coordinator that is not there yet.
            Some(Err(_)) | None => {}
        }
    }
    Ok(heard)
}

async fn notifications(sites: &BTreeMap<&'static str, Site>) -> i64 {
    sites["notification-hub"].number("select count(*) from {notification_hub}.notifications").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_make_no_topics_uses_those_that_are_there_and_waits_for_the_others() {
    let broker = broker().await;
    let namespace = format!("made{}_", std::process::id());
    broker.prepare(&namespace).await;
    let own = section(&broker.settings("order"));
    let kafka = Kafka::open(&own, &namespace).expect("it opens");
    // The rights come to the broker a moment after they were accepted.
    let missing = async |topics: &[&str]| {
        let missing = kafka.ensure_topics(topics).await.ok()?;
        Some(missing.into_keys().collect::<Vec<_>>())
    };
    eventually("the topics of order are there", async || {
        missing(&["ORDER_CREATED", "ORDER_PLACED"]).await.filter(Vec::is_empty)
    })
    .await;
    let left = eventually("the broker answers", async || missing(&["ORDER_PLACED", "NOBODY_HAS_MADE_IT"]).await).await;
    assert_eq!(left, ["NOBODY_HAS_MADE_IT"]);
}
