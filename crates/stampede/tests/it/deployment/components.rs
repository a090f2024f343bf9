//! Components: each is rendered and validated somewhere, and those that no overlay has do what they are for.

use std::collections::BTreeSet;

use sandbox::nginx::RESPONSE_HEADERS;
use serde_json::{Value, json};
use stampede::services::SERVICES;

use super::{WRITE_THEM, has_gateway_api, name, of_kind, rendered};
use crate::tidy::{folders, holds, root};

/// What a NetworkPolicy says of the namespace `name`.
fn namespace(name: &str) -> Value {
    json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } } })
}

#[test]
fn every_component_is_in_an_overlay_or_in_a_check() {
    let mut used = String::new();
    for folder in ["k8s/overlays", "k8s/checks"] {
        for own in folders(folder) {
            let file = root().join(folder).join(own).join("kustomization.yaml");
            used += &std::fs::read_to_string(file).expect("a folder of k8s/overlays and k8s/checks has one");
        }
    }
    let named: BTreeSet<&str> =
        used.lines().filter_map(|line| line.trim().strip_prefix("- ../../components/")?.split('/').next()).collect();
    let unused = folders("k8s/components").into_iter().filter(|component| !named.contains(component.as_str()));
    holds("Nobody renders the component, so nobody knows whether it is right.", unused.collect());
    let page = std::fs::read_to_string(root().join("docs/deploy.md")).expect("it is there");
    let missing = named.iter().filter(|component| !page.contains(&format!("`{component}`")));
    holds("docs/deploy.md says what a component brings.", missing.map(|name| (*name).to_owned()).collect());
    let rendered: BTreeSet<&str> = rendered().checks.keys().map(String::as_str).collect();
    assert_eq!(rendered, folders("k8s/checks").iter().map(String::as_str).collect());
}

#[test]
fn with_tracing_every_service_reaches_the_collector_and_no_migration_does() {
    let objects = &rendered().checks["tracing"];
    let settings = of_kind(objects, "ConfigMap").find(|object| name(object).starts_with("stampede-"));
    let endpoint = settings.and_then(|settings| settings["data"]["STAMPEDE__TELEMETRY__OTLP_ENDPOINT"].as_str());
    let (host, port) = endpoint.and_then(|endpoint| endpoint.rsplit_once(':')).expect("it names the collector");
    let (_, space) = host.rsplit_once('.').expect("the host is in another namespace");
    let policy = of_kind(objects, "NetworkPolicy").find(|policy| name(policy) == "to-collector").expect("a policy");
    assert_eq!(policy["spec"]["podSelector"], json!({ "matchLabels": { "app.kubernetes.io/component": "service" } }));
    let port: u16 = port.parse().expect("it is a port");
    let expected = json!([{ "to": [namespace(space)], "ports": [{ "protocol": "TCP", "port": port }] }]);
    assert_eq!(policy["spec"]["egress"], expected);
    let elsewhere = rendered().overlays.iter().filter(|(_, objects)| {
        of_kind(objects, "NetworkPolicy").any(|policy| name(policy) == "to-collector")
            || objects.iter().any(|object| object.to_string().contains("OTLP_ENDPOINT"))
    });
    holds("without the component", elsewhere.map(|(overlay, _)| overlay.clone()).collect());
}

#[test]
fn with_servers_of_a_provider_every_pod_has_their_files_and_the_password_of_kafka() {
    let objects = &rendered().checks["managed-servers"];
    for kind in ["Cluster", "Kafka", "KafkaTopic", "KafkaUser"] {
        assert_eq!(of_kind(objects, kind).count(), 0, "a provider has the {kind}");
    }
    let mut wrong = Vec::new();
    for service in SERVICES {
        for (kind, name_of) in [("Deployment", service.name.to_owned()), ("Job", format!("{}-migrate", service.name))] {
            let object = of_kind(objects, kind).find(|object| name(object) == name_of);
            let object = object.unwrap_or_else(|| panic!("there is no {kind} {name_of}: {WRITE_THEM}"));
            let pod = &object["spec"]["template"]["spec"];
            let has = |list: &Value, expected: Value| list.as_array().is_some_and(|all| all.contains(&expected));
            let container = &pod["containers"][0];
            let secret = json!({ "secretName": "stampede-servers", "defaultMode": 0o440 });
            let place = "/run/secrets/servers";
            let password = format!("{place}/kafka.password");
            let all = has(&pod["volumes"], json!({ "name": "servers", "secret": secret }))
                && has(&container["volumeMounts"], json!({ "name": "servers", "mountPath": place, "readOnly": true }))
                && has(&container["env"], json!({ "name": "STAMPEDE__KAFKA__PASSWORD_FILE", "value": password }));
            // Nobody makes the secrets of Strimzi and CloudNativePG there.
            let waits = ["kafka-", "stampede-cluster-ca-cert", "stampede-postgres-ca"]
                .iter()
                .any(|secret| pod["volumes"].to_string().contains(&format!("\"{secret}")));
            if !all || waits {
                wrong.push(format!("{kind} {name_of}: {pod}"));
            }
        }
    }
    holds("the component managed-servers", wrong);
}

/// A body that is too large and an answer without its headers are the same at every gateway.
#[test]
fn every_gateway_has_the_limit_of_the_services_and_the_headers_of_nginx() {
    let kit = std::fs::read_to_string(root().join("crates/common/src/http.rs")).expect("it is there");
    assert!(kit.contains("const BODY_BYTES_MAX: usize = 64 * 1024;"), "say the services' limit anew below");
    let nginx = std::fs::read_to_string(root().join("gateway/nginx.conf")).expect("it is there");
    assert!(nginx.contains("client_max_body_size 64k;"), "nginx");
    let headers: Value = RESPONSE_HEADERS.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    for (overlay, objects) in &rendered().overlays {
        let one =
            |kind: &'static str, wanted: &'static str| of_kind(objects, kind).find(|object| name(object) == wanted);
        let by_ingress = one("ConfigMap", "response-headers");
        if !has_gateway_api(overlay) {
            let ingress = one("Ingress", "stampede").unwrap_or_else(|| panic!("{overlay} has no gateway"));
            let size = &ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"];
            assert_eq!(size, "64k", "{overlay}");
            assert_eq!(by_ingress.map(|object| &object["data"]), Some(&headers), "{overlay}");
            continue;
        }
        assert_eq!(by_ingress, None, "{overlay}: nobody would read it");
        let gateway = json!([{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "stampede" }]);
        let limits = &one("BackendTrafficPolicy", "stampede").expect("it limits")["spec"];
        assert_eq!((&limits["requestBuffer"]["limit"], &limits["targetRefs"]), (&json!("64Ki"), &gateway));
        let per_address = limits["rateLimit"]["local"]["rules"].as_array().expect("it has rules");
        assert!(per_address.iter().all(|rule| rule["limit"] == json!({ "requests": 100, "unit": "Second" })));
        let client = &one("ClientTrafficPolicy", "stampede").expect("it adds headers")["spec"];
        assert_eq!(client["targetRefs"], gateway);
        let set = client["headers"]["lateResponseHeaders"]["set"].as_array().expect("it sets headers");
        let mut set: serde_json::Map<String, Value> = set
            .iter()
            .map(|header| (header["name"].as_str().unwrap_or_default().to_owned(), header["value"].clone()))
            .collect();
        // The Gateway ends TLS. ingress-nginx adds it by itself.
        let tls_only = set.remove("Strict-Transport-Security");
        assert!(tls_only.is_some_and(|value| value.to_string().contains("max-age=31536000")));
        assert_eq!(Value::Object(set), headers);
    }
}
