//! The broker for machines without Java.

use std::time::Duration;

use sandbox::{BrokerArgs, run_embedded_broker};
use tokio::time::sleep;

use crate::support::*;

#[tokio::test]
async fn the_embedded_broker_tells_its_port_and_keeps_messages() {
    let folder = folder("embedded");
    std::fs::create_dir_all(&folder).unwrap();
    let port_file = folder.join("port");
    let args = BrokerArgs { port_file: port_file.clone(), topics: vec![("orders".to_owned(), 3)] };
    // It runs until its process ends, so it stays behind in its thread.
    let broker = std::thread::spawn(move || run_embedded_broker(args));
    while !port_file.exists() {
        assert!(!broker.is_finished(), "{:?}", broker.join());
        sleep(Duration::from_millis(10)).await;
    }
    let brokers = format!("127.0.0.1:{}", std::fs::read_to_string(&port_file).unwrap());
    assert_eq!(topics(&brokers), ["orders"]);
    send(&brokers, "orders", "hello").await;
    assert_eq!(first_message(&brokers, "orders"), "hello");
    std::fs::remove_dir_all(folder).unwrap();
}
