//! `stampede audit`: the invariants, checked over a system at rest.

mod invariants;
mod kafka_log;
mod ledger;
mod messages;
pub mod provider_book;
pub mod unfinished;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use common::host::HostSettings;
use common::kafka::KafkaSettings;
use common::settings::Settings;
use contract::ids::{AccountId, OrderId};
use diesel::sql_types;
use serde::Serialize;
use uuid::Uuid;

pub use ledger::Ledger;

use crate::dev;
use crate::reach::{self, Origin, UNREACHABLE};
use crate::say;
use crate::site::Site;
use invariants::INVARIANTS;

/// Exit code, beside 0, 1 and that of a system that cannot be reached.
pub const VIOLATED: u8 = 4;
/// Offenders that a finding names.
const SAMPLES_MAX: usize = 5;
/// Orders that are checked with one query.
const CHUNK: i64 = 10_000;
/// Between two looks at a system that is still coming to rest.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// How to print the findings.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Address of a running system, whose servers the settings name.
    #[arg(long)]
    url: Option<String>,
    /// Data folder of the running system, .stampede unless told. Without --url and --servers it must have a site.json, which
    /// `stampede dev` writes: the audit asks the servers that it names.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Look at the servers that the settings name, and ask no running system.
    #[arg(long, conflicts_with_all = ["url", "data_dir"])]
    servers: bool,
    /// Time that a system that is not at rest yet is given before a violation counts.
    #[arg(long, default_value_t = 5, value_name = "N")]
    settle_seconds: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Pass,
    Fail,
}

/// What an audit found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub verdict: Verdict,
    pub invariants: Vec<Finding>,
}

/// One invariant.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub name: &'static str,
    pub title: &'static str,
    /// Violations; 0 is as it should be.
    pub value: u64,
    /// A few of the offenders, with their ids.
    pub samples: Vec<String>,
    /// What could not be looked at, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Runs the command.
pub async fn audit(args: AuditArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let settings = match settings(&args, config).await {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("stampede: {error:#}");
            return Ok(ExitCode::from(UNREACHABLE));
        }
    };
    let origin = origin(&args)?;
    let patience_ends = Instant::now() + Duration::from_secs(args.settle_seconds);
    let report = loop {
        match run(&settings).await {
            Ok(report) if report.verdict == Verdict::Fail && Instant::now() < patience_ends => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(report) => break report,
            Err(error) => return Ok(reach::report(&error, &origin)),
        }
    };
    match args.output {
        Output::Json => say!("{}", serde_json::to_string(&report)?),
        Output::Text => print!("{}", report.text()),
    }
    Ok(if report.verdict == Verdict::Pass { ExitCode::SUCCESS } else { ExitCode::from(VIOLATED) })
}

/// The settings of the system that is audited.
async fn settings(args: &AuditArgs, config: &[PathBuf]) -> anyhow::Result<Settings> {
    if args.servers {
        let files: Vec<&Path> = config.iter().map(PathBuf::as_path).collect();
        return Settings::load(&files, &[]);
    }
    let site = Site::attach(config, &dev::data_dir(args.data_dir.as_deref())?, args.url.clone()).await?;
    Ok(site.settings().clone())
}

/// Where the settings of the system that is audited come from.
fn origin(args: &AuditArgs) -> anyhow::Result<Origin> {
    let is_told = args.servers || args.url.is_some();
    Ok(if is_told { Origin::Settings } else { Origin::of(&dev::data_dir(args.data_dir.as_deref())?) })
}

/// Checks every invariant once. An error means that the system could not be asked.
pub async fn run(settings: &Settings) -> anyhow::Result<Report> {
    check_all(settings, Book::Compared).await
}

/// [`run`] without the provider's book, for a system whose provider has captured for other systems as well.
pub async fn run_without_book(settings: &Settings) -> anyhow::Result<Report> {
    check_all(settings, Book::LeftOut).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Book {
    Compared,
    LeftOut,
}

async fn check_all(settings: &Settings, book: Book) -> anyhow::Result<Report> {
    let mut ledger = Ledger::open(settings).await?;
    ledger.freeze().await?;
    let mut findings = Vec::with_capacity(INVARIANTS.len());
    for (name, title) in INVARIANTS {
        let mut finding = Finding { name, title, value: 0, samples: Vec::new(), note: None };
        for statement in invariants::statements(name) {
            check(&mut ledger, statement, &mut finding).await?;
        }
        match name {
            "I6" if book == Book::Compared => wrong_in_book(&mut ledger, settings, &mut finding).await?,
            "I8" => finding.add(wrong_order_ids(&mut ledger).await?),
            "I11" => finding.add(wrong_in_kafka(&mut ledger, settings).await?),
            _ => {}
        }
        findings.push(finding);
    }
    let is_clean = findings.iter().all(|finding| finding.value == 0);
    Ok(Report { verdict: if is_clean { Verdict::Pass } else { Verdict::Fail }, invariants: findings })
}

impl Report {
    /// The names of the violated invariants.
    pub fn violated(&self) -> Vec<String> {
        self.invariants.iter().filter(|finding| finding.value > 0).map(|finding| finding.name.to_owned()).collect()
    }

    /// The report for people: a line per invariant, its offenders below it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Finding { name, title, value, samples, note } in &self.invariants {
            let mark = if *value == 0 { "ok" } else { "VIOLATED" };
            text.push_str(&format!("{name:<4} {mark:<8} {value:>6}  {title}\n"));
            for sample in samples {
                text.push_str(&format!("{:22}- {sample}\n", ""));
            }
            if let Some(note) = note {
                text.push_str(&format!("{:22}({note})\n", ""));
            }
        }
        let verdict = if self.verdict == Verdict::Pass { "PASS" } else { "FAIL" };
        text.push_str(&format!("audit: {verdict}\n"));
        text
    }
}

impl Finding {
    fn add(&mut self, offenders: Vec<String>) {
        self.value += offenders.len() as u64;
        self.show(offenders);
    }

    fn show(&mut self, offenders: Vec<String>) {
        let room = SAMPLES_MAX.saturating_sub(self.samples.len());
        self.samples.extend(offenders.into_iter().take(room));
    }
}

#[derive(diesel::QueryableByName)]
struct Offender {
    #[diesel(sql_type = sql_types::Text)]
    offender: String,
    #[diesel(sql_type = sql_types::BigInt)]
    offenders: i64,
}

async fn check(ledger: &mut Ledger, statement: &str, finding: &mut Finding) -> anyhow::Result<()> {
    let counted =
        format!("select offender, count(*) over () as offenders from (\n{statement}) as found limit {SAMPLES_MAX}");
    let found: Vec<Offender> = ledger.rows(ledger.statement(&counted)).await?;
    finding.value += found.first().map_or(0, |first| first.offenders.unsigned_abs());
    finding.show(found.into_iter().map(|row| row.offender).collect());
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct Keyed {
    #[diesel(sql_type = sql_types::Uuid)]
    id: Uuid,
    #[diesel(sql_type = sql_types::Uuid)]
    user_id: Uuid,
    #[diesel(sql_type = sql_types::Text)]
    idempotency_key: String,
}

/// Orders whose id is not the one that their account and key lead to: a retry would miss them.
async fn wrong_order_ids(ledger: &mut Ledger) -> anyhow::Result<Vec<String>> {
    let mut offenders = Vec::new();
    let mut after = Uuid::nil();
    loop {
        let statement = ledger.statement(&format!(
            "select id, user_id, idempotency_key from {{order}}.all_orders where id > '{after}' order by id limit {CHUNK}"
        ));
        let rows: Vec<Keyed> = ledger.rows(statement).await?;
        let Some(last) = rows.last() else { return Ok(offenders) };
        after = last.id;
        for Keyed { id, user_id, idempotency_key } in &rows {
            let account = AccountId::from(*user_id);
            let expected = OrderId::derive(&[account.as_bytes(), b"order", idempotency_key.as_bytes()]);
            if expected.uuid() != *id {
                offenders
                    .push(format!("order {id} of user {user_id}, key {idempotency_key}: the key leads to {expected}"));
            }
        }
    }
}

/// Puts the provider's book beside our payments, where the provider shows one.
async fn wrong_in_book(ledger: &mut Ledger, settings: &Settings, finding: &mut Finding) -> anyhow::Result<()> {
    let Some(address) = provider_book::shown_at(settings)? else {
        finding.note = Some(format!("the provider's book is not compared: {}", provider_book::NOT_SHOWN));
        return Ok(());
    };
    match provider_book::read(&address).await {
        Ok(book) => {
            let statement = ledger.statement(include_str!("audit/money_of_payments.sql"));
            let ours: Vec<provider_book::Ours> = ledger.rows(statement).await?;
            finding.add(provider_book::compare(&ours, &book));
        }
        // Money that nobody could look at is not known to be right. While there is time, the audit looks again.
        Err(error) => finding.add(vec![format!("the provider's book cannot be read: {error:#}")]),
    }
    Ok(())
}

async fn wrong_in_kafka(ledger: &mut Ledger, settings: &Settings) -> anyhow::Result<Vec<String>> {
    let recorded: Vec<kafka_log::Recorded> =
        ledger.rows(ledger.statement(include_str!("audit/recorded_events.sql"))).await?;
    let kafka: KafkaSettings = settings.section("kafka")?;
    let host: HostSettings = settings.section("host")?;
    let topics: std::collections::BTreeSet<String> = recorded.iter().map(|event| event.topic.clone()).collect();
    let topics: Vec<String> = topics.into_iter().collect();
    let log = tokio::task::spawn_blocking(move || kafka_log::read(&kafka, &host.namespace, &topics)).await??;
    Ok(kafka_log::compare(&recorded, &log))
}
