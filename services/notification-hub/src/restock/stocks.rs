//! What inventory knows of a product: whether there is one, and what is left of it.

use std::time::Duration;

use anyhow::Context;
use common::rpc::{Upstream, retrying};
use common::{Error, Result};
use contract::ids::ProductId;
use contract::inventory::stock_service_client::StockServiceClient;
use contract::inventory::{
    BeginRestockRoundRequest, GetStockRequest, StockLevel, WatchStockRequest, WatchStockResponse,
};
use tonic::{Request, Streaming};

/// A watch that has told nothing for so long is begun anew.
const WATCH_TIMEOUT: Duration = Duration::from_hours(24);

/// A client of inventory. It answers for every call within `rpc.deadline_ms`.
pub struct Stocks {
    inventory: StockServiceClient<Upstream>,
}

/// A product and its stock at one moment.
#[derive(Debug, Clone)]
pub struct ProductStock {
    pub name: String,
    pub level: StockLevel,
}

impl Stocks {
    pub fn new(inventory: StockServiceClient<Upstream>) -> Stocks {
        Stocks { inventory }
    }

    /// Refuses with `PRODUCT_NOT_FOUND`.
    pub async fn get(&self, product: ProductId) -> Result<ProductStock> {
        let answer = retrying(|| {
            let mut inventory = self.inventory.clone();
            let request = GetStockRequest { product_id: product.to_string() };
            async move { inventory.get_stock(request).await }
        })
        .await?;
        let level = answer.stock.context("inventory answered without a stock").map_err(Error::from)?;
        Ok(ProductStock { name: answer.name, level })
    }

    /// The levels of the product that are newer than `version`, as they come. Refuses with `PRODUCT_NOT_FOUND`.
    pub async fn watch(&self, product: ProductId, version: i64) -> Result<Streaming<WatchStockResponse>> {
        let mut request = Request::new(WatchStockRequest { product_id: product.to_string(), version });
        // It ends when its reader does, or inventory.
        request.set_timeout(WATCH_TIMEOUT);
        Ok(self.inventory.clone().watch_stock(request).await?.into_inner())
    }

    /// Raises the product's restock round, if it still is `after_round`. Refuses with `PRODUCT_NOT_FOUND`,
    /// `OUT_OF_STOCK` and `CONCURRENT_MODIFICATION`.
    pub async fn begin_round(&self, product: ProductId, after_round: i64) -> Result<StockLevel> {
        let request = BeginRestockRoundRequest { product_id: product.to_string(), after_round };
        // Not repeated by itself: a round that was raised and not told is begun by nobody, and the operator asks again.
        let answer = self.inventory.clone().begin_restock_round(request).await?.into_inner();
        answer.stock.context("inventory answered without a stock").map_err(Error::from)
    }
}
