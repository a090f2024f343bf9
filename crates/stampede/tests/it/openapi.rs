//! The API's description: what is served is what is committed, and it says of every route what it can answer.

use crate::site::system;
use std::collections::{BTreeMap, BTreeSet};
use testkit::Site;

use reqwest::Method;
use serde_json::Value;

use crate::tidy;

async fn served(site: &Site, path: &str) -> Value {
    let anyone = site.anyone();
    anyone.send(anyone.request_root(Method::GET, path)).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_committed_description_is_the_one_that_is_served() {
    let site = system().start().await;
    let again = "run `cargo run -p stampede -- openapi > openapi.json` and commit the result";
    let path = tidy::root().join("openapi.json");
    let committed =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}; {again}", path.display()));
    let committed: Value = serde_json::from_str(&committed).unwrap_or_else(|error| panic!("{error}; {again}"));
    let served = served(&site, "/openapi.json").await;
    let of = |document: &Value, part: &str| -> BTreeSet<String> {
        document
            .pointer(part)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name} {value}"))
            .collect()
    };
    for part in ["/paths", "/components/schemas"] {
        let (old, new) = (of(&committed, part), of(&served, part));
        let differ: Vec<_> = old.symmetric_difference(&new).filter_map(|entry| entry.split(' ').next()).collect();
        assert!(differ.is_empty(), "openapi.json is out of date in {part}: {differ:?}; {again}");
    }
    assert_eq!(committed, served, "openapi.json is out of date; {again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_says_what_it_answers_and_how_it_refuses() {
    let site = system().start().await;
    let document = served(&site, "/openapi.json").await;
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{}", document["openapi"]);
    let (mut ids, mut flaws) = (BTreeSet::new(), Vec::new());
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let name = format!("{method} {path}");
            let responses = operation["responses"].as_object().expect("responses");
            if !responses.keys().any(|status| status.starts_with('2')) {
                flaws.push(format!("{name}: no success"));
            }
            for (status, response) in responses {
                if response["description"].as_str().is_none_or(str::is_empty) {
                    flaws.push(format!("{name}: {status} has no description"));
                }
                let body = &response["content"]["application/problem+json"]["schema"]["$ref"];
                if status.starts_with(['4', '5']) && body != "#/components/schemas/Problem" {
                    flaws.push(format!("{name}: {status} is no Problem"));
                }
                if !response["headers"]["X-Request-Id"].is_object() {
                    flaws.push(format!("{name}: {status} has no X-Request-Id"));
                }
                if ["429", "503"].contains(&status.as_str()) && !response["headers"]["Retry-After"].is_object() {
                    flaws.push(format!("{name}: {status} has no Retry-After"));
                }
            }
            let mut expected = vec!["500", "503"];
            let is_secured = operation["security"].is_array();
            let is_for_admins = path.contains("/admin/");
            expected.extend(is_secured.then_some("401"));
            expected.extend(is_for_admins.then_some("403"));
            expected
                .extend((operation["parameters"].is_array() || operation["requestBody"].is_object()).then_some("400"));
            if operation["requestBody"].is_object() {
                expected.extend(["413", "415"]);
            }
            for status in expected.into_iter().filter(|status| !responses.contains_key(*status)) {
                flaws.push(format!("{name}: {status} is not declared"));
            }
            if is_for_admins && !is_secured {
                flaws.push(format!("{name}: needs no token"));
            }
            flaws.extend(boundless(operation).map(|parameter| format!("{name}: {parameter} has no bounds")));
            match operation["operationId"].as_str() {
                Some(id) if ids.insert(id.to_owned()) => {}
                id => flaws.push(format!("{name}: operationId {id:?} is missing or taken")),
            }
            let declared: BTreeSet<&str> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|parameter| parameter["in"] == "path")
                .filter_map(|parameter| parameter["name"].as_str())
                .collect();
            let named: BTreeSet<&str> =
                path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
            if declared != named {
                flaws.push(format!("{name}: the path names {named:?}, the parameters {declared:?}"));
            }
        }
    }
    assert!(flaws.is_empty(), "{flaws:#?}");
}

/// The parameters of an operation whose values have bounds that it does not tell.
fn boundless(operation: &Value) -> impl Iterator<Item = &str> {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    parameters.filter_map(|parameter| {
        let name = parameter["name"].as_str()?;
        let bounds: &[&str] = match name {
            "limit" | "size" | "page" => &["minimum", "maximum"],
            "q" | "Idempotency-Key" | "cursor" => &["minLength", "maxLength"],
            _ => &[],
        };
        let is_id = parameter["schema"]["$ref"].is_string();
        (!is_id && bounds.iter().any(|bound| !parameter["schema"][bound].is_number())).then_some(name)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_referred_to_is_there_and_times_have_their_format() {
    let site = system().start().await;
    let document = served(&site, "/openapi.json").await;
    let text = document.to_string();
    let mut flaws = BTreeSet::new();
    for (at, _) in text.match_indices("\"$ref\":\"#") {
        let pointer = text[at + 9..].split('"').next().unwrap_or_default();
        if document.pointer(pointer).is_none() {
            flaws.insert(format!("{pointer} is not there"));
        }
    }
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    for (name, schema) in schemas {
        for (property, schema) in schema["properties"].as_object().into_iter().flatten() {
            let is_time = property.ends_with("At") || ["timestamp", "serverTime"].contains(&property.as_str());
            if is_time && !schema.to_string().contains("date-time") {
                flaws.insert(format!("{name}.{property} has no format"));
            }
        }
    }
    assert!(flaws.is_empty(), "{flaws:#?}");
}

/// Whoever sends each kind of mistake to each route is refused as the description says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_that_a_route_gives_is_declared() {
    let site = system().start().await;
    let document = served(&site, "/openapi.json").await;
    let people = [site.anyone(), site.buyer().await, site.admin()];
    let (nil, mut flaws) = (uuid::Uuid::nil().to_string(), Vec::new());
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            // A stream would not end; a HEAD is answered as a GET is.
            let is_stream = operation["responses"]["200"]["content"]["text/event-stream"].is_object();
            let method = if is_stream { "HEAD".to_owned() } else { method.to_uppercase() };
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            for place in [nil.as_str(), "x"] {
                let filled: Vec<&str> =
                    path.split('/').map(|part| if part.starts_with('{') { place } else { part }).collect();
                for by in &people {
                    let request = || by.request_root(method.clone(), &filled.join("/"));
                    let json = || request().header("Content-Type", "application/json");
                    let key = testkit::fresh_key();
                    for request in [
                        json().body("{"),
                        json().header("Idempotency-Key", &key).header("If-Match", "*").body("{\"nobody\":1}"),
                        json().header("Idempotency-Key", "가").body("[]"),
                        json().header("Idempotency-Key", &key).body(" ".repeat(70_000)),
                        request().header("Content-Type", "text/plain").body("x"),
                        by.request_root(method.clone(), &format!("{}?nobody=knows", filled.join("/"))),
                    ] {
                        let answer = by.send(request).await;
                        let status = answer.status.as_u16().to_string();
                        let is_declared = operation["responses"].get(&status).is_some();
                        if !is_declared || answer.status.is_server_error() {
                            flaws.push(format!("{method} {path}: {answer}"));
                        }
                    }
                }
            }
        }
    }
    flaws.dedup();
    assert!(flaws.is_empty(), "{} flaws: {flaws:#?}", flaws.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_find_health_metrics_and_documents_under_their_names() {
    let site = system().start().await;
    let anyone = site.anyone();
    for path in ["/livez", "/readyz", "/actuator/health", "/actuator/health/liveness", "/actuator/health/readiness"] {
        assert_eq!(served(&site, path).await["status"], "UP", "{path}");
    }
    assert_eq!(served(&site, "/v3/api-docs").await, served(&site, "/openapi.json").await);
    let buyer = site.buyer().await;
    buyer.order("key", &site.product(1).await, 1).await.expect(201);
    for path in ["/metrics", "/actuator/prometheus"] {
        let text = anyone.send(anyone.request_root(Method::GET, path)).await.expect(200).body;
        for name in ["stampede_orders_total", "http_server_request_duration_seconds", "stampede_db_tx_seconds"] {
            assert!(text.contains(name), "{path} has no {name}");
        }
        assert!(!text.contains(&buyer.email) && !text.contains(&buyer.user_id), "metrics name nobody");
    }
    for path in ["/docs/", "/docs", "/swagger-ui"] {
        let page = anyone.send(anyone.request_root(Method::GET, path)).await.expect(200);
        assert!(page.body.to_lowercase().contains("<html"), "{page}");
    }
}

/// Of two types with one name, the description would keep one, and tell lies about the other.
#[test]
fn every_type_of_the_description_has_a_name_of_its_own() {
    let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in &tidy::sources() {
        for rest in source.text.split("ToSchema").skip(1) {
            // From the derive up to the type: other attributes, which may name it.
            let Some((attributes, declared)) = ["struct ", "enum "]
                .iter()
                .filter_map(|keyword| rest.split_once(keyword))
                .min_by_key(|(attributes, _)| attributes.len())
            else {
                continue;
            };
            if !attributes.contains(")]") || attributes.contains(';') {
                continue;
            }
            let name = attributes.split_once("schema(as = ").map_or(declared, |(_, name)| name);
            let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            named.entry(name.to_owned()).or_default().push(source.path.clone());
        }
    }
    assert!(named.len() > 50, "most were not found: {named:?}");
    let shared: Vec<_> = named.iter().filter(|(_, paths)| paths.len() > 1).collect();
    assert!(shared.is_empty(), "say `#[schema(as = …)]`: {shared:?}");
}
