//! `Faithful`: whether a client is still connected to the cluster that it was made for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};

use super::log_debug;

/// What a client for the log of one cluster has heard of the clusters that it was connected to.
pub(crate) struct Faithful {
    cluster: Arc<str>,
    /// Whether the first cluster that it met was the right one. Not set before it met one.
    began_well: OnceLock<bool>,
    has_met_another: AtomicBool,
}

impl Faithful {
    pub(crate) fn new(cluster: Arc<str>) -> Faithful {
        Faithful { cluster, began_well: OnceLock::new(), has_met_another: AtomicBool::new(false) }
    }

    /// Whether `client`, of which this is a part, has met another cluster than its own.
    ///
    /// librdkafka says so itself when it meets a second one, in a line of its log, which comes through the same queue as
    /// the messages and reports from there and thus before them. Only the first it is asked for, and that only until
    /// it knows: the binding never frees the answer.
    pub(crate) fn has_strayed<C: ClientContext>(&self, client: &Client<C>) -> bool {
        if self.has_met_another.load(Ordering::Acquire) {
            return true;
        }
        let began_well = self.began_well.get().copied().or_else(|| {
            let first = client.fetch_cluster_id(Duration::ZERO)?;
            Some(*self.began_well.get_or_init(|| *first == *self.cluster))
        });
        began_well == Some(false)
    }

    pub(crate) fn hear(&self, facility: &str, message: &str) {
        if facility == "CLUSTERID" {
            self.has_met_another.store(true, Ordering::Release);
        }
        log_debug(facility, message);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rdkafka::config::RDKafkaLogLevel;
    use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
    use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

    use super::*;
    use crate::kafka::tests::broker;
    use crate::kafka::{Kafka, client_config};

    impl ClientContext for Faithful {
        fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
            self.hear(facility, message);
        }
    }

    impl ConsumerContext for Faithful {}

    impl ProducerContext for Faithful {
        type DeliveryOpaque = ();

        fn delivery(&self, _: &rdkafka::producer::DeliveryResult<'_>, (): ()) {}
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    fn until(mut is_so: impl FnMut() -> bool) {
        let started = Instant::now();
        while !is_so() {
            assert!(started.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// It is a line of librdkafka's log that tells, and nothing promises that it will always be there.
    #[tokio::test(flavor = "multi_thread")]
    async fn clients_hear_that_their_broker_was_replaced() {
        let (sandbox, settings) = broker("faithful").await;
        let cluster = Kafka::open(&settings, "").unwrap().cluster_id().await.unwrap();

        let made_for = |cluster: &Arc<str>| Faithful::new(cluster.clone());
        let consumer: BaseConsumer<Faithful> =
            client_config(&settings).set("group.id", "g").create_with_context(made_for(&cluster)).unwrap();
        consumer.subscribe(&["t"]).unwrap();
        let producer: BaseProducer<Faithful> =
            client_config(&settings).create_with_context(made_for(&cluster)).unwrap();
        let stranger: BaseProducer<Faithful> =
            client_config(&settings).create_with_context(made_for(&"another".into())).unwrap();
        let (of_consumer, of_producer) = (consumer.context(), producer.context());
        until(|| {
            consumer.poll(Duration::from_millis(10));
            !of_consumer.has_strayed(consumer.client()) && of_consumer.began_well.get().is_some()
        });
        until(|| !of_producer.has_strayed(producer.client()) && of_producer.began_well.get().is_some());
        until(|| stranger.context().has_strayed(stranger.client()));

        sandbox.wipe_kafka().await.unwrap();
        until(|| {
            consumer.poll(Duration::from_millis(10));
            of_consumer.has_strayed(consumer.client())
        });
        until(|| {
            producer.poll(Duration::from_millis(10));
            of_producer.has_strayed(producer.client())
        });
        drop((consumer, producer, stranger));
        sandbox.stop().await.unwrap();
    }
}
