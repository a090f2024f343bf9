//! What `/metrics` shows: with help, from the start, and without series that strangers can make.

use std::collections::{BTreeMap, BTreeSet};

use common::telemetry::{METRICS, Metric, MetricKind};
use reqwest::Method;
use stampede::services::SERVICES;
use testkit::Site;

use crate::site::system;
use crate::tidy;

/// Every metric that `/metrics` may show.
pub fn declared() -> BTreeMap<&'static str, Metric> {
    let all = METRICS.iter().chain(SERVICES.iter().flat_map(|service| service.metrics));
    all.map(|metric| (metric.name, *metric)).collect()
}

async fn read(site: &Site) -> String {
    let anyone = site.anyone();
    anyone.send(anyone.request_root(Method::GET, "/metrics")).await.expect(200).body
}

/// As `promtool check metrics` would: every series belongs to a metric with help and a kind that fits its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_has_its_help_and_counters_are_there_from_the_start() {
    let site = system().start().await;
    let text = read(&site).await;
    let headed = |head: &str| -> BTreeMap<String, String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(head)?.split_once(' '));
        lines.map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
    };
    let (helps, kinds) = (headed("# HELP "), headed("# TYPE "));
    let mut flaws = Vec::new();
    for (name, kind) in &kinds {
        if helps.get(name).is_none_or(String::is_empty) {
            flaws.push(format!("{name} has no help"));
        }
        if name.ends_with("_total") != (kind == "counter") {
            flaws.push(format!("{name} is a {kind}"));
        }
    }
    let series: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .filter(|name| !name.is_empty())
        .collect();
    for name in &series {
        let ends = ["_bucket", "_sum", "_count", ""];
        if !ends.iter().any(|end| name.strip_suffix(end).is_some_and(|name| kinds.contains_key(name))) {
            flaws.push(format!("{name} has no kind"));
        }
    }
    for metric in declared().values() {
        let has_known_labels = metric.labels.iter().all(|(_, values)| !values.is_empty());
        if metric.kind != MetricKind::Histogram && has_known_labels && !series.contains(metric.name) {
            flaws.push(format!("{} is not there before its first event", metric.name));
        }
        for (label, values) in metric.labels {
            for value in *values {
                let shown = format!("{label}=\"{value}\"");
                if !text.lines().any(|line| line.starts_with(metric.name) && line.contains(&shown)) {
                    flaws.push(format!("{} does not begin with {shown}", metric.name));
                }
            }
        }
    }
    assert!(flaws.is_empty(), "{flaws:#?}");
}

#[test]
fn what_is_counted_is_declared_and_documented() {
    let declared = declared();
    let (mut counted, mut flaws) = (BTreeSet::new(), Vec::new());
    for source in &tidy::sources() {
        for (call, kind) in [
            ("metrics::counter!(", MetricKind::Counter),
            ("metrics::gauge!(", MetricKind::Gauge),
            ("metrics::histogram!(", MetricKind::Histogram),
        ] {
            for (at, _) in source.text.match_indices(call) {
                let rest = source.text[at + call.len()..].trim_start();
                let Some(name) = rest.strip_prefix('"').and_then(|rest| rest.split('"').next()) else { continue };
                counted.insert(name.to_owned());
                if declared.get(name).is_none_or(|metric| metric.kind != kind) {
                    flaws.push(format!("{name} of {} is not declared as a {kind:?}", source.path));
                }
            }
        }
    }
    let documented = std::fs::read_to_string(tidy::root().join("docs/operations.md")).expect("it is there");
    for name in declared.keys() {
        if !counted.contains(*name) {
            flaws.push(format!("{name} is declared and not counted"));
        }
        if !documented.contains(&format!("`{name}`")) {
            flaws.push(format!("docs/operations.md does not name {name}"));
        }
    }
    assert!(counted.len() > 50, "most were not found: {counted:?}");
    assert!(flaws.is_empty(), "{flaws:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods_and_paths_that_are_made_up_make_no_series() {
    let site = system().start().await;
    let anyone = site.anyone();
    for number in 0..20 {
        let method = Method::from_bytes(format!("MADEUP{number}").as_bytes()).expect("HTTP can carry it");
        for path in ["/api/v1/products".to_owned(), format!("/made-up-{number}")] {
            drop(anyone.send(anyone.request_root(method.clone(), &path)).await);
        }
    }
    let text = read(&site).await;
    assert!(text.contains("http_request_method=\"_OTHER\""), "{text}");
    let made_up = ["madeup", "made-up"].iter().any(|name| text.to_lowercase().contains(name));
    assert!(!made_up, "strangers name series");
}
