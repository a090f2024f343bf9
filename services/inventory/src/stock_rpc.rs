//! The gRPC interface of stock: each method checks its request and calls one flow.

use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use common::{Error, Result};
use contract::ids::ProductId;
use contract::inventory::stock_service_server::StockService;
use contract::inventory::{
    BeginRestockRoundRequest, BeginRestockRoundResponse, GetStockRequest, GetStockResponse, StockLevel,
    WatchStockRequest, WatchStockResponse,
};
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use crate::App;
use crate::begin_restock_round::begin_restock_round;
use crate::read_products::read_products_by_id;
use crate::refused::Refused;
use crate::stock_rows::{Moved, read_level};
use crate::watch_stock::watch_stock;

/// Serves the contract on the flows of [`App`].
pub struct StockRpc(pub Arc<App>);

#[tonic::async_trait]
impl StockService for StockRpc {
    async fn get_stock(&self, request: Request<GetStockRequest>) -> Result<Response<GetStockResponse>, Status> {
        let product = product_of(&request.into_inner().product_id)?;
        Ok(Response::new(get_stock(&self.0, product).await?))
    }

    type WatchStockStream = Pin<Box<dyn Stream<Item = Result<WatchStockResponse, Status>> + Send>>;

    async fn watch_stock(
        &self,
        request: Request<WatchStockRequest>,
    ) -> Result<Response<Self::WatchStockStream>, Status> {
        let WatchStockRequest { product_id, version } = request.into_inner();
        let levels = watch_stock(self.0.clone(), product_of(&product_id)?, version).await?;
        Ok(Response::new(Box::pin(levels.map(|level| Ok(WatchStockResponse { stock: Some(message(&level)) })))))
    }

    async fn begin_restock_round(
        &self,
        request: Request<BeginRestockRoundRequest>,
    ) -> Result<Response<BeginRestockRoundResponse>, Status> {
        let BeginRestockRoundRequest { product_id, after_round } = request.into_inner();
        let level = begin_restock_round(&self.0, product_of(&product_id)?, after_round).await?;
        Ok(Response::new(BeginRestockRoundResponse { stock: Some(message(&level)) }))
    }
}

async fn get_stock(app: &App, product: ProductId) -> Result<GetStockResponse> {
    let mut conn = app.db.read().await?;
    let name = read_products_by_id(&mut conn, &[product]).await?.pop().map(|found| found.name);
    let level = read_level(&mut conn, product).await?;
    let (Some(name), Some(level)) = (name, level) else { return Err(Refused::ProductNotFound(product).into()) };
    Ok(GetStockResponse { stock: Some(message(&level)), name })
}

fn product_of(text: &str) -> Result<ProductId> {
    ProductId::from_str(text).map_err(|error| Error::from(common::Refused::invalid("product_id", error.to_string())))
}

fn message(level: &Moved) -> StockLevel {
    let Moved { product_id, on_hand, held, version, restock_round } = level;
    StockLevel {
        product_id: product_id.to_string(),
        version: *version,
        on_hand: *on_hand,
        available: on_hand - held,
        restock_round: *restock_round,
    }
}
