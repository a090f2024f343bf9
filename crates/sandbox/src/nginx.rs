//! A private nginx that plays the API gateway when the services run as separate processes: a path table, nothing more.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::claim::Claim;
use crate::ports::free_port;
use crate::process::{Process, ProcessFiles, how_it_ended};
use crate::programs;
use crate::unix_user::{self, UnixUser};

/// It listens within milliseconds.
const READY_LIMIT: Duration = Duration::from_secs(10);

const READY_POLL_PERIOD: Duration = Duration::from_millis(10);

/// Everything but the routes; the words in braces are filled in.
const CONFIG: &str = include_str!("nginx.conf");

const PROXY: &str = "proxy_pass http://upstream_";

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
    /// run yet: while one is down its paths answer 503 with `Retry-After`. Requests are never sent twice.
    pub async fn start(data_dir: &Path, listen_port: Option<u16>, routes: &[(String, u16)]) -> Result<Gateway> {
        let dir = data_dir.join("gateway");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let claim = Claim::take(&dir, &[])?;
        let user = UnixUser::for_servers()?;
        unix_user::check_access(user.as_ref(), &dir)?;
        let temp = dir.join("temp");
        unix_user::give_folder(user.as_ref(), &temp)?;
        let port = match listen_port {
            Some(port) => port,
            None => free_port()?,
        };
        let config = dir.join("nginx.conf");
        fs::write(&config, configuration(&temp, port, routes)?)?;
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

fn configuration(temp: &Path, port: u16, routes: &[(String, u16)]) -> Result<String> {
    let mut upstream_ports: Vec<u16> = routes.iter().map(|(_, port)| *port).collect();
    upstream_ports.sort_unstable();
    upstream_ports.dedup();
    let mut upstreams = String::new();
    for port in upstream_ports {
        // max_fails=0: a service that comes back must not stay banned because it was away.
        // Idle connections are closed before the services close them (5 s), so that no request meets a closing one.
        write!(
            upstreams,
            "    upstream upstream_{port} {{\n        server 127.0.0.1:{port} max_fails=0;\n        \
             keepalive 64;\n        keepalive_timeout 4s;\n    }}\n"
        )?;
    }
    let mut locations = String::new();
    for (prefix, port) in routes {
        let is_plain = prefix.starts_with('/')
            && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~*".contains(&byte));
        if !is_plain {
            bail!("{prefix:?} is not a plain path prefix");
        }
        if prefix.contains('*') {
            let pattern = prefix.replace('.', r"\.").replace('*', "[^/]+");
            writeln!(locations, "        location ~ ^{pattern}$ {{ {PROXY}{port}; }}")?;
            continue;
        }
        let stem = prefix.trim_end_matches('/');
        if stem == prefix {
            writeln!(locations, "        location = {stem} {{ {PROXY}{port}; }}")?;
        }
        writeln!(locations, "        location {stem}/ {{ {PROXY}{port}; }}")?;
    }
    if !routes.iter().any(|(prefix, _)| prefix == "/") {
        locations.push_str("        location / { return 404; }\n");
    }
    Ok(CONFIG
        .replace("{temp}", &temp.display().to_string())
        .replace("{port}", &port.to_string())
        .replace("{upstreams}", &upstreams)
        .replace("{locations}", &locations))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_slashes() {
        let routes = [
            ("/api/v1/orders".to_owned(), 7001),
            ("/".to_owned(), 7002),
            ("/api/v1/orders/*/payments".to_owned(), 7003),
        ];
        let text = configuration(Path::new("/tmp"), 7000, &routes).unwrap();
        assert!(text.contains("location = /api/v1/orders { proxy_pass http://upstream_7001; }"));
        assert!(text.contains("location /api/v1/orders/ { proxy_pass http://upstream_7001; }"));
        assert!(text.contains("location / { proxy_pass http://upstream_7002; }"));
        assert!(text.contains("location ~ ^/api/v1/orders/[^/]+/payments$ { proxy_pass http://upstream_7003; }"));
        assert!(!text.contains("return 404;"));
    }

    #[test]
    fn configuration_cannot_be_injected() {
        assert!(configuration(Path::new("/tmp"), 1, &[("/a; }".to_owned(), 2)]).is_err());
    }
}
