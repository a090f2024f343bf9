//! Whether a buyer may come in now: the sale of what they want has begun, and they have a pass where one is needed.
//!
//! Order asks before it holds units, inventory before it reserves seats: nothing is held for somebody whose turn it is not.
//! Each keeps the sale events, as the queue tells them, in a table `sale_events` of its own, so that both decide without
//! the queue when it is gone.

mod check_entry; // flow
mod on_sale; // reactions
mod sale; // rules
mod sales; // the sale events in memory
mod schema;
pub mod waiting_room; // rules

use std::sync::Arc;
use std::time::Duration;

use common::Host;
use common::db::Db;
use common::periodic::Schedule;
use common::rpc::Upstream;
use common::telemetry::Metric;
use contract::ids::ProductId;

pub use crate::check_entry::Entry;
use crate::check_entry::{Door, EntrySettings};
pub use crate::sale::PassRule;
use crate::sale::sale_of;
pub use crate::sales::Sales;

/// The header with the pass.
pub const PASS_HEADER: &str = "X-Queue-Token";
/// Marks the answer to a request that was let through because the queue was dead.
pub const BYPASS_HEADER: &str = "X-Queue-Bypass";
/// What an [`Entrance`] counts, for the manifest of its service.
pub const METRIC: Metric = Metric::counter(
    "stampede_entries_total",
    "Requests that were not let in, by code, and those let in without a pass.",
    &[(
        "outcome",
        &[
            "bypass",
            "QUEUE_TOKEN_REQUIRED",
            "QUEUE_TOKEN_INVALID",
            "QUEUE_UNAVAILABLE",
            "EVENT_NOT_OPEN",
            "EVENT_CLOSED",
        ],
    )],
);

/// The sale events, and the door that asks for passes.
pub struct Entrance {
    sales: Arc<Sales>,
    door: Door,
}

impl Entrance {
    /// Reads the sale events of `db`, and goes on reading them. `queue` is asked for passes.
    pub async fn open(host: &mut Host, db: &Db, queue: Upstream) -> anyhow::Result<Entrance> {
        let settings: EntrySettings = host.settings("entry")?;
        let sales = Arc::new(Sales::open(db).await?);
        let schedule =
            Schedule { period: Duration::from_millis(settings.sales_period_ms), wake: Some(sales.changed.clone()) };
        let read = sales.clone();
        host.periodic("read_sales", schedule, move || {
            let sales = read.clone();
            async move { sales.read_again().await }
        });
        Ok(Entrance { sales, door: Door::new(queue, settings) })
    }

    /// What keeps the table of sale events: it handles `EVENT_SCHEDULED`, `EVENT_OPEN` and `EVENT_CLOSED`.
    pub fn sales(&self) -> &Arc<Sales> {
        &self.sales
    }

    /// Whether whoever wants `product` needs a pass now, or will when its sale opens.
    pub fn needs_pass(&self, product: ProductId) -> bool {
        let (sales, now) = self.sales.now();
        match sale_of(&sales, product, PassRule::AsSalesSay, now) {
            Ok(sale) => sale.is_some_and(|sale| sale.queue_manage_required),
            Err(ahead) => sales.iter().any(|sale| sale.event_id == ahead.event() && sale.queue_manage_required),
        }
    }
}
