//! Alerts speak of metrics that there are, lead to what to do and to what it looks like, and come when they should.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use stampede::services::SERVICES;
use testkit::servers;

use super::dashboards::{dashboards, expressions, metrics_in, panels};
use super::{of_kind, rendered};
use crate::tidy::{holds, root, sources};

mod runbooks;

/// Cases for `promtool test rules`.
const CASES: &str = "k8s/components/monitoring/alerts-test.yaml";

/// The groups of alerts of production.
fn groups() -> Vec<&'static Value> {
    let rules = of_kind(&rendered().overlays["prod"], "PrometheusRule");
    rules.flat_map(|rule| rule["spec"]["groups"].as_array()).flatten().collect()
}

/// Every alert of production.
fn alerts() -> Vec<&'static Value> {
    let alerts: Vec<&Value> = groups().into_iter().flat_map(|group| group["rules"].as_array()).flatten().collect();
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
        let named = metrics_in(expression);
        // `up` is Prometheus' own.
        if named.is_empty() && !expression.contains("up{") {
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

/// A service that is gone records nothing, so the rules about what it records stay silent.
#[test]
fn every_service_is_missed_when_it_is_gone() {
    let missed: BTreeSet<&str> = alerts()
        .into_iter()
        .filter(|alert| alert["alert"] == "ServiceGone")
        .filter_map(|alert| {
            let service = alert["labels"]["service"].as_str()?;
            let summary = alert["annotations"]["summary"].as_str()?;
            let is_its_own = alert["expr"] == format!("absent(up{{service=\"{service}\"}} == 1)");
            (is_its_own && summary.contains(service)).then_some(service)
        })
        .collect();
    assert_eq!(missed, SERVICES.iter().map(|service| service.name).collect());
}

#[test]
fn every_alert_says_what_it_is_and_whether_somebody_is_called() {
    let mut wrong = Vec::new();
    for alert in alerts() {
        let summary = alert["annotations"]["summary"].as_str().unwrap_or_default();
        let severity = alert["labels"]["severity"].as_str().unwrap_or_default();
        if summary.is_empty() || !["page", "ticket"].contains(&severity) {
            wrong.push(format!("{}: summary {summary:?}, severity {severity:?}", alert["alert"]));
        }
    }
    holds("alerts", wrong);
}

#[test]
fn every_alert_leads_to_a_dashboard_that_shows_its_metrics() {
    let dashboards = dashboards();
    let shown: BTreeMap<String, BTreeSet<&str>> = dashboards
        .iter()
        .map(|(_, dashboard)| {
            let metrics = panels(dashboard).flat_map(expressions).flat_map(metrics_in).collect();
            (format!("/d/{}", dashboard["uid"].as_str().unwrap_or_default()), metrics)
        })
        .collect();
    let mut wrong = Vec::new();
    for alert in alerts() {
        let link = alert["annotations"]["dashboard_url"].as_str().unwrap_or_default();
        let metrics = metrics_in(alert["expr"].as_str().unwrap_or_default());
        if shown.get(link).is_none_or(|shown| !metrics.is_subset(shown)) {
            wrong.push(format!("{}: {link:?} does not show {metrics:?}", alert["alert"]));
        }
    }
    holds("alerts and dashboards", wrong);
}

/// What the soak asks promtool is asked of every alert.
#[test]
fn every_alert_has_a_case_in_which_it_comes_and_one_in_which_it_does_not() {
    let cases = std::fs::read_to_string(root().join(CASES)).expect("the cases are there");
    let wrong = alerts().into_iter().filter_map(|alert| {
        let name = alert["alert"].as_str().unwrap_or_default();
        let own: Vec<&str> = cases.lines().filter(|line| line.contains(&format!("alertname: {name},"))).collect();
        let silent = own.iter().filter(|line| line.contains("exp_alerts: []")).count();
        (silent == 0 || silent == own.len()).then(|| format!("{name}: {silent} silent of {} cases", own.len()))
    });
    holds("alerts-test.yaml", wrong.collect());
}

#[test]
#[ignore = "soak: with promtool, of Debian's package prometheus"]
fn alerts_come_when_they_should_and_every_expression_is_promql() {
    let folder = servers::folder("promtool");
    std::fs::create_dir_all(&folder).expect("it can be made");
    let write = |name: &str, groups: Value| {
        std::fs::write(folder.join(name), json!({ "groups": groups }).to_string()).expect("it can be written");
    };
    let mut groups = json!(groups());
    write("alerts.yaml", groups.clone());
    let rules = groups.as_array_mut().into_iter().flatten().flat_map(|group| group["rules"].as_array_mut()).flatten();
    rules.filter_map(Value::as_object_mut).for_each(|rule| drop(rule.remove("annotations")));
    write("rules.yaml", groups);
    let dashboards = dashboards();
    let expressions = dashboards.iter().flat_map(|(_, dashboard)| panels(dashboard)).flat_map(expressions);
    let filled = expressions.map(|one| one.replace("$__rate_interval", "5m").replace("$service", ".*"));
    let records = filled.zip(0..).map(|(expr, number)| json!({ "record": format!("panel:{number}"), "expr": expr }));
    write("panels.yaml", json!([{ "name": "panels", "rules": records.collect::<Vec<_>>() }]));
    std::fs::copy(root().join(CASES), folder.join("cases.yaml")).expect("the cases are there");

    promtool(&folder, &["check", "rules", "alerts.yaml", "panels.yaml"]);
    promtool(&folder, &["test", "rules", "cases.yaml"]);
}

fn promtool(folder: &Path, arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(folder).output();
    let output = output.expect("promtool is there: ./stampede soak installs it");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    println!("promtool {arguments:?}: {said}");
}
