//! A proxy that the environment names is asked for the payment provider alone: what is near is reached without it.

use std::sync::Arc;

use parking_lot::Mutex;
use testkit::{Builder, Site};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::payer::{Agreed, Payer, Provider};
use crate::site::{EXECUTABLE, system};

/// Nobody has this name.
const PROVIDER: &str = "http://pay.example";

/// A proxy that answers in everybody's name that they are under maintenance.
struct Proxy {
    url: String,
    /// The first line of each request.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let lines = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let count = socket.read(&mut request).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..count]);
                lines.lock().push(text.lines().next().unwrap_or_default().to_owned());
                let body = r#"{"code":"MaintenanceOngoing","message":"later"}"#;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                drop(socket.write_all(format!("{head}{body}").as_bytes()).await);
            }
        });
        Proxy { url, asked }
    }

    /// A system whose environment names this proxy for everything.
    fn system(&self) -> Builder {
        let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
        let builder = system().environment("NO_PROXY", "").environment("no_proxy", "");
        names.iter().fold(builder, |builder, name| builder.environment(name, &self.url))
    }
}

/// Approves a payment that the provider has never heard of.
async fn approve(site: &Site) -> testkit::Answer {
    let (buyer, product) = (site.buyer().await, site.product(1).await);
    let (order, amount) = buyer.orders(&product).await;
    let payment = testkit::text(&buyer.prepare("key", &order, amount).await.expect(201).json()["paymentId"]);
    buyer.approve(&Agreed { order, payment, pg_payment: "P1".to_owned(), amount }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_payment_provider_is_asked_through_the_proxy_and_nobody_else_is() {
    let proxy = Proxy::start().await;
    let site = proxy.system().set("payment.naverpay.url", PROVIDER).spawn(EXECUTABLE).await;
    let refused = approve(&site).await.refused(502, "PG_ERROR");
    assert!(refused.to_string().contains("MaintenanceOngoing"), "the proxy's answer is the provider's: {refused}");
    let asked = proxy.asked.lock().clone();
    let capture = format!("POST {PROVIDER}/naverpay-partner/naverpay/payments/v2.2/apply/payment HTTP/1.1");
    assert_eq!(asked, [capture], "keys, orders, stock and coupons were asked for without it");
    site.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_provider_that_no_proxy_names_is_asked_itself() {
    let proxy = Proxy::start().await;
    let system = proxy.system().set("payment.naverpay.url", PROVIDER).environment("NO_PROXY", "pay.example");
    let site = system.environment("no_proxy", "pay.example").spawn(EXECUTABLE).await;
    let refused = approve(&site).await.refused(502, "PG_ERROR");
    assert!(refused.to_string().contains("NOT_SENT"), "nobody has its name: {refused}");
    assert_eq!(*proxy.asked.lock(), [""; 0]);
    site.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_provider_on_this_machine_is_asked_itself() {
    let proxy = Proxy::start().await;
    let site = proxy.system().spawn(EXECUTABLE).await;
    let (buyer, product) = (site.buyer().await, site.product_at(1, 129_000).await);
    let agreed = buyer.agrees(&site, &product).await;
    buyer.approve(&agreed).await.expect(200);
    assert_eq!(*proxy.asked.lock(), [""; 0]);
    site.kill().await;
}
