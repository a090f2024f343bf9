//! Keeps one server running: one task owns the process, performs actions on it, and starts it again when it dies.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::options::Server;
use crate::process::{Process, ProcessFiles, how_it_ended};

/// A server that dies more often than this within [`RESTARTS_WINDOW`] is not started again.
const RESTARTS_MAX: usize = 5;

const RESTARTS_WINDOW: Duration = Duration::from_secs(60);

/// What a dead server leaves behind, such as PostgreSQL's backends, takes a moment to end.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// PostgreSQL may have a long log to replay after a kill, and a JVM starts slowly on a machine that is compiling.
const READY_LIMIT: Duration = Duration::from_secs(120);

const READY_POLL_PERIOD: Duration = Duration::from_millis(15);

/// A clean stop writes a last checkpoint; what takes longer than this is stuck.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Callers wait for the answer to each action, so more than a few never queue up.
const ACTIONS_MAX: usize = 8;

/// How one kind of server is prepared, started, asked whether it is ready, and stopped.
pub(crate) trait Recipe {
    const SERVER: Server;
    /// Asks for a clean stop.
    const STOP_SIGNAL: Signal;

    /// Makes the data if there is none. Runs before every start. Programs that it runs are noted in `files`.
    async fn prepare(&mut self, files: &ProcessFiles) -> Result<()>;
    fn command(&self) -> Result<Command>;
    /// Whether the process `pid` answers clients now. Asked again and again.
    async fn is_ready(&mut self, pid: u32) -> bool;
    fn port(&self) -> u16;
    /// What to remove to make the server forget everything.
    fn data_dir(&self) -> PathBuf;
}

/// What others may know about a server.
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
pub(crate) enum Action {
    Kill,
    Restart,
    Wipe,
    Stop,
}

type Reply = oneshot::Sender<Result<()>>;

/// How others reach a supervisor and its server.
pub(crate) struct Handle {
    pub(crate) status: Arc<Status>,
    pub(crate) data_dir: PathBuf,
    actions: mpsc::Sender<(Action, Reply)>,
}

impl Handle {
    /// Returns when the action is done. Actions on one server are done one after the other.
    pub(crate) async fn perform(&self, action: Action) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.actions.send((action, reply)).await.map_err(|_| anyhow!("the sandbox has stopped"))?;
        answer.await.context("the sandbox stopped meanwhile")?
    }
}

pub(crate) struct Supervisor<R> {
    recipe: R,
    files: ProcessFiles,
    status: Arc<Status>,
    actions: mpsc::Receiver<(Action, Reply)>,
    process: Option<Process>,
    restarted: VecDeque<Instant>,
}

impl<R: Recipe> Supervisor<R> {
    /// Starts the server; returns when it is ready.
    pub(crate) async fn start(recipe: R, files: ProcessFiles) -> Result<(Supervisor<R>, Handle)> {
        let (sender, actions) = mpsc::channel(ACTIONS_MAX);
        let status = Arc::new(Status::default());
        let handle = Handle { status: Arc::clone(&status), data_dir: recipe.data_dir(), actions: sender };
        let mut supervisor = Supervisor { recipe, files, status, actions, process: None, restarted: VecDeque::new() };
        supervisor.launch().await.with_context(|| format!("cannot start {}", R::SERVER))?;
        Ok((supervisor, handle))
    }

    /// Runs until it is told to stop the server, or until the last handle is dropped: then the server is killed.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::select! {
                action = self.actions.recv() => {
                    let Some((action, reply)) = action else { return };
                    let outcome = self.perform(action).await;
                    // The caller may have stopped waiting.
                    let _ = reply.send(outcome);
                    if matches!(action, Action::Stop) {
                        return;
                    }
                }
                ending = ending_of(&mut self.process) => self.start_again(ending).await,
            }
        }
    }

    async fn perform(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Kill => self.kill().await,
            Action::Stop => self.stop().await,
            Action::Restart => {
                self.stop().await?;
                self.restarted.clear();
                self.launch().await
            }
            Action::Wipe => {
                self.kill().await?;
                let data_dir = self.recipe.data_dir();
                std::fs::remove_dir_all(&data_dir).with_context(|| format!("cannot remove {}", data_dir.display()))?;
                self.launch().await
            }
        }
        .with_context(|| format!("cannot {} {}", format!("{action:?}").to_lowercase(), R::SERVER))
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
        self.recipe.prepare(&self.files).await?;
        let mut process = Process::start(self.recipe.command()?, Stdio::null(), self.files.clone())?;
        let log_file = self.files.log_file.display();
        let started = Instant::now();
        while !self.recipe.is_ready(process.pid()).await {
            if let Some(status) = process.ended()? {
                bail!("{}; {log_file} ends with:\n{}", how_it_ended(status), process.last_lines());
            }
            if started.elapsed() > READY_LIMIT {
                bail!("not ready after {READY_LIMIT:?}; {log_file} ends with:\n{}", process.last_lines());
            }
            sleep(READY_POLL_PERIOD).await;
        }
        self.status.port.store(self.recipe.port(), Ordering::Release);
        self.status.pid.store(process.pid(), Ordering::Release);
        self.process = Some(process);
        Ok(())
    }

    /// Starts a server again that died by itself, unless it keeps dying.
    async fn start_again(&mut self, ending: Result<ExitStatus>) {
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
                    "{} has died {RESTARTS_MAX} times within {RESTARTS_WINDOW:?} and stays down: {ending}; see {}",
                    R::SERVER,
                    self.files.log_file.display()
                );
                return;
            }
            tracing::warn!(server = %R::SERVER, "{} has died ({ending}) and is started again", R::SERVER);
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

#[cfg(test)]
mod tests;
