//! The examples in the API's description: each body has one, it is as its schema says, and the API understands it.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::site::system;
use crate::tidy;

fn description() -> Value {
    let text = std::fs::read_to_string(tidy::root().join("openapi.json")).expect("it is committed");
    serde_json::from_str(&text).expect("it is JSON")
}

/// Each operation with its path and method.
fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().expect("paths").iter();
    paths.flat_map(|(path, operations)| {
        let operations = operations.as_object().expect("operations").iter();
        operations.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

/// What is sent in the body of `operation`, and what is answered when it goes well.
fn bodies(operation: &Value) -> impl Iterator<Item = (String, &Value)> {
    let responses = operation["responses"].as_object().expect("responses").iter();
    let successes = responses.filter(|(status, _)| status.starts_with('2'));
    let bodies = successes.map(|(status, response)| (status.clone(), response));
    let bodies = bodies.chain([("request".to_owned(), &operation["requestBody"])]);
    bodies.flat_map(|(name, body)| {
        let contents = body["content"].as_object().into_iter().flatten();
        contents.map(move |(kind, content)| (format!("{name} as {kind}"), content))
    })
}

fn texts<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
    match value {
        Value::String(text) => drop(found.insert(text)),
        Value::Array(list) => list.iter().for_each(|value| texts(value, found)),
        Value::Object(object) => object.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

#[test]
fn every_body_has_an_example_that_its_schema_allows() {
    let document = description();
    let (mut flaws, mut count) = (Vec::new(), 0);
    for (path, method, operation) in operations(&document) {
        for (body, content) in bodies(operation) {
            let name = format!("{method} {path}, {body}");
            let Some(example) = content.get("example") else {
                flaws.push(format!("{name}: no example"));
                continue;
            };
            let schema = json!({ "allOf": [content["schema"]], "components": document["components"] });
            let schema = jsonschema::options().should_validate_formats(true).build(&schema).expect("it is a schema");
            flaws.extend(
                schema.iter_errors(example).map(|error| format!("{name}: {error} at {}", error.instance_path())),
            );
            let mut found = BTreeSet::new();
            texts(example, &mut found);
            if found.contains(common::openapi::examples::UNKNOWN) {
                flaws.push(format!("{name}: add the field to crates/contract/src/examples.json: {example}"));
            }
            count += 1;
        }
    }
    assert!(flaws.is_empty(), "{flaws:#?}");
    assert!(count > 100, "only {count} bodies were found");
}

/// Whether all that is wrong are the times, which must be near: an example grows old.
fn is_about_times(answer: &testkit::Answer) -> bool {
    if answer.status != 400 {
        return false;
    }
    let details = answer.json()["details"].as_array().cloned().unwrap_or_default();
    let is_time = |detail: &Value| {
        detail["field"].as_str().is_some_and(|field| field.ends_with("At") || ["from", "to"].contains(&field))
    };
    !details.is_empty() && details.iter().all(is_time)
}

/// Whoever copies an example may be told that the thing is not there, but never that the request is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_of_a_request_is_understood() {
    let site = system().start().await;
    let document = description();
    let (admin, nil, mut flaws) = (site.admin(), uuid::Uuid::nil().to_string(), Vec::new());
    for (path, method, operation) in operations(&document) {
        let Some(content) = operation["requestBody"]["content"].get("application/json") else { continue };
        let place = |part| match part {
            "{name}" if path.contains("/templates/") => "ORDER_DELAYED",
            "{name}" | "{provider}" => "shipping",
            "{channel}" => "EMAIL",
            "{language}" => "en",
            _ => nil.as_str(),
        };
        let filled: Vec<&str> =
            path.split('/').map(|part| if part.starts_with('{') { place(part) } else { part }).collect();
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
        let request = admin.request_root(method, &filled.join("/")).json(&content["example"]);
        let request = request.header("Idempotency-Key", testkit::fresh_key()).header("If-Match", "*");
        let answer = admin.send(request).await;
        if is_about_times(&answer) {
            continue;
        }
        if [400, 413, 415].contains(&answer.status.as_u16()) || answer.status.is_server_error() {
            flaws.push(format!("{path}: {}: {answer}", content["example"]));
        }
    }
    assert!(flaws.is_empty(), "{flaws:#?}");
}
