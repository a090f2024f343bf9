//! Throw-away folders, and bare clients of each server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use sandbox::{KafkaChoice, Options};

const KAFKA_LIMIT: Duration = Duration::from_secs(20);

/// An address in use for nothing: stands for a server that a test does not need.
pub const UNUSED: &str = "127.0.0.1:1";

/// A folder that is reachable for the user that servers run as, and that no other test uses.
pub fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("stampede-sandbox-{name}-{}", std::process::id()));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    folder
}

pub fn options(name: &str) -> Options {
    Options { data_dir: folder(name), ephemeral: true, kafka: KafkaChoice::Apache, ..Options::default() }
}

/// Only Redis, which starts in milliseconds, for tests that are not about the servers.
pub fn redis_only(name: &str) -> Options {
    let mut options = options(name);
    options.external.postgres_url = Some(UNUSED.to_owned());
    options.external.kafka_brokers = Some(UNUSED.to_owned());
    options
}

/// Only Apache Kafka.
pub fn kafka_only(name: &str) -> Options {
    let mut options = options(name);
    options.external.postgres_url = Some(UNUSED.to_owned());
    options.external.redis_url = Some(UNUSED.to_owned());
    options
}

/// Only PostgreSQL.
pub fn postgres_only(name: &str) -> Options {
    let mut options = options(name);
    options.external.redis_url = Some(UNUSED.to_owned());
    options.external.kafka_brokers = Some(UNUSED.to_owned());
    options
}

/// Runs SQL and returns what it prints, rows without any decoration.
pub fn sql(url: &str, statement: &str) -> String {
    let output = Command::new("psql").args([url, "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", statement]).output().unwrap();
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Sends one inline command and returns the answer as Redis writes it.
pub fn redis(url: &str, command: &str) -> String {
    let address = url.trim_start_matches("redis://").trim_end_matches("/0");
    let mut connection = TcpStream::connect(address).unwrap();
    connection.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer.strip_suffix("+OK\r\n").unwrap().trim().to_owned()
}

pub async fn create_topics(brokers: &str, topics: &[&str]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let new: Vec<NewTopic> = topics.iter().map(|topic| NewTopic::new(topic, 1, TopicReplication::Fixed(1))).collect();
    for created in admin.create_topics(&new, &AdminOptions::new()).await.unwrap() {
        created.unwrap();
    }
}

pub async fn send(brokers: &str, topic: &str, text: &str) {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("enable.idempotence", "true").create().unwrap();
    let record = FutureRecord::<(), str>::to(topic).payload(text);
    producer.send(record, KAFKA_LIMIT).await.unwrap();
}

/// The first message of the topic, waiting for it.
pub fn first_message(brokers: &str, topic: &str) -> String {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "sandbox-test").create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), KAFKA_LIMIT).unwrap();
    let mut partitions = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        partitions.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    // Without the group, which would take seconds to form.
    consumer.assign(&partitions).unwrap();
    let message = consumer.poll(KAFKA_LIMIT).expect("the topic has a message").unwrap();
    String::from_utf8(message.payload().unwrap().to_vec()).unwrap()
}

pub fn topics(brokers: &str) -> Vec<String> {
    let metadata = client(brokers).fetch_metadata(None, KAFKA_LIMIT).unwrap();
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

pub fn cluster_id(brokers: &str) -> String {
    client(brokers).client().fetch_cluster_id(KAFKA_LIMIT).unwrap()
}

fn client(brokers: &str) -> BaseConsumer {
    ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap()
}

/// `kill -9` by somebody who is not the sandbox.
pub fn kill_9(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// Waits until `question` has an answer.
pub async fn eventually<T>(what: &str, mut question: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process of that pid exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}
