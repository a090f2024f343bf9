//! What PostgreSQL says, read and never written: rows, units, and whether everything that was begun has ended.

use std::time::{Duration, Instant};

use stampede::audit::unfinished::Undone;
use testkit::{PATIENCE, Product, Site, eventually};

/// A row of `stocks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units {
    pub on_hand: i64,
    pub held: i64,
}

/// Questions about a site's rows.
pub trait Ledger {
    async fn units(&self, product: &Product) -> Units;

    /// Waits until every event has been published and applied and every delivery has been made.
    async fn settled(&self);

    /// Waits until the system is at rest. Then every invariant of the audit holds, and no living hold is without an order.
    async fn assert_consistent(&self);

    /// Waits until the shop shows so many units of `product` as available.
    async fn shows(&self, product: &Product, available: i64);

    /// As if the time of `order` were up: its hold, its payments and itself end a second ago.
    async fn time_is_up(&self, order: &str);
}

impl Ledger for Site {
    async fn units(&self, product: &Product) -> Units {
        let row = self
            .rows(&format!("select on_hand, held from {{inventory}}.stocks where product_id = '{}'", product.id))
            .await;
        let unit = |name: &str| row[0][name].as_i64().expect("a number of units");
        Units { on_hand: unit("on_hand"), held: unit("held") }
    }

    async fn settled(&self) {
        let started = Instant::now();
        loop {
            let undone = undone(self).await;
            if undone.as_ref().is_ok_and(Vec::is_empty) {
                return;
            }
            let stuck = undone.iter().flatten().any(Undone::is_stuck);
            assert!(!stuck, "events that could not be published or applied: {undone:?}");
            assert!(started.elapsed() < PATIENCE, "it does not settle: {undone:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn assert_consistent(&self) {
        self.settled().await;
        // The provider has captured for the sites of other tests as well.
        let report = stampede::audit::run_without_book(&self.settings()).await.expect("the servers answer the audit");
        assert!(report.violated().is_empty(), "{}", report.text());
        let abandoned = self.rows(ABANDONED_HOLDS).await;
        assert!(abandoned.is_empty(), "holds without an order: {abandoned:?}");
    }

    async fn time_is_up(&self, order: &str) {
        self.execute(&format!(
            "update {{inventory}}.holds set expires_at = now() - interval '1 second' where hold_id = '{order}';
             update {{order}}.orders set hold_expires_at = now() - interval '1 second' where id = '{order}';
             update {{payment}}.payments set expires_at = now() - interval '1 second' where order_id = '{order}'"
        ))
        .await;
    }

    async fn shows(&self, product: &Product, available: i64) {
        let path = format!("/products/{}", product.id);
        eventually(&format!("{path} shows {available} available"), async || {
            let shown = self.anyone().get(&path).await.expect(200).json();
            (shown["stock"]["available"] == available).then_some(())
        })
        .await;
    }
}

/// What is still to be done. An error when PostgreSQL does not answer, as after it was killed.
async fn undone(site: &Site) -> anyhow::Result<Vec<Undone>> {
    stampede::audit::Ledger::open(&site.settings()).await?.unfinished().await
}

/// No invariant: where a process was killed before it stored its order, the order's hold lives until its time is up.
const ABANDONED_HOLDS: &str = "
    select holds.hold_id from {inventory}.holds left join {order}.orders on orders.id = holds.hold_id
     where holds.state = 'HELD' and holds.expires_at > now() + interval '2 seconds' and orders.id is null
       -- Seats are reserved before they are ordered.
       and holds.concert_id is null";
