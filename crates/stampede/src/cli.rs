//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use common::Host;
use common::manifest::ServiceSpec;
use common::settings::Settings;

use crate::say;
use crate::services::{self, SERVICES};
use crate::{asyncapi, audit, bench, dev, doctor, events, manifests, roles, rush, service_keys, trace};

/// With the commit that it was built from.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("STAMPEDE_COMMIT"), ")");

/// The commerce backend for the minute everybody arrives at once.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 nothing answers, 4 the audit found a violation.
#[derive(Parser)]
#[command(version = VERSION, after_help = list_of_services())]
pub struct Cli {
    /// A settings file above config/default.toml; may be given several times, the last one wins.
    #[arg(long, global = true, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Ends when this process ends, which has started it.
    #[arg(long, global = true, hide = true, value_name = "PID")]
    parent: Option<i32>,
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
    /// Print SQL that makes a role of PostgreSQL for each service, which owns its schema and can touch no other.
    Roles,
    /// Print new keys with which services prove to each other who they are.
    Keys(service_keys::KeysArgs),
    /// Print a token with which a person can call a service over gRPC for five minutes, in the name of another service.
    Token(service_keys::TokenArgs),
    /// Print the settings in force, secrets masked.
    Config,
    /// Print the OpenAPI description of all services.
    Openapi,
    /// Print the AsyncAPI description of all topics.
    Asyncapi,
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
    /// Look at settings, servers, schemas, topics and clocks, and say what will not work and what to do.
    Doctor(doctor::DoctorArgs),
    /// Tell the whole story of one order, from the tables of all services.
    Trace(trace::TraceArgs),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Look at the outboxes and at parked events, and set them going again.
    Events(events::EventsArgs),
    /// Ask a URL for its health; for containers without a shell.
    Healthcheck { url: String },
    /// Print what makes a shell complete these commands: `stampede completions bash > /etc/bash_completion.d/stampede`.
    Completions { shell: Shell },
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
    if let Some(parent) = cli.parent
        && let Err(error) = end_with(parent)
    {
        return code(Err(error));
    }
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

/// Has the kernel stop this process when its parent ends, however that happens.
fn end_with(parent: i32) -> anyhow::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
    // It may have ended before.
    anyhow::ensure!(nix::unistd::getppid().as_raw() == parent, "the process {parent} that started this one is gone");
    Ok(())
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
            say!("All schemas are up to date.");
            Ok(ExitCode::SUCCESS)
        }
        Command::Migrate { services: names } => {
            let services = match named(&names) {
                Ok(services) => services,
                Err(wrong) => return Ok(wrong),
            };
            migrate(&files, &services).await?;
            say!("Up to date: {}.", names.join(", "));
            Ok(ExitCode::SUCCESS)
        }
        Command::Manifests { root } => {
            manifests::write(&root)?.iter().for_each(|path| say!("{path}"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Roles => {
            say!("{}", roles::sql(&settings()?)?.trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Command::Keys(args) => service_keys::keys(&args),
        Command::Token(args) => service_keys::token(&args, &cli.config),
        Command::Config => {
            for line in settings()?.lines() {
                say!("{line}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Openapi => {
            say!("{}", services::description(&files).await?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Asyncapi => {
            say!("{}", asyncapi::description()?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Rush(args) => rush::rush(args, &cli.config).await,
        Command::Audit(args) => audit::audit(args, &cli.config).await,
        Command::Doctor(args) => doctor::doctor(args, &cli.config).await,
        Command::Trace(args) => trace::trace(args, &cli.config).await,
        Command::Bench(command) => bench::bench(command, &cli.config).await,
        Command::Events(args) => events::events(args, &cli.config).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "stampede", &mut script);
            say!("{}", String::from_utf8(script)?.trim_end());
            Ok(ExitCode::SUCCESS)
        }
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

async fn healthcheck(url: &str) -> ExitCode {
    let asking = async { crate::near()?.get(url).timeout(std::time::Duration::from_secs(3)).send().await };
    let answer = asking.await;
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
