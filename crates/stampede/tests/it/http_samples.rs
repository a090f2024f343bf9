//! The samples in `docs/http/` run against a real system, and `docs/api-examples.md` shows what they were answered.
//!
//! They are files of the REST client of VS Code: `@name = value`, `{{name}}`, `# @name login` above a request and
//! `{{login.response.body.$.accessToken}}` behind it. A comment `# -> 201` says which status is expected; words behind it must be
//! in the body, and the request is repeated until they are.

mod page;
mod sample;

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use testkit::site::{ADMIN_EMAIL, ADMIN_PASSWORD};
use testkit::{Site, eventually};

use crate::site::system;
use crate::tidy;
use page::Shown;
use sample::{Exchange, File, Request, Variables};

/// In the order of the page.
const FILES: [&str; 10] = [
    "account",
    "products",
    "orders",
    "payments",
    "coupons",
    "seats",
    "notifications",
    "restock",
    "archive",
    "operations",
];

/// Headers of answers that the page shows.
const SHOWN_HEADERS: [&str; 4] = ["location", "etag", "idempotent-replayed", "retry-after"];

fn read(name: &str) -> File {
    let path = tidy::root().join(format!("docs/http/{name}.http"));
    File::parse(&std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sample_is_answered_as_it_says_and_the_page_shows_it() {
    let site = system().start().await;
    let mut page = page::head();
    for name in FILES {
        page.push_str(&run(&site, name, read(name)).await);
    }
    let path = tidy::root().join("docs/api-examples.md");
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if page::masked(&committed) != page::masked(&page) {
        let new = testkit::servers::folder("api-examples.md");
        std::fs::write(&new, page).expect("the temporary folder can be written");
        panic!("{0} shows other requests or answers; to mend it: cp {1} {0}", path.display(), new.display());
    }
}

#[test]
fn the_samples_are_all_run_and_touch_every_area_of_the_api() {
    let folder = std::fs::read_dir(tidy::root().join("docs/http")).expect("the folder is there");
    let names = folder.map(|entry| entry.expect("it can be read").file_name().into_string().expect("it is text"));
    let found: BTreeSet<String> = names.map(|name| name.trim_end_matches(".http").to_owned()).collect();
    assert_eq!(found, FILES.map(str::to_owned).into(), "each file is run");

    let openapi = std::fs::read_to_string(tidy::root().join("openapi.json")).expect("it is there");
    let openapi: serde_json::Value = serde_json::from_str(&openapi).expect("it is JSON");
    let mut touched = BTreeMap::new();
    for (path, operations) in openapi["paths"].as_object().expect("it has paths") {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            let Some(tag) = operation["tags"][0].as_str() else { continue };
            // An answer without an end is no sample: the README's tour listens for three seconds.
            if !operation["responses"]["200"]["content"]["text/event-stream"].is_null() {
                continue;
            }
            let is_tried =
                FILES.iter().flat_map(|name| read(name).requests).any(|request| request.is_for(method, path));
            *touched.entry(tag.to_owned()).or_insert(false) |= is_tried;
        }
    }
    let left: Vec<String> = touched.into_iter().filter(|(_, is_tried)| !is_tried).map(|(tag, _)| tag).collect();
    tidy::holds("Each area of the API has a sample.", left);
}

/// Runs the requests of one file. Returns its section of the page.
async fn run(site: &Site, name: &str, file: File) -> String {
    let mut variables = Variables::new(file.variables);
    variables.set("host", &site.api);
    variables.set("adminEmail", ADMIN_EMAIL);
    variables.set("adminPassword", ADMIN_PASSWORD);
    let http = reqwest::Client::new();
    let mut section = page::section(name, &file.title);
    for request in file.requests {
        let exchange =
            eventually(&format!("{name}: {} is answered with {}", request.title, request.expected), async || {
                let exchange = send(&http, &request, &variables).await;
                let is_over =
                    exchange.status == request.expected.status && request.expected.words_are_in(&exchange.body);
                assert!(
                    is_over || request.expected.may_wait(exchange.status),
                    "{name}: {}: {} {}",
                    request.title,
                    exchange.status,
                    exchange.body
                );
                is_over.then_some(exchange)
            })
            .await;
        section.push_str(&Shown { request: &request, exchange: &exchange, variables: &variables }.text(&SHOWN_HEADERS));
        variables.remember(request.name.as_deref(), exchange);
    }
    section
}

async fn send(http: &reqwest::Client, request: &Request, variables: &Variables) -> Exchange {
    let headers: Vec<(String, String)> =
        request.headers.iter().map(|(name, value)| (name.clone(), variables.resolved(value))).collect();
    let request_body = variables.resolved(&request.body);
    let method: Method = request.method.parse().expect("a method");
    let mut sent = http.request(method, variables.resolved(&request.url));
    for (name, value) in &headers {
        sent = sent.header(name, value);
    }
    if !request_body.is_empty() {
        sent = sent.body(request_body.clone());
    }
    let answer = sent.send().await.expect("the system answers");
    let status = answer.status().as_u16();
    let answered = answer.headers().iter();
    let answered = answered.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()));
    let answered: BTreeMap<String, String> = answered.collect();
    let body = answer.text().await.expect("it is text");
    Exchange { headers, request_body, status, answered, body }
}
