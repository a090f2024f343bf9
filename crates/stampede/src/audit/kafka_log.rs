//! What Kafka holds, read from the beginning by a consumer that leaves no trace, and compared with what was recorded.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use common::kafka::{KafkaSettings, client_config};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

/// A broker that sends nothing for so long, although it has something, is away.
const SILENCE_MAX: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(200);

/// An event that a service recorded in its outbox and that its relay says it has published.
#[derive(Debug, Clone, diesel::QueryableByName)]
pub struct Recorded {
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub topic: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub key: String,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    pub aggregate_version: i64,
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    pub event_id: Uuid,
}

/// A message, without what it says.
#[derive(Debug, Clone)]
pub struct Logged {
    pub partition: i32,
    pub event_id: Uuid,
    pub aggregate_version: i64,
}

/// The messages of each topic (without the namespace) and key, in the order of the log.
pub type Log = HashMap<(String, String), Vec<Logged>>;

/// Compares `log` with what was recorded; a sentence for each offence.
pub fn compare(recorded: &[Recorded], log: &Log) -> Vec<String> {
    let mut offences = Vec::new();
    let mut keys: BTreeSet<(&str, &str)> = BTreeSet::new();
    for event in recorded {
        let Recorded { topic, key, aggregate_version: version, event_id } = event;
        let messages = log.get(&(topic.clone(), key.clone())).map_or(&[][..], Vec::as_slice);
        if !messages.iter().any(|message| message.event_id == *event_id) {
            offences.push(format!("{topic} {event_id} of {key}, version {version}, is not in Kafka"));
        }
        keys.insert((topic, key));
    }
    for (topic, key) in keys {
        let messages = log.get(&(topic.to_owned(), key.to_owned())).map_or(&[][..], Vec::as_slice);
        offences.extend(disorder(messages).map(|why| format!("{topic} of {key}: {why}")));
    }
    offences
}

/// Repeats are fine, since consumers drop them. First occurrences must be in the order of versions, in one partition.
fn disorder(messages: &[Logged]) -> Option<String> {
    let mut seen = HashSet::new();
    let mut last: Option<&Logged> = None;
    for message in messages.iter().filter(|message| seen.insert(message.event_id)) {
        if let Some(last) = last {
            if message.partition != last.partition {
                return Some(format!("in partitions {} and {}", last.partition, message.partition));
            }
            if message.aggregate_version <= last.aggregate_version {
                return Some(format!("version {} after {}", message.aggregate_version, last.aggregate_version));
            }
        }
        last = Some(message);
    }
    None
}

/// Reads `topics` (named without `namespace`) from their beginning to where they end now. Blocking.
pub fn read(settings: &KafkaSettings, namespace: &str, topics: &[String]) -> anyhow::Result<Log> {
    let consumer: BaseConsumer = client_config(settings)
        // Needed to be assigned partitions by hand. No member ever joins and no offset is stored.
        .set("group.id", format!("{namespace}audit-{}", Uuid::new_v4()))
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        .create()?;
    let limit = Duration::from_millis(settings.request_timeout_ms);
    let mut assigned = TopicPartitionList::new();
    let mut unread: BTreeMap<(String, i32), i64> = BTreeMap::new();
    for topic in topics {
        let name = format!("{namespace}{topic}");
        let metadata = consumer.fetch_metadata(Some(&name), limit).context("Kafka does not answer")?;
        // A topic that does not exist has an entry without partitions.
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            let (low, high) = consumer.fetch_watermarks(&name, partition.id(), limit)?;
            if low < high {
                assigned.add_partition_offset(&name, partition.id(), Offset::Offset(low))?;
                unread.insert((name.clone(), partition.id()), high);
            }
        }
    }
    let mut log = Log::new();
    consumer.assign(&assigned)?;
    let mut heard = Instant::now();
    while !unread.is_empty() {
        match consumer.poll(POLL) {
            None if heard.elapsed() > SILENCE_MAX => bail!("Kafka is silent about {:?}", unread.keys()),
            None => {}
            // Connections come and go; what counts is whether messages come in the end.
            Some(Err(error)) if heard.elapsed() > SILENCE_MAX => return Err(error.into()),
            Some(Err(_)) => {}
            Some(Ok(message)) => {
                heard = Instant::now();
                let at = (message.topic().to_owned(), message.partition());
                let end = unread.get(&at).copied();
                if end.is_some_and(|end| message.offset() < end) {
                    add(&mut log, namespace, &message);
                }
                if end.is_some_and(|end| message.offset() + 1 >= end) {
                    unread.remove(&at);
                }
            }
        }
    }
    Ok(log)
}

/// A message that is not one of our events is nobody's business here: consumers park it.
fn add(log: &mut Log, namespace: &str, message: &BorrowedMessage<'_>) {
    let header = |name: &str| {
        let found = message.headers()?.iter().find(|header| header.key == name)?;
        std::str::from_utf8(found.value?).ok()
    };
    let event_id = header("ce_id").and_then(|id| id.parse().ok());
    let aggregate_version = header("ce_aggregateversion").and_then(|version| version.parse().ok());
    let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
    if let (Some(event_id), Some(aggregate_version), Some(key)) = (event_id, aggregate_version, key) {
        let topic = message.topic().strip_prefix(namespace).unwrap_or(message.topic());
        let logged = Logged { partition: message.partition(), event_id, aggregate_version };
        log.entry((topic.to_owned(), key.to_owned())).or_default().push(logged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(topic: &str, version: i64) -> Recorded {
        Recorded {
            topic: topic.to_owned(),
            key: "k".to_owned(),
            aggregate_version: version,
            event_id: Uuid::from_u128(version as u128),
        }
    }

    fn log(messages: &[(&str, i32, i64)]) -> Log {
        let mut log = Log::new();
        for (topic, partition, version) in messages {
            let event_id = Uuid::from_u128(*version as u128);
            let logged = Logged { partition: *partition, event_id, aggregate_version: *version };
            log.entry(((*topic).to_owned(), "k".to_owned())).or_default().push(logged);
        }
        log
    }

    #[test]
    fn repeats_and_later_versions_on_another_topic_are_fine() {
        let events = [recorded("CREATED", 1), recorded("CANCELLED", 2)];
        let found = compare(&events, &log(&[("CREATED", 0, 1), ("CANCELLED", 3, 2), ("CREATED", 0, 1)]));
        assert_eq!(found, [""; 0]);
        assert_eq!(
            compare(&[recorded("A", 1), recorded("A", 2)], &log(&[("A", 0, 1), ("A", 0, 2), ("A", 0, 1)])),
            [""; 0]
        );
    }

    #[test]
    fn a_missing_event_is_named() {
        let found = compare(&[recorded("CREATED", 1)], &log(&[("CANCELLED", 0, 1)]));
        assert!(found.len() == 1 && found[0].contains("is not in Kafka"), "{found:?}");
    }

    #[test]
    fn an_inversion_and_a_second_partition_are_named() {
        let events = [recorded("A", 1), recorded("A", 2)];
        for (wrong, why) in [([("A", 0, 2), ("A", 0, 1)], "after 2"), ([("A", 0, 1), ("A", 1, 2)], "partitions")] {
            let found = compare(&events, &log(&wrong));
            assert!(found.len() == 1 && found[0].contains(why), "{found:?}");
        }
    }
}
