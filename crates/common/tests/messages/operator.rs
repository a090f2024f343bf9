//! What an operator does to a shop's broker, and sees of it, with tools of its own.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::shop::Shop;

impl Shop {
    pub async fn create_topic(&self, topic: &str) {
        let topic = self.kafka.topic(topic);
        let new = NewTopic::new(&topic, 3, TopicReplication::Fixed(1));
        let created = self.operator().create_topics([&new], &AdminOptions::new()).await.unwrap();
        created[0].as_ref().unwrap();
    }

    /// Returns when it is gone.
    pub async fn delete_topic(&self, topic: &str) {
        let topic = self.kafka.topic(topic);
        let deleted = self.operator().delete_topics(&[&topic], &AdminOptions::new()).await.unwrap();
        deleted[0].as_ref().unwrap();
        let is_there = || {
            let metadata = self.operator().inner().fetch_metadata(None, Duration::from_secs(5)).unwrap();
            metadata.topics().iter().any(|found| found.name() == topic)
        };
        while is_there() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether a broker takes part in the cluster, as it tells a newcomer.
    pub async fn has_brokers(&self) -> bool {
        let operator = self.operator();
        let asked = move || operator.inner().fetch_metadata(None, Duration::from_secs(5));
        let metadata = tokio::task::spawn_blocking(asked).await.unwrap();
        metadata.is_ok_and(|metadata| !metadata.brokers().is_empty())
    }

    fn operator(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap()
    }
}
