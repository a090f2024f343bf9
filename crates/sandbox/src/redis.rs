//! A private Redis that keeps nothing: the gate in it is rebuilt from PostgreSQL, and a restart must be seen to be empty.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::options::Server;
use crate::process::ProcessFiles;
use crate::programs;
use crate::supervisor::Recipe;
use crate::unix_user::{self, UnixUser};

/// A PING on loopback takes far less than a millisecond.
const PING_LIMIT: Duration = Duration::from_millis(500);

pub(crate) struct Redis {
    dir: PathBuf,
    port: u16,
    user: Option<UnixUser>,
    program: PathBuf,
    more_arguments: Vec<String>,
}

impl Redis {
    pub(crate) fn new(dir: PathBuf, port: u16, user: Option<UnixUser>, more_arguments: Vec<String>) -> Result<Redis> {
        Ok(Redis { dir, port, user, program: programs::redis_server()?, more_arguments })
    }
}

impl Recipe for Redis {
    const SERVER: Server = Server::Redis;
    /// The same as SHUTDOWN.
    const STOP_SIGNAL: Signal = Signal::SIGTERM;

    async fn prepare(&mut self, _files: &ProcessFiles) -> Result<()> {
        unix_user::give_folder(self.user.as_ref(), &self.dir)
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--dir"])
            .arg(&self.dir)
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            // A full memory must refuse writes: a gate that lost single holds would no longer be seen to be incomplete.
            .args(["--maxmemory-policy", "noeviction", "--notify-keyspace-events", "Ex"])
            .args(&self.more_arguments)
            .current_dir(&self.dir);
        unix_user::run_as(self.user.as_ref(), &mut command);
        Ok(command)
    }

    async fn is_ready(&mut self, _pid: u32) -> bool {
        timeout(PING_LIMIT, ping(self.port)).await.is_ok_and(|pong| pong.is_ok_and(|pong| &pong == b"+PONG"))
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.clone()
    }
}

async fn ping(port: u16) -> std::io::Result<[u8; 5]> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    connection.write_all(b"PING\r\n").await?;
    let mut pong = [0; 5];
    connection.read_exact(&mut pong).await?;
    Ok(pong)
}
