//! `Db` and `Tx`: the pool of one service's schema, and a transaction as a type.

mod connect;
mod tx;
mod url;

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel_async::pooled_connection::bb8::Pool;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use diesel_async::{
    AnsiTransactionManager, AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection, TransactionManager,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness};
use futures_util::FutureExt;
use futures_util::future::ready;
use tokio::runtime::Handle;
use tokio::sync::Notify;

pub use self::connect::DbSettings;
pub(crate) use self::connect::problems;
use self::connect::{Failure, establish, still_open};
pub use self::tx::Tx;
use self::tx::begin;
use self::url::ServerUrl;
use crate::backoff::Backoff;
use crate::crash;
use crate::error::{Error, Result};

/// How often a body is run when PostgreSQL reports a serialization conflict or a deadlock.
const ATTEMPTS_MAX: u32 = 4;

type PgPool = Pool<AsyncPgConnection>;
type PgPooled = diesel_async::pooled_connection::bb8::PooledConnection<'static, AsyncPgConnection>;

/// The pool of one service, bound to that service's schema. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    pool: PgPool,
    schema: Arc<str>,
    server: Arc<ServerUrl>,
    main: Handle,
    wake: Arc<Notify>,
}

impl Db {
    /// Opens a pool on `schema`; connects on first use. Must be called on the main runtime.
    pub async fn open(settings: &DbSettings, schema: &str) -> anyhow::Result<Db> {
        let server = Arc::new(connect::server(settings, schema)?);
        let main = Handle::current();
        let mut config = ManagerConfig::<AsyncPgConnection>::default();
        // A check query on every checkout would cost a third of the throughput. Looking whether the connection's task
        // has ended costs nothing, and after a restart of PostgreSQL it finds every connection that is dead.
        config.recycling_method = RecyclingMethod::CustomFunction(Box::new(|conn| ready(still_open(conn)).boxed()));
        let (home, opened) = (main.clone(), Arc::new(connect::pooled(settings, schema)?));
        // Each HTTP worker is a runtime of its own that ends first at shutdown. A connection opened there
        // would die with it, so every connection lives on the main runtime.
        config.custom_setup = Box::new(move |_| {
            let (home, server) = (home.clone(), opened.clone());
            async move {
                home.spawn(async move { establish(&server).await.map_err(diesel::ConnectionError::from) })
                    .await
                    .unwrap_or_else(|gone| Err(diesel::ConnectionError::BadConnection(gone.to_string())))
            }
            .boxed()
        });
        let manager = AsyncDieselConnectionManager::new_with_config(&server.address, config);
        let pool = Pool::builder()
            .max_size(settings.connections_max)
            .connection_timeout(Duration::from_millis(settings.acquire_timeout_ms))
            // One attempt for each caller. Who waits for it is not told that it failed, and gives up after the time-out.
            .retry_connection(false)
            .build_unchecked(manager);
        Ok(Db { pool, schema: schema.into(), server, main, wake: Arc::new(Notify::new()) })
    }

    /// Runs `body` in one transaction: commits on `Ok`, rolls back on `Err`, and runs it again
    /// (four times at most) when PostgreSQL reports a serialization conflict or a deadlock.
    ///
    /// `body` must be `Clone`, which a closure that mutates its surroundings is not: so nothing
    /// outside the transaction can remember an attempt that was rolled back.
    pub async fn tx<T, F>(&self, name: &'static str, body: F) -> Result<T>
    where
        T: Send,
        for<'r> F: AsyncFnOnce(&'r mut Tx) -> Result<T> + SendFn<&'r mut Tx, Result<T>, Fut: Send> + Clone + Send,
    {
        let started = Instant::now();
        let mut attempt = 0;
        let outcome = loop {
            attempt += 1;
            match self.attempt(body.clone()).await {
                Err(error) if attempt < ATTEMPTS_MAX && is_conflict(&error) => {
                    metrics::counter!("stampede_db_conflicts_total", "tx" => name).increment(1);
                    tokio::time::sleep(Backoff::CONFLICT.delay(attempt)).await;
                }
                outcome => break outcome,
            }
        };
        metrics::histogram!("stampede_db_tx_seconds", "tx" => name).record(started.elapsed());
        outcome
    }

    async fn attempt<T, F>(&self, body: F) -> Result<T>
    where
        T: Send,
        for<'r> F: AsyncFnOnce(&'r mut Tx) -> Result<T> + SendFn<&'r mut Tx, Result<T>, Fut: Send> + Send,
    {
        let conn = self.checkout().await?;
        let mut tx = Tx { conn, schema: self.schema.clone(), published: false, after_commit: Vec::new() };
        begin(&mut tx.conn).await?;
        match body(&mut tx).await {
            Ok(answer) => {
                AnsiTransactionManager::commit_transaction(&mut *tx.conn).await?;
                if tx.published {
                    self.wake.notify_one();
                }
                for run in tx.after_commit.drain(..) {
                    run();
                }
                Ok(answer)
            }
            Err(error) => {
                // If this fails the connection is broken, and the pool drops a broken connection.
                let rolled_back = AnsiTransactionManager::rollback_transaction(&mut *tx.conn).await;
                if let Err(cause) = rolled_back {
                    tracing::debug!(%cause, "A roll-back found its connection gone");
                }
                Err(error)
            }
        }
    }

    /// A connection for reading outside a transaction: each statement stands alone. PostgreSQL refuses those that write or lock,
    /// and that looks like a fault that passes: use [`Db::tx`].
    pub async fn read(&self) -> Result<Conn> {
        Ok(Conn(self.checkout().await?))
    }

    /// Returns as soon as PostgreSQL takes a connection. Says every few seconds that it waits, and fails after `wait`; at once
    /// if TLS fails, which no waiting mends.
    pub async fn wait_until_answering(&self, wait: Duration) -> anyhow::Result<()> {
        const SAY_AGAIN: Duration = Duration::from_secs(5);
        let address = &self.server.address;
        let (started, mut said) = (Instant::now(), None::<Instant>);
        loop {
            let error = match self.connect().await? {
                Ok(_) => return Ok(()),
                Err(Failure::Tls(text)) => anyhow::bail!(text),
                Err(Failure::Other(error)) => error,
            };
            let waited = started.elapsed();
            if waited >= wait {
                anyhow::bail!("PostgreSQL at {address} does not answer after {} s: {error}", waited.as_secs());
            }
            if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                said = Some(Instant::now());
                tracing::warn!(
                    "PostgreSQL at {address} does not answer yet, waiting up to {} s: {error}",
                    wait.as_secs()
                );
            }
            tokio::time::sleep(Backoff::RECONNECT.first).await;
        }
    }

    /// A connection of its own, outside the pool: for session-level advisory locks and `LISTEN`.
    pub async fn dedicated(&self) -> Result<AsyncPgConnection> {
        self.connect().await?.map_err(|failure| Error::transient(diesel::ConnectionError::from(failure)))
    }

    async fn connect(&self) -> Result<Result<AsyncPgConnection, Failure>> {
        let server = self.server.clone();
        Ok(self.main.spawn(async move { establish(&server).await }).await?)
    }

    /// Signalled after each commit that recorded an event.
    pub(crate) fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// The PostgreSQL schema this pool is bound to, namespace included.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// A named place outside a transaction where a test may kill the process or make this task wait; see [`crate::crash`].
    pub async fn point(&self, name: &'static str) {
        crash::pass(&self.schema, name).await;
    }

    async fn checkout(&self) -> Result<PgPooled> {
        self.pool
            .get_owned()
            .await
            .map_err(|error| Error::transient(anyhow::anyhow!("no database connection: {error}")))
    }

    /// Creates the schema if it is missing and brings it to the newest migration. Safe to run from several
    /// processes at once.
    pub async fn migrate<const N: usize>(&self, migrations: [EmbeddedMigrations; N]) -> anyhow::Result<()> {
        let mut conn = self.dedicated().await?;
        // The limits of the hot path are not for changes of schema, which set their own where they need some.
        conn.batch_execute("set statement_timeout = 0; set lock_timeout = 0").await?;
        self.take_turn(&mut conn).await?;
        // `create schema if not exists` would ask for the right to create schemas even where there is one, and a role that owns
        // just its schema has no such right.
        conn.batch_execute(&format!(
            "do $$ begin if to_regnamespace('\"{0}\"') is null then create schema \"{0}\"; end if; end $$;",
            self.schema
        ))
        .await?;
        let mut harness = AsyncMigrationHarness::new(conn);
        for set in migrations {
            harness
                .run_pending_migrations(set)
                .map_err(|error| anyhow::anyhow!("migrating schema {}: {error}", self.schema))?;
        }
        Ok(())
    }

    /// Takes the lock of which there is one for each database: schemas change rarely, and a second runner waits. Kept until the
    /// connection ends.
    ///
    /// It asks again and again. `create index concurrently` waits for every statement that is under way, and so would never end
    /// beside one that waits for its turn.
    async fn take_turn(&self, conn: &mut AsyncPgConnection) -> anyhow::Result<()> {
        const ASK_AGAIN: Duration = Duration::from_millis(20);
        const SAY_AGAIN: Duration = Duration::from_secs(5);
        let mut said = Instant::now();
        loop {
            let lock = diesel::dsl::sql::<diesel::sql_types::Bool>(
                "select pg_try_advisory_lock(hashtext('stampede migrations'))",
            );
            if diesel_async::RunQueryDsl::get_result(lock, conn).await? {
                return Ok(());
            }
            self.point("migrate.waits").await;
            if said.elapsed() >= SAY_AGAIN {
                said = Instant::now();
                tracing::warn!(
                    db.schema = self.schema(),
                    "Schema {} waits for another process that migrates this database; it goes on when that one is done",
                    self.schema
                );
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Whether every one of these steps has been applied to the schema. Changes nothing.
    async fn is_migrated(&self, steps: &[String]) -> anyhow::Result<bool> {
        use diesel::sql_types::{Array, BigInt, Bool, Text};
        let mut conn = self.dedicated().await?;
        // A schema that nobody has migrated yet has no list of steps.
        let listed = diesel::dsl::sql::<Bool>("select to_regclass('__diesel_schema_migrations') is not null");
        if !diesel_async::RunQueryDsl::get_result(listed, &mut conn).await? {
            return Ok(false);
        }
        let applied =
            diesel::dsl::sql::<BigInt>("select count(*) from __diesel_schema_migrations where version = any(")
                .bind::<Array<Text>, _>(steps)
                .sql(")");
        let applied: i64 = diesel_async::RunQueryDsl::get_result(applied, &mut conn).await?;
        Ok(usize::try_from(applied)? == steps.len())
    }

    /// Returns as soon as somebody else has brought the schema to the newest migration known here, or fails after `wait`.
    pub async fn wait_until_migrated(&self, migrations: &[EmbeddedMigrations], wait: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut steps = Vec::new();
        for set in migrations {
            let set: Vec<Box<dyn Migration<Pg>>> =
                set.migrations().map_err(|error| anyhow::anyhow!("reading our migrations: {error}"))?;
            steps.extend(set.iter().map(|step| step.name().version().to_string()));
        }
        loop {
            let outcome = self.is_migrated(&steps).await;
            match outcome {
                Ok(true) => return Ok(()),
                Ok(false) if started.elapsed() > wait => {
                    anyhow::bail!("the schema {} lacks migrations; `stampede migrate` applies them", self.schema)
                }
                Err(error) if started.elapsed() > wait => return Err(error),
                Ok(false) | Err(_) => tokio::time::sleep(Backoff::RECONNECT.first).await,
            }
        }
    }
}

/// Whether PostgreSQL has rolled the transaction back only because of others, so that it may run again.
///
/// diesel-async keeps the kind of an error and its message, but not the SQLSTATE, and has no kind for deadlocks (40P01).
/// Their message is known, since [`establish`] accepts English ones only.
fn is_conflict(error: &Error) -> bool {
    use diesel::result::{DatabaseErrorKind, Error as Diesel};
    let Error::Fault(fault) = error else { return false };
    match fault.cause.downcast_ref::<Diesel>() {
        Some(Diesel::DatabaseError(DatabaseErrorKind::SerializationFailure, _)) => true,
        Some(Diesel::DatabaseError(_, info)) => info.message().contains("deadlock detected"),
        _ => false,
    }
}

/// A pooled connection outside a transaction. PostgreSQL refuses to write on it.
pub struct Conn(PgPooled);

impl Deref for Conn {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        &self.0
    }
}

impl DerefMut for Conn {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        &mut self.0
    }
}

/// A SQL text that PostgreSQL parses and plans once per connection instead of at every use.
///
/// Diesel does not keep texts of its `sql_query`, because they might be put together at run time. Wrap only constants.
pub struct Prepared<Q>(pub Q);

impl<Q: QueryFragment<Pg>> QueryFragment<Pg> for Prepared<Q> {
    fn walk_ast<'b>(&'b self, pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.0.walk_ast(pass)
    }

    fn is_safe_to_cache_prepared(&self, _: &Pg) -> QueryResult<bool> {
        Ok(true)
    }
}

impl<Q> QueryId for Prepared<Q> {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q: Query> Query for Prepared<Q> {
    type SqlType = Q::SqlType;
}

/// An async closure whose future may move between threads; lets a bound say so for closures that borrow their argument.
pub trait SendFn<A, R>: FnOnce(A) -> Self::Fut {
    type Fut: Future<Output = R>;
}

impl<F, A, R, Fut> SendFn<A, R> for F
where
    F: FnOnce(A) -> Fut,
    Fut: Future<Output = R>,
{
    type Fut = Fut;
}
