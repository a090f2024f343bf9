//! The schemas: whether our role may read them, and whether each has the migrations that this executable needs.

use std::collections::BTreeSet;

use common::host::{self, schema};
use common::manifest::ServiceSpec;
use common::settings::Settings;
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::{QueryableByName, sql_query, sql_types};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::Report;
use crate::access::{self, Access, Need};
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

/// Looks at the schemas of `named`, or of all services. Returns those whose schema our role may read, and that are looked at
/// further. An error is a migration of ours, or a section of the settings, that cannot be read.
pub async fn examine(
    connection: &mut AsyncPgConnection,
    settings: &Settings,
    named: &[ServiceSpec],
    report: &mut Report,
) -> anyhow::Result<Vec<ServiceSpec>> {
    let namespace: String = settings.section("host.namespace")?;
    let migrates: bool = settings.section("host.migrate")?;
    let asked = if named.is_empty() { SERVICES } else { named };
    let access = match access::of(connection, &namespace, asked).await {
        Ok(access) => access,
        Err(error) => {
            report.fail(CHECK, format!("what our role may read cannot be told: {error}"), "look at PostgreSQL's log");
            return Ok(asked.to_vec());
        }
    };
    judge_access(&access, !named.is_empty(), report);
    let open = asked.iter().zip(&access).filter(|(_, access)| !access.is_forbidden(Need::Read));
    let services: Vec<ServiceSpec> = open.map(|(service, _)| *service).collect();
    let (mut steps, mut is_fine) = (0, !services.is_empty());
    for service in &services {
        let own = schema(&namespace, service.name);
        let known: BTreeSet<String> = versions(host::MIGRATIONS)?.chain(versions((service.migrations)())?).collect();
        let applied = match applied(connection, &own).await {
            Ok(applied) => applied,
            Err(error) => {
                report.fail(CHECK, format!("the schema {own} cannot be read: {error}"), "look at PostgreSQL's log");
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
        report.ok(CHECK, format!("all {steps} migrations of {} schemas are applied", services.len()));
    }
    Ok(services)
}

/// In a cluster the role of a service may read its own schema alone, as it should be.
fn judge_access(access: &[Access], is_named: bool, report: &mut Report) {
    let (closed, open): (Vec<&Access>, Vec<&Access>) =
        access.iter().partition(|access| access.is_forbidden(Need::Read));
    let [Access { role, .. }, ..] = closed.as_slice() else { return };
    let schemas: Vec<&str> = closed.iter().map(|access| access.schema.as_str()).collect();
    let found = format!("the role {role} may not read {}", schemas.join(", "));
    let operators = format!("the role of operators ({})", access::OPERATORS);
    if is_named || open.is_empty() {
        report.fail(CHECK, found, format!("let postgres.url have the role of that service, or {operators}"));
    } else {
        report.warn(
            CHECK,
            format!("{found}: these services are left out"),
            format!("name the service of this process with --service, or ask with {operators}"),
        );
    }
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
