//! Topics and consumer groups as Kafka itself tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use contract::events::TOPICS;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use stampede::services::{self, SERVICES};
use testkit::{PATIENCE, Site, eventually};
use tokio::task::spawn_blocking;

use crate::site::system;
use crate::tidy::root;

fn kafka(site: &Site) -> BaseConsumer {
    let brokers = site.servers.kafka_brokers();
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a client can be made")
}

/// How many partitions each of these topics has. Asking for one by its name would create it on some brokers, so this
/// asks for all.
async fn partitions(site: &Site, topics: impl IntoIterator<Item = &'static str>) -> BTreeMap<&'static str, usize> {
    let names: Vec<(&str, String)> = topics.into_iter().map(|topic| (topic, site.topic(topic))).collect();
    let kafka = kafka(site);
    let asked = move || {
        let metadata = kafka.fetch_metadata(None, PATIENCE).expect("Kafka answers");
        let there: BTreeMap<&str, usize> =
            metadata.topics().iter().map(|topic| (topic.name(), topic.partitions().len())).collect();
        names.iter().filter_map(|(topic, name)| Some((*topic, *there.get(name.as_str())?))).collect()
    };
    spawn_blocking(asked).await.expect("it is asked")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_topic_is_there_with_its_partitions_before_the_first_event() {
    let site = system().set("kafka.partitions", 2).start().await;
    let expected: BTreeMap<&str, usize> = TOPICS.iter().map(|topic| (*topic, 2)).collect();
    eventually("all topics are there", async || {
        (partitions(&site, TOPICS.iter().copied()).await == expected).then_some(())
    })
    .await;
    for service in SERVICES {
        let events = format!("select count(*) from {{{}}}.outbox_events", service.name.replace('-', "_"));
        assert_eq!(site.number(&events).await, 0, "{} has said something", service.name);
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_creates_the_topics_that_only_others_read() {
    let payment = services::find("payment").expect("there is one");
    let site = Site::builder(&[payment]).start().await;
    assert!(payment.produces.iter().any(|topic| !payment.consumes.contains(topic)));
    eventually("its topics are there", async || {
        let there: BTreeSet<&str> = partitions(&site, payment.topics()).await.into_keys().collect();
        (there == payment.topics().collect()).then_some(())
    })
    .await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_groups_on_the_broker_have_the_names_that_the_document_tells() {
    let page = fs::read_to_string(root().join("docs/events.md")).expect("it is there");
    let site = system().start().await;
    let client = kafka(&site);
    let cluster = spawn_blocking(move || client.client().fetch_cluster_id(PATIENCE));
    let cluster = cluster.await.expect("it is asked").expect("Kafka tells its id");
    let table = page.split("## The message").next().expect("a table").to_owned();
    let told: BTreeSet<&str> = table.split('`').filter(|name| name.ends_with("@CLUSTER")).collect();
    let consumers: Vec<&str> =
        SERVICES.iter().filter(|service| !service.consumes.is_empty()).map(|service| service.name).collect();
    assert_eq!(told.len(), consumers.len(), "{told:?} and {consumers:?}");
    for group in told {
        let name = format!("{}{}", site.namespace(), group.replace("CLUSTER", &cluster));
        eventually(&format!("the group {name} has a member"), async || {
            let (kafka, name) = (kafka(&site), name.clone());
            let asked = spawn_blocking(move || {
                let found = kafka.fetch_group_list(Some(&name), PATIENCE).expect("Kafka answers");
                found.groups().iter().any(|group| !group.members().is_empty())
            });
            asked.await.expect("it is asked").then_some(())
        })
        .await;
    }
    site.stop().await;
}
