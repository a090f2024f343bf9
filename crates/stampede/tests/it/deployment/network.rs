//! Who can talk to whom, by evaluating the NetworkPolicies as Kubernetes does: a connection needs a rule at both ends.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use stampede::services::SERVICES;

use super::{name, of_kind, rendered, texts};
use crate::tidy::holds;

fn labels(name: &str, component: &str) -> Value {
    json!({ "app.kubernetes.io/name": name, "app.kubernetes.io/component": component,
            "app.kubernetes.io/part-of": "stampede" })
}

/// Whether a label selector of Kubernetes selects these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let equal =
        selector["matchLabels"].as_object().is_none_or(|all| all.iter().all(|(key, value)| labels[key] == *value));
    let expressions = selector["matchExpressions"].as_array();
    equal
        && expressions.into_iter().flatten().all(|expression| {
            assert_eq!(expression["operator"], "In", "other operators are not used");
            let value = labels[expression["key"].as_str().unwrap_or_default()].as_str();
            value.is_some_and(|value| texts(&expression["values"]).contains(&value))
        })
}

/// Whether some policy of `pod` lets it talk in this direction with a pod of the same namespace that has the labels `peer`.
fn allows(policies: &[&Value], direction: &str, pod: &Value, peer: &Value, port: u64) -> bool {
    let (rules, peers) = if direction == "Ingress" { ("ingress", "from") } else { ("egress", "to") };
    policies
        .iter()
        .filter(|policy| texts(&policy["spec"]["policyTypes"]).contains(&direction))
        .filter(|policy| selects(&policy["spec"]["podSelector"], pod))
        .flat_map(|policy| policy["spec"][rules].as_array().into_iter().flatten())
        .any(|rule| {
            let ports = rule["ports"].as_array();
            let ports = ports.is_none_or(|ports| {
                ports.iter().any(|allowed| {
                    let first = allowed["port"].as_u64().unwrap_or_default();
                    (first..=allowed["endPort"].as_u64().unwrap_or(first)).contains(&port)
                })
            });
            let named = rule[peers].as_array();
            let named = named.is_none_or(|all| {
                all.iter().any(|other| {
                    !other["podSelector"].is_null()
                        && other["namespaceSelector"].is_null()
                        && selects(&other["podSelector"], peer)
                })
            });
            ports && named
        })
}

fn connects(policies: &[&Value], from: &Value, to: &Value, port: u64) -> bool {
    allows(policies, "Egress", from, to, port) && allows(policies, "Ingress", to, from, port)
}

#[test]
fn services_reach_those_that_they_ask_and_nobody_else() {
    for (overlay, objects) in &rendered().overlays {
        let policies: Vec<&Value> = of_kind(objects, "NetworkPolicy").collect();
        let mut wrong = Vec::new();
        for from in SERVICES {
            for to in SERVICES {
                let (source, target) = (labels(from.name, "service"), labels(to.name, "service"));
                let expected =
                    [(9090, from.deploy.calls.contains(&to.name)), (8080, to.name == "account"), (5432, false)];
                for (port, expected) in expected {
                    // Each end by itself: one that is too wide counts on the other.
                    for (direction, pod, peer) in [("Egress", &source, &target), ("Ingress", &target, &source)] {
                        if allows(&policies, direction, pod, peer, port) != expected {
                            let found = if expected { "closed" } else { "open" };
                            wrong.push(format!("{direction} {} to {}:{port}: {found}", from.name, to.name));
                        }
                    }
                }
            }
        }
        holds(&format!("{overlay}: the edges of the manifests, and account's keys for all"), wrong);
    }
}

#[test]
fn services_reach_the_servers_and_migrations_only_the_database() {
    for (overlay, objects) in &rendered().overlays {
        let policies: Vec<&Value> = of_kind(objects, "NetworkPolicy").collect();
        let postgres = json!({ "cnpg.io/cluster": "stampede-postgres" });
        let kafka = json!({ "strimzi.io/cluster": "stampede", "strimzi.io/kind": "Kafka" });
        let redis = labels("redis", "redis");
        for service in SERVICES {
            let (own, job) = (labels(service.name, "service"), labels(service.name, "migration"));
            assert!(connects(&policies, &own, &postgres, 5432), "{overlay}: {} has no database", service.name);
            assert!(connects(&policies, &own, &redis, 6379), "{overlay}: {} has no Redis", service.name);
            // Strimzi writes the other end from the listener's peers.
            assert!(allows(&policies, "Egress", &own, &kafka, 9093), "{overlay}: {} has no Kafka", service.name);
            let peers =
                of_kind(objects, "Kafka").flat_map(|kafka| kafka["spec"]["kafka"]["listeners"].as_array()).flatten();
            let mut peers = peers.flat_map(|listener| listener["networkPolicyPeers"].as_array()).flatten();
            assert!(
                peers.any(|peer| !peer["podSelector"].is_null() && selects(&peer["podSelector"], &own)),
                "{overlay}"
            );
            assert!(connects(&policies, &job, &postgres, 5432), "{overlay}: {} is not migrated", service.name);
            assert!(!connects(&policies, &job, &redis, 6379) && !allows(&policies, "Egress", &job, &kafka, 9093));
        }
        assert!(!connects(&policies, &redis, &postgres, 5432), "{overlay}: Redis reaches the database");
    }
}

#[test]
fn operators_reach_the_database_and_kafka_and_no_service() {
    for (overlay, objects) in &rendered().overlays {
        let policies: Vec<&Value> = of_kind(objects, "NetworkPolicy").collect();
        let operator = labels("operator", "operator");
        let postgres = json!({ "cnpg.io/cluster": "stampede-postgres" });
        assert!(connects(&policies, &operator, &postgres, 5432), "{overlay}: operators have no database");
        let mut others = SERVICES.iter().map(|service| labels(service.name, "service")).collect::<Vec<_>>();
        others.push(labels("redis", "redis"));
        for other in &others {
            for port in [6379, 8080, 9090] {
                assert!(!allows(&policies, "Egress", &operator, other, port), "{overlay}: operators reach {other}");
                assert!(!allows(&policies, "Ingress", &operator, other, port), "{overlay}: {other} reaches operators");
            }
        }
        let kafka = json!({ "strimzi.io/cluster": "stampede", "strimzi.io/kind": "Kafka" });
        let listeners = of_kind(objects, "Kafka").flat_map(|kafka| kafka["spec"]["kafka"]["listeners"].as_array());
        for listener in listeners.flatten() {
            let port = listener["port"].as_u64().expect("a listener has a port");
            assert!(allows(&policies, "Egress", &operator, &kafka, port), "{overlay}: the audit does not reach Kafka");
            let mut peers = listener["networkPolicyPeers"].as_array().into_iter().flatten();
            assert!(peers.any(|peer| selects(&peer["podSelector"], &operator) && !peer["podSelector"].is_null()));
        }
    }
}

#[test]
fn nothing_else_is_open() {
    for (overlay, objects) in &rendered().overlays {
        let of = |wanted: &str| of_kind(objects, "NetworkPolicy").find(|policy| name(policy) == wanted);
        let deny = of("default-deny").unwrap_or_else(|| panic!("{overlay} allows everything"));
        assert_eq!(texts(&deny["spec"]["policyTypes"]), ["Ingress", "Egress"], "{overlay}");
        assert!(deny["spec"]["ingress"].is_null() && deny["spec"]["egress"].is_null(), "{overlay}");
        assert_eq!(deny["spec"]["podSelector"], json!({}), "{overlay}");
        let wide = of_kind(objects, "NetworkPolicy")
            .filter(|policy| !["default-deny", "dns"].contains(&name(policy)))
            .filter(|policy| {
                let selector = &policy["spec"]["podSelector"];
                selector["matchLabels"].is_null() && selector["matchExpressions"].is_null()
            });
        holds(&format!("{overlay}: a policy is for pods that it names"), wide.map(|it| name(it).to_owned()).collect());
        for service in SERVICES {
            let policy = of(service.name).unwrap_or_else(|| panic!("{overlay}: {} has no policy", service.name));
            let outside: BTreeSet<u64> = policy["spec"]["egress"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|rule| rule.to_string().contains("ipBlock"))
                .flat_map(|rule| rule["ports"].as_array().into_iter().flatten())
                .filter_map(|port| port["port"].as_u64())
                .collect();
            let expected: BTreeSet<u64> = service.deploy.outside.iter().map(|port| u64::from(*port)).collect();
            assert_eq!(outside, expected, "{overlay}: what {} reaches outside", service.name);
        }
        // No rule without peers, but for the API of Kubernetes, which has no labels.
        let open = of_kind(objects, "NetworkPolicy").filter(|policy| {
            let rules = ["ingress", "egress"].map(|kind| (kind, policy["spec"][kind].as_array()));
            let mut rules =
                rules.into_iter().flat_map(|(kind, rules)| rules.into_iter().flatten().map(move |rule| (kind, rule)));
            rules.any(|(kind, rule)| {
                let peers = if kind == "ingress" { &rule["from"] } else { &rule["to"] };
                let ports = rule["ports"].as_array().into_iter().flatten();
                let ports: Vec<u64> = ports.filter_map(|port| port["port"].as_u64()).collect();
                peers.is_null() && !(kind == "egress" && ports == [443, 6443])
            })
        });
        holds(&format!("{overlay}: open to everybody"), open.map(|it| name(it).to_owned()).collect());
    }
}
