//! Kafka: whether it answers, and whether the topics are there with their partitions and replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::kafka::{KafkaSettings, client_config};
use common::manifest::ServiceSpec;
use common::settings::Settings;
use contract::events::TOPICS;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::Report;

const CHECK: &str = "kafka";

/// What the brokers say.
#[derive(Debug, Default)]
struct Cluster {
    brokers: usize,
    /// By their names on the broker.
    topics: BTreeMap<String, Topic>,
}

#[derive(Debug, Default, Clone)]
struct Topic {
    partitions: usize,
    /// Of the partition that has the fewest.
    replicas: usize,
    /// Partitions that nobody can write to for now.
    without_leader: usize,
}

/// Looks at the topics that `services` have to do with: a broker may hide others from the user of a service.
pub async fn examine(settings: &Settings, services: &[ServiceSpec], report: &mut Report) -> anyhow::Result<()> {
    let own: KafkaSettings = settings.section("kafka")?;
    let namespace: String = settings.section("host.namespace")?;
    let asked = own.clone();
    match tokio::task::spawn_blocking(move || ask(&asked)).await? {
        Ok(cluster) => judge(&cluster, &own, (&namespace, services), report),
        Err(error) => report.fail(
            CHECK,
            format!("no broker of {} answers: {error}", own.brokers),
            "start Kafka, or set kafka.brokers (STAMPEDE__KAFKA__BROKERS); until then events wait in the outboxes",
        ),
    }
    Ok(())
}

/// Blocking.
fn ask(settings: &KafkaSettings) -> anyhow::Result<Cluster> {
    let client: BaseConsumer = client_config(settings).create()?;
    let metadata = client.fetch_metadata(None, Duration::from_millis(settings.request_timeout_ms))?;
    let topics = metadata.topics().iter().map(|topic| {
        let partitions = topic.partitions();
        let about = Topic {
            partitions: partitions.len(),
            replicas: partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or_default(),
            without_leader: partitions.iter().filter(|partition| partition.leader() < 0).count(),
        };
        (topic.name().to_owned(), about)
    });
    Ok(Cluster { brokers: metadata.brokers().len(), topics: topics.collect() })
}

fn judge(
    cluster: &Cluster,
    settings: &KafkaSettings,
    (namespace, services): (&str, &[ServiceSpec]),
    report: &mut Report,
) {
    let Cluster { brokers, topics } = cluster;
    let (partitions, replicas) = (settings.partitions.unsigned_abs() as usize, settings.replication_factor);
    if *brokers < replicas.unsigned_abs() as usize {
        report.fail(
            CHECK,
            format!("kafka.replication_factor is {replicas}, and there are {brokers} brokers: no topic can be created"),
            "start more brokers, or lower kafka.replication_factor",
        );
    }
    let wanted: BTreeSet<&str> = services.iter().flat_map(ServiceSpec::topics).collect();
    let own: Vec<(&str, String, Option<&Topic>)> = TOPICS
        .iter()
        .filter(|topic| wanted.contains(**topic))
        .map(|topic| (*topic, format!("{namespace}{topic}")))
        .map(|(topic, name)| (topic, name.clone(), topics.get(&name)))
        .collect();
    // The others are created with their first event.
    let is_heard = |topic: &str| services.iter().any(|service| service.consumes.contains(&topic));
    let missing: Vec<&str> = own
        .iter()
        .filter(|(topic, _, found)| found.is_none() && is_heard(topic))
        .map(|(_, name, _)| name.as_str())
        .collect();
    if !missing.is_empty() {
        report.warn(
            CHECK,
            format!("{} topics are missing: {}", missing.len(), missing.join(", ")),
            format!(
                "start the services, which create them; where they may not, create them with {partitions} partitions and \
                 {replicas} replicas"
            ),
        );
    }
    let there = own.iter().filter_map(|(_, name, topic)| Some((name, (*topic)?)));
    let mut is_fine = missing.is_empty();
    for (name, topic) in there.clone() {
        is_fine &= judge_topic(name, topic, settings, report);
    }
    if is_fine {
        report.ok(
            CHECK,
            format!(
                "{brokers} brokers; {} of {} topics are there, with {partitions} partitions each",
                there.count(),
                own.len()
            ),
        );
    }
}

/// Whether it is as the settings say.
fn judge_topic(name: &str, topic: &Topic, settings: &KafkaSettings, report: &mut Report) -> bool {
    let (partitions, replicas) = (settings.partitions.unsigned_abs() as usize, settings.replication_factor);
    let mut is_fine = true;
    let mut odd = |found: String, remedy: &str| {
        is_fine = false;
        report.warn(CHECK, found, remedy);
    };
    if topic.partitions != partitions {
        odd(
            format!("the topic {name} has {} partitions, kafka.partitions is {partitions}", topic.partitions),
            "set kafka.partitions to what there is. Adding partitions moves keys: do it only while the outboxes are empty \
             and all is applied",
        );
    }
    if (topic.replicas as i32) < replicas {
        odd(
            format!("the topic {name} has {} replicas, kafka.replication_factor is {replicas}", topic.replicas),
            "add replicas with kafka-reassign-partitions.sh",
        );
    }
    if topic.without_leader > 0 {
        odd(
            format!("{} partitions of the topic {name} have no leader: their events wait", topic.without_leader),
            "bring the brokers back that have them; kafka-topics.sh --describe --unavailable-partitions",
        );
    }
    is_fine
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::services::{self, SERVICES};

    fn settings() -> KafkaSettings {
        common::settings::Settings::defaults().unwrap().section("kafka").unwrap()
    }

    fn judged(cluster: &Cluster) -> Vec<(Level, String)> {
        judged_for(cluster, SERVICES)
    }

    fn judged_for(cluster: &Cluster, services: &[ServiceSpec]) -> Vec<(Level, String)> {
        let mut report = Report::default();
        let settings = KafkaSettings { partitions: 2, replication_factor: 1, ..settings() };
        judge(cluster, &settings, ("n_", services), &mut report);
        report.findings.into_iter().map(|finding| (finding.level, finding.found)).collect()
    }

    #[test]
    fn a_topic_that_is_missing_or_made_otherwise_is_named() {
        let topic = Topic { partitions: 2, replicas: 1, without_leader: 0 };
        let topics = TOPICS.map(|name| (format!("n_{name}"), topic.clone()));
        let mut cluster = Cluster { brokers: 1, topics: topics.into_iter().collect() };
        assert_eq!(judged(&cluster).iter().map(|(level, _)| *level).collect::<Vec<_>>(), [Level::Ok]);
        for (change, told) in [
            (Topic { partitions: 1, ..topic.clone() }, "has 1 partitions, kafka.partitions is 2"),
            (Topic { replicas: 0, ..topic.clone() }, "0 replicas"),
            (Topic { without_leader: 1, ..topic.clone() }, "no leader"),
        ] {
            cluster.topics.insert("n_ORDER_PLACED".to_owned(), change);
            let found = judged(&cluster);
            assert!(
                found.len() == 1 && found[0].1.contains("n_ORDER_PLACED") && found[0].1.contains(told),
                "{found:?}"
            );
        }
        cluster.topics.remove("n_ORDER_PLACED");
        let found = judged(&cluster);
        assert!(found[0].0 == Level::Warning && found[0].1.ends_with("missing: n_ORDER_PLACED"), "{found:?}");
        let account = [services::find("account").expect("it is a service")];
        assert_eq!(judged_for(&cluster, &account)[0].0, Level::Ok, "account has nothing to do with that topic");
        cluster.brokers = 0;
        assert_eq!(judged(&cluster)[0].0, Level::Error);
    }
}
