//! The fallback without Java: librdkafka's own cluster, in a child process so that it can be killed like a real broker.
//!
//! It keeps everything in memory, drops silently past 100,000 messages or 5 MiB a partition, creates topics only by
//! itself (4 partitions, when a client first names them) or beforehand, and gets a new port with every start.

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use rdkafka::mocking::MockCluster;
use tokio::net::TcpStream;

use crate::options::Server;
use crate::process::ProcessFiles;
use crate::supervisor::Recipe;

/// What the executable's `broker` subcommand was given.
#[derive(Clone, Debug)]
pub struct BrokerArgs {
    /// `--port-file`: where to write the port once it accepts connections.
    pub port_file: PathBuf,
    /// Topics to create at once, with their number of partitions: this broker knows no CreateTopics request.
    pub topics: Vec<(String, i32)>,
}

/// Runs the embedded broker until the process is killed.
///
/// The sandbox starts it as `<current executable> broker --port-file <file>`.
pub fn run_embedded_broker(args: BrokerArgs) -> Result<()> {
    let cluster = MockCluster::new(1).context("cannot start the embedded broker")?;
    for (topic, partitions) in &args.topics {
        cluster.create_topic(topic, *partitions, 1).with_context(|| format!("cannot create the topic {topic}"))?;
    }
    let address = cluster.bootstrap_servers();
    let port = address.rsplit(':').next().unwrap_or_default();
    // Renamed into place, so that nobody reads half a port.
    let unfinished = args.port_file.with_extension("new");
    fs::write(&unfinished, port)?;
    fs::rename(&unfinished, &args.port_file).with_context(|| format!("cannot write {}", args.port_file.display()))?;
    loop {
        thread::park();
    }
}

pub(crate) struct Embedded {
    dir: PathBuf,
    /// 0 until the broker has told it.
    port: u16,
}

impl Embedded {
    pub(crate) fn new(dir: PathBuf) -> Embedded {
        Embedded { dir, port: 0 }
    }

    fn port_file(&self) -> PathBuf {
        self.dir.join("port")
    }
}

impl Recipe for Embedded {
    const SERVER: Server = Server::Kafka;
    const STOP_SIGNAL: Signal = Signal::SIGTERM;

    async fn prepare(&mut self, _files: &ProcessFiles) -> Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot create {}", self.dir.display()))?;
        remove_if_there(&self.port_file())
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(env::current_exe().context("cannot find the executable")?);
        command.arg("broker").arg("--port-file").arg(self.port_file()).current_dir(&self.dir);
        Ok(command)
    }

    async fn is_ready(&mut self, _pid: u32) -> bool {
        let Ok(port) = fs::read_to_string(self.port_file()) else { return false };
        self.port = port.trim().parse().unwrap_or(0);
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_ok()
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.clone()
    }
}

fn remove_if_there(file: &Path) -> Result<()> {
    if file.exists() {
        fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    Ok(())
}
