//! What inventory knows of a product: whether there is one, and what is left of it.

use anyhow::Context;
use common::rpc::{Upstream, retrying};
use common::{Error, Result};
use contract::ids::ProductId;
use contract::inventory::stock_service_client::StockServiceClient;
use contract::inventory::{GetStockRequest, StockLevel};

/// A client of inventory. It answers for every call within `rpc.deadline_ms`.
pub struct Stocks {
    inventory: StockServiceClient<Upstream>,
}

impl Stocks {
    pub fn new(inventory: StockServiceClient<Upstream>) -> Stocks {
        Stocks { inventory }
    }

    /// The stock of `product` at this moment. Refuses with `PRODUCT_NOT_FOUND`.
    pub async fn level(&self, product: ProductId) -> Result<StockLevel> {
        let answer = retrying(|| {
            let mut inventory = self.inventory.clone();
            let request = GetStockRequest { product_id: product.to_string() };
            async move { inventory.get_stock(request).await }
        })
        .await?;
        answer.stock.context("inventory answered without a stock").map_err(Error::from)
    }
}
