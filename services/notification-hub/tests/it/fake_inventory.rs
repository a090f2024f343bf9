//! A fake of inventory's stock: products have the levels that the test gives them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use contract::inventory::stock_service_server::StockService;
use contract::inventory::{
    BeginRestockRoundRequest, BeginRestockRoundResponse, GetStockRequest, GetStockResponse, StockLevel,
    WatchStockRequest, WatchStockResponse,
};
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt};
use tokio::sync::broadcast;
use tonic::{Request, Response, Status};
use uuid::Uuid;

#[derive(Clone)]
pub struct FakeInventory {
    levels: Arc<Mutex<HashMap<String, StockLevel>>>,
    changes: broadcast::Sender<StockLevel>,
    is_away: Arc<AtomicBool>,
}

impl FakeInventory {
    pub fn new() -> FakeInventory {
        let (changes, _) = broadcast::channel(1_000);
        FakeInventory { levels: Arc::default(), changes, is_away: Arc::default() }
    }

    /// From now on `product` has `available` units. Its version is one higher than before. Returns the level.
    pub fn set(&self, product: Uuid, available: i64) -> StockLevel {
        self.change(product, |level| {
            level.restock_round += i64::from(level.available <= 0 && available > 0 && level.version > 0);
            level.available = available;
        })
    }

    fn change(&self, product: Uuid, change: impl FnOnce(&mut StockLevel)) -> StockLevel {
        let mut levels = self.levels.lock().unwrap();
        let product_id = product.to_string();
        let level =
            levels.entry(product_id.clone()).or_insert_with(|| StockLevel { product_id, ..StockLevel::default() });
        change(level);
        level.version += 1;
        level.on_hand = level.available;
        // Nobody watches: then nobody is told.
        drop(self.changes.send(level.clone()));
        level.clone()
    }

    /// From now on nobody is answered.
    pub fn go_away(&self) {
        self.is_away.store(true, Ordering::SeqCst);
    }

    pub fn come_back(&self) {
        self.is_away.store(false, Ordering::SeqCst);
    }

    fn find(&self, product_id: &str) -> Result<StockLevel, Status> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(Status::unavailable("away"));
        }
        let found = self.levels.lock().unwrap().get(product_id).cloned();
        found.ok_or_else(|| refused(contract::codes::PRODUCT_NOT_FOUND))
    }
}

fn refused(code: common::Code) -> Status {
    common::Error::from(common::Refused::new(code, "refused by the fake")).into()
}

#[tonic::async_trait]
impl StockService for FakeInventory {
    async fn get_stock(&self, request: Request<GetStockRequest>) -> Result<Response<GetStockResponse>, Status> {
        let stock = self.find(&request.get_ref().product_id)?;
        Ok(Response::new(GetStockResponse { stock: Some(stock), name: "한정판 스니커즈".to_owned() }))
    }

    type WatchStockStream = Pin<Box<dyn Stream<Item = Result<WatchStockResponse, Status>> + Send>>;

    async fn watch_stock(
        &self,
        request: Request<WatchStockRequest>,
    ) -> Result<Response<Self::WatchStockStream>, Status> {
        let changes = self.changes.subscribe();
        let WatchStockRequest { product_id, .. } = request.into_inner();
        let first = self.find(&product_id)?;
        let later = unfold(changes, |mut changes| async move { Some((changes.recv().await.ok()?, changes)) });
        let later = later.filter(move |level| std::future::ready(level.product_id == product_id));
        let levels = futures_util::stream::iter([first]).chain(later);
        Ok(Response::new(Box::pin(levels.map(|level| Ok(WatchStockResponse { stock: Some(level) })))))
    }

    async fn begin_restock_round(
        &self,
        request: Request<BeginRestockRoundRequest>,
    ) -> Result<Response<BeginRestockRoundResponse>, Status> {
        let BeginRestockRoundRequest { product_id, after_round } = request.into_inner();
        let level = self.find(&product_id)?;
        if level.available <= 0 {
            return Err(refused(contract::codes::OUT_OF_STOCK));
        }
        if level.restock_round != after_round {
            return Err(refused(contract::codes::CONCURRENT_MODIFICATION));
        }
        let level = self.change(product_id.parse().unwrap(), |level| level.restock_round += 1);
        Ok(Response::new(BeginRestockRoundResponse { stock: Some(level) }))
    }
}
