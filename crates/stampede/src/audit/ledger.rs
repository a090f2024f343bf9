//! The databases of all services, read across their borders: auditors may, services may not.

use common::db::{Db, DbSettings};
use common::host::{HostSettings, schema};
use common::kafka::KafkaSettings;
use common::outbox::OutboxSettings;
use common::settings::Settings;
use diesel::QueryableByName;
use diesel::pg::Pg;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use super::messages::{placeholder, tables};
use crate::access::{self, Need};
use crate::reach::{ANSWER_MAX, connect};
use crate::services::SERVICES;

/// An audit reads whole tables, which no statement of a service does.
const STATEMENT_TIMEOUT_MS: u64 = 300_000;

/// A connection to the database that holds all schemas.
pub struct Ledger {
    connection: AsyncPgConnection,
    /// What stands for `{name}` in a statement, in the order of replacing: tables contain names of schemas.
    names: Vec<(String, String)>,
}

impl Ledger {
    /// Fails when the database gives no connection ([`Unreachable`](crate::reach::Unreachable)), lacks a schema, or has one
    /// that our role may not read.
    pub async fn open(settings: &Settings) -> anyhow::Result<Ledger> {
        let host: HostSettings = settings.section("host")?;
        let outbox: OutboxSettings = settings.section("outbox")?;
        let kafka: KafkaSettings = settings.section("kafka")?;
        let tables = tables().into_iter().map(|(name, rows)| (name.to_owned(), rows));
        let schemas = SERVICES
            .iter()
            .map(|service| (placeholder(service.name), format!("\"{}\"", schema(&host.namespace, service.name))));
        let retentions = [
            ("{outbox_retention_hours}".to_owned(), outbox.retention_hours.to_string()),
            ("{kafka_retention_hours}".to_owned(), kafka.retention_hours.to_string()),
        ];
        let postgres: DbSettings = settings.section("postgres")?;
        let patient = DbSettings {
            statement_timeout_ms: STATEMENT_TIMEOUT_MS,
            idle_in_transaction_timeout_ms: STATEMENT_TIMEOUT_MS,
            ..postgres
        };
        let db = Db::open(&patient, &schema(&host.namespace, "order")).await?;
        let mut connection = connect(settings, &db, ANSWER_MAX).await?;
        access::require(&mut connection, &host.namespace, SERVICES, Need::Read).await?;
        Ok(Ledger { connection, names: tables.chain(schemas).chain(retentions).collect() })
    }

    /// From here on, everything is read as it is at this moment, and nothing can be changed.
    pub async fn freeze(&mut self) -> anyhow::Result<()> {
        Ok(self.connection.batch_execute("begin isolation level repeatable read read only").await?)
    }

    /// Runs a statement that returns nothing of interest.
    pub async fn execute(&mut self, statement: &str) -> anyhow::Result<()> {
        Ok(self.connection.batch_execute(statement).await?)
    }

    /// `statement` with the names of schemas in place of `{inventory}` and the like, and what `{outbox_events}` and the like stand for.
    pub fn statement(&self, statement: &str) -> SqlQuery {
        diesel::sql_query(self.spelt(statement))
    }

    pub fn spelt(&self, statement: &str) -> String {
        self.names.iter().fold(statement.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    pub async fn rows<R>(&mut self, statement: SqlQuery) -> anyhow::Result<Vec<R>>
    where
        R: QueryableByName<Pg> + Send + 'static,
    {
        Ok(statement.load(&mut self.connection).await?)
    }

    /// [`Ledger::rows`] for a statement with parameters.
    pub async fn bound_rows<R>(&mut self, statement: BoxedSqlQuery<'_, Pg, SqlQuery>) -> anyhow::Result<Vec<R>>
    where
        R: QueryableByName<Pg> + Send + 'static,
    {
        Ok(statement.load(&mut self.connection).await?)
    }
}
