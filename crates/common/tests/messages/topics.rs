//! Topics that a test makes and removes by itself, as an operator would.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::scenario::Scenario;

impl Scenario {
    pub async fn create_topic(&self, topic: &str) {
        let topic = self.kafka.topic(topic);
        let new = NewTopic::new(&topic, 3, TopicReplication::Fixed(1));
        let created = self.admin().create_topics([&new], &AdminOptions::new()).await.unwrap();
        created[0].as_ref().unwrap();
    }

    /// Returns when it is gone.
    pub async fn delete_topic(&self, topic: &str) {
        let topic = self.kafka.topic(topic);
        let deleted = self.admin().delete_topics(&[&topic], &AdminOptions::new()).await.unwrap();
        deleted[0].as_ref().unwrap();
        let is_there = || {
            let metadata = self.admin().inner().fetch_metadata(None, Duration::from_secs(5)).unwrap();
            metadata.topics().iter().any(|found| found.name() == topic)
        };
        while is_there() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether a broker takes part in the cluster, as it tells a new client.
    pub async fn has_brokers(&self) -> bool {
        let admin = self.admin();
        let asked = move || admin.inner().fetch_metadata(None, Duration::from_secs(5));
        let metadata = tokio::task::spawn_blocking(asked).await.unwrap();
        metadata.is_ok_and(|metadata| !metadata.brokers().is_empty())
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap()
    }
}
