//! Runs a command with PostgreSQL, Redis and Apache Kafka beside it, which all test binaries that it starts share.

use std::process::{Command, ExitCode};

use sandbox::Sandbox;
use testkit::servers;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("usage: with-servers PROGRAM [ARGUMENT ...]");
        return Ok(ExitCode::from(2));
    };
    let sandbox = Sandbox::start(servers::shared_options()).await?;
    let addresses = [sandbox.postgres_url(), sandbox.redis_url(), sandbox.kafka_brokers()];
    let mut command = Command::new(program);
    command.args(words).envs(servers::ENVIRONMENT.into_iter().zip(addresses));
    let status = tokio::task::spawn_blocking(move || command.status()).await??;
    sandbox.stop().await?;
    Ok(match status.code() {
        Some(0) => ExitCode::SUCCESS,
        Some(code) => u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
        // Ended by a signal.
        None => ExitCode::FAILURE,
    })
}
