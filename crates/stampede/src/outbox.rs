//! `stampede outbox`: look at the outboxes, publish again, and give dead events another try.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use common::db::{Db, DbSettings};
use common::host::{HostSettings, schema};
use common::outbox;
use common::settings::Settings;

use crate::services::Service;

#[derive(Subcommand)]
pub enum OutboxCommand {
    /// Pending and dead events of each service, and the age of the oldest.
    Stats,
    /// Publish the retained events since a moment again; consumers drop what they have seen.
    Replay {
        /// RFC 3339, e.g. 2026-11-21T09:00:00Z.
        #[arg(long)]
        since: DateTime<Utc>,
    },
    /// Give events that the broker kept refusing another round of attempts.
    Redrive,
}

pub async fn outbox(command: OutboxCommand, settings: Settings) -> anyhow::Result<ExitCode> {
    let postgres: DbSettings = settings.section("postgres")?;
    let host: HostSettings = settings.section("host")?;
    for service in Service::ALL {
        let db = Db::open(&postgres, &schema(&host.namespace, service.name())).await?;
        let name = service.name();
        match &command {
            OutboxCommand::Stats => {
                let stats = outbox::stats(&db).await?;
                println!("{name}: {} pending, {} dead, oldest {:.1} s", stats.pending, stats.dead, stats.oldest_age_seconds);
            }
            OutboxCommand::Replay { since } => {
                println!("{name}: {} events will be published again", outbox::replay(&db, *since).await?);
            }
            OutboxCommand::Redrive => {
                println!("{name}: {} dead events get another try", outbox::redrive(&db).await?);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
