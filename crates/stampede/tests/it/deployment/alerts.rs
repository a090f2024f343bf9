//! Alerts speak of metrics that there are, and lead to what to do.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{of_kind, rendered};
use crate::tidy::{holds, root, sources};

/// Every alert of production.
fn alerts() -> Vec<&'static Value> {
    let groups =
        of_kind(&rendered().overlays["prod"], "PrometheusRule").flat_map(|rule| rule["spec"]["groups"].as_array());
    let alerts: Vec<&Value> = groups.flatten().flat_map(|group| group["rules"].as_array()).flatten().collect();
    assert!(alerts.len() > 10, "only {} alerts", alerts.len());
    alerts
}

#[test]
fn every_metric_of_an_alert_exists() {
    let mut recorded: BTreeSet<String> = BTreeSet::new();
    for source in sources() {
        for rest in source.code().split("metrics::").skip(1) {
            let kind = ["counter!", "gauge!", "histogram!"].iter().find_map(|kind| rest.strip_prefix(kind));
            recorded.extend(kind.and_then(|rest| rest.split('"').nth(1)).map(str::to_owned));
        }
    }
    assert!(recorded.len() > 30, "{recorded:?}");
    let mut unknown = Vec::new();
    for alert in alerts() {
        let expression = alert["expr"].as_str().unwrap_or_default();
        let words = expression.split(|mark: char| !(mark.is_ascii_alphanumeric() || mark == '_'));
        let named: Vec<&str> =
            words.filter(|word| word.starts_with("stampede_") || word.starts_with("http_server_")).collect();
        if named.is_empty() {
            unknown.push(format!("{}: no metric of ours in {expression}", alert["alert"]));
        }
        for metric in named {
            let parts = ["_bucket", "_count", "_sum"].iter().filter_map(|part| metric.strip_suffix(part));
            if !parts.chain([metric]).any(|metric| recorded.contains(metric)) {
                unknown.push(format!("{}: nothing records {metric}", alert["alert"]));
            }
        }
    }
    holds("An alert without its metric never comes.", unknown);
}

#[test]
fn every_alert_says_what_it_is_and_where_help_is() {
    let mut wrong = Vec::new();
    for alert in alerts() {
        let annotations = &alert["annotations"];
        let summary = annotations["summary"].as_str().unwrap_or_default();
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        if summary.is_empty() || !["page", "ticket"].contains(&severity) {
            wrong.push(format!("{}: summary {summary:?}, severity {severity:?}", alert["alert"]));
        }
        let runbook = annotations["runbook_url"].as_str().unwrap_or_default();
        let (path, anchor) = runbook.split_once('#').unwrap_or((runbook, ""));
        let text = std::fs::read_to_string(root().join(path)).unwrap_or_default();
        let headings = text.lines().filter(|line| line.starts_with('#'));
        let mut anchors = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"));
        if !anchors.any(|found| found == anchor) {
            wrong.push(format!("{}: {runbook} leads nowhere", alert["alert"]));
        }
    }
    holds("alerts", wrong);
}
