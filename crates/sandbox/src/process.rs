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

/// How many lines of a server's log an error shows.
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

    /// SIGKILL for the process and all its descendants. Returns all of them.
    ///
    /// It is stopped first, so that it cannot fork while its descendants are being listed. The process
    /// group would not do: PostgreSQL's backends each lead a group of their own.
    pub(crate) fn kill_tree(self) -> Vec<Identity> {
        self.signal(Signal::SIGSTOP);
        let tree = self.tree();
        for member in &tree {
            member.signal(Signal::SIGKILL);
        }
        tree
    }

    fn tree(self) -> Vec<Identity> {
        let mut children: HashMap<i32, Vec<Identity>> = HashMap::new();
        for stat in all_processes() {
            children.entry(stat.parent_pid).or_default().push(stat.identity);
        }
        let mut tree = vec![self];
        let mut next = 0;
        while next < tree.len() {
            tree.extend(children.remove(&tree[next].pid).unwrap_or_default());
            next += 1;
        }
        tree
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

/// The files of one server's processes.
#[derive(Clone, Debug)]
pub(crate) struct ProcessFiles {
    /// Names the process that runs now, so that it can be found when its owner has died.
    pub(crate) pid_file: PathBuf,
    pub(crate) log_file: PathBuf,
}

/// A running child. Dropping it kills it with all its descendants.
pub(crate) struct Process {
    child: Child,
    identity: Identity,
    files: ProcessFiles,
}

impl Process {
    /// Needs a tokio runtime around it, which then reaps the child.
    pub(crate) fn start(mut command: Command, input: Stdio, files: ProcessFiles) -> Result<Process> {
        let program = name_of(&command);
        let log = append(&files.log_file)?;
        // A group of its own, so that Ctrl-C on the terminal reaches only us and we decide on the order of stopping.
        command.process_group(0).stdin(input).stdout(log.try_clone()?).stderr(log);
        let child =
            tokio::process::Command::from(command).spawn().with_context(|| format!("cannot start {program}"))?;
        let pid = child.id().context("the child has been reaped already")?.cast_signed();
        let stat = Stat::read(pid).with_context(|| format!("{program} has no entry in /proc"))?;
        let process = Process { child, identity: stat.identity, files };
        let note = format!("{pid} {}\n", process.identity.started_ticks);
        let pid_file = &process.files.pid_file;
        fs::write(pid_file, note).with_context(|| format!("cannot write {}", pid_file.display()))?;
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
        let tree = self.identity.kill_tree();
        self.child.wait().await?;
        wait_gone(&tree)
    }

    /// Asks it to stop with `signal`, and kills it if it has not done so within `limit`.
    pub(crate) async fn stop(mut self, signal: Signal, limit: Duration) -> Result<()> {
        self.identity.signal(signal);
        match timeout(limit, self.child.wait()).await {
            Ok(status) => status.map(drop).context("cannot wait for the child"),
            Err(_) => {
                tracing::warn!(process.pid = self.pid(), "A server did not stop within {limit:?} and is killed");
                self.kill().await
            }
        }
    }

    /// The last lines that it wrote, for error messages.
    pub(crate) fn last_lines(&self) -> String {
        let text = fs::read(&self.files.log_file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let tree = self.identity.kill_tree();
            // Nothing can be reported from here, and the next start looks for leftovers anyway.
            let _ = wait_gone(&tree);
            let _ = self.child.try_wait();
        }
        let _ = fs::remove_file(&self.files.pid_file);
    }
}

/// Runs a program to its end. The error contains the last lines of its log. Dropping the future kills the program.
pub(crate) async fn run(command: Command, input: Stdio, files: &ProcessFiles) -> Result<()> {
    let program = name_of(&command);
    let mut process = Process::start(command, input, files.clone())?;
    let status = process.wait().await?;
    if !status.success() {
        bail!("{program} failed ({}): {}", how_it_ended(status), process.last_lines());
    }
    Ok(())
}

fn name_of(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
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
