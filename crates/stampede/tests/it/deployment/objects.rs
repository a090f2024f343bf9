//! What the objects say agrees with the code: paths, replicas, topics, schemas.

use std::collections::BTreeSet;

use common::rpc::ServiceKey;
use common::settings::Settings;
use contract::events::TOPICS;
use serde_json::Value;
use stampede::services::SERVICES;

use super::{has_gateway_api, name, of_kind, paths_of, rendered, texts};
use crate::tidy::{self, holds};

/// Connections of a service's relay beside those of its pool.
const OF_A_RELAY: u64 = 2;

/// Patterns of a path table, each with its service, in the order in which they are tried.
fn ingress_table(objects: &[Value]) -> Vec<(String, String)> {
    let rules = of_kind(objects, "Ingress").flat_map(|ingress| ingress["spec"]["rules"].as_array()).flatten();
    let paths = rules.flat_map(|rule| rule["http"]["paths"].as_array()).flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut table: Vec<_> =
        paths.map(|path| (text(&path["path"]), text(&path["backend"]["service"]["name"]))).collect();
    // ingress-nginx tries the longest first.
    table.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
    table
}

fn route_table(objects: &[Value]) -> Vec<(String, String)> {
    let mut table = Vec::new();
    for route in of_kind(objects, "HTTPRoute") {
        for rule in route["spec"]["rules"].as_array().into_iter().flatten() {
            for path in rule["matches"].as_array().into_iter().flatten().map(|each| &each["path"]) {
                let value = path["value"].as_str().unwrap_or_default();
                let pattern = match path["type"].as_str() {
                    Some("RegularExpression") => value.replace("(/.*)?", "(/|$)"),
                    _ => format!("{value}(/|$)"),
                };
                table.push((pattern, rule["backendRefs"][0]["name"].as_str().unwrap_or_default().to_owned()));
            }
        }
    }
    // Patterns come before prefixes, and of prefixes the longest.
    table.sort_by_key(|(pattern, _)| (!pattern.contains("[^/]+"), std::cmp::Reverse(pattern.len())));
    table
}

/// Whether `path` begins as `pattern` says, of which only `[^/]+` and the end `(/|$)` are used.
fn matches(pattern: &str, path: &str) -> bool {
    let prefix = pattern.strip_suffix("(/|$)").unwrap_or_else(|| panic!("{pattern} has no end"));
    let (mut wanted, mut found) = (split(prefix), path.split('/'));
    wanted.all(|part| found.next().is_some_and(|found| part == "[^/]+" || part.replace('\\', "") == found))
}

/// The segments of a pattern: the slash of `[^/]` is none.
fn split(pattern: &str) -> impl Iterator<Item = String> {
    let marked = pattern.replace("[^/]+", "\0");
    marked.split('/').map(|part| part.replace('\0', "[^/]+")).collect::<Vec<_>>().into_iter()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ingress_and_routes_lead_every_path_of_the_api_to_its_service() {
    let mut wrong = Vec::new();
    for (overlay, objects) in &rendered().overlays {
        let table = if has_gateway_api(overlay) { route_table(objects) } else { ingress_table(objects) };
        let known: BTreeSet<(String, String)> = SERVICES
            .iter()
            .flat_map(|service| {
                // Streams have rules of their own where a rule limits the time of answers.
                let streams = service.streams.iter().filter(|_| has_gateway_api(overlay));
                service
                    .paths
                    .iter()
                    .chain(streams)
                    .map(|path| (path.replace('.', "\\.").replace('*', "[^/]+"), service.name))
            })
            .map(|(path, service)| (format!("{path}(/|$)"), service.to_owned()))
            .collect();
        let plain = |table: &[(String, String)]| -> BTreeSet<(String, String)> {
            table.iter().map(|(pattern, service)| (pattern.replace("\\.", "."), service.clone())).collect()
        };
        assert_eq!(plain(&table), plain(&known.into_iter().collect::<Vec<_>>()), "{overlay}: paths of SERVICES");
        for service in SERVICES {
            for path in paths_of(service).await {
                let found =
                    table.iter().find(|(pattern, _)| matches(pattern, &path)).map(|(_, service)| service.as_str());
                if found != Some(service.name) {
                    wrong.push(format!("{overlay}: {path} of {} reaches {found:?}", service.name));
                }
            }
        }
        let ingresses = of_kind(objects, "Ingress").count();
        assert_eq!(ingresses, usize::from(!has_gateway_api(overlay)), "{overlay} has one gateway");
    }
    holds("paths", wrong);
}

#[test]
fn every_service_has_its_objects_and_one_who_scales_it() {
    for (overlay, objects) in &rendered().overlays {
        for service in SERVICES {
            let named =
                |kind: &str, wanted: &str| of_kind(objects, kind).filter(|object| name(object) == wanted).count();
            for kind in ["ServiceAccount", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"] {
                assert_eq!(named(kind, service.name), 1, "{overlay}: {kind} {}", service.name);
            }
            assert_eq!(
                named("Job", &format!("{}-migrate", service.name)),
                1,
                "{overlay}: who migrates {}?",
                service.name
            );
            let scalers = named("HorizontalPodAutoscaler", service.name) + named("ScaledObject", service.name);
            assert_eq!(scalers, 1, "{overlay}: two that scale {} would fight", service.name);
        }
        let deployments = of_kind(objects, "Deployment").filter(|it| !it["spec"]["replicas"].is_null());
        let fixed: Vec<&str> = deployments.map(name).filter(|deployment| *deployment != "redis").collect();
        assert!(fixed.is_empty(), "{overlay}: each deployment would set these back: {fixed:?}");
    }
}

/// A name that stands for all pods: behind one address, all calls of a connection would go to one of them.
#[test]
fn calls_between_services_are_spread_over_all_pods() {
    for (overlay, objects) in &rendered().overlays {
        let settings = of_kind(objects, "ConfigMap").find(|object| name(object).starts_with("stampede-"));
        for service in SERVICES {
            let host = format!("{}-grpc", service.name);
            let variable = format!("STAMPEDE__UPSTREAMS__{}", service.name.replace('-', "_").to_uppercase());
            let said = settings.and_then(|settings| settings["data"][&variable].as_str());
            let scheme = if overlay.starts_with("prod-mtls") { "https" } else { "http" };
            assert_eq!(said, Some(format!("{scheme}://{host}:9090").as_str()), "{overlay}");
            let found = of_kind(objects, "Service").find(|object| name(object) == host);
            assert_eq!(found.map(|object| &object["spec"]["clusterIP"]), Some(&"None".into()), "{overlay}: {host}");
        }
    }
}

/// Whoever calls others has a key that those believe. In production nobody but its owner knows it.
#[test]
fn each_service_that_calls_others_has_a_key_of_its_own() {
    let public_of = |key: &Value| {
        let key = ServiceKey::read(key.as_str().unwrap_or_default()).expect("it is a private key");
        key.public().to_owned()
    };
    let mut seen = BTreeSet::new();
    for service in SERVICES.iter().filter(|service| !service.deploy.calls.is_empty()) {
        let variable = format!("STAMPEDE__RPC__PUBLIC_KEYS__{}", service.name.replace('-', "_").to_uppercase());
        for (overlay, objects) in &rendered().overlays {
            let settings = of_kind(objects, "ConfigMap").find(|object| name(object).starts_with("stampede-"));
            let said = settings.and_then(|settings| settings["data"][&variable].as_str());
            let secret = format!("stampede-{}", service.name);
            let secret = of_kind(objects, "Secret").find(|object| name(object) == secret).expect("it has a secret");
            let expected = match overlay.as_str() {
                "dev" => public_of(&secret["stringData"]["rpc.token_key"]),
                // Whoever deploys it says which.
                _ => String::new(),
            };
            assert_eq!(said, Some(expected.as_str()), "{overlay}: {variable}");
        }
        let key = &rendered().compose["services"][service.name]["environment"]["STAMPEDE__RPC__TOKEN_KEY"];
        let file = tidy::root().join("k8s/components/dev-secrets/public-keys.env");
        let public = std::fs::read_to_string(file).expect("the compose file reads it");
        let line = format!("{variable}={}", public_of(key));
        assert!(public.lines().any(|found| found == line), "{line}");
        assert!(seen.insert(line), "{} has a key of its own", service.name);
    }
    assert!(seen.len() > 3, "{seen:?}");
}

/// Whoever is called by a name has a certificate for it, and for the name that says which service it is.
#[test]
fn with_tls_between_services_each_pod_has_its_certificate() {
    let objects = &rendered().overlays["prod-mtls"];
    let mounts: Vec<(String, &Value)> = ["Deployment", "Job"]
        .into_iter()
        .flat_map(|kind| {
            of_kind(objects, kind).map(|object| (name(object).to_owned(), &object["spec"]["template"]["spec"]))
        })
        .collect();
    for service in SERVICES {
        let secret = format!("{}-rpc", service.name);
        let certificate = of_kind(objects, "Certificate").find(|object| name(object) == secret);
        let certificate = certificate.unwrap_or_else(|| panic!("{} has no certificate", service.name));
        assert_eq!(certificate["spec"]["secretName"], secret.as_str());
        assert_eq!(
            texts(&certificate["spec"]["dnsNames"]),
            [service.name.to_owned(), format!("{}-grpc", service.name)]
        );
        for pod in [service.name.to_owned(), format!("{}-migrate", service.name)] {
            let (_, spec) = mounts.iter().find(|(name, _)| *name == pod).expect("it is there");
            let volumes = spec["volumes"].as_array().into_iter().flatten();
            let is_mounted = volumes.filter(|volume| volume["secret"]["secretName"] == secret.as_str()).count();
            assert_eq!(is_mounted, 1, "{pod}");
        }
    }
}

/// Each replica takes its part of a limit while Redis is away, so all of them together must not be more than they know of.
#[test]
fn limits_that_replicas_share_know_how_many_there_are() {
    let hub = SERVICES.iter().find(|service| service.name == "notification-hub").expect("it has such limits");
    // During a deployment there is one more.
    let most = hub.deploy.replicas_max + 1;
    for (overlay, objects) in &rendered().overlays {
        let settings = of_kind(objects, "ConfigMap").find(|object| name(object).starts_with("stampede-"));
        let variable = "STAMPEDE__NOTIFICATION_HUB__TARGETS__REPLICAS";
        let said = settings.and_then(|settings| settings["data"][variable].as_str()?.parse::<u32>().ok());
        assert!(said.is_some_and(|said| said >= most), "{overlay}: {variable} is {said:?}, and {most} may run");
    }
}

#[test]
fn before_a_sale_the_replicas_are_there() {
    let objects = &rendered().overlays["sale-day"];
    for service in SERVICES {
        let scaled =
            of_kind(objects, "ScaledObject").find(|object| name(object) == service.name).expect("it is scaled");
        let most = scaled["spec"]["maxReplicaCount"].as_u64();
        assert_eq!(most, Some(service.deploy.replicas_max.into()), "{}", service.name);
        let triggers = scaled["spec"]["triggers"].as_array().expect("triggers");
        let of = |kind: &'static str| triggers.iter().filter(move |trigger| trigger["type"] == kind);
        assert_eq!(of("kafka").count(), usize::from(!service.consumes.is_empty()), "{}: lag", service.name);
        let group = format!("{}@set-me", service.name);
        assert!(of("kafka").all(|trigger| trigger["metadata"]["consumerGroup"] == group.as_str()), "{}", service.name);
        let asked: Vec<u64> =
            of("cron").filter_map(|cron| cron["metadata"]["desiredReplicas"].as_str()?.parse().ok()).collect();
        assert!(!asked.is_empty(), "{} begins to scale when the buyers are there", service.name);
        assert!(
            asked.iter().all(|asked| Some(*asked) <= most),
            "{}: {asked:?} replicas before a sale, of {most:?}",
            service.name
        );
    }
}

#[test]
fn postgresql_has_room_for_every_replica_and_a_role_for_each_schema() {
    let settings = Settings::defaults().expect("they can be read");
    let postgres: common::db::DbSettings = settings.section("postgres").expect("the section");
    let each = u64::from(postgres.connections_max) + OF_A_RELAY;
    // During a deployment one more replica of each runs.
    let needed: u64 = SERVICES.iter().map(|service| (u64::from(service.deploy.replicas_max) + 1) * each).sum();
    for (overlay, objects) in &rendered().overlays {
        let cluster = of_kind(objects, "Cluster").next().unwrap_or_else(|| panic!("{overlay} has no database"));
        let room = cluster["spec"]["postgresql"]["parameters"]["max_connections"].as_str();
        let room: u64 = room.and_then(|room| room.parse().ok()).expect("a number");
        assert!(
            room >= needed + 10,
            "{overlay}: max_connections is {room}; the replicas need {needed}, and 10 are for others"
        );
        let schemas: BTreeSet<String> = SERVICES.iter().map(|service| service.name.replace('-', "_")).collect();
        let named = |list: &Value| -> BTreeSet<String> {
            list.as_array().into_iter().flatten().filter_map(|each| Some(each["name"].as_str()?.to_owned())).collect()
        };
        let mut roles = named(&cluster["spec"]["managed"]["roles"]);
        assert!(roles.remove("operator"), "{overlay}: operators have a role that owns nothing");
        assert_eq!(roles, schemas, "{overlay}");
        let database = of_kind(objects, "Database").next().expect("a database");
        assert_eq!(named(&database["spec"]["schemas"]), schemas, "{overlay}");
    }
}

#[test]
fn kafka_has_the_topics_of_the_contract_and_loses_none() {
    for (overlay, objects) in &rendered().overlays {
        let topics: BTreeSet<&str> =
            of_kind(objects, "KafkaTopic").filter_map(|topic| topic["spec"]["topicName"].as_str()).collect();
        assert_eq!(topics, TOPICS.into_iter().collect(), "{overlay}");
        let kafka = of_kind(objects, "Kafka").next().expect("there is a Kafka");
        let config = &kafka["spec"]["kafka"]["config"];
        assert_eq!(config["auto.create.topics.enable"], false, "{overlay}");
        assert_eq!(config["unclean.leader.election.enable"], false, "{overlay}");
        let replicas = if overlay == "dev" { 1 } else { 3 };
        let copies = of_kind(objects, "KafkaTopic").all(|topic| topic["spec"]["replicas"] == replicas);
        assert!(copies, "{overlay}: each topic has {replicas}");
        let settings = of_kind(objects, "ConfigMap").find(|object| name(object).starts_with("stampede-"));
        let settings = settings
            .map(|settings| settings["data"]["STAMPEDE__KAFKA__REPLICATION_FACTOR"].as_str().map(str::to_owned));
        assert_eq!(settings.flatten(), Some(replicas.to_string()), "{overlay}: topics that services make");
    }
}
