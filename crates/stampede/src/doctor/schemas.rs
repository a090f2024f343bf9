//! The schemas: whether each has the migrations that this executable needs.

use std::collections::BTreeSet;

use common::host::{self, schema};
use common::settings::Settings;
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::{QueryableByName, sql_query, sql_types};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::Report;
use crate::services::SERVICES;

const CHECK: &str = "schemas";

#[derive(QueryableByName)]
struct Listed {
    #[diesel(sql_type = sql_types::Bool)]
    is_listed: bool,
}

#[derive(QueryableByName)]
struct Applied {
    #[diesel(sql_type = sql_types::Text)]
    version: String,
}

/// An error is a migration of ours, or a section of the settings, that cannot be read.
pub async fn examine(
    connection: &mut AsyncPgConnection,
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    let namespace: String = settings.section("host.namespace")?;
    let migrates: bool = settings.section("host.migrate")?;
    let (mut steps, mut is_fine) = (0, true);
    for service in SERVICES {
        let own = schema(&namespace, service.name);
        let known: BTreeSet<String> = versions(host::MIGRATIONS)?.chain(versions((service.migrations)())?).collect();
        let applied = match applied(connection, &own).await {
            Ok(applied) => applied,
            Err(error) => {
                let remedy = format!("let the role of postgres.url own the schema {own}");
                report.fail(CHECK, format!("the schema {own} cannot be read: {error}"), remedy);
                is_fine = false;
                continue;
            }
        };
        let missing: Vec<&str> = known.difference(&applied).map(String::as_str).collect();
        if !missing.is_empty() {
            is_fine = false;
            let found = format!(
                "the schema {own} lacks {} of {} migrations: {}",
                missing.len(),
                known.len(),
                missing.join(", ")
            );
            let remedy = format!("stampede migrate {}", service.name);
            if migrates {
                report.warn(
                    CHECK,
                    found,
                    format!("{remedy}; or start the service, which applies them (host.migrate is true)"),
                );
            } else {
                report.fail(CHECK, found, remedy);
            }
        }
        let newer: Vec<&str> = applied.difference(&known).map(String::as_str).collect();
        if !newer.is_empty() {
            is_fine = false;
            report.warn(
                CHECK,
                format!("the schema {own} has migrations that this executable does not know: {}", newer.join(", ")),
                "use the executable that applied them, unless it is being replaced right now",
            );
        }
        steps += known.len();
    }
    if is_fine {
        report.ok(CHECK, format!("all {steps} migrations of {} schemas are applied", SERVICES.len()));
    }
    Ok(())
}

fn versions(set: impl MigrationSource<Pg>) -> anyhow::Result<impl Iterator<Item = String>> {
    let steps: Vec<Box<dyn Migration<Pg>>> =
        set.migrations().map_err(|error| anyhow::anyhow!("reading our migrations: {error}"))?;
    Ok(steps.into_iter().map(|step| step.name().version().to_string()))
}

/// Empty where nobody has migrated the schema yet, or where there is none.
async fn applied(connection: &mut AsyncPgConnection, schema: &str) -> diesel::QueryResult<BTreeSet<String>> {
    let table = format!("\"{schema}\".__diesel_schema_migrations");
    let listed: Listed = sql_query("select to_regclass($1) is not null as is_listed")
        .bind::<sql_types::Text, _>(&table)
        .get_result(connection)
        .await?;
    if !listed.is_listed {
        return Ok(BTreeSet::new());
    }
    let rows: Vec<Applied> = sql_query(format!("select version from {table}")).load(connection).await?;
    Ok(rows.into_iter().map(|row| row.version).collect())
}
