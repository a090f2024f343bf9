//! `stampede bench`: what the system does on this machine, beside what this machine can do at all.

mod cost;
mod disk;
mod figures;
mod generator;
mod load;
mod measure;
mod orders;
mod payments;
mod pgbench;
mod prepare;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

pub use orders::OrdersArgs;
pub use payments::PaymentsArgs;

#[derive(Subcommand)]
pub enum BenchCommand {
    /// Orders of one hot product over HTTP, beside what PostgreSQL alone does with one commit per order.
    Orders(OrdersArgs),
    /// Orders that are placed, paid and confirmed, beside placing alone in the same run.
    Payments(PaymentsArgs),
    /// The buyers of `orders`: a process of their own, so that their processor time is told apart from the services'.
    #[command(hide = true)]
    Load,
}

pub async fn bench(command: BenchCommand, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    match command {
        BenchCommand::Orders(args) => orders::orders(args, config).await,
        BenchCommand::Payments(args) => payments::payments(args, config).await,
        BenchCommand::Load => {
            tokio::task::spawn_blocking(load::run).await??;
            Ok(ExitCode::SUCCESS)
        }
    }
}
