//! Who may do what in Kafka: a user for each service, by its manifest, and one for whoever scales. Nobody may make a topic:
//! Strimzi makes those of the contract.

use std::collections::BTreeSet;

use common::manifest::ServiceSpec;
use contract::events::TOPICS;

use super::fill;
use crate::services::SERVICES;

const USER: &str = include_str!("kafka_user.yaml");
const RULE: &str = include_str!("kafka_rule.yaml");
const AUTHORIZATION: &str = "  authorization:\n    type: simple\n    acls:\n";

/// Who looks how many events wait.
const SCALER: &str = "keda";
/// Whose commands look at everything, and what the groups of these begin with.
const OPERATOR: (&str, &str) = ("operator", "audit-");

/// A service writes what it produces, and reads what it consumes and hears, in groups of its own.
pub(super) fn of_service(spec: &ServiceSpec) -> String {
    let heard: BTreeSet<&str> = spec.consumes.iter().chain(spec.hears).copied().collect();
    let writes = spec.produces.iter().map(|topic| rule("topic", topic, "literal", "Write, Describe"));
    let reads = heard.into_iter().map(|topic| rule("topic", topic, "literal", "Read, Describe"));
    let groups = [consumers(spec), readers(spec)].into_iter().flatten();
    let groups = groups.map(|prefix| rule("group", &prefix, "prefix", "Read, Describe"));
    user(spec.name, &writes.chain(reads).chain(groups).collect::<String>())
}

/// Operators' commands read every topic, and write to none.
pub(super) fn of_operators() -> String {
    let (name, groups) = OPERATOR;
    let topics = TOPICS.iter().map(|topic| rule("topic", topic, "literal", "Read, Describe"));
    user(name, &topics.chain([rule("group", groups, "prefix", "Read, Describe")]).collect::<String>())
}

/// KEDA compares what groups have committed with what is there, and reads nothing.
pub(super) fn of_scaler() -> String {
    let consumed: BTreeSet<&str> = SERVICES.iter().flat_map(|spec| spec.consumes).copied().collect();
    let topics = consumed.into_iter().map(|topic| rule("topic", topic, "literal", "Describe"));
    let groups = SERVICES.iter().filter_map(consumers).map(|prefix| rule("group", &prefix, "prefix", "Describe"));
    user(SCALER, &topics.chain(groups).collect::<String>())
}

/// What the name of its consumers' group begins with: the cluster's id comes after it.
fn consumers(spec: &ServiceSpec) -> Option<String> {
    (!spec.consumes.is_empty()).then(|| format!("{}@", spec.name))
}

/// Likewise of a listener, which has a group's name of its own in each replica.
fn readers(spec: &ServiceSpec) -> Option<String> {
    (!spec.hears.is_empty()).then(|| format!("{}-", spec.name))
}

/// Whoever has no rule may do nothing but log in.
fn user(name: &str, rules: &str) -> String {
    let authorization = if rules.is_empty() { String::new() } else { format!("{AUTHORIZATION}{rules}") };
    let text = fill(USER, &[("name", name), ("authorization", authorization.trim_end())]);
    format!("{}\n", text.trim_end())
}

fn rule(kind: &str, resource: &str, pattern: &str, operations: &str) -> String {
    fill(RULE, &[("kind", kind), ("resource", resource), ("pattern", pattern), ("operations", operations)])
}
