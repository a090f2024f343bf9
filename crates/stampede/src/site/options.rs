//! How a site is started.

use std::path::PathBuf;
use std::time::Duration;

use sandbox::KafkaChoice;

/// Demo accounts: what a development site adds to the defaults.
pub const DEMO: &str = include_str!("../../../../config/demo.toml");
/// The folder of logs, in the data folder.
pub const LOGS: &str = "logs";
/// A service that is not ready by then will not be.
pub const READY_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct SiteOptions {
    pub data_dir: PathBuf,
    pub fresh: bool,
    pub ephemeral: bool,
    /// One process per service behind a gateway, as in Kubernetes.
    pub split: bool,
    /// Of each service that is split.
    pub replicas: usize,
    pub kafka: KafkaChoice,
    /// Settings files above the demo's.
    pub config: Vec<PathBuf>,
    /// Settings above all files.
    pub overrides: Vec<(String, String)>,
    /// The log of this process goes to a file, see [`Site::logs`](super::Site::logs), and only warnings to standard error.
    pub log_to_file: bool,
    /// PostgreSQL counts statements, if it has the module for it.
    pub count_statements: bool,
}
