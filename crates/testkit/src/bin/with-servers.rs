//! Runs a command with PostgreSQL, Redis and Apache Kafka beside it, which all test binaries that it starts share.
//!
//! Servers that the environment names already are used instead of new ones. The exit code is the command's, or 128 and
//! the number of the signal that ended it. The servers end with the command, and also when this process is killed.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use anyhow::Context;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use sandbox::Sandbox;
use testkit::servers;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("usage: with-servers PROGRAM [ARGUMENT ...]");
        return Ok(ExitCode::from(2));
    };
    let mut signals = Signals::new()?;
    let sandbox = tokio::select! {
        sandbox = Sandbox::start(servers::shared_options()) => sandbox?,
        signal = signals.next() => return Ok(ended_by(signal)),
    };
    let addresses = [sandbox.postgres_url(), sandbox.redis_url(), sandbox.kafka_brokers()];
    let mut command = Command::new(&program);
    command.args(words).envs(servers::ENVIRONMENT.into_iter().zip(addresses));
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            signal = signals.next() => pass_on(signal, &child),
        }
    };
    // Their data is removed with them, so killing them is enough.
    drop(sandbox);
    Ok(exit_code(status))
}

/// The signals that ask a process to end.
struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: unix::Signal,
}

impl Signals {
    /// From now on these signals no longer end the process by themselves.
    fn new() -> anyhow::Result<Signals> {
        Ok(Signals {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            hang_up: unix::signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.hang_up.recv() => Signal::SIGHUP,
        }
    }
}

/// A terminal sends Ctrl-C to the command as well; the other signals reach only this process.
fn pass_on(signal: Signal, child: &Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.filter(|_| signal != Signal::SIGINT) {
        // The command may have ended meanwhile.
        let _ = signal::kill(Pid::from_raw(pid), signal);
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
        (None, Some(number)) => Signal::try_from(number).map_or(ExitCode::FAILURE, ended_by),
        (None, None) => ExitCode::FAILURE,
    }
}

/// What a shell says of a command that a signal has ended.
fn ended_by(signal: Signal) -> ExitCode {
    ExitCode::from(128 + signal as u8)
}
