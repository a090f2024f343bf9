//! Service tokens: over the network a service is called by those whose manifests say so, and by nobody else.

use common::rpc::{ServiceKey, new_key};
use contract::inventory::inventory_service_client::InventoryServiceClient;
use contract::inventory::{GetHoldRequest, HoldRequest, WantedLine};
use stampede::services::{SERVICES, find};
use testkit::{Product, SERVICE_KEY, Site, fresh_key};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::commands::Place;
use crate::site::system;

/// Who is called here.
const CALLEE: &str = "inventory";

/// Without a token.
fn channel(site: &Site) -> Channel {
    Channel::from_shared(site.grpc.clone()).expect("it is an address").connect_lazy()
}

/// A call that holds a unit of `product`, with these values of `authorization`.
async fn hold(site: &Site, product: &Product, authorization: &[String]) -> Result<(), Status> {
    let mut request = Request::new(HoldRequest {
        hold_id: Uuid::now_v7().to_string(),
        user_id: Uuid::now_v7().to_string(),
        lines: vec![WantedLine { product_id: product.id.clone(), quantity: 1 }],
        reservation_id: String::new(),
    });
    for value in authorization {
        request.metadata_mut().append("authorization", value.parse().expect("it is a value of a header"));
    }
    InventoryServiceClient::new(channel(site)).hold(request).await.map(drop)
}

/// Asks inventory, whose address a banner names, with a token of `stampede token`.
pub async fn assert_lets_in(banner: &str, token: &str) {
    let line = banner.lines().find(|line| line.trim_start().starts_with("inventory ")).expect("inventory is there");
    let (_, address) = line.rsplit_once("gRPC on ").expect("its gRPC address is there");
    let ask = async |authorization: Option<String>| {
        let mut request = Request::new(GetHoldRequest { hold_id: Uuid::now_v7().to_string() });
        if let Some(value) = authorization {
            request.metadata_mut().insert("authorization", value.parse().expect("it is a value of a header"));
        }
        let mut inventory = InventoryServiceClient::connect(format!("http://{address}")).await.expect("it listens");
        inventory.get_hold(request).await.expect_err("there is no such hold").code()
    };
    assert_eq!(ask(None).await, Code::Unauthenticated);
    assert_eq!(ask(Some(format!("Bearer {token}"))).await, Code::NotFound);
}

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

/// A token that `key` has signed.
fn token(key: &str, caller: &str, callee: &str, now: u64) -> String {
    let key = ServiceKey::read(key).expect("it is a key");
    format!("Bearer {}", key.token(caller, callee, now).expect("it signs"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_prove_that_it_may_call_is_refused_and_changes_nothing() {
    let site = system().start().await;
    let product = site.product(10).await;
    let order = find("order").expect("it is there");
    let another = order.deploy.calls.iter().find(|callee| **callee != CALLEE).expect("it calls others too");
    let uninvolved = SERVICES.iter().find(|service| service.name != CALLEE && !service.deploy.calls.contains(&CALLEE));
    let stranger = uninvolved.expect("not all call it").name;
    let right = token(SERVICE_KEY, order.name, CALLEE, now());
    let admin = format!("Bearer {}", site.admin().token.expect("it has logged in"));
    let (unauthenticated, forbidden) = ("SERVICE_UNAUTHENTICATED", "SERVICE_FORBIDDEN");
    for (what, authorization, code, reason) in [
        ("no token", vec![], Code::Unauthenticated, unauthenticated),
        ("two tokens", vec![right.clone(), right.clone()], Code::Unauthenticated, unauthenticated),
        ("an administrator's access token", vec![admin], Code::Unauthenticated, unauthenticated),
        (
            "another audience",
            vec![token(SERVICE_KEY, order.name, another, now())],
            Code::Unauthenticated,
            unauthenticated,
        ),
        (
            "a token that has ended",
            vec![token(SERVICE_KEY, order.name, CALLEE, now() - 300)],
            Code::Unauthenticated,
            unauthenticated,
        ),
        (
            "a key that is not order's",
            vec![token(&new_key().expect("a key"), order.name, CALLEE, now())],
            Code::Unauthenticated,
            unauthenticated,
        ),
        (
            "a service that does not call it",
            vec![token(SERVICE_KEY, stranger, CALLEE, now())],
            Code::PermissionDenied,
            forbidden,
        ),
    ] {
        let status = hold(&site, &product, &authorization).await.expect_err(what);
        assert_eq!(status.code(), code, "{what}: {status}");
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("{what}: {status:?}"));
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "stampede"), "{what}");
    }
    assert_eq!(site.number("select count(*) from {inventory}.holds").await, 0);
    hold(&site, &product, &[right]).await.expect("order may hold stock");
    assert_eq!(site.number("select count(*) from {inventory}.holds").await, 1);

    let mut health = HealthClient::new(channel(&site));
    health.check(HealthCheckRequest::default()).await.expect("everybody may ask for health");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_in_processes_of_their_own_prove_to_each_other_who_they_are() {
    let order = find("order").expect("it is there");
    let behind: Vec<_> =
        ["account"].iter().chain(order.deploy.calls).map(|name| find(name).expect("it is there")).collect();
    let behind = Site::builder(&behind).caller(order.name).start().await;
    let mut builder = Site::builder(&[order]).namespace(behind.namespace());
    for callee in order.deploy.calls {
        builder = builder.set(&format!("upstreams.{callee}"), &behind.grpc);
    }
    let order = builder.set("auth.jwks_url", format!("{}/.well-known/jwks.json", behind.api)).start().await;
    let (product, buyer) = (behind.product(2).await, behind.buyer().await.at(&order.api));
    for _ in 0..2 {
        buyer.order(&fresh_key(), &product, 1).await.expect(201);
    }
    buyer.order(&fresh_key(), &product, 1).await.refused(409, "OUT_OF_STOCK");
    assert_eq!(behind.number("select count(*) from {inventory}.holds").await, 2);
    order.stop().await;
    behind.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_could_not_prove_who_it_is_does_not_start() {
    let place = Place::new("tokens").await.set("upstreams.inventory", "http://127.0.0.1:1");
    let told = ["rpc.token_key is empty", "order calls inventory", "stampede keys order"];
    place.stampede("order").await.expect(1, &told);
    let other = new_key().expect("a key");
    let public = ServiceKey::read(SERVICE_KEY).expect("a key").public().to_owned();
    let place = place.set("rpc.token_key", &other).set("rpc.public_keys.order", &public);
    let ended = place.stampede("order").await.expect(1, &["rpc.public_keys.order", "rpc.token_key"]);
    assert!(!ended.to_string().contains(&other), "{ended}");
}
