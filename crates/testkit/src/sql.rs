//! What PostgreSQL says, read by tests: rows, numbers, and digests of everything.

use std::collections::BTreeMap;

use client::text;
use common::manifest::identifier;
use diesel::{QueryableByName, sql_query, sql_types};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use serde_json::Value;

use crate::{Site, eventually};

/// A transaction that keeps its locks until it is committed. Dropping it rolls it back.
pub struct OpenTransaction(AsyncPgConnection);

impl OpenTransaction {
    pub async fn commit(mut self) {
        self.0.batch_execute("commit").await.expect("a transaction of the test commits");
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = sql_types::Jsonb)]
    row: Value,
}

#[derive(QueryableByName)]
struct Plan {
    #[diesel(sql_type = sql_types::Json, column_name = "QUERY PLAN")]
    plan: Value,
}

impl Site {
    /// `statement` with the schemas of this site in place of `{order}`, `{notification_hub}` and the like.
    pub fn with_schemas(&self, statement: &str) -> String {
        self.services.iter().fold(statement.to_owned(), |text, service| {
            let placeholder = format!("{{{}}}", identifier(service.name));
            text.replace(&placeholder, &format!("\"{}\"", self.schema(service.name)))
        })
    }

    /// Runs a query whose tables are named `{order}.orders` and the like. Each row is an object of its columns.
    pub async fn rows(&self, query: &str) -> Vec<Value> {
        let query = self.with_schemas(query);
        let asked = format!("select to_jsonb(asked) as row from ({query}) as asked");
        let mut connection = self.postgres.lock().await;
        // The connection may have been killed since the last question, so a failed one is asked again on a new one.
        for is_last in [connection.is_none(), true] {
            if connection.is_none() {
                let url = self.servers.postgres_url();
                *connection = Some(AsyncPgConnection::establish(&url).await.expect("PostgreSQL accepts us"));
            }
            let open = connection.as_mut().expect("it was just opened");
            match sql_query(&asked).load::<Row>(open).await {
                Ok(rows) => return rows.into_iter().map(|row| row.row).collect(),
                Err(error) if is_last => panic!("{error}: {query}"),
                Err(_) => *connection = None,
            }
        }
        unreachable!("the last error ends the test")
    }

    /// The number that `query` selects.
    pub async fn number(&self, query: &str) -> i64 {
        let rows = self.rows(&format!("select ({query}) as number")).await;
        rows[0]["number"].as_i64().unwrap_or_else(|| panic!("{} is no number: {query}", rows[0]["number"]))
    }

    /// Waits until `query` selects `number`.
    pub async fn until_number(&self, query: &str, number: i64) {
        let mut last = 0;
        eventually(&format!("{query} is {number}"), async || {
            last = self.number(query).await;
            (last == number).then_some(())
        })
        .await;
    }

    /// Waits until `count` sessions of `service` wait for locks of others, such as those of a paused transaction. Requests that
    /// come at once may share one transaction, and then one session waits: start the next one when the one before waits.
    pub async fn until_blocked(&self, service: &str, count: i64) {
        let blocked = format!(
            "select count(*) from pg_stat_activity where application_name = '{}' and wait_event_type = 'Lock'",
            self.schema(service)
        );
        self.until_number(&blocked, count).await;
    }

    /// Changes rows as no service would: for tests of broken data, and to move a moment into the past.
    pub async fn execute(&self, statements: &str) {
        let mut connection =
            AsyncPgConnection::establish(&self.servers.postgres_url()).await.expect("PostgreSQL accepts us");
        connection
            .batch_execute(&self.with_schemas(statements))
            .await
            .unwrap_or_else(|error| panic!("{error}: {statements}"));
    }

    /// How PostgreSQL carries out `statement`, a text of `service` with parameters: its plan with what it has read. `mode`
    /// is `force_custom_plan` or `force_generic_plan`. What the statement changes is undone.
    pub async fn explain(&self, service: &str, mode: &str, statement: &str, parameters: &[String]) -> Value {
        let mut connection =
            AsyncPgConnection::establish(&self.servers.postgres_url()).await.expect("PostgreSQL accepts us");
        let prepare = format!(
            "begin; set local search_path = \"{}\"; set local plan_cache_mode = {mode}; prepare explained as {statement}",
            self.schema(service)
        );
        connection.batch_execute(&prepare).await.unwrap_or_else(|error| panic!("{error}: {statement}"));
        let explain =
            format!("explain (analyze, timing off, format json) execute explained ({})", parameters.join(", "));
        let plan: Plan =
            sql_query(&explain).get_result(&mut connection).await.unwrap_or_else(|error| panic!("{error}: {explain}"));
        connection.batch_execute("rollback").await.expect("the transaction is open");
        plan.plan
    }

    /// Begins a transaction of the test's own, such as one that locks a row, and runs `statements` in it.
    pub async fn begin(&self, statements: &str) -> OpenTransaction {
        let mut connection =
            AsyncPgConnection::establish(&self.servers.postgres_url()).await.expect("PostgreSQL accepts us");
        let begin = format!("begin; {}", self.with_schemas(statements));
        connection.batch_execute(&begin).await.unwrap_or_else(|error| panic!("{error}: {statements}"));
        OpenTransaction(connection)
    }

    /// A digest of every table: equal before and after means that nothing was stored and nothing changed.
    pub async fn everything(&self) -> BTreeMap<String, String> {
        let schemas: Vec<String> =
            self.services.iter().map(|service| format!("'{}'", self.schema(service.name))).collect();
        let tables = self
            .rows(&format!(
                "select schemaname, tablename from pg_tables
                  where schemaname in ({}) and tablename not in ('__diesel_schema_migrations', 'outbox_broker')",
                schemas.join(", ")
            ))
            .await;
        let mut digests = BTreeMap::new();
        for table in tables {
            let name = format!("\"{}\".\"{}\"", text(&table["schemaname"]), text(&table["tablename"]));
            let digest = self
                .rows(&format!(
                    "select count(*) as rows, coalesce(sum(hashtextextended(one::text, 0)), 0)::text as sum from {name} as one"
                ))
                .await;
            digests.insert(name, digest[0].to_string());
        }
        digests
    }
}
