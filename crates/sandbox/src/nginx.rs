//! A private nginx that plays the API gateway when the services run as separate processes: a path table, nothing more.

mod config;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio::time::sleep;

pub use self::config::{CONTAINER_PORT, RESPONSE_HEADERS, for_containers};
use crate::claim::Claim;
use crate::ports::free_port;
use crate::process::{Process, ProcessFiles, how_it_ended};
use crate::programs;
use crate::unix_user::{self, UnixUser};

/// What it keeps in a data folder.
pub const FOLDER: &str = "gateway";

/// It listens within milliseconds.
const READY_LIMIT: Duration = Duration::from_secs(10);

const READY_POLL_PERIOD: Duration = Duration::from_millis(10);

/// A running nginx. Dropping it kills it.
pub struct Gateway {
    port: u16,
    process: Process,
    /// Given up after the process is gone.
    _claim: Claim,
}

impl Gateway {
    /// Starts an nginx on loopback that sends each path to the upstream with the longest matching prefix.
    ///
    /// A prefix ends at a slash: `/orders` takes `/orders` and `/orders/7`, not `/orders-archive`. Upstreams need not
    /// run yet: while all replicas of one are down its paths answer 503 with `Retry-After`. A request that changes something
    /// is never sent twice. `description` is that of the whole API.
    pub async fn start(
        data_dir: &Path,
        listen_port: Option<u16>,
        routes: &[(String, Vec<u16>)],
        description: Option<&str>,
    ) -> Result<Gateway> {
        let port = match listen_port {
            Some(port) => port,
            None => free_port()?,
        };
        Gateway::run(data_dir, port, |temp| {
            let file = temp.join("openapi.json");
            if let Some(description) = description {
                fs::write(&file, description)?;
            }
            config::for_sandbox(temp, port, routes, description.map(|_| file.as_path()))
        })
        .await
    }

    /// Starts an nginx with the configuration that `render` makes, which must have it listen on `port` of loopback. It may
    /// write to the folder that `render` is given.
    pub async fn run(data_dir: &Path, port: u16, render: impl FnOnce(&Path) -> Result<String>) -> Result<Gateway> {
        let dir = data_dir.join(FOLDER);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let claim = Claim::take(&dir, &[])?;
        let user = UnixUser::for_servers()?;
        unix_user::check_access(user.as_ref(), &dir)?;
        let temp = dir.join("temp");
        unix_user::give_folder(user.as_ref(), &temp)?;
        let config = dir.join("nginx.conf");
        fs::write(&config, render(&temp)?)?;
        let mut command = Command::new(programs::nginx()?);
        command.arg("-p").arg(&temp).arg("-c").arg(config).args(["-e", "stderr"]).current_dir(&temp);
        unix_user::run_as(user.as_ref(), &mut command);
        let files = ProcessFiles { pid_file: claim.pid_file("nginx"), log_file: dir.join("nginx.log") };
        let process = Process::start(command, Stdio::null(), files)?;
        let mut gateway = Gateway { port, process, _claim: claim };
        gateway.wait_ready().await?;
        Ok(gateway)
    }

    /// `http://127.0.0.1:port`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends it at once, cutting open connections. It has no state to save, so it is killed.
    pub async fn stop(self) -> Result<()> {
        self.process.kill().await
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.ended()? {
                bail!("nginx ended ({}): {}", how_it_ended(status), self.process.last_lines());
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_ok() {
                return Ok(());
            }
            if started.elapsed() > READY_LIMIT {
                bail!("nginx is not ready after {READY_LIMIT:?}: {}", self.process.last_lines());
            }
            sleep(READY_POLL_PERIOD).await;
        }
    }
}
