//! `stampede events`: the outboxes and the parked events of all services, to look at and to set going again.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use common::db::{Db, DbSettings};
use common::host::{HostSettings, schema};
use common::manifest::ServiceSpec;
use common::{inbox, outbox};

use crate::access::{self, Need};
use crate::reach::{ANSWER_MAX, DATA_DIR_HELP, DATA_DIR_ORDER, Origin, connect, report};
use crate::services::{self, SERVICES};
use crate::{dev, say, site};

#[derive(Args)]
pub struct EventsArgs {
    #[arg(long, global = true, value_name = "DIR", help = DATA_DIR_HELP, long_help = DATA_DIR_ORDER)]
    data_dir: Option<PathBuf>,
    /// Only this service; several are separated by commas. Without it, all of them.
    #[arg(long = "service", global = true, value_name = "NAME", value_delimiter = ',', value_parser = services::find)]
    services: Vec<ServiceSpec>,
    #[command(subcommand)]
    command: EventsCommand,
}

#[derive(Subcommand)]
enum EventsCommand {
    /// Pending and dead events of each service, and the age of the oldest.
    Stats,
    /// Publish the retained events since a moment again; consumers drop what they have seen.
    Replay {
        /// RFC 3339, e.g. 2026-11-21T09:00:00Z.
        #[arg(long, value_parser = moment)]
        since: DateTime<Utc>,
    },
    /// Give events that the broker kept refusing another round of attempts.
    Redrive,
    /// The first hundred parked events of each service: what a consumer could not apply, and what waits behind it.
    Parked,
    /// Have a consumer apply its parked events again, in order.
    Unpark {
        /// As `parked` shows it, e.g. notification-hub.
        consumer: String,
        /// Only those of this key.
        #[arg(long)]
        key: Option<String>,
    },
}

fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    text.parse().map_err(|_| "a moment is wanted as RFC 3339 has it, such as 2026-11-21T09:00:00Z".to_owned())
}

impl EventsCommand {
    /// What it does with the schema of each service.
    fn need(&self) -> Need {
        match self {
            EventsCommand::Stats | EventsCommand::Parked => Need::Read,
            EventsCommand::Replay { .. } | EventsCommand::Redrive | EventsCommand::Unpark { .. } => Need::Change,
        }
    }
}

/// Parked events shown at once: more than a person reads.
const SHOWN_MAX: i64 = 100;

pub async fn events(args: EventsArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let data_dir = dev::data_dir(args.data_dir.as_deref())?;
    let settings = site::settings(config, &data_dir)?;
    let postgres: DbSettings = settings.section("postgres")?;
    let host: HostSettings = settings.section("host")?;
    let services = if args.services.is_empty() { SERVICES } else { &args.services };
    let mut databases = Vec::with_capacity(services.len());
    for service in services {
        databases.push((service.name, Db::open(&postgres, &schema(&host.namespace, service.name)).await?));
    }
    if let [(_, first), ..] = databases.as_slice() {
        let mut connection = match connect(&settings, first, ANSWER_MAX).await {
            Ok(connection) => connection,
            Err(unreachable) => return Ok(report(&unreachable.into(), &Origin::of(&data_dir))),
        };
        access::require(&mut connection, &host.namespace, services, args.command.need()).await?;
    }
    let mut events = 0;
    for (name, db) in &databases {
        events += of_service(&args.command, name, db).await.with_context(|| format!("the events of {name}"))?;
    }
    if let EventsCommand::Unpark { consumer, key } = &args.command
        && events == 0
    {
        let of_key = key.as_ref().map(|key| format!(" of the key {key}")).unwrap_or_default();
        say!("nothing{of_key} is parked for a consumer {consumer}; `stampede events parked` shows what is");
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns how many parked events will be applied again.
async fn of_service(command: &EventsCommand, name: &str, db: &Db) -> anyhow::Result<u64> {
    match command {
        EventsCommand::Stats => {
            let stats = outbox::stats(db).await?;
            say!("{name}: {} pending, {} dead, oldest {:.1} s", stats.pending, stats.dead, stats.oldest_age_seconds);
        }
        EventsCommand::Replay { since } => {
            say!("{name}: {} events will be published again", outbox::replay(db, *since).await?);
        }
        EventsCommand::Redrive => {
            say!("{name}: {} dead events get another try", outbox::redrive(db).await?);
        }
        EventsCommand::Parked => {
            for event in inbox::parked(db, None, 0, SHOWN_MAX).await? {
                let key = event.key.as_deref().unwrap_or("-");
                say!("{}: {} {key} {} {}", event.consumer, event.topic, event.event_id, event.error);
            }
        }
        EventsCommand::Unpark { consumer, key } => {
            let events = inbox::request_replay(db, consumer, key.as_deref()).await?;
            if events > 0 {
                say!("{name}: {events} events will be applied again");
            }
            return Ok(events);
        }
    }
    Ok(0)
}
