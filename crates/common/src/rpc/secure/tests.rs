//! Who gets in over TLS, with real connections.

use testkit::tls::{Authority, Certificate};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::rpc::{RpcSettings, upstream};

/// Two authorities, of which the services know the first.
struct Stage {
    authority: Authority,
    stranger: Authority,
    folder: PathBuf,
}

impl Stage {
    fn new(name: &str) -> Stage {
        let folder = std::env::temp_dir().join(format!("stampede-rpc-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Stage { authority: Authority::new(&folder, "ours"), stranger: Authority::new(&folder, "stranger"), folder }
    }

    fn settings(&self, own: &Certificate) -> RpcTlsSettings {
        let (cert_file, key_file) = (own.file.clone(), own.key.clone());
        RpcTlsSettings { ca_file: self.authority.file.clone(), cert_file, key_file }
    }

    /// A server with this certificate. Returns its port.
    async fn serve(&self, own: &Certificate) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("store", ServingStatus::Serving).await;
        let secured = accept(TcpIncoming::from(listener), acceptor(&self.settings(own)).unwrap(), vec!["shop", "bank"]);
        tokio::spawn(Server::builder().add_service(health).serve_with_incoming(secured));
        port
    }

    /// What the server at `port` answers to whoever has this certificate, or how the connection fails.
    async fn ask(&self, port: u16, own: &Certificate) -> Result<(), String> {
        let settings = RpcSettings {
            connect_timeout_ms: 60_000,
            deadline_ms: 60_000,
            tls: self.settings(own),
            ..RpcSettings::default()
        };
        let upstream = upstream(&format!("https://127.0.0.1:{port}"), &settings, None).unwrap();
        let request = HealthCheckRequest { service: "store".to_owned() };
        let answer = HealthClient::new(upstream).check(request).await;
        answer.map(drop).map_err(|status| format!("{status:?}"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

#[tokio::test]
async fn only_a_certificate_of_the_authority_that_is_still_good_gets_in() {
    let stage = Stage::new("callers");
    let port = stage.serve(&stage.authority.sign_for("store", &["store", "127.0.0.1"])).await;
    assert_eq!(stage.ask(port, &stage.authority.sign("shop", "shop")).await, Ok(()));
    for (what, own) in [
        ("another authority's", stage.stranger.sign("shop-of-stranger", "shop")),
        ("expired", stage.authority.sign_expired("old-shop", &["shop"])),
    ] {
        let refused = stage.ask(port, &own).await.expect_err(what);
        assert!(refused.contains("transport error"), "{what}: {refused}");
    }
}

#[tokio::test]
async fn nobody_gets_in_without_a_certificate_or_without_tls() {
    let stage = Stage::new("nobody");
    let port = stage.serve(&stage.authority.sign_for("store", &["store", "127.0.0.1"])).await;
    let roots = tls::roots(Path::new(&stage.authority.file)).unwrap();
    let mut config = tls::client_config(&tls::Verify::AuthorityAndName(roots), None).unwrap();
    config.alpn_protocols.push(PROTOCOL.to_owned());
    let connector = Connector(TlsConnector::from(Arc::new(config)));
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    let without = connector.channel(&endpoint, ServerName::try_from("127.0.0.1").unwrap());
    let plain = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect_lazy();
    for (what, channel) in [("no certificate", without), ("no TLS", plain)] {
        let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
        let status = answer.expect_err(what);
        // A status that the server has sent has no cause.
        assert!(std::error::Error::source(&status).is_some(), "{what}: {status:?}");
    }
}

#[tokio::test]
async fn a_caller_says_nothing_to_a_server_of_another_name_or_authority() {
    let stage = Stage::new("callees");
    let shop = stage.authority.sign("shop", "shop");
    for (name, own, why) in [
        ("elsewhere", stage.authority.sign("elsewhere", "elsewhere"), "NotValidForName"),
        ("stranger", stage.stranger.sign("foreign", "127.0.0.1"), "UnknownIssuer"),
        ("expired", stage.authority.sign_expired("old", &["127.0.0.1"]), "Expired"),
    ] {
        let port = stage.serve(&own).await;
        let refused = stage.ask(port, &shop).await.expect_err(name);
        assert!(refused.contains(why), "{name}: {refused}");
    }
}

#[test]
fn a_certificate_is_that_of_the_service_whose_name_it_has() {
    let stage = Stage::new("names");
    let known = ["shop", "shop-archive", "front-desk", "line"];
    for (hosts, expected) in [
        (&["shop"][..], &["shop"][..]),
        (&["shop", "shop-grpc.stampede.svc", "127.0.0.1"], &["shop"]),
        (&["line", "front-desk"], &["front-desk", "line"]),
        (&["shop.stampede.svc", "shop-grpc", "*.shop", "*"], &[]),
        (&["bank"], &[]),
    ] {
        let own = stage.authority.sign_for("names", hosts);
        let chain = tls::certificates(Path::new(&own.file)).unwrap();
        assert_eq!(*services_of(&chain[0], &known), *expected, "{hosts:?}");
    }
}

#[test]
fn a_renewed_certificate_is_used_and_a_broken_one_is_not() {
    let stage = Stage::new("renewed");
    let first = stage.authority.sign("own", "shop");
    let own = OwnCertificate::open(&stage.settings(&first)).unwrap();
    let before = own.current();
    stage.authority.sign("own", "shop");
    assert!(Arc::ptr_eq(&own.current(), &before), "it is not read for each connection");
    own.current.write().1 = Instant::now();
    let renewed = own.current();
    assert_ne!(renewed.cert, before.cert);
    std::fs::write(&first.file, "half of a file").unwrap();
    own.current.write().1 = Instant::now();
    assert_eq!(own.current().cert, renewed.cert);
}

#[test]
fn half_a_section_is_told() {
    let stage = Stage::new("half");
    let whole = stage.settings(&stage.authority.sign("own", "shop"));
    assert!(problems(&whole).is_empty() && problems(&RpcTlsSettings::default()).is_empty());
    let told = |settings: RpcTlsSettings| problems(&settings).join("\n");
    for lacks in [
        RpcTlsSettings { ca_file: String::new(), ..whole.clone() },
        RpcTlsSettings { cert_file: String::new(), ..whole.clone() },
        RpcTlsSettings { key_file: String::new(), ..whole.clone() },
    ] {
        assert!(told(lacks).contains("go together"));
    }
    let missing = told(RpcTlsSettings { ca_file: "/nothing/there".to_owned(), ..whole.clone() });
    assert!(missing.contains("rpc.tls.ca_file") && missing.contains("/nothing/there"), "{missing}");
    let other = stage.authority.sign("other", "shop");
    let mixed = told(RpcTlsSettings { key_file: other.key, ..whole });
    assert!(mixed.contains("rpc.tls.cert_file and rpc.tls.key_file cannot be used"), "{mixed}");
}
