//! A private Apache Kafka: one broker that is its own controller, on the JVM, with its data kept.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nix::sys::signal::Signal;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::jars;
use crate::options::{Extras, KafkaListener, Server};
use crate::ports::Ports;
use crate::process::{ProcessFiles, run};
use crate::programs;
use crate::supervisor::Recipe;

/// One broker for development: small heap, the collector and compiler that start fastest.
const JVM: [&str; 5] = [
    "-Xms128m",
    // 6,000 topics of one partition need about 200 MB. A broker whose heap is full is fenced by its controller.
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    // Without a configuration file log4j writes errors only.
    "-Dorg.apache.logging.log4j.level=WARN",
];

/// A broker that does not describe itself within this is not ready.
const METADATA_LIMIT: Duration = Duration::from_secs(1);

pub(crate) struct Apache {
    data_dir: PathBuf,
    dir: PathBuf,
    port: u16,
    controller_port: u16,
    more_properties: String,
    listeners: Vec<KafkaListener>,
    users: Vec<(String, String)>,
    java: PathBuf,
    class_path: Option<String>,
}

impl Apache {
    /// Whether this machine can run it at all; says what is missing.
    pub(crate) fn check(data_dir: &Path) -> Result<()> {
        programs::java()?;
        if !jars::are_cached(data_dir) {
            programs::maven()?;
        }
        Ok(())
    }

    pub(crate) fn new(
        data_dir: &Path,
        dir: PathBuf,
        ports: Ports,
        more: &[(String, String)],
        extras: &Extras,
    ) -> Result<Apache> {
        let Ports { kafka: port, kafka_controller: controller_port, .. } = ports;
        // Of a property that is given twice, the last counts.
        let more_properties = more.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        let (data_dir, java) = (data_dir.to_owned(), programs::java()?);
        let (listeners, users) = (extras.kafka_listeners.clone(), extras.kafka_users.clone());
        Ok(Apache { data_dir, dir, port, controller_port, more_properties, listeners, users, java, class_path: None })
    }

    fn properties_file(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    fn java(&self, main_class: &str) -> Result<Command> {
        let class_path = self.class_path.as_ref().context("the jars have not been fetched")?;
        let mut command = Command::new(&self.java);
        command.args(JVM).args(["-cp", class_path, main_class]).current_dir(&self.dir);
        Ok(command)
    }

    /// Where it listens besides, what it tells clients to call, and what is spoken there.
    fn more_listeners(&self) -> [String; 3] {
        let each = |write: fn(&KafkaListener) -> String| self.listeners.iter().map(write).collect::<String>();
        [
            each(|KafkaListener { name, port, .. }| format!(",{name}://127.0.0.1:{port}")),
            each(|KafkaListener { name, port, .. }| format!(",{name}://localhost:{port}")),
            each(|KafkaListener { name, protocol, .. }| format!(",{name}:{protocol}")),
        ]
    }

    fn properties(&self) -> String {
        let Apache { port, controller_port, more_properties, .. } = self;
        let [listeners, advertised, protocols] = self.more_listeners();
        let data = self.dir.join("data");
        format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller_port}\n\
             controller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{listeners}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}{advertised}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}\n\
             log.dirs={}\n\
             auto.create.topics.enable=false\n\
             min.insync.replicas=1\n\
             group.initial.rebalance.delay.ms=0\n\
             offsets.topic.num.partitions=4\n\
             offsets.topic.replication.factor=1\n\
             transaction.state.log.num.partitions=4\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             share.coordinator.state.topic.num.partitions=4\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             # The cleaner takes all of this from the heap at once; the default is 128 MB.\n\
             log.cleaner.dedupe.buffer.size=4194304\n\
             # Each partition maps two index files of this size; the default is 10 MB.\n\
             log.index.size.max.bytes=1048576\n\
             # Nobody reads these: ten entries and 10 KB of heap for each partition.\n\
             metrics.jmx.exclude=.*\n\
             # After a kill -9 a broker waits for its old session to end: 12 s with the defaults, 5 s with these.\n\
             broker.session.timeout.ms=3000\n\
             broker.heartbeat.interval.ms=300\n\
             {more_properties}",
            data.display()
        )
    }
}

impl Recipe for Apache {
    const SERVER: Server = Server::Kafka;
    const STOP_SIGNAL: Signal = Signal::SIGTERM;

    async fn prepare(&mut self, files: &ProcessFiles) -> Result<()> {
        if self.class_path.is_none() {
            let data_dir = self.data_dir.clone();
            let libs = spawn_blocking(move || jars::fetch(&data_dir)).await??;
            self.class_path = Some(format!("{}/*", libs.display()));
        }
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot create {}", self.dir.display()))?;
        fs::write(self.properties_file(), self.properties())?;
        if self.dir.join("data/meta.properties").exists() {
            return Ok(());
        }
        let mut format = self.java("kafka.tools.StorageTool")?;
        format.args(["format", "-t", &new_cluster_id(), "-c"]).arg(self.properties_file());
        for (name, password) in &self.users {
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                format.arg("--add-scram").arg(format!("{mechanism}=[name={name},password={password}]"));
            }
        }
        run(format, Stdio::null(), files).await.context("cannot format Kafka's storage")
    }

    fn command(&self) -> Result<Command> {
        let mut command = self.java("kafka.Kafka")?;
        command.arg(self.properties_file());
        Ok(command)
    }

    async fn is_ready(&mut self, _pid: u32) -> bool {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
            return false;
        }
        let brokers = format!("127.0.0.1:{}", self.port);
        spawn_blocking(move || leads_everything(&brokers)).await.unwrap_or(false)
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.clone()
    }
}

/// Whether the broker serves every partition it has: after a kill -9 it first waits for its old session to end.
fn leads_everything(brokers: &str) -> bool {
    let client: Result<BaseConsumer, _> =
        ClientConfig::new().set("bootstrap.servers", brokers).set_log_level(RDKafkaLogLevel::Emerg).create();
    let Ok(client) = client else { return false };
    let Ok(metadata) = client.fetch_metadata(None, METADATA_LIMIT) else { return false };
    let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    !metadata.brokers().is_empty() && partitions.all(|partition| partition.leader() >= 0)
}

/// A random UUID as Kafka writes it. One that begins with a dash would be taken for an option.
fn new_cluster_id() -> String {
    loop {
        let id = URL_SAFE_NO_PAD.encode(Uuid::new_v4());
        if !id.starts_with('-') {
            return id;
        }
    }
}
