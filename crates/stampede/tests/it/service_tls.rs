//! TLS between services: whoever calls has a certificate, and it is that of the service which its token names.

use common::rpc::{self, Call, RpcSettings, RpcTlsSettings};
use contract::inventory::GetHoldRequest;
use contract::inventory::inventory_service_client::InventoryServiceClient;
use stampede::services::find;
use testkit::tls::{Authority, Certificate};
use testkit::{Site, servers};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::commands::Place;

/// Who is called here.
const CALLEE: &str = "inventory";

fn authority(name: &str) -> Authority {
    let folder = servers::folder(name);
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    Authority::new(&folder, "services")
}

/// What is answered to the service `order`, which shows this certificate.
async fn ask(site: &Site, own: RpcTlsSettings) -> Result<(), Status> {
    let settings: RpcSettings = site.settings().section("rpc").expect("the settings are right");
    let key = settings.key().expect("it is a key").expect("a site has one");
    let settings = RpcSettings { tls: own, connect_timeout_ms: 60_000, deadline_ms: 60_000, ..settings };
    let call = Call { caller: "order", callee: CALLEE, key };
    let address = site.grpc.replace("http://", "https://");
    let upstream = rpc::upstream(&address, &settings, Some(call)).expect("it is an address");
    let request = GetHoldRequest { hold_id: Uuid::now_v7().to_string() };
    InventoryServiceClient::new(upstream).get_hold(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_shows_the_certificate_of_the_service_that_its_token_names() {
    let authority = authority("service-tls");
    let tls =
        |Certificate { file, key }| RpcTlsSettings { ca_file: authority.file.clone(), cert_file: file, key_file: key };
    let own = tls(authority.sign_for("callee", &[CALLEE, "127.0.0.1"]));
    let site = Site::builder(&[find(CALLEE).expect("it is there")])
        .caller("order")
        .set("rpc.tls.ca_file", &own.ca_file)
        .set("rpc.tls.cert_file", &own.cert_file)
        .set("rpc.tls.key_file", &own.key_file)
        .start()
        .await;
    let served = ask(&site, tls(authority.sign("caller", "order"))).await.expect_err("there is no such hold");
    assert_eq!(served.code(), Code::NotFound, "{served:?}");
    // One of another service, which the authority has signed too.
    let refused = ask(&site, own).await.expect_err("that is not order's");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    let reason = refused.get_error_details().error_info().map(|info| info.reason.clone());
    assert_eq!(reason.as_deref(), Some("SERVICE_UNAUTHENTICATED"));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_tls_between_services_are_checked_at_start() {
    let authority = authority("service-tls-settings");
    let own = authority.sign("caller", "order");
    let set = |place: Place, ca: &str, cert: &str, key: &str| {
        place.set("rpc.tls.ca_file", ca).set("rpc.tls.cert_file", cert).set("rpc.tls.key_file", key)
    };
    let place = Place::new("half-tls").await.set("rpc.tls.ca_file", &authority.file);
    place.stampede("config").await.expect(1, &["rpc.tls.cert_file", "go together"]);
    let place = set(Place::new("no-file").await, "/nothing/there.pem", &own.file, &own.key);
    place.stampede("config").await.expect(1, &["rpc.tls.ca_file", "/nothing/there.pem cannot be read"]);
    let place = set(Place::new("no-tls").await, &authority.file, &own.file, &own.key);
    let place = place.set(&format!("upstreams.{CALLEE}"), "http://127.0.0.1:1");
    place.stampede("order").await.expect(1, &["upstream inventory", "begin with https", "rpc.tls is set"]);
}
