//! Which partitions the topics of a listener have, and how far each of them goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;

use crate::error::{Error, Result};
use crate::kafka::Kafka;
use crate::kafka::librdkafka::{ConsumerClient, in_own_thread};

/// A topic, without the namespace, and one of its partitions.
pub(super) type Place = (&'static str, i32);

/// The number of partitions of each topic.
pub(super) type Layout = BTreeMap<&'static str, i32>;

pub(super) fn places(layout: &Layout) -> impl Iterator<Item = Place> {
    layout.iter().flat_map(|(topic, partitions)| (0..*partitions).map(|partition| (*topic, partition)))
}

/// One question for each topic: the answer for all would name those of every other site on the broker.
pub(super) async fn layout(client: &Arc<ConsumerClient>, kafka: &Kafka, names: &[&'static str]) -> Result<Layout> {
    let topics: Vec<(&'static str, String)> = names.iter().map(|name| (*name, kafka.topic(name))).collect();
    let (client, limit) = (client.clone(), kafka.request_timeout());
    let asked = in_own_thread(move || -> Result<Layout, KafkaError> {
        let mut layout = Layout::new();
        for (name, topic) in &topics {
            let metadata = client.fetch_metadata(Some(topic), limit)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let partitions = found.map_or(0, |found| found.partitions().len());
            layout.insert(name, i32::try_from(partitions).unwrap_or(i32::MAX));
        }
        Ok(layout)
    });
    asked.await.map_err(Error::transient)?.map_err(Error::transient)
}

/// The first offset of each place, and the one after its last.
pub(super) async fn watermarks(
    client: &Arc<ConsumerClient>,
    kafka: &Kafka,
    places: Vec<Place>,
) -> Result<Vec<(Place, i64, i64)>> {
    let named: Vec<(Place, String)> = places.into_iter().map(|place| (place, kafka.topic(place.0))).collect();
    let (client, limit) = (client.clone(), kafka.request_timeout());
    let asked = in_own_thread(move || -> Result<Vec<(Place, i64, i64)>, KafkaError> {
        let of = |(place, topic): &(Place, String)| {
            let (low, high) = client.fetch_watermarks(topic, place.1, limit)?;
            Ok((*place, low, high))
        };
        named.iter().map(of).collect()
    });
    asked.await.map_err(Error::transient)?.map_err(Error::transient)
}
