//! Restock alerts: who wants to know when a product is back, and the campaign that tells them, round by round.

pub mod alert; // rules
pub mod gate;
pub mod round;

pub mod on_stock; // reactions

pub mod admit; // running a round
pub mod end_round;
pub mod follow_stock;
pub mod run_rounds;
pub mod send_batch;
pub mod stocks;
pub mod take_permits;
pub mod take_turn;

pub mod read_rounds; // the HTTP interface
pub mod start_round;
pub mod subscribe;

use std::sync::Arc;
use std::time::Duration;

use common::Host;
use common::http::ServiceConfig;
use common::periodic::Schedule;
use common::rpc::Upstream;
use contract::inventory::stock_service_client::StockServiceClient;
use serde::Deserialize;
use tokio::sync::Notify;

use crate::App;
use crate::email::EmailSettings;
use crate::pace::Pace;
use crate::settings::LEASE_MARGIN;
use gate::StockGate;
use stocks::Stocks;

/// Section `[notification_hub.restock]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestockSettings {
    pub subscribe_in_stock: bool,
    pub batch: i64,
    pub lease_seconds: u64,
    pub attempts_max: u32,
    pub poll_ms: u64,
    pub runners: u32,
    pub per_second_max: u32,
    pub burst: u32,
    pub reserve: u32,
}

/// A batch is as large as what may be late or lost at once.
const BATCH_MAX: i64 = 500;

impl RestockSettings {
    pub fn check(&self, email: &EmailSettings) -> anyhow::Result<()> {
        anyhow::ensure!(
            (1..=BATCH_MAX).contains(&self.batch),
            "notification_hub.restock.batch must be 1 to {BATCH_MAX}: it is {}",
            self.batch
        );
        // Half of it: a lease is renewed when half of it is over.
        let needed = 2 * email.timeout().max(LEASE_MARGIN);
        anyhow::ensure!(
            self.lease() >= needed,
            "notification_hub.restock.lease_seconds is {:?}, but twice email.timeout_ms, or twice a margin, needs {needed:?}",
            self.lease()
        );
        anyhow::ensure!(self.runners > 0, "notification_hub.restock.runners must be at least 1");
        anyhow::ensure!(
            self.burst > 0 && self.per_second_max.saturating_sub(self.reserve) > self.burst,
            "notification_hub.restock.burst must be at least 1, and with reserve less than per_second_max"
        );
        Ok(())
    }

    /// Of a round.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    /// Of the deliveries that a round's runner writes. Longer than the round's, so that the next runner finds them first.
    pub fn delivery_lease(&self) -> Duration {
        4 * self.lease()
    }

    /// Of all replicas together.
    pub fn pace(&self) -> Pace {
        Pace::below(self.per_second_max, self.burst, self.reserve)
    }
}

/// What the flows of restocking may use beyond what all flows of the hub have.
pub struct Restock {
    pub stocks: Stocks,
    pub gate: StockGate,
    /// Signalled when a round may be free.
    pub wake: Arc<Notify>,
}

impl Restock {
    pub fn new(inventory: Upstream) -> Restock {
        Restock {
            stocks: Stocks::new(StockServiceClient::new(inventory)),
            gate: StockGate::default(),
            wake: Arc::default(),
        }
    }
}

/// Adds the runners.
pub fn mount(host: &mut Host, app: &Arc<App>) {
    let settings = &app.settings.restock;
    let free = Schedule { period: Duration::from_millis(settings.poll_ms), wake: Some(app.restock.wake.clone()) };
    for _ in 0..settings.runners {
        let app = app.clone();
        host.periodic("run_rounds", free.clone(), move || {
            let app = app.clone();
            async move { run_rounds::run_rounds(&app).await }
        });
    }
}

/// What can be asked for over HTTP, below `/api/v1`.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(subscribe::subscribe)
        .service(subscribe::unsubscribe)
        .service(subscribe::list_subscriptions)
        .service(start_round::start_round)
        .service(start_round::resume_round)
        .service(read_rounds::list_rounds)
        .service(read_rounds::read_round)
        .service(read_rounds::list_recipients);
}
