//! Each alert has a section of its own in docs/operations.md that says what to do, and each metric that the page calls an
//! alarm has an alert.

use std::collections::{BTreeMap, BTreeSet};

use super::{alerts, metrics_in};
use crate::tidy::{holds, root};

const PAGE: &str = "docs/operations.md";

fn page() -> String {
    std::fs::read_to_string(root().join(PAGE)).expect("it is there")
}

/// Each alert with the metrics that it speaks of, without the parts of histograms.
fn metrics_of_alerts() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for alert in alerts() {
        let metrics = metrics_in(alert["expr"].as_str().unwrap_or_default()).into_iter();
        let whole = metrics.map(|name| {
            let part = ["_bucket", "_count", "_sum"].iter().find_map(|part| name.strip_suffix(part));
            part.unwrap_or(name)
        });
        all.entry(alert["alert"].as_str().unwrap_or_default()).or_default().extend(whole);
    }
    all
}

/// The sections of the part `## Alerts`, by their headings.
fn sections(page: &str) -> BTreeMap<&str, &str> {
    let part = page.split("\n## Alerts\n").nth(1).expect("the page has a part about alerts");
    let part = part.split("\n## ").next().unwrap_or_default();
    part.split("\n### ").skip(1).filter_map(|section| section.split_once('\n')).collect()
}

#[test]
fn every_alert_leads_to_a_section_of_its_name_that_says_what_to_do() {
    let page = page();
    let sections = sections(&page);
    let mut wrong = Vec::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap_or_default();
        let runbook = alert["annotations"]["runbook_url"].as_str().unwrap_or_default();
        if runbook != format!("{PAGE}#{}", name.to_lowercase()) {
            wrong.push(format!("{name}: {runbook} is not its section"));
        }
        let Some(section) = sections.get(name) else {
            wrong.push(format!("{name} has no section"));
            continue;
        };
        let (meaning, steps) = section.split_once("\n1. ").unwrap_or((section, ""));
        if meaning.trim().len() < 40 {
            wrong.push(format!("{name}: what it means is not said"));
        }
        if !steps.contains("\n2. ") {
            wrong.push(format!("{name}: there are no steps to follow"));
        }
    }
    let known: BTreeSet<&str> = metrics_of_alerts().into_keys().collect();
    wrong.extend(sections.keys().filter(|name| !known.contains(**name)).map(|name| format!("{name} is no alert")));
    holds(PAGE, wrong);
}

/// Alerts by the links of a row, such as [`OutboxWaits`](#outboxwaits).
fn linked(row: &str) -> BTreeSet<&str> {
    let links = row.split("[`").skip(1).filter_map(|rest| rest.split_once("`](#"));
    links.filter(|(name, rest)| rest.starts_with(&format!("{})", name.to_lowercase()))).map(|(name, _)| name).collect()
}

#[test]
fn every_metric_that_is_an_alarm_names_its_alerts_and_every_alert_is_named_by_its_metrics() {
    let (page, alerts) = (page(), metrics_of_alerts());
    let rows = page.lines().filter(|line| line.starts_with("| `stampede_") || line.starts_with("| `http_server_"));
    let mut wrong = Vec::new();
    let mut found = 0;
    for row in rows {
        let cell = row.trim_start_matches("| ").split(" | ").next().unwrap_or_default();
        let metrics = metrics_in(cell);
        let expected: BTreeSet<&str> =
            alerts.iter().filter(|(_, of)| !of.is_disjoint(&metrics)).map(|(name, _)| *name).collect();
        found += expected.len();
        // Other links of a row lead to other parts of the page.
        let named: BTreeSet<&str> = linked(row).into_iter().filter(|name| alerts.contains_key(name)).collect();
        if named != expected {
            wrong.push(format!("{cell}: its alerts are {expected:?}, and the row names {named:?}"));
        }
        if row.contains("alarm") == expected.is_empty() {
            wrong
                .push(format!("{cell}: alerts {expected:?}, and the row calls it an alarm: {}", row.contains("alarm")));
        }
    }
    assert!(found > 20, "only {found} alerts were found in rows");
    holds(PAGE, wrong);
}
