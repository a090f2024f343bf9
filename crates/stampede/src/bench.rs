//! `stampede bench`: what the system does on this machine, beside what this machine can do at all.

mod disk;
mod generator;
mod hot_product;
mod hub;
mod hub_report;
mod load;
mod measure;
mod options;
mod orders;
mod orders_report;
mod payments;
mod payments_report;
mod pgbench;
mod report;
mod runs;
mod turns;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use options::BenchArgs;
use payments::PaymentsArgs;

#[derive(Subcommand)]
pub enum BenchCommand {
    /// Orders of one hot product over HTTP, beside what PostgreSQL alone does with one commit per order.
    Orders(BenchArgs),
    /// Orders that are placed, paid and confirmed, beside placing alone in the same run.
    Payments(PaymentsArgs),
    /// Notifications over HTTP and their deliveries, beside what PostgreSQL alone does with one commit for each.
    Hub(BenchArgs),
    /// The clients of all: a process of their own, so that their processor time is told apart from the services'.
    #[command(hide = true)]
    Load,
}

pub async fn bench(command: BenchCommand, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    match command {
        BenchCommand::Orders(args) => orders::orders(args, config).await,
        BenchCommand::Payments(args) => payments::payments(args, config).await,
        BenchCommand::Hub(args) => hub::hub(args, config).await,
        BenchCommand::Load => {
            tokio::task::spawn_blocking(load::run).await??;
            Ok(ExitCode::SUCCESS)
        }
    }
}
