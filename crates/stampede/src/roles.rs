//! A role of PostgreSQL for each service: it owns the schema of that service, and can touch no other.

use common::db::{Db, DbSettings};
use common::host::{HostSettings, schema};
use common::settings::Settings;
use diesel_async::SimpleAsyncConnection;
use rand::RngExt;
use rand::distr::Alphanumeric;

use crate::services::SERVICES;

/// Nobody types it.
const PASSWORD_CHARACTERS: usize = 32;

/// For one service. It may be run again, and on a schema that somebody else has made: what is in it changes its owner.
const ROLE: &str = r#"-- The service {service}.
do $$
declare
  change text;
begin
  if to_regrole('"{schema}"') is null then
    create role "{schema}" login;
  end if;
  -- Whoever gives things to a role must be a member of it.
  grant "{schema}" to current_user;
  if to_regnamespace('"{schema}"') is null then
    create schema "{schema}" authorization "{schema}";
  end if;
  alter schema "{schema}" owner to "{schema}";
  for change in
    select format('alter %s %s owner to "{schema}"', case relkind when 'v' then 'view' else 'table' end, oid::regclass)
    from pg_class
    where relnamespace = '"{schema}"'::regnamespace and relkind in ('r', 'v') and relowner <> '"{schema}"'::regrole
    union all
    select format('alter routine %s owner to "{schema}"', oid::regprocedure)
    from pg_proc
    where pronamespace = '"{schema}"'::regnamespace and proowner <> '"{schema}"'::regrole
  loop
    execute change;
  end loop;
end $$;
"#;

/// The SQL that makes the roles and their schemas. They have no passwords yet.
pub fn sql(settings: &Settings) -> anyhow::Result<String> {
    let host: HostSettings = settings.section("host")?;
    let role = |name: &str| ROLE.replace("{service}", name).replace("{schema}", &schema(&host.namespace, name));
    Ok(SERVICES.iter().map(|service| role(service.name)).collect())
}

/// Makes the roles in the database of these settings, each with a new password. Returns `postgres.url` of each service.
pub(crate) async fn make(settings: &Settings) -> anyhow::Result<Vec<(&'static str, String)>> {
    use secrecy::ExposeSecret;
    let host: HostSettings = settings.section("host")?;
    let postgres: DbSettings = settings.section("postgres")?;
    let mut admin = Db::open(&postgres, "public").await?.dedicated().await?;
    admin.batch_execute(&sql(settings)?).await?;
    let (scheme, rest) = postgres.url.expose_secret().split_once("://").unwrap_or_default();
    let server = rest.rsplit_once('@').map_or(rest, |(_, server)| server);
    let mut urls = Vec::new();
    for service in SERVICES {
        let role = schema(&host.namespace, service.name);
        let password: String =
            rand::rng().sample_iter(Alphanumeric).take(PASSWORD_CHARACTERS).map(char::from).collect();
        admin.batch_execute(&format!("alter role \"{role}\" password '{password}'")).await?;
        urls.push((service.name, format!("{scheme}://{role}:{password}@{server}")));
    }
    Ok(urls)
}
