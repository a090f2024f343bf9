//! The users of Kafka: each service has one, which may do what its manifest says and nothing else.

use std::collections::BTreeSet;

use common::manifest::ServiceSpec;
use contract::events::TOPICS;
use serde_json::{Value, json};
use stampede::services::SERVICES;

use super::{WRITE_THEM, name, of_kind, rendered, texts};
use crate::tidy::holds;

/// One user may do one thing with what has a certain name, or a name that begins so.
#[derive(Clone, Debug)]
pub struct Right {
    pub user: String,
    /// `topic` or `group`.
    pub kind: String,
    pub name: String,
    pub is_prefix: bool,
    pub operation: String,
}

impl Right {
    fn covers(&self, kind: &str, resource: &str, operation: &str) -> bool {
        let is_named = if self.is_prefix { resource.starts_with(&self.name) } else { resource == self.name };
        self.kind == kind && is_named && self.operation == operation
    }
}

/// What the KafkaUsers of an overlay may do.
pub fn rights(objects: &[Value]) -> Vec<Right> {
    let mut rights = Vec::new();
    for user in of_kind(objects, "KafkaUser") {
        for rule in user["spec"]["authorization"]["acls"].as_array().into_iter().flatten() {
            let resource = &rule["resource"];
            let text = |value: &Value| value.as_str().expect("a KafkaUser says it").to_owned();
            rights.extend(texts(&rule["operations"]).into_iter().map(|operation| Right {
                user: name(user).to_owned(),
                kind: text(&resource["type"]),
                name: text(&resource["name"]),
                is_prefix: resource["patternType"] == "prefix",
                operation: operation.to_owned(),
            }));
        }
    }
    rights
}

/// The topics that a service reads.
pub fn reads(service: &ServiceSpec) -> BTreeSet<&'static str> {
    service.consumes.iter().chain(service.hears).copied().collect()
}

/// The names of groups that its clients have, as `common::kafka` makes them.
fn groups(service: &ServiceSpec) -> Vec<String> {
    let consumers = (!service.consumes.is_empty()).then(|| format!("{}@cluster", service.name));
    let readers = (!service.hears.is_empty()).then(|| format!("{}-0198c0de@cluster", service.name));
    consumers.into_iter().chain(readers).collect()
}

#[test]
fn each_service_has_a_user_of_kafka_that_may_do_what_its_manifest_says() {
    for (overlay, objects) in &rendered().overlays {
        let users: BTreeSet<&str> = of_kind(objects, "KafkaUser").map(name).collect();
        let scaler = of_kind(objects, "ScaledObject").next().map(|_| "keda");
        let others = scaler.into_iter().chain(["operator"]);
        let expected: BTreeSet<&str> = SERVICES.iter().map(|service| service.name).chain(others).collect();
        assert_eq!(users, expected, "{overlay}");
        let rights = rights(objects);
        let mut wrong = Vec::new();
        for service in SERVICES {
            let own: Vec<&Right> = rights.iter().filter(|right| right.user == service.name).collect();
            let named = |operation: &str| -> BTreeSet<&str> {
                let topics = own.iter().filter(|right| right.kind == "topic" && right.operation == operation);
                topics.map(|right| right.name.as_str()).collect()
            };
            assert_eq!(named("Write"), service.produces.iter().copied().collect(), "{overlay}: {}", service.name);
            assert_eq!(named("Read"), reads(service), "{overlay}: {}", service.name);
            assert_eq!(named("Describe"), service.topics().collect(), "{overlay}: {}", service.name);
            for group in SERVICES.iter().flat_map(groups) {
                let is_own = groups(service).contains(&group);
                let may = ["Read", "Describe"].map(|does| own.iter().any(|right| right.covers("group", &group, does)));
                if may != [is_own; 2] {
                    wrong.push(format!("{overlay}: {} may read and describe the group {group}: {may:?}", service.name));
                }
            }
        }
        // Operators' commands look at everything.
        let operator: Vec<&Right> = rights.iter().filter(|right| right.user == "operator").collect();
        let sees = |kind, name: &str| operator.iter().any(|right| right.covers(kind, name, "Read"));
        let sees_all = TOPICS.iter().all(|topic| sees("topic", topic)) && sees("group", "audit-0198c0de");
        assert!(sees_all && operator.iter().all(|right| right.operation != "Write"), "{overlay}: {operator:?}");
        let more = rights.iter().filter(|right| {
            let is_plain = ["Write", "Read", "Describe"].contains(&right.operation.as_str());
            let is_whole = right.name.is_empty() || (right.kind == "topic" && right.is_prefix);
            !is_plain || is_whole || !["topic", "group"].contains(&right.kind.as_str())
        });
        wrong.extend(more.map(|right| format!("{overlay}: {right:?}")));
        holds("Strimzi makes topics, and nobody else has rights over them or over the cluster.", wrong);
    }
}

#[test]
fn kafka_asks_everybody_for_a_password_over_tls_and_every_pod_has_its_own() {
    for (overlay, objects) in &rendered().overlays {
        let kafka = &of_kind(objects, "Kafka").next().expect("there is a Kafka")["spec"];
        assert_eq!(kafka["kafka"]["authorization"], json!({ "type": "simple" }), "{overlay}");
        let listeners = kafka["kafka"]["listeners"].as_array().expect("it listens");
        let guarded = |listener: &Value| {
            listener["tls"] == true && listener["authentication"] == json!({ "type": "scram-sha-512" })
        };
        assert!(!listeners.is_empty() && listeners.iter().all(guarded), "{overlay}: {listeners:?}");
        let settings = of_kind(objects, "ConfigMap").find(|object| name(object).starts_with("stampede-"));
        let setting = |key: &str| settings.and_then(|all| all["data"][format!("STAMPEDE__KAFKA__{key}")].as_str());
        assert_eq!(setting("SECURITY"), Some("sasl_ssl"), "{overlay}");
        let (host, port) = setting("BROKERS").and_then(|at| at.rsplit_once(':')).expect("it says where Kafka is");
        assert_eq!((host, port), ("stampede-kafka-bootstrap", listeners[0]["port"].to_string().as_str()), "{overlay}");
        let prefix = kafka["entityOperator"]["userOperator"]["secretPrefix"].as_str().expect("secrets have a prefix");
        for service in SERVICES {
            for (kind, of) in [("Deployment", service.name.to_owned()), ("Job", format!("{}-migrate", service.name))] {
                let object = of_kind(objects, kind).find(|object| name(object) == of);
                let object = object.unwrap_or_else(|| panic!("there is no {kind} {of}: {WRITE_THEM}"));
                let (pod, container) =
                    (&object["spec"]["template"]["spec"], &object["spec"]["template"]["spec"]["containers"][0]);
                let has = |list: &Value, wanted: &Value| list.as_array().is_some_and(|all| all.contains(wanted));
                let user = json!({ "name": "STAMPEDE__KAFKA__USERNAME", "value": service.name });
                assert!(has(&container["env"], &user), "{overlay}: {kind} {of} has no name");
                let secret = |name: &str, key: &str| json!({ "secret": { "name": name, "items": [{ "key": key, "path": key }] } });
                let sources = [
                    secret(&format!("{prefix}{}", service.name), "password"),
                    secret("stampede-cluster-ca-cert", "ca.crt"),
                ];
                let volume = json!({ "name": "kafka", "projected": { "defaultMode": 0o440, "sources": sources } });
                assert!(has(&pod["volumes"], &volume), "{overlay}: {kind} {of} has no password");
                let mount = json!({ "name": "kafka", "mountPath": "/run/secrets/kafka", "readOnly": true });
                assert!(has(&container["volumeMounts"], &mount), "{overlay}: {kind} {of} does not see it");
            }
        }
    }
}

#[test]
fn keda_logs_in_at_kafka_and_sees_what_waits_and_no_more() {
    let objects = &rendered().overlays["sale-day"];
    let of = |kind: &'static str, wanted: &'static str| {
        of_kind(objects, kind).find(|object| name(object) == wanted).unwrap_or_else(|| panic!("no {kind} {wanted}"))
    };
    let login = &of("TriggerAuthentication", "kafka")["spec"];
    let from = |list: &Value, parameter: &str| -> Option<(String, String)> {
        let found = list.as_array()?.iter().find(|each| each["parameter"] == parameter)?;
        Some((found["name"].as_str()?.to_owned(), found["key"].as_str()?.to_owned()))
    };
    let (map, key) = from(&login["configMapTargetRef"], "username").expect("it has a name");
    let map = of_kind(objects, "ConfigMap").find(|object| name(object) == map).expect("the ConfigMap is there");
    assert_eq!(map["data"][key], "keda");
    let secret = |parameter| from(&login["secretTargetRef"], parameter);
    assert_eq!(secret("password"), Some(("kafka-keda".to_owned(), "password".to_owned())));
    assert_eq!(secret("ca"), Some(("stampede-cluster-ca-cert".to_owned(), "ca.crt".to_owned())));
    let triggers = of_kind(objects, "ScaledObject").flat_map(|object| object["spec"]["triggers"].as_array()).flatten();
    let triggers: Vec<&Value> = triggers.filter(|trigger| trigger["type"] == "kafka").collect();
    assert!(triggers.len() > 3, "{triggers:?}");
    for trigger in triggers {
        assert_eq!(trigger["authenticationRef"], json!({ "name": "kafka" }));
        let said = &trigger["metadata"];
        assert_eq!([&said["sasl"], &said["tls"], &said["version"]], ["scram_sha512", "enable", "3.6.0"]);
        // KEDA is in another namespace.
        assert_eq!(said["bootstrapServers"], "stampede-kafka-bootstrap.stampede.svc:9093");
    }
    let rights = rights(objects);
    let own: Vec<&Right> = rights.iter().filter(|right| right.user == "keda").collect();
    assert!(own.iter().all(|right| right.operation == "Describe"), "{own:?}");
    for service in SERVICES {
        let sees = |kind, what: &str| own.iter().any(|right| right.covers(kind, what, "Describe"));
        let topics = service.consumes.iter().all(|topic| sees("topic", topic));
        let group = format!("{}@cluster", service.name);
        assert!(topics && sees("group", &group) != service.consumes.is_empty(), "{}", service.name);
    }
}
