//! The fakes that a sandbox starts beside its servers.

use sandbox::{KafkaChoice, Options, Sandbox, Server};

use crate::support::{Merchant, folder};

/// An address in use for nothing: stands for a server that this test does not need.
const UNUSED: &str = "127.0.0.1:1";

#[tokio::test]
async fn a_restarted_sandbox_has_the_address_and_the_book_of_the_first() {
    let data_dir = folder("site");
    let mut options = Options { data_dir: data_dir.clone(), kafka: KafkaChoice::Embedded, ..Options::default() };
    options.external.postgres_url = Some(UNUSED.to_owned());
    options.external.kafka_brokers = Some(UNUSED.to_owned());
    let sandbox = Sandbox::start(options.clone()).await.unwrap();
    let url = sandbox.fakes_url().to_owned();
    let merchant = Merchant::at(&url);
    let payment = merchant.checkout("order-1", 12_000).await;
    assert_eq!(merchant.capture(&payment, "key-1").await["code"], "Success");
    sandbox.kill(Server::Redis).await.unwrap();
    assert_eq!(merchant.totals().await["captured"], 12_000);
    drop(sandbox);
    assert!(merchant.http.get(merchant.url("book/totals")).send().await.is_err());

    let sandbox = Sandbox::start(options.clone()).await.unwrap();
    assert_eq!(sandbox.fakes_url(), url);
    assert_eq!(merchant.totals().await["captured"], 12_000);
    sandbox.stop().await.unwrap();

    options.fresh = true;
    options.ephemeral = true;
    let sandbox = Sandbox::start(options).await.unwrap();
    assert_eq!(Merchant::at(sandbox.fakes_url()).totals().await["captured"], 0);
    sandbox.stop().await.unwrap();
    assert!(!data_dir.exists());
}
