//! Restock alerts: who wants to know when a product is back.

pub mod stocks; // what inventory knows
pub mod subscribe; // the HTTP interface

use common::http::ServiceConfig;
use common::rpc::Upstream;
use contract::inventory::stock_service_client::StockServiceClient;
use serde::Deserialize;

use stocks::Stocks;

/// Section `[notification_hub.restock]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestockSettings {
    pub subscribe_in_stock: bool,
}

/// What the flows of restocking may use beyond what all flows of the hub have.
pub struct Restock {
    pub stocks: Stocks,
}

impl Restock {
    pub fn new(inventory: Upstream) -> Restock {
        Restock { stocks: Stocks::new(StockServiceClient::new(inventory)) }
    }
}

/// What can be asked for over HTTP, below `/api/v1`.
pub fn routes(config: &mut ServiceConfig<'_>) {
    config.service(subscribe::subscribe).service(subscribe::unsubscribe).service(subscribe::list_subscriptions);
}
