//! Notices a client that has forgotten its brokers (ADR 11, no. 1).

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;

use super::{ConsumerClient, in_own_thread};
use crate::kafka::Kafka;

/// After this long without an answer it is checked whether a broker still answers.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// The time since a broker last answered a client.
pub(crate) struct Silence(Instant);

impl Silence {
    /// The client is new, or a broker has just answered it.
    pub fn begins_now() -> Silence {
        Silence(Instant::now())
    }

    /// Whether `client` reaches no broker while others do: it would wait for ever. Looked at after a silence only, since it
    /// costs a request for metadata of `topic`.
    pub async fn is_endless(&mut self, kafka: &Kafka, client: &Arc<ConsumerClient>, topic: Option<&str>) -> bool {
        if self.0.elapsed() < SILENCE_MAX {
            return false;
        }
        let (topic, limit) = (topic.map(|topic| kafka.topic(topic)), kafka.request_timeout());
        let answers = || ping(client.clone(), topic.clone(), limit);
        let asked_at = Instant::now();
        if !answers().await {
            if kafka.cluster_id_since(asked_at).await.is_err() {
                return false;
            }
            // Once more after the other client: the broker may have come back in between.
            if !answers().await {
                return true;
            }
        }
        *self = Silence::begins_now();
        false
    }
}

/// Whether a broker answers this client within `limit`. A client that has forgotten all brokers gets no answer.
async fn ping(client: Arc<ConsumerClient>, topic: Option<String>, limit: Duration) -> bool {
    let metadata = in_own_thread(move || client.fetch_metadata(topic.as_deref(), limit)).await;
    metadata.is_ok_and(|answer| answer.is_ok_and(|metadata| !metadata.brokers().is_empty()))
}
