//! Rules for every pod of every overlay: what it may do, what it asks for, how it starts and ends.

use std::cell::Cell;
use std::collections::BTreeMap;

use serde_json::{Value, json};
use stampede::services::SERVICES;

use super::{name, of_kind, rendered, texts};
use crate::tidy::holds;

/// A pod's template, and what brings it.
struct Workload<'a> {
    /// Overlay, kind and name, for people.
    place: String,
    object: &'a Value,
    pod: &'a Value,
    objects: &'a [Value],
}

fn workloads() -> impl Iterator<Item = Workload<'static>> {
    rendered().overlays.iter().flat_map(|(overlay, objects)| {
        let own = objects
            .iter()
            .filter(|object| ["Deployment", "Job", "CronJob", "StatefulSet", "DaemonSet"].contains(&kind(object)));
        own.map(move |object| Workload {
            place: format!("{overlay}: {} {}", kind(object), name(object)),
            object,
            pod: match kind(object) {
                "CronJob" => &object["spec"]["jobTemplate"]["spec"]["template"]["spec"],
                _ => &object["spec"]["template"]["spec"],
            },
            objects,
        })
    })
}

/// It serves nobody, and ends by itself.
fn is_job(object: &Value) -> bool {
    ["Job", "CronJob"].contains(&kind(object))
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

/// Collects what `rule` finds wrong with every workload.
fn every(title: &str, rule: impl Fn(&Workload<'_>, &mut dyn FnMut(bool, &str))) {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for workload in workloads() {
        seen += 1;
        rule(&workload, &mut |holds, what| {
            if !holds {
                wrong.push(format!("{}: {what}", workload.place));
            }
        });
    }
    assert!(seen > SERVICES.len() * 2, "only {seen} workloads were found");
    holds(title, wrong);
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["containers", "initContainers"].into_iter().flat_map(|kind| pod[kind].as_array().into_iter().flatten())
}

#[test]
fn no_pod_may_do_more_than_it_needs() {
    every("reliability, security of pods", |workload, rule| {
        let pod = workload.pod;
        let security = &pod["securityContext"];
        rule(security["runAsNonRoot"] == true, "runs as root");
        rule(security["runAsUser"].as_u64().is_some_and(|user| user >= 10_000), "has a user of the node's");
        rule(security["seccompProfile"]["type"] == "RuntimeDefault", "has no seccomp profile");
        rule(pod["automountServiceAccountToken"] == false, "has a token of Kubernetes' API");
        rule(pod["enableServiceLinks"] == false, "has the addresses of all services in its environment");
        let account = pod["serviceAccountName"].as_str().unwrap_or("default");
        let accounts: Vec<&Value> =
            of_kind(workload.objects, "ServiceAccount").filter(|object| name(object) == account).collect();
        rule(
            accounts.iter().any(|object| object["automountServiceAccountToken"] == false),
            "has no account of its own",
        );
        for member in ["hostNetwork", "hostPID", "hostIPC"] {
            rule(pod[member].is_null(), member);
        }
        for container in containers(pod) {
            let security = &container["securityContext"];
            rule(security["allowPrivilegeEscalation"] == false, "may gain privileges");
            rule(security["readOnlyRootFilesystem"] == true, "may write to its file system");
            rule(texts(&security["capabilities"]["drop"]) == ["ALL"], "keeps capabilities");
            rule(security["privileged"].is_null() && security["capabilities"]["add"].is_null(), "is privileged");
        }
    });
    for (overlay, objects) in &rendered().overlays {
        let labels = of_kind(objects, "Namespace").map(|object| &object["metadata"]["labels"]).collect::<Vec<_>>();
        assert!(!labels.is_empty(), "{overlay} has no namespace");
        assert!(labels.iter().all(|labels| labels["pod-security.kubernetes.io/enforce"] == "restricted"), "{overlay}");
    }
}

#[test]
fn every_container_says_what_it_needs() {
    every("A node that is full must not take a sale down with it.", |workload, rule| {
        for container in containers(workload.pod) {
            let resources = &container["resources"];
            rule(resources["requests"]["cpu"].is_string(), "asks for no processor");
            rule(resources["requests"]["memory"].is_string(), "asks for no memory");
            rule(
                resources["requests"]["memory"] == resources["limits"]["memory"],
                "may use memory that it has not asked for",
            );
            rule(
                resources["limits"]["cpu"].is_null(),
                "is stopped in the middle of a batch when it uses its processor up",
            );
        }
    });
}

/// A pod that is restarted because PostgreSQL is away makes a bad minute worse.
#[test]
fn a_restart_never_hangs_on_something_else() {
    every("probes", |workload, rule| {
        if is_job(workload.object) {
            return;
        }
        for container in containers(workload.pod) {
            let (alive, ready) = (&container["livenessProbe"], &container["readinessProbe"]);
            rule(!alive.is_null() && !ready.is_null(), "has no probes");
            let path = |probe: &Value| probe["httpGet"]["path"].as_str().map(str::to_owned);
            if is_service(workload.object) {
                rule(path(alive).as_deref() == Some("/livez"), "is restarted for more than its own event loop");
                rule(path(ready).as_deref() == Some("/readyz"), "gets requests before it can answer them");
                rule(
                    path(&container["startupProbe"]).as_deref() == Some("/livez"),
                    "is killed while it waits for its schema",
                );
            } else {
                rule(!alive["tcpSocket"].is_null(), "is restarted for more than its own port");
            }
        }
    });
}

fn is_service(object: &Value) -> bool {
    object["metadata"]["labels"]["app.kubernetes.io/component"] == "service"
}

#[test]
fn stopping_has_its_time_and_loses_no_request() {
    let host: common::host::HostSettings =
        common::settings::Settings::defaults().and_then(|settings| settings.section("host")).expect("the defaults");
    every("stopping", |workload, rule| {
        if is_job(workload.object) {
            return;
        }
        let pause =
            containers(workload.pod).map(|container| container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64());
        let pause = pause.min().flatten().unwrap_or_default();
        rule(pause > 0, "ends while requests are still sent to it");
        if is_service(workload.object) {
            let config = of_kind(workload.objects, "ConfigMap").find(|object| name(object).starts_with("stampede-"));
            let drain =
                config.and_then(|config| config["data"]["STAMPEDE__HOST__DRAIN_SECONDS"].as_str()?.parse::<u64>().ok());
            rule(drain.is_some_and(|drain| drain > 0), "does not drain");
            let needed = pause + drain.unwrap_or_default() + 2 * host.shutdown_seconds;
            let given = workload.pod["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
            rule(given > needed, &format!("is killed after {given} s, and may need {needed} s"));
            let rolling = &workload.object["spec"]["strategy"]["rollingUpdate"];
            rule(rolling["maxUnavailable"] == 0, "has fewer replicas during a deployment");
        }
    });
}

#[test]
fn a_drained_node_or_zone_takes_one_replica_at_most() {
    every("disruption", |workload, rule| {
        if is_job(workload.object) {
            return;
        }
        let labels = &workload.object["spec"]["template"]["metadata"]["labels"];
        let selects = |selector: &Value| {
            let wanted = selector["matchLabels"].as_object();
            wanted.is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(key, value)| labels[key] == *value))
        };
        let budgets = of_kind(workload.objects, "PodDisruptionBudget");
        let budgets: Vec<&Value> = budgets.filter(|budget| selects(&budget["spec"]["selector"])).collect();
        rule(budgets.len() == 1, "has not just one disruption budget");
        rule(budgets.iter().all(|budget| budget["spec"]["maxUnavailable"] == 1), "may lose more than one");
        if is_service(workload.object) {
            let spread = workload.pod["topologySpreadConstraints"].as_array();
            let keys: Vec<&str> =
                spread.into_iter().flatten().filter_map(|each| each["topologyKey"].as_str()).collect();
            rule(keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"], "is not spread");
        }
    });
}

#[test]
fn secrets_are_files_and_images_are_what_was_released() {
    every("secrets and images", |workload, rule| {
        for container in containers(workload.pod) {
            let text = container.to_string();
            rule(!text.contains("secretKeyRef") && !text.contains("secretRef"), "has a secret in its environment");
            let image = container["image"].as_str().unwrap_or_default();
            rule(!image.ends_with(":latest") && image.contains(':'), &format!("may be anything: {image}"));
            if !workload.place.starts_with("dev") {
                rule(image.contains("@sha256:"), &format!("is not pinned by its digest: {image}"));
            }
            for variable in container["env"].as_array().into_iter().flatten() {
                let value = variable["value"].as_str().unwrap_or_default();
                let name = variable["name"].as_str().unwrap_or_default();
                let is_none = value.is_empty() && name.ends_with("_FILE");
                let is_file = is_none || value.starts_with("/run/secrets/");
                rule(is_file || name == "STAMPEDE__KAFKA__USERNAME", &format!("{name} is no file"));
            }
        }
    });
    for (overlay, objects) in rendered().overlays.iter().filter(|(overlay, _)| *overlay != "dev") {
        let filled =
            of_kind(objects, "Secret").filter(|secret| !secret["data"].is_null() || !secret["stringData"].is_null());
        holds(
            "A secret comes from outside of the repository.",
            filled.map(|it| format!("{overlay}: {}", name(it))).collect(),
        );
        let external: Vec<&str> = of_kind(objects, "ExternalSecret").map(name).collect();
        let empty = of_kind(objects, "Secret").map(name).filter(|secret| !external.contains(secret));
        holds("Nobody fills these secrets.", empty.map(|secret| format!("{overlay}: {secret}")).collect());
    }
}

/// Each key that a pod mounts is one that its secret gets, or it never starts.
#[test]
fn every_secret_has_the_keys_that_pods_mount() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for workload in workloads() {
        for (secret, items) in workload.pod["volumes"].as_array().into_iter().flatten().flat_map(secrets_of) {
            let of = |kind| of_kind(workload.objects, kind).find(|object| name(object) == secret);
            let plain = of("Secret").map(|object| &object["stringData"]);
            let external = of("ExternalSecret").map(|object| &object["spec"]["target"]["template"]["data"]);
            for item in items.as_array().into_iter().flatten() {
                seen += 1;
                let key = item["key"].as_str().unwrap_or_default();
                let is_given = [plain, external].into_iter().flatten().any(|keys| keys[key].is_string());
                if !is_given && !is_made_by_an_operator(workload.objects, secret, key) {
                    wrong.push(format!("{}: {secret} has no {key}", workload.place));
                }
            }
        }
    }
    assert!(seen > SERVICES.len(), "no pod mounts a secret");
    holds("A pod waits for a key that nobody gives it.", wrong);
}

/// The secrets that a volume takes, each with the keys that it takes from it.
fn secrets_of(volume: &Value) -> Vec<(&str, &Value)> {
    let whole = volume["secret"]["secretName"].as_str().map(|secret| (secret, &volume["secret"]["items"]));
    let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
    let parts = sources.filter_map(|source| Some((source["secret"]["name"].as_str()?, &source["secret"]["items"])));
    whole.into_iter().chain(parts).collect()
}

/// Strimzi makes a secret for each KafkaUser and one with the authority of its Kafka, and CloudNativePG one of its own.
fn is_made_by_an_operator(objects: &[Value], secret: &str, key: &str) -> bool {
    let has = |kind: &str, wanted: &str| of_kind(objects, kind).any(|object| name(object) == wanted);
    match (secret, key) {
        ("stampede-cluster-ca-cert", "ca.crt") => has("Kafka", "stampede"),
        ("stampede-postgres-ca", "ca.crt") => has("Cluster", "stampede-postgres"),
        (secret, "password") => secret.strip_prefix("kafka-").is_some_and(|user| has("KafkaUser", user)),
        _ => false,
    }
}

/// A person starts a command of operators, and it reaches the servers as a migration does, with a password of its own.
/// The settings that a container gets: those of the ConfigMap, and above them its own.
fn environment<'a>(workload: &Workload<'a>, container: &'a Value) -> BTreeMap<&'a str, &'a str> {
    let sources = container["envFrom"].as_array().into_iter().flatten();
    let names = sources.filter_map(|source| source["configMapRef"]["name"].as_str());
    let maps = names.map(|wanted| {
        let found = of_kind(workload.objects, "ConfigMap").find(|object| name(object) == wanted);
        found.unwrap_or_else(|| panic!("{}: there is no ConfigMap {wanted}", workload.place))
    });
    let shared = maps.flat_map(|map| map["data"].as_object().into_iter().flatten());
    let shared = shared.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
    let own = container["env"].as_array().into_iter().flatten();
    shared.chain(own.filter_map(|entry| Some((entry["name"].as_str()?, entry["value"].as_str()?)))).collect()
}

#[test]
fn every_secret_file_that_a_setting_names_is_mounted() {
    let seen = Cell::new(0);
    every("these pods do not start: a setting names a file that they do not have", |workload, check| {
        for container in containers(workload.pod) {
            let mounts: Vec<&str> = container["volumeMounts"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|mount| mount["mountPath"].as_str())
                .collect();
            let named = environment(workload, container);
            for (setting, file) in named.iter().filter(|(_, value)| value.starts_with("/run/secrets/")) {
                seen.set(seen.get() + 1);
                let is_mounted = mounts.iter().any(|mount| file.starts_with(&format!("{mount}/")));
                check(is_mounted, &format!("{setting} names {file}"));
            }
        }
    });
    assert!(seen.get() > 100, "only {} files were found", seen.get());
}

#[test]
fn nothing_of_the_operators_runs_by_itself_and_it_has_the_files_of_a_migration() {
    let (own, others): (Vec<_>, Vec<_>) = workloads().partition(|workload| name(workload.object) == "operator");
    assert_eq!(own.len(), rendered().overlays.len());
    for operator in own {
        assert_eq!(operator.object["spec"]["suspend"], true, "{}", operator.place);
        assert_eq!(operator.object["spec"]["jobTemplate"]["spec"]["backoffLimit"], 0, "{}", operator.place);
        let overlay = operator.place.split(':').next().unwrap_or_default();
        let migration = format!("{overlay}: Job order-migrate");
        let migration = others.iter().find(|other| other.place == migration).expect("order is migrated");
        // It calls no service, and what is its own has its name.
        let of = |workload: &Workload<'_>| -> Vec<String> {
            let volumes = workload.pod["volumes"].as_array().into_iter().flatten();
            let volumes = volumes.filter(|volume| volume["name"] != "rpc-tls" && volume["name"] != "secrets");
            volumes.map(|volume| volume.to_string().replace("kafka-order", "kafka-operator")).collect()
        };
        assert_eq!(of(&operator), of(migration), "{}", operator.place);
        let url = |secret: &str| {
            let of = |kind| of_kind(operator.objects, kind).find(|object| name(object) == secret);
            let plain = of("Secret").map(|object| &object["stringData"]["postgres.url"]);
            let external =
                of("ExternalSecret").map(|object| &object["spec"]["target"]["template"]["data"]["postgres.url"]);
            let mut urls = [external, plain].into_iter().flatten().filter_map(Value::as_str);
            urls.next().unwrap_or_else(|| panic!("{overlay}: {secret} has no postgres.url")).to_owned()
        };
        let expected = url("stampede-order").replace("//order:", "//operator:");
        assert_eq!(url("stampede-operator"), expected, "{overlay}");
    }
}

/// Encryption alone does not say who is there: each pod knows the authority, and PostgreSQL's name is compared.
#[test]
fn postgresql_has_to_prove_itself_to_every_pod() {
    let items = json!([{ "key": "ca.crt", "path": "ca.crt" }]);
    let secret = json!({ "secretName": "stampede-postgres-ca", "defaultMode": 0o440, "items": items });
    let volume = json!({ "name": "postgres-ca", "secret": secret });
    let mount = json!({ "name": "postgres-ca", "mountPath": "/run/secrets/postgres", "readOnly": true });
    every("TLS to PostgreSQL", |workload, rule| {
        let volumes = workload.pod["volumes"].as_array().into_iter().flatten();
        let items = volumes.clone().flat_map(secrets_of).find(|(_, items)| items.to_string().contains("postgres.url"));
        let Some((secret, _)) = items else { return };
        let has = |list: &Value, wanted: &Value| list.as_array().is_some_and(|all| all.contains(wanted));
        let more = volumes.filter(|volume| volume.to_string().contains("stampede-postgres-")).count();
        rule(more == 1 && has(&workload.pod["volumes"], &volume), "has not just the authority's certificate");
        rule(has(&workload.pod["containers"][0]["volumeMounts"], &mount), "does not see the authority's certificate");
        let of = |kind| of_kind(workload.objects, kind).find(|object| name(object) == secret);
        let plain = of("Secret").and_then(|object| object["stringData"]["postgres.url"].as_str());
        let external = of("ExternalSecret").map(|object| &object["spec"]["target"]["template"]["data"]["postgres.url"]);
        let url = plain.or(external.and_then(Value::as_str)).unwrap_or_default();
        let place = "@stampede-postgres-rw:5432/stampede?sslmode=verify-full&sslrootcert=/run/secrets/postgres/ca.crt";
        rule(url.ends_with(place), &format!("believes whoever answers: {url}"));
    });
    for (overlay, objects) in &rendered().overlays {
        let image = of_kind(objects, "Cluster").next().and_then(|cluster| cluster["spec"]["imageName"].as_str());
        assert!(image.is_some_and(|image| image.contains("@sha256:")), "{overlay}: {image:?} may be anything");
    }
}
