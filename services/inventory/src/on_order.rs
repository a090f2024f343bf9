//! An order that ended without a payment gives its hold back: `ORDER_CANCELLED`, `ORDER_EXPIRED`.
//!
//! The order service also calls `ReleaseHold` at once; this is what happens when that call was lost.

use common::db::Tx;
use common::inbox::{Handle, Received};
use common::{Error, Result};
use contract::events::{OrderCancelled, OrderExpired};

use crate::App;
use crate::hold::Ending;
use crate::settle_hold::{Settle, settle};

impl Handle<OrderCancelled> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderCancelled>]) -> Result<()> {
        let ended = events.iter().map(|received| release(&received.event.hold_id, "order cancelled"));
        self.release_all(tx, ended.collect::<Result<_>>()?).await
    }
}

impl Handle<OrderExpired> for App {
    async fn handle(&self, tx: &mut Tx, events: &[Received<OrderExpired>]) -> Result<()> {
        let ended = events.iter().map(|received| release(&received.event.hold_id, "order expired"));
        self.release_all(tx, ended.collect::<Result<_>>()?).await
    }
}

fn release(hold: &str, reason: &str) -> Result<Settle> {
    let hold = hold.parse().map_err(Error::fault)?;
    Ok(Settle { hold, ending: Ending::Release { reason: reason.to_owned() } })
}

impl App {
    async fn release_all(&self, tx: &mut Tx, asked: Vec<Settle>) -> Result<()> {
        let Some(settled) = settle(tx, &asked).await? else {
            return Err(Error::transient(anyhow::anyhow!("a hold appeared while its tombstone was written")));
        };
        for outcome in settled.outcomes {
            // An ended order whose units are sold contradicts itself: the event is parked, where people see it.
            outcome?;
        }
        // Before the commit, but nobody waits for it, and a gate that gives too much is corrected by PostgreSQL.
        self.gate.settle_later(settled.settlements);
        Ok(())
    }
}
