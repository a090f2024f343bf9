//! Keeps one server running: one task owns the process, obeys orders, and starts it again when it dies by itself.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::Server;
use crate::process::{Launch, Process, how_it_ended};

/// A server that dies more often than this within [`RESTARTS_WINDOW`] has a reason that starting it again will not cure.
const RESTARTS_MAX: usize = 5;

const RESTARTS_WINDOW: Duration = Duration::from_secs(60);

/// What a dead server has left behind, such as PostgreSQL's backends, takes a moment to go.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// PostgreSQL may have a long log to replay after a kill, and a JVM starts slowly on a machine that is compiling.
const READY_LIMIT: Duration = Duration::from_secs(120);

const READY_POLL_PERIOD: Duration = Duration::from_millis(15);

/// A clean stop writes a last checkpoint; what takes longer than this is stuck.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Callers wait for the answer to each order, so more than a few never queue up.
const ORDERS_MAX: usize = 8;

/// How one kind of server is prepared, started, asked whether it is ready, and stopped.
pub(crate) trait Recipe {
    const SERVER: Server;
    /// Asks for a clean stop.
    const STOP_SIGNAL: Signal;

    /// Makes the data if there is none. Runs before every start.
    async fn prepare(&mut self) -> Result<()>;
    fn command(&self) -> Result<Command>;
    /// Whether the process `pid` answers clients now. Asked again and again.
    async fn is_ready(&mut self, pid: u32) -> bool;
    fn port(&self) -> u16;
    /// What to remove to make the server forget everything.
    fn data_dir(&self) -> PathBuf;
}

/// What there is to know about a server from outside its supervisor.
#[derive(Default)]
pub(crate) struct Status {
    /// 0 while it is down.
    pid: AtomicU32,
    port: AtomicU16,
}

impl Status {
    pub(crate) fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.load(Ordering::Acquire)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Kill,
    Restart,
    Wipe,
    Stop,
}

type Reply = oneshot::Sender<Result<()>>;

/// The outside's end of a supervisor.
pub(crate) struct Handle {
    pub(crate) status: Arc<Status>,
    pub(crate) data_dir: PathBuf,
    orders: mpsc::Sender<(Order, Reply)>,
}

impl Handle {
    /// Has the order carried out. Orders for one server are carried out one after the other.
    pub(crate) async fn order(&self, order: Order) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.orders.send((order, reply)).await.map_err(|_| anyhow!("the sandbox has stopped"))?;
        answer.await.context("the sandbox stopped meanwhile")?
    }
}

pub(crate) struct Supervisor<R> {
    recipe: R,
    pid_file: PathBuf,
    log_file: PathBuf,
    status: Arc<Status>,
    orders: mpsc::Receiver<(Order, Reply)>,
    process: Option<Process>,
    restarted: VecDeque<Instant>,
}

impl<R: Recipe> Supervisor<R> {
    /// Starts the server; returns when it is ready.
    pub(crate) async fn start(recipe: R, pid_file: PathBuf, log_file: PathBuf) -> Result<(Supervisor<R>, Handle)> {
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let status = Arc::new(Status::default());
        let handle = Handle { status: Arc::clone(&status), data_dir: recipe.data_dir(), orders: sender };
        let mut supervisor =
            Supervisor { recipe, pid_file, log_file, status, orders, process: None, restarted: VecDeque::new() };
        supervisor.launch().await.with_context(|| format!("cannot start {}", R::SERVER))?;
        Ok((supervisor, handle))
    }

    /// Runs until it is told to stop the server, or until nobody is left to give orders: then the server is killed.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::select! {
                order = self.orders.recv() => {
                    let Some((order, reply)) = order else { return };
                    let outcome = self.obey(order).await;
                    // Whoever gave the order may have stopped waiting.
                    let _ = reply.send(outcome);
                    if matches!(order, Order::Stop) {
                        return;
                    }
                }
                ending = ending_of(&mut self.process) => self.revive(ending).await,
            }
        }
    }

    async fn obey(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Kill => self.kill().await,
            Order::Stop => self.stop().await,
            Order::Restart => {
                self.stop().await?;
                self.restarted.clear();
                self.launch().await
            }
            Order::Wipe => {
                self.kill().await?;
                let data_dir = self.recipe.data_dir();
                std::fs::remove_dir_all(&data_dir).with_context(|| format!("cannot remove {}", data_dir.display()))?;
                self.launch().await
            }
        }
        .with_context(|| format!("cannot {} {}", format!("{order:?}").to_lowercase(), R::SERVER))
    }

    async fn kill(&mut self) -> Result<()> {
        self.status.pid.store(0, Ordering::Release);
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        self.status.pid.store(0, Ordering::Release);
        match self.process.take() {
            Some(process) => process.stop(R::STOP_SIGNAL, STOP_LIMIT).await,
            None => Ok(()),
        }
    }

    async fn launch(&mut self) -> Result<()> {
        self.recipe.prepare().await?;
        let launch = Launch {
            command: self.recipe.command()?,
            pid_file: self.pid_file.clone(),
            log_file: self.log_file.clone(),
        };
        let mut process = Process::start(launch)?;
        let started = Instant::now();
        while !self.recipe.is_ready(process.pid()).await {
            if let Some(status) = process.ended()? {
                bail!("{}; {} ends with:\n{}", how_it_ended(status), self.log_file.display(), process.last_words());
            }
            if started.elapsed() > READY_LIMIT {
                bail!(
                    "not ready after {READY_LIMIT:?}; {} ends with:\n{}",
                    self.log_file.display(),
                    process.last_words()
                );
            }
            sleep(READY_POLL_PERIOD).await;
        }
        self.status.port.store(self.recipe.port(), Ordering::Release);
        self.status.pid.store(process.pid(), Ordering::Release);
        self.process = Some(process);
        Ok(())
    }

    /// Starts a server again that died by itself, unless it keeps dying.
    async fn revive(&mut self, ending: Result<ExitStatus>) {
        self.status.pid.store(0, Ordering::Release);
        self.process = None;
        let mut ending = ending.map_or_else(|error| format!("{error:#}"), how_it_ended);
        loop {
            while self.restarted.front().is_some_and(|at| at.elapsed() > RESTARTS_WINDOW) {
                self.restarted.pop_front();
            }
            if self.restarted.len() >= RESTARTS_MAX {
                tracing::error!(
                    server = %R::SERVER,
                    "Leaving {} down: it died {RESTARTS_MAX} times within {RESTARTS_WINDOW:?}, now: {ending}; see {}",
                    R::SERVER,
                    self.log_file.display()
                );
                return;
            }
            tracing::warn!(server = %R::SERVER, "Starting {} again, which has died: {ending}", R::SERVER);
            self.restarted.push_back(Instant::now());
            sleep(RESTART_PAUSE).await;
            match self.launch().await {
                Ok(()) => return,
                Err(error) => ending = format!("{error:#}"),
            }
        }
    }
}

/// Resolves when the process ends; never while there is none.
async fn ending_of(process: &mut Option<Process>) -> Result<ExitStatus> {
    match process {
        Some(process) => process.wait().await,
        None => std::future::pending().await,
    }
}
