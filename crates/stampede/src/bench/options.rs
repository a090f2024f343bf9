//! How a benchmark is run: what the command line asks for, the site that is measured, and the conditions that a report
//! names.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use sandbox::KafkaChoice;
use serde::Serialize;

use crate::audit::Output;
use crate::say;
use crate::site::{self, Site, SiteOptions};

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Length of each measurement. Below 5, the warm-ups are as short, and the syncs of PostgreSQL's log are not counted.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=60))]
    pub seconds: u64,
    /// Times that every measurement is repeated, in turn with the others.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=20))]
    pub rounds: u64,
    /// Simultaneous clients of each measurement.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = CLIENTS,
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub clients: Vec<u16>,
    /// Buyers who take turns. Each token's signature is checked when it is seen first, and remembered, as for buyers who
    /// look around before they order.
    #[arg(long, default_value_t = 5_000, value_name = "N", value_parser = clap::value_parser!(u32).range(500..=100_000))]
    buyers: u32,
    /// One process per service behind a gateway, as in Kubernetes.
    #[arg(long)]
    pub split: bool,
    /// The broker: auto, apache or embedded. The setting sandbox.kafka unless told.
    #[arg(long)]
    pub kafka: Option<KafkaChoice>,
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    /// Where the system lives while it is measured, and thereby the disk. Only logs of --split stay there.
    #[arg(long, value_name = "DIR", default_value = ".stampede/bench")]
    pub data_dir: PathBuf,
}

const CLIENTS: [u16; 3] = [1, 16, 64];
/// Long enough for the caches, for the first extensions of the tables, and for the compiler of the JVM that Kafka runs on.
const WARM_UP_SECONDS: u64 = 5;
/// No hold and no token may end within the longest measurement.
const DAY_SECONDS: u64 = 86_400;

/// Under which conditions.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Conditions {
    pub seconds: u64,
    pub rounds: u64,
    pub clients: Vec<usize>,
    pub processors: usize,
    pub load_average_before: Option<f64>,
    pub postgres: String,
    pub kafka: String,
    pub split: bool,
    pub buyers: usize,
    pub debug_build: bool,
}

impl BenchArgs {
    /// The numbers of simultaneous clients, each once, in ascending order.
    pub fn clients(&self) -> Vec<usize> {
        let clients: BTreeSet<usize> = self.clients.iter().map(|clients| usize::from(*clients)).collect();
        clients.into_iter().collect()
    }

    pub fn buyers(&self) -> usize {
        self.buyers as usize
    }

    /// The number of clients in the middle warms up: the most would fill queues, and one leaves most sessions cold.
    pub fn warm_up_clients(&self) -> usize {
        let clients = self.clients();
        clients[clients.len() / 2]
    }

    pub fn warm_up_seconds(&self) -> u64 {
        self.seconds.min(WARM_UP_SECONDS)
    }

    /// PostgreSQL reports the syncs of its log ten seconds late, for which a short trial does not wait.
    pub fn counts_syncs(&self) -> bool {
        self.seconds >= WARM_UP_SECONDS
    }

    /// The site to measure.
    pub fn site(&self, config: &[PathBuf]) -> anyhow::Result<SiteOptions> {
        let kafka = match self.kafka {
            Some(kafka) => kafka,
            None => site::kafka_choice(config)?,
        };
        let setting = |key: &str, value: String| (key.to_owned(), value);
        Ok(SiteOptions {
            data_dir: sandbox::reachable_data_dir(&std::path::absolute(&self.data_dir)?),
            fresh: true,
            ephemeral: true,
            split: self.split,
            replicas: 1,
            kafka,
            config: config.to_vec(),
            overrides: vec![
                setting("host.http_listen", "127.0.0.1:0".to_owned()),
                setting("host.grpc_listen", "127.0.0.1:0".to_owned()),
                setting("auth.access_token_minutes", (DAY_SECONDS / 60).to_string()),
                setting("inventory.hold_ttl_seconds", DAY_SECONDS.to_string()),
                // E-mails go to the log; printing them is not what is measured.
                setting("telemetry.log_filter", "warn".to_owned()),
            ],
            log_to_file: false,
            count_statements: false,
        })
    }

    /// Prints a report, as JSON or as `text`.
    pub fn print(&self, report: &impl Serialize, text: String) -> anyhow::Result<()> {
        match self.output {
            Output::Json => say!("{}", serde_json::to_string(report)?),
            Output::Text => print!("{text}"),
        }
        Ok(())
    }

    /// Refuses a site whose PostgreSQL cannot be measured.
    pub fn conditions(&self, site: &Site, postgres: String) -> anyhow::Result<Conditions> {
        let is_private = site.pids().iter().any(|(name, _)| name == "PostgreSQL");
        ensure!(
            is_private,
            "PostgreSQL's processes are counted, so it must be one that is started here: leave postgres.url alone"
        );
        Ok(Conditions {
            seconds: self.seconds,
            rounds: self.rounds,
            clients: self.clients(),
            processors: std::thread::available_parallelism().context("counting processors")?.get(),
            load_average_before: load_average(),
            postgres,
            kafka: site.sandbox().map_or_else(String::new, |sandbox| sandbox.kafka_kind().to_string()),
            split: self.split,
            buyers: self.buyers(),
            debug_build: cfg!(debug_assertions),
        })
    }
}

/// Of the last minute: how much others used the machine before. None where it cannot be told.
fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
impl Conditions {
    pub fn for_tests() -> Conditions {
        Conditions {
            seconds: 5,
            rounds: 1,
            clients: CLIENTS.map(usize::from).to_vec(),
            processors: 2,
            load_average_before: None,
            postgres: "15".to_owned(),
            kafka: "Apache".to_owned(),
            split: false,
            buyers: 1,
            debug_build: true,
        }
    }
}
