//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use common::Host;
use common::manifest::ServiceSpec;
use common::settings::Settings;

use crate::services::{self, SERVICES};
use crate::{audit, bench, dev, events, manifests, rush};

/// The commerce backend for the minute everybody arrives at once.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 nothing answers, 4 the audit found a violation.
#[derive(Parser)]
#[command(version, after_help = list_of_services())]
pub struct Cli {
    /// A settings file above config/default.toml; may be given several times, the last one wins.
    #[arg(long, global = true, value_name = "FILE")]
    config: Vec<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything on this machine: private servers, demo data, all services.
    Dev(dev::DevArgs),
    /// Host all services in one process, on the servers that the settings name.
    All,
    /// Bring the schemas of these services up to date, or of all, then end.
    Migrate { services: Vec<String> },
    /// Print the settings in force, secrets masked.
    Config,
    /// Print the OpenAPI description of all services.
    Openapi,
    /// Write the files for containers and Kubernetes that follow from the list of services.
    Manifests {
        /// The root of the repository.
        #[arg(default_value = ".")]
        root: PathBuf,
    },
    /// Buy out one hot product with many buyers at once, and prove that nothing went wrong.
    Rush(rush::RushArgs),
    /// Check the invariants of a system at rest.
    Audit(audit::AuditArgs),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Look at the outboxes and at parked events, and set them going again.
    Events(events::EventsArgs),
    /// Ask a URL for its health; for containers without a shell.
    Healthcheck { url: String },
    /// The embedded broker, as a process that can be killed.
    #[command(hide = true)]
    Broker {
        #[arg(long)]
        port_file: PathBuf,
    },
    #[command(external_subcommand)]
    Services(Vec<String>),
}

fn list_of_services() -> String {
    format!("Services: {}. Name one or several to host them: `stampede order inventory`.", services::names())
}

/// The embedded broker knows no request to create topics, so they are there from the start.
const EMBEDDED_PARTITIONS: i32 = 3;

/// Does what was asked for. Errors are printed; the code says how it went.
pub fn run(cli: Cli) -> ExitCode {
    if let Command::Broker { port_file } = cli.command {
        let topics = contract::events::TOPICS.map(|topic| (topic.to_owned(), EMBEDDED_PARTITIONS)).to_vec();
        return code(
            sandbox::run_embedded_broker(sandbox::BrokerArgs { port_file, topics }).map(|()| ExitCode::SUCCESS),
        );
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return code(Err(error.into())),
    };
    code(runtime.block_on(execute(cli)))
}

fn code(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("stampede: {error:#}");
        ExitCode::FAILURE
    })
}

async fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    let files: Vec<&std::path::Path> = cli.config.iter().map(PathBuf::as_path).collect();
    let settings = || Settings::load(&files, &[]);
    match cli.command {
        Command::Dev(args) => dev::dev(args, &cli.config).await,
        Command::All => host(settings()?, SERVICES).await,
        Command::Services(names) => {
            let services = match named(&names) {
                Ok(services) => services,
                Err(wrong) => return Ok(wrong),
            };
            host(settings()?, &services).await
        }
        Command::Migrate { services } if services.is_empty() => {
            migrate(&files, SERVICES).await?;
            println!("All schemas are up to date.");
            Ok(ExitCode::SUCCESS)
        }
        Command::Migrate { services: names } => {
            let services = match named(&names) {
                Ok(services) => services,
                Err(wrong) => return Ok(wrong),
            };
            migrate(&files, &services).await?;
            println!("Up to date: {}.", names.join(", "));
            Ok(ExitCode::SUCCESS)
        }
        Command::Manifests { root } => {
            manifests::write(&root)?.iter().for_each(|path| println!("{path}"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Config => {
            for line in settings()?.lines() {
                println!("{line}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Openapi => {
            println!("{}", openapi(&files).await?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Rush(args) => rush::rush(args, &cli.config).await,
        Command::Audit(args) => audit::audit(args, &cli.config).await,
        Command::Bench(command) => bench::bench(command, &cli.config).await,
        Command::Events(args) => events::events(args, &cli.config).await,
        Command::Healthcheck { url } => Ok(healthcheck(&url).await),
        Command::Broker { .. } => unreachable!("answered in run, before the runtime was made"),
    }
}

async fn host(settings: Settings, services: &[ServiceSpec]) -> anyhow::Result<ExitCode> {
    // In traces, a process of several services is the product.
    let name = if let [service] = services { service.name } else { "stampede" };
    common::host::serve(settings, name, async |host| services::mount(host, services).await).await
}

/// The services of these names. An unknown one is wrong usage: the error is printed, and the code returned.
fn named(names: &[String]) -> Result<Vec<ServiceSpec>, ExitCode> {
    let services = names.iter().map(|name| services::find(name)).collect::<anyhow::Result<Vec<_>>>();
    services.map_err(|error| {
        eprintln!("stampede: {error:#}; see --help");
        ExitCode::from(2)
    })
}

/// A host migrates the schemas of what is mounted on it. It needs no ports, which others may have.
async fn migrate(files: &[&std::path::Path], services: &[ServiceSpec]) -> anyhow::Result<()> {
    let settings = [("host.migrate", "true"), ("host.http_listen", "127.0.0.1:0"), ("host.grpc_listen", "127.0.0.1:0")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut host = Host::new(Settings::load(files, &settings)?).await?;
    services::mount(&mut host, services).await
}

/// The description comes from the mounted routes, so it needs no server but a place to mount.
async fn openapi(files: &[&std::path::Path]) -> anyhow::Result<String> {
    let offline = [("host.http_listen", "127.0.0.1:0"), ("host.grpc_listen", "127.0.0.1:0"), ("host.migrate", "false")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut host = Host::new(Settings::load(files, &offline)?).await?;
    services::describe(&mut host);
    Ok(host.openapi().to_pretty_json()?)
}

async fn healthcheck(url: &str) -> ExitCode {
    let answer = reqwest::Client::new().get(url).timeout(std::time::Duration::from_secs(3)).send().await;
    match answer {
        Ok(response) if response.status().is_success() => ExitCode::SUCCESS,
        Ok(response) => {
            eprintln!("stampede: {url} answered {}", response.status());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("stampede: {url} does not answer: {error}");
            ExitCode::from(3)
        }
    }
}
