//! One child process and everything it forks: started in a group of its own, noted in a pid file, killed whole, reaped.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::timeout;

/// How long killed processes may take to disappear; the kernel needs milliseconds.
const GONE_LIMIT: Duration = Duration::from_secs(10);

const POLL_PERIOD: Duration = Duration::from_millis(5);

/// How much of a server's log an error shows.
const LOG_LINES_SHOWN: usize = 15;

/// A process and the moment it started, in clock ticks since boot: pids come round again, pairs do not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    started_ticks: u64,
}

impl Identity {
    /// What a pid file says, or nothing if it says nothing sensible.
    pub(crate) fn read(pid_file: &Path) -> Option<Identity> {
        let text = fs::read_to_string(pid_file).ok()?;
        let (pid, started_ticks) = text.trim().split_once(' ')?;
        Some(Identity { pid: pid.parse().ok()?, started_ticks: started_ticks.parse().ok()? })
    }

    /// Zombies count as gone: they hold nothing any more.
    pub(crate) fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.identity == self && !stat.is_zombie)
    }

    fn signal(self, signal: Signal) {
        if self.is_alive() {
            // The process may end on its own in between; then there is nothing left to signal.
            let _ = signal::kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// SIGKILL for the process and all its descendants. Returns who was hit.
    ///
    /// It is stopped first, so that it cannot fork someone new while its family is being listed. The process
    /// group would not do: PostgreSQL's backends each lead a group of their own.
    pub(crate) fn kill_family(self) -> Vec<Identity> {
        self.signal(Signal::SIGSTOP);
        let family = self.family();
        for member in &family {
            member.signal(Signal::SIGKILL);
        }
        family
    }

    fn family(self) -> Vec<Identity> {
        let mut children: HashMap<i32, Vec<Identity>> = HashMap::new();
        for stat in all_processes() {
            children.entry(stat.parent_pid).or_default().push(stat.identity);
        }
        let mut family = vec![self];
        let mut next = 0;
        while next < family.len() {
            family.extend(children.remove(&family[next].pid).unwrap_or_default());
            next += 1;
        }
        family
    }
}

/// Blocks until none of them is left.
pub(crate) fn wait_gone(processes: &[Identity]) -> Result<()> {
    let started = Instant::now();
    while let Some(process) = processes.iter().find(|process| process.is_alive()) {
        if started.elapsed() > GONE_LIMIT {
            bail!("process {} is still there {GONE_LIMIT:?} after SIGKILL", process.pid);
        }
        thread::sleep(POLL_PERIOD);
    }
    Ok(())
}

/// The processes of `program` whose working folder is `folder`, whatever titles they have given themselves.
///
/// Sees only processes that the caller may inspect.
pub(crate) fn working_in(folder: &Path, program: &str) -> Vec<Identity> {
    let file = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).ok();
    all_processes()
        .map(|stat| stat.identity)
        .filter(|process| fs::read_link(format!("/proc/{}/cwd", process.pid)).is_ok_and(|cwd| cwd == folder))
        .filter(|process| file(process.pid).is_some_and(|file| file.file_name().is_some_and(|name| name == program)))
        .collect()
}

struct Stat {
    identity: Identity,
    parent_pid: i32,
    is_zombie: bool,
}

impl Stat {
    fn read(pid: i32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may contain anything, so count from its end.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Stat {
            identity: Identity { pid, started_ticks: fields.get(19)?.parse().ok()? },
            parent_pid: fields.get(1)?.parse().ok()?,
            is_zombie: matches!(*fields.first()?, "Z" | "X"),
        })
    }
}

fn all_processes() -> impl Iterator<Item = Stat> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Stat::read)
}

/// What to start and where its traces go.
pub(crate) struct Launch {
    pub(crate) command: Command,
    pub(crate) pid_file: PathBuf,
    pub(crate) log_file: PathBuf,
}

/// A running child. Dropping it kills it with all its descendants.
pub(crate) struct Process {
    child: Child,
    identity: Identity,
    pid_file: PathBuf,
    log_file: PathBuf,
}

impl Process {
    /// Needs a tokio runtime around it, which then reaps the child.
    pub(crate) fn start(launch: Launch) -> Result<Process> {
        let Launch { mut command, pid_file, log_file } = launch;
        let program = command.get_program().to_string_lossy().into_owned();
        let log = append(&log_file)?;
        // A group of its own, so that Ctrl-C on the terminal reaches only us and we decide on the order of stopping.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child =
            tokio::process::Command::from(command).spawn().with_context(|| format!("cannot start {program}"))?;
        let pid = child.id().context("the child has been reaped already")?.cast_signed();
        let stat = Stat::read(pid).with_context(|| format!("{program} has no entry in /proc"))?;
        let process = Process { child, identity: stat.identity, pid_file, log_file };
        let note = format!("{pid} {}\n", process.identity.started_ticks);
        fs::write(&process.pid_file, note).with_context(|| format!("cannot write {}", process.pid_file.display()))?;
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.identity.pid.cast_unsigned()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end. Safe to cancel.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait().await?)
    }

    /// SIGKILL for it and its descendants; returns when all are gone and it is reaped.
    pub(crate) async fn kill(mut self) -> Result<()> {
        let family = self.identity.kill_family();
        self.child.wait().await?;
        wait_gone(&family)
    }

    /// Asks it to stop with `signal`, and kills it if it has not done so within `limit`.
    pub(crate) async fn stop(mut self, signal: Signal, limit: Duration) -> Result<()> {
        self.identity.signal(signal);
        match timeout(limit, self.child.wait()).await {
            Ok(status) => status.map(drop).context("cannot wait for the child"),
            Err(_) => {
                tracing::warn!(process.pid = self.pid(), "Killing a server that did not stop within {limit:?}");
                self.kill().await
            }
        }
    }

    /// The last lines it wrote, for error messages.
    pub(crate) fn last_words(&self) -> String {
        last_lines(&self.log_file)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let family = self.identity.kill_family();
            // Nothing can be reported from here, and the next start looks for leftovers anyway.
            let _ = wait_gone(&family);
            let _ = self.child.try_wait();
        }
        let _ = fs::remove_file(&self.pid_file);
    }
}

/// Runs `command` to its end with `input` as its standard input, and refuses with its output if it fails.
///
/// Blocking: initdb, Kafka's formatter and Maven are batch programs.
pub(crate) fn run(mut command: Command, input: Option<File>) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(input.map_or_else(Stdio::null, Stdio::from))
        .process_group(0)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} failed ({}): {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// How a child ended, in words.
pub(crate) fn how_it_ended(status: ExitStatus) -> String {
    match status.signal() {
        Some(number) => format!("killed by signal {number}"),
        None => status.to_string(),
    }
}

fn append(log_file: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_file)
        .with_context(|| format!("cannot open {}", log_file.display()))
}

fn last_lines(log_file: &Path) -> String {
    let text = fs::read(log_file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}
