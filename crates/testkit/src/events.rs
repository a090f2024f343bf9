//! Events that a site gets from services that are not part of it.

use common::outbox::Event;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use uuid::Uuid;

use crate::{PATIENCE, Site, eventually};

/// What stands for the relays of other services.
pub struct Publisher {
    producer: FutureProducer,
    namespace: String,
}

impl Publisher {
    pub fn new(brokers: &str, namespace: &str) -> Publisher {
        let producer = ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a producer can be made");
        Publisher { producer, namespace: namespace.to_owned() }
    }

    /// Publishes `event` under `event_id`, as its service's relay does. Returns when the broker has it.
    pub async fn publish<E: Event>(&self, event_id: Uuid, event: &E) {
        let topic = format!("{}{}", self.namespace, E::TOPIC);
        let payload = serde_json::to_vec(event).expect("events can be written");
        let event_id = event_id.to_string();
        let headers = OwnedHeaders::new().insert(Header { key: "ce_id", value: Some(&event_id) });
        let record = FutureRecord::to(&topic).key(event.key()).payload(&payload).headers(headers);
        self.producer.send(record, PATIENCE).await.expect("the broker takes the event");
    }
}

impl Site {
    /// Publishes `event` under a new id, so that no inbox takes it for a repeat.
    pub async fn publish<E: Event>(&self, event: &E) {
        self.publish_as(Uuid::now_v7(), event).await;
    }

    pub async fn publish_as<E: Event>(&self, event_id: Uuid, event: &E) {
        let publisher =
            self.publisher.get_or_init(async || Publisher::new(&self.servers.kafka_brokers(), self.namespace()));
        publisher.await.publish(event_id, event).await;
    }

    /// [`Site::publish`], and waits until the consumer group of `service` has applied or parked the event.
    pub async fn deliver<E: Event>(&self, service: &str, event: &E) {
        let event_id = Uuid::now_v7();
        self.publish_as(event_id, event).await;
        let schema = self.schema(service);
        let seen = format!(
            "(select count(*) from \"{schema}\".inbox where event_id = '{event_id}')
             + (select count(*) from \"{schema}\".parked where event_id = '{event_id}')"
        );
        eventually(&format!("{service} reads {}", E::TOPIC), async || (self.number(&seen).await > 0).then_some(()))
            .await;
    }
}
