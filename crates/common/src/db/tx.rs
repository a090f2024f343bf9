//! An open transaction as a type, and how it begins.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::task::Poll;

use diesel::connection::{TransactionDepthChange, TransactionManagerStatus};
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, SimpleAsyncConnection, TransactionManager};
use futures_util::poll;

use super::PgPooled;
use crate::crash;
use crate::error::Result;

/// Begins a transaction without waiting for PostgreSQL's answer: the begin travels with the first statement, which is one trip
/// less.
///
/// A begin may fail on a connection that lives, by a statement time-out after the machine stood still. Outside a transaction
/// the sessions of a pool are read-only (see [`super::connect::pooled`]), so PostgreSQL then refuses each statement that
/// writes or locks, instead of committing it alone.
pub(super) async fn begin(conn: &mut PgPooled) -> Result<()> {
    {
        let mut conn = &**conn;
        // The first poll sends it, before anything that is sent later.
        if let Poll::Ready(outcome) = poll!(std::pin::pin!(conn.batch_execute("BEGIN READ WRITE"))) {
            outcome?;
        }
    }
    // From here on a connection whose transaction was neither committed nor rolled back is not used again.
    let status: &mut TransactionManagerStatus = AnsiTransactionManager::transaction_manager_status_mut(&mut **conn);
    status.transaction_state()?.change_transaction_depth(TransactionDepthChange::IncreaseDepth)?;
    Ok(())
}

/// An open transaction. Only [`Db::tx`] makes one, so whoever takes `&mut Tx` runs inside its caller's transaction.
pub struct Tx {
    pub(super) conn: PgPooled,
    pub(super) schema: Arc<str>,
    /// An event was recorded: the relay is woken after the commit, and only then.
    pub(crate) published: bool,
    pub(super) after_commit: Vec<Box<dyn FnOnce() + Send>>,
}

impl Tx {
    /// A named place inside this transaction where a test may kill the process or make this task wait; see [`crate::crash`].
    pub async fn point(&mut self, name: &'static str) {
        crash::pass(&self.schema, name).await;
    }

    /// Runs `run` after the commit, when what this transaction wrote can be seen, and never if there is none.
    ///
    /// A hint and no more: a process that dies in between has committed and runs nothing.
    pub fn after_commit(&mut self, run: impl FnOnce() + Send + 'static) {
        self.after_commit.push(Box::new(run));
    }
}

impl Deref for Tx {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        &self.conn
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        &mut self.conn
    }
}
