//! `stampede bench`: what the system does on this machine, beside what this machine can do at all.

mod archive;
mod bounds;
mod coupons;
mod disk;
mod generator;
mod hello;
mod hot_product;
mod hub;
mod hub_report;
mod lines;
mod load;
mod measure;
mod options;
mod orders;
mod orders_report;
mod payments;
mod payments_report;
mod pgbench;
mod queue;
mod raw_script;
mod report;
mod runs;
mod turns;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use archive::ArchiveArgs;
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
    /// Orders over HTTP while old orders are archived, beside the same orders alone in the same run.
    Archive(ArchiveArgs),
    /// Coupons issued and refused over HTTP, beside a hello-world handler, the script alone, and one commit for each.
    Coupons(BenchArgs),
    /// A waiting room entered and asked over HTTP, beside a hello-world handler and the scripts alone.
    Queue(BenchArgs),
    /// The clients of all: a process of their own, so that their processor time is told apart from the services'.
    #[command(hide = true)]
    Load,
}

pub async fn bench(command: BenchCommand, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    match command {
        BenchCommand::Orders(args) => orders::orders(args, config).await,
        BenchCommand::Payments(args) => payments::payments(args, config).await,
        BenchCommand::Hub(args) => hub::hub(args, config).await,
        BenchCommand::Archive(args) => archive::archive(args, config).await,
        BenchCommand::Coupons(args) => coupons::coupons(args, config).await,
        BenchCommand::Queue(args) => queue::queue(args, config).await,
        BenchCommand::Load => {
            tokio::task::spawn_blocking(load::run).await??;
            Ok(ExitCode::SUCCESS)
        }
    }
}
