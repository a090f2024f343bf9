//! Stock as other services see it: asked for once, watched, and with a restock round that is begun by hand.

use common::rpc::Upstream;
use contract::inventory::stock_service_client::StockServiceClient;
use contract::inventory::{BeginRestockRoundRequest, GetStockRequest, StockLevel, WatchStockRequest};
use testkit::Product;
use tonic::Streaming;
use uuid::Uuid;

use crate::site::{Site, code};

type Levels = Streaming<contract::inventory::WatchStockResponse>;

fn client(site: &Site) -> StockServiceClient<Upstream> {
    StockServiceClient::new(site.upstream("inventory"))
}

async fn watch(site: &Site, product: &Product, version: i64) -> Levels {
    let request = WatchStockRequest { product_id: product.id.clone(), version };
    client(site).watch_stock(request).await.unwrap().into_inner()
}

async fn next(levels: &mut Levels) -> StockLevel {
    levels.message().await.unwrap().expect("the stream goes on").stock.unwrap()
}

async fn get(site: &Site, product: &str) -> Result<(StockLevel, String), common::Error> {
    let answer = client(site).get_stock(GetStockRequest { product_id: product.to_owned() }).await?.into_inner();
    Ok((answer.stock.unwrap(), answer.name))
}

async fn begin(site: &Site, product: &str, after_round: i64) -> Result<StockLevel, common::Error> {
    let request = BeginRestockRoundRequest { product_id: product.to_owned(), after_round };
    Ok(client(site).begin_restock_round(request).await?.into_inner().stock.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_can_be_asked_for_with_the_name_of_its_product() {
    let site = Site::start().await;
    let product = site.product(5).await;
    site.hold_lines(&[(&product, 2)]).await.unwrap();
    let (level, name) = get(&site, &product.id).await.unwrap();
    assert_eq!((level.on_hand, level.available, level.version, level.restock_round), (5, 3, 2, 0));
    assert_eq!(name, "한정판 스니커즈");
    assert_eq!(code(&get(&site, &Uuid::nil().to_string()).await), "PRODUCT_NOT_FOUND");
    assert_eq!(code(&get(&site, "x").await), "VALIDATION_ERROR");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_a_product_sees_it_as_it_is_and_each_change_that_is_committed_here() {
    let site = Site::start().await;
    let (product, other) = (site.product(3).await, site.product(3).await);
    let mut levels = watch(&site, &product, 0).await;
    assert_eq!(next(&mut levels).await.available, 3);
    site.hold_one(&other).await.unwrap();
    let hold = site.hold_lines(&[(&product, 3)]).await.unwrap();
    let sold_out = next(&mut levels).await;
    assert_eq!((sold_out.available, sold_out.version), (0, 2), "changes of other products are not told");
    site.release(&hold.hold_id).await.unwrap();
    assert_eq!((next(&mut levels).await.available, sold_out.product_id), (3, product.id.clone()));
    let unknown = WatchStockRequest { product_id: Uuid::nil().to_string(), version: 0 };
    let refused = client(&site).watch_stock(unknown).await.map_err(common::Error::from);
    assert_eq!(code(&refused), "PRODUCT_NOT_FOUND");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_another_replica_commits_is_seen_too() {
    let site = Site::start().await;
    let replica = site.replica_with(&[]).await;
    let product = site.product(3).await;
    let known = get(&site, &product.id).await.unwrap().0.version;
    let mut levels = watch(&replica, &product, known).await;
    site.hold_lines(&[(&product, 2)]).await.unwrap();
    let level = next(&mut levels).await;
    assert_eq!((level.available, level.version), (1, known + 1), "what the watcher knows already is not told");
    replica.stop().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_when_the_host_stops() {
    let site = Site::start().await;
    let product = site.product(1).await;
    let mut levels = watch(&site, &product, 0).await;
    next(&mut levels).await;
    let (ended, ()) = tokio::join!(async { while let Ok(Some(_)) = levels.message().await {} }, site.stop());
    assert_eq!(ended, ());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restock_round_is_begun_once_and_only_while_there_are_units() {
    let site = Site::start().await;
    let product = site.product(2).await;
    let mut levels = watch(&site, &product, 0).await;
    let before = next(&mut levels).await;
    let (first, second) = tokio::join!(begin(&site, &product.id, 0), begin(&site, &product.id, 0));
    let (begun, refused) = if first.is_ok() { (first, second) } else { (second, first) };
    let begun = begun.unwrap();
    assert_eq!((begun.restock_round, begun.version, begun.available), (1, before.version + 1, 2));
    assert_eq!(code(&refused), "CONCURRENT_MODIFICATION", "of two at once, one begins the round");
    assert_eq!(next(&mut levels).await, begun);
    assert_eq!(site.events("STOCK_REPLENISHED", &product).await, 0, "nothing came back that was gone");

    site.hold_lines(&[(&product, 2)]).await.unwrap();
    assert_eq!(code(&begin(&site, &product.id, 1).await), "OUT_OF_STOCK");
    assert_eq!(code(&begin(&site, &Uuid::nil().to_string(), 0).await), "PRODUCT_NOT_FOUND");
    assert_eq!(get(&site, &product.id).await.unwrap().0.restock_round, 1);
    site.stop().await;
}
