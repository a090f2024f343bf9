//! A broker that dies, and one that comes back with nothing.

use std::time::Duration;

use sandbox::Server;

use crate::shop::{BROKER, Shop, outbox_settings, sandbox};

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_and_comes_back_loses_nothing() {
    let _broker = BROKER.write().await;
    let shop = Shop::open("killed").await;
    let (relay, consumer) = (shop.relay(&shop.db, outbox_settings()), shop.consumer());
    let kill = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        sandbox().await.kill(Server::Kafka).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        sandbox().await.restart(Server::Kafka).await.unwrap();
    };
    tokio::join!(shop.move_much(&shop.db, 8, 150, 7), kill);
    shop.settled().await;
    shop.assert_effects_are_exact().await;
    shop.assert_log_is_complete_and_in_order().await;
    assert_eq!(shop.count("select count(*) from outbox_events where attempts > 0").await, 0, "an outage was charged");
    relay.stop().await;
    consumer.stop().await;
}

/// A consumer of the same process asks about the broker too, and so would hide a relay that had stopped asking.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_consumers_beside_it_finds_the_broker_again() {
    let _broker = BROKER.write().await;
    let shop = Shop::open("alone").await;
    let relay = shop.relay(&shop.db, outbox_settings());
    let kill = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        sandbox().await.kill(Server::Kafka).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        sandbox().await.restart(Server::Kafka).await.unwrap();
    };
    tokio::join!(shop.move_much(&shop.db, 8, 150, 7), kill);
    shop.until("select count(*) from outbox_events where status = 'NEW'", 0).await;
    shop.assert_log_is_complete_and_in_order().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_replaced_by_an_empty_one_gets_everything_again_and_no_effect_is_doubled() {
    let _broker = BROKER.write().await;
    let shop = Shop::open("wiped").await;
    let (relay, consumer) = (shop.relay(&shop.db, outbox_settings()), shop.consumer());
    shop.move_much(&shop.db, 4, 100, 5).await;
    shop.settled().await;
    let wipe = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sandbox().await.wipe_kafka().await.unwrap();
    };
    tokio::join!(shop.move_much(&shop.db, 4, 100, 5), wipe);
    shop.until("select count(*) from outbox_broker where since > (select min(created_at) from outbox_events)", 1).await;
    shop.settled().await;
    // What had been published to the old broker is in the new one too.
    shop.assert_log_is_complete_and_in_order().await;
    shop.assert_effects_are_exact().await;

    // The consumer follows the new log.
    shop.move_much(&shop.db, 1, 20, 5).await;
    shop.settled().await;
    shop.assert_effects_are_exact().await;
    relay.stop().await;
    consumer.stop().await;
}
