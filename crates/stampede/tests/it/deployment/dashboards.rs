//! Grafana's dashboards show metrics that there are, and each panel says what it means.

use std::collections::BTreeSet;

use common::telemetry::MetricKind;
use serde_json::Value;

use super::{of_kind, rendered};
use crate::metrics::declared;
use crate::tidy::holds;

/// Labels that Prometheus adds, or that belong to a histogram.
const ADDED: [&str; 3] = ["instance", "le", "service"];

/// What Prometheus itself knows of each process.
const OF_PROMETHEUS: &str = "up{";

/// `kubectl apply` keeps a copy of a ConfigMap in an annotation, which may have 256 KiB.
const BYTES_MAX: usize = 200 * 1024;

/// Every dashboard of production, by the name of its file.
pub fn dashboards() -> Vec<(&'static str, Value)> {
    let maps = of_kind(&rendered().overlays["prod"], "ConfigMap");
    let labelled = maps.filter(|map| map["metadata"]["labels"]["grafana_dashboard"] == "1");
    let files = labelled.filter_map(|map| map["data"].as_object()).flatten();
    let parsed = files.map(|(file, text)| {
        let text = text.as_str().unwrap_or_default();
        assert!(text.len() < BYTES_MAX / 2, "{file} has {} bytes", text.len());
        (file.as_str(), serde_json::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}")))
    });
    let all: Vec<(&str, Value)> = parsed.collect();
    assert_eq!(all.len(), 6, "Grafana's sidecar finds them by the label");
    all
}

pub fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().into_iter().flatten()
}

pub fn expressions(panel: &Value) -> impl Iterator<Item = &str> {
    panel["targets"].as_array().into_iter().flatten().filter_map(|target| target["expr"].as_str())
}

/// The words of an expression that name metrics of ours.
pub fn metrics_in(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|mark: char| !(mark.is_ascii_alphanumeric() || mark == '_'));
    words.filter(|word| word.starts_with("stampede_") || word.starts_with("http_server_")).collect()
}

#[test]
fn dashboards_have_addresses_of_their_own_and_each_panel_says_what_it_shows() {
    let mut wrong = Vec::new();
    let (mut uids, mut titles, mut bytes) = (BTreeSet::new(), BTreeSet::new(), 0);
    for (file, dashboard) in dashboards() {
        bytes += dashboard.to_string().len();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let uid = text(&dashboard["uid"]);
        if format!("{uid}.json") != file || !uids.insert(uid) || !titles.insert(text(&dashboard["title"])) {
            wrong.push(format!("{file}: uid {}, title {}", dashboard["uid"], dashboard["title"]));
        }
        let mut ids = BTreeSet::new();
        for panel in panels(&dashboard) {
            let place = format!("{file}: panel {}", panel["title"]);
            let is_row = panel["type"] == "row";
            let said = [&panel["title"], &panel["description"], &panel["fieldConfig"]["defaults"]["unit"]];
            let needed = if is_row { 1 } else { said.len() };
            if said.iter().take(needed).any(|said| text(said).is_empty()) {
                wrong.push(format!("{place} lacks a title, a description or a unit"));
            }
            if !ids.insert(panel["id"].as_u64()) {
                wrong.push(format!("{place} has an id that another has"));
            }
            if !is_row && expressions(panel).all(str::is_empty) {
                wrong.push(format!("{place} shows nothing"));
            }
        }
        assert!(ids.len() > 5, "{file} has few panels");
    }
    assert!(bytes < BYTES_MAX, "{bytes} bytes in one ConfigMap");
    holds("dashboards", wrong);
}

#[test]
fn every_metric_of_a_panel_is_declared_and_read_as_what_it_is() {
    let declared = declared();
    let mut wrong = Vec::new();
    for (file, dashboard) in dashboards() {
        for (panel, expression) in panels(&dashboard).flat_map(|panel| expressions(panel).map(move |one| (panel, one)))
        {
            let place = format!("{file}: {}: {expression}", panel["title"]);
            let named = metrics_in(expression);
            if named.is_empty() && !expression.contains(OF_PROMETHEUS) {
                wrong.push(format!("{place} has no metric of ours"));
            }
            let mut known: BTreeSet<&str> = ADDED.into();
            for name in named {
                let base = ["_bucket", "_count", "_sum"].iter().find_map(|part| name.strip_suffix(part));
                let of_histogram = base.and_then(|base| declared.get(base));
                let Some(metric) = of_histogram.or_else(|| declared.get(name)) else {
                    wrong.push(format!("{place}: {name} is not declared"));
                    continue;
                };
                known.extend(metric.labels.iter().map(|(label, _)| *label));
                let grows = [format!("rate({name}"), format!("increase({name}")];
                let is_of_growth = grows.iter().any(|grows| expression.contains(grows));
                if is_of_growth != (metric.kind != MetricKind::Gauge)
                    || of_histogram.is_some() != (metric.kind == MetricKind::Histogram)
                {
                    wrong.push(format!("{place}: {name} is a {:?}", metric.kind));
                }
            }
            let unknown = labels_in(expression).into_iter().filter(|label| !known.contains(label));
            wrong.extend(unknown.map(|label| format!("{place}: no metric has the label {label}")));
        }
    }
    holds("A panel shows nothing where the metric or its label is not there.", wrong);
}

/// The labels that an expression groups by and selects by.
fn labels_in(expression: &str) -> BTreeSet<&str> {
    let of_groups = expression.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
    let grouped = of_groups.flat_map(|labels| labels.split(',')).map(str::trim);
    let of_selectors = expression.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let selected = of_selectors.flat_map(|one| one.split(", ")).filter_map(|one| one.split(['=', '!']).next());
    grouped.chain(selected).collect()
}

#[test]
fn labels_are_found_in_expressions() {
    let expression = "sum by (tx, le) (rate(a_bucket{b=~'x|y', c!='1'}[5m])) / sum by (tx) (rate(d[5m]))";
    assert_eq!(labels_in(expression), BTreeSet::from(["b", "c", "le", "tx"]));
    assert_eq!(metrics_in("rate(stampede_a_total[5m]) / up"), BTreeSet::from(["stampede_a_total"]));
}
