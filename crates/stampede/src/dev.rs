//! `stampede dev`: the whole product on this machine, with products to order and accounts to log in with.

use std::io::IsTerminal;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use chrono::TimeDelta;
use clap::Args;
use client::Client;
use common::host::Signals;
use common::settings::Settings;
use common::telemetry::{LogFormat, TelemetrySettings};
use sandbox::KafkaChoice;
use uuid::Uuid;

use crate::demo::{self, Account, Person};
use crate::rush;
use crate::say;
use crate::site::{Address, Site, SiteOptions};

#[derive(Args)]
pub struct DevArgs {
    /// Where everything is kept, so that a second start finds its data again.
    #[arg(long, default_value = ".stampede")]
    pub data_dir: PathBuf,
    /// Forget what an earlier run left first.
    #[arg(long)]
    pub fresh: bool,
    /// Remove all data at the end.
    #[arg(long)]
    pub ephemeral: bool,
    /// One process per service behind a gateway, as in Kubernetes.
    #[arg(long)]
    pub split: bool,
    /// With --split: processes of each service.
    #[arg(long, requires = "split", default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u8).range(1..=4))]
    pub replicas: u8,
    /// The port that clients use.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// How long after the first start the sale of the demo's concert opens.
    #[arg(long, default_value_t = 60)]
    pub sale_in_seconds: u32,
    /// The broker: auto, apache or embedded. The setting sandbox.kafka unless told.
    #[arg(long)]
    pub kafka: Option<KafkaChoice>,
}

pub async fn dev(args: DevArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let kafka = match args.kafka {
        Some(kafka) => kafka,
        None => crate::site::kafka_choice(config)?,
    };
    let data_dir = data_dir(Some(&args.data_dir))?;
    check_free(args.port)?;
    let mut signals = Signals::new()?;
    let files: Vec<&Path> = config.iter().map(PathBuf::as_path).collect();
    let telemetry: TelemetrySettings = Settings::load(&files, &[])?.section("telemetry")?;
    eprintln!("Starting PostgreSQL, Redis, Kafka and the services …");
    let starting = Site::start(SiteOptions {
        data_dir,
        fresh: args.fresh,
        ephemeral: args.ephemeral,
        split: args.split,
        replicas: args.replicas.into(),
        kafka,
        config: config.to_vec(),
        overrides: vec![
            ("host.http_listen".to_owned(), format!("127.0.0.1:{}", args.port)),
            ("host.grpc_listen".to_owned(), "127.0.0.1:0".to_owned()),
        ],
        log_to_file: logs_to_file(telemetry.log_format, std::io::stderr().is_terminal()),
        count_statements: false,
    });
    let site = tokio::select! {
        site = starting => site?,
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let people = demo::log_in(site.settings(), &Client::for_load(site.api(), 1)?).await?;
    let hot_product = demo::create_products(demo::with_role(&people, "ADMIN")?).await?;
    let coupon = demo::create_coupons(demo::with_role(&people, "ADMIN")?, demo::with_role(&people, "USER")?).await?;
    let sale_in = TimeDelta::seconds(args.sale_in_seconds.into());
    let concert = demo::create_concert(demo::with_role(&people, "ADMIN")?, sale_in).await?;
    print_banner(&site, &people, &Demo { hot_product, coupon, concert });
    signals.next().await;
    eprintln!("Stopping …");
    tokio::select! {
        stopped = site.stop() => stopped?,
        // Servers and services end with this process.
        () = signals.next() => return Ok(ExitCode::FAILURE),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whoever has the port is not ours, and would be taken for the site.
fn check_free(port: u16) -> anyhow::Result<()> {
    let address = format!("127.0.0.1:{port}");
    drop(
        TcpListener::bind(&address)
            .with_context(|| format!("listening on {address}; choose another port with --port"))?,
    );
    Ok(())
}

/// A person at a terminal wants to read the banner and the warnings. Everybody else, and whoever sets a format, gets the
/// whole log on standard error.
fn logs_to_file(format: LogFormat, is_terminal: bool) -> bool {
    is_terminal && format == LogFormat::Auto
}

/// What the banner names.
struct Demo {
    hot_product: Uuid,
    coupon: Uuid,
    concert: Uuid,
}

fn print_banner(site: &Site, people: &[Person], demo: &Demo) {
    let Demo { hot_product, coupon, concert } = demo;
    let api = site.api();
    say!("\nStampede is running. Not for production: everything is on this machine and the passwords are known.\n");
    say!("  API            {api}/api/v1");
    let services = site.services();
    if let Some(grpc) = site.grpc() {
        say!("  gRPC           {grpc}   (with reflection, for grpcurl; ./stampede token order inventory lets you in)");
    }
    if services.is_empty() {
        say!("  Documentation  {api}/docs/   (OpenAPI: {api}/openapi.json)");
        say!("  Metrics        {api}/metrics");
    }
    for Address { name, http, grpc } in services {
        say!("  {name:<16} {http}   with its own /docs/, /openapi.json, /metrics and /readyz; gRPC on {grpc}");
    }
    for server in site.sandbox().iter().flat_map(|sandbox| sandbox.describe()) {
        let pid = server.pid.map(|pid| format!("pid {pid}")).unwrap_or_default();
        say!("  {:<14} {}  {pid}", server.name, hide_password(&server.url));
    }
    if let Some(sandbox) = site.sandbox() {
        say!("  {:<14} {}  (payment provider and Slack)", "Fakes", sandbox.fakes_url());
    }
    say!("  Data           {}", site.data_dir().display());
    if let Some(logs) = site.logs() {
        say!("  Logs           {}", logs.display());
    }
    say!("\n  Demo accounts (the tokens are good for a quarter of an hour; log in again for another):");
    for Person { account, client } in people {
        let Account { email, password, role } = account;
        say!("    {role:<6} {email}  password {password}\n           {}", client.token.as_deref().unwrap_or("-"));
    }
    let buyer = demo::with_role(people, "USER").ok().and_then(|buyer| buyer.token.as_deref()).unwrap_or("TOKEN");
    say!("\n  Look around, order, order again with the same key, and read it back:\n");
    say!("    curl -s {api}/api/v1/products/{hot_product}\n");
    say!(
        "    curl -si {api}/api/v1/orders -H 'Authorization: Bearer {buyer}' \\\n      -H 'Idempotency-Key: my-first-order' -H 'Content-Type: application/json' \\\n      -d '{{\"items\":[{{\"productId\":\"{hot_product}\",\"quantity\":1}}]}}'\n"
    );
    say!("    curl -s -X POST {api}/api/v1/coupons/{coupon}/issue -H 'Authorization: Bearer {buyer}'\n");
    say!("    curl -s {api}/api/v1/concerts/{concert}/seats\n");
    say!("    curl -s {api}/api/v1/notifications -H 'Authorization: Bearer {buyer}'\n");
    say!("  In another terminal: ./stampede rush (20,000 buyers for 1,000 units), ./stampede audit.");
    say!("  Ctrl-C stops everything.\n");
}

fn hide_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, address))) => format!("{scheme}://…@{address}"),
        _ => url.to_owned(),
    }
}

/// The data folders of commands that are told none.
const DEFAULT_DIRS: [&str; 2] = [".stampede", rush::SANDBOX_DIR];

/// The data folder `given`, or the default one.
pub fn data_dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let given = given.unwrap_or_else(|| Path::new(".stampede"));
    let absolute = std::path::absolute(given)?;
    // Only a folder that nobody has chosen may become another one.
    let folder = if DEFAULT_DIRS.contains(&given.to_str().unwrap_or_default()) {
        sandbox::reachable_data_dir(&absolute)
    } else {
        absolute
    };
    sandbox::check_data_dir(&folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_goes_to_a_file_only_on_a_terminal_and_only_if_no_format_is_set() {
        assert!(logs_to_file(LogFormat::Auto, true));
        assert!(!logs_to_file(LogFormat::Auto, false));
        assert!(!logs_to_file(LogFormat::Text, true) && !logs_to_file(LogFormat::Json, true));
    }

    #[test]
    fn a_password_in_an_address_is_not_shown() {
        assert_eq!(hide_password("postgres://a:b@127.0.0.1:1/c"), "postgres://…@127.0.0.1:1/c");
        assert_eq!(hide_password("127.0.0.1:1"), "127.0.0.1:1");
    }
}
