//! Grafana's dashboards: what is on them is in the files of `dashboards/`, and here is how Grafana has it written down.

mod events;
mod infrastructure;
mod notifications;
mod sale;
mod services;
mod waiting_room;

use serde_json::{Value, json};

use super::{File, NOTICE};

/// Where they are, in the component that also has the alerts.
const FOLDER: &str = "k8s/components/monitoring/dashboards";

const ALL: [&Dashboard; 6] = [
    &sale::DASHBOARD,
    &services::DASHBOARD,
    &events::DASHBOARD,
    &notifications::DASHBOARD,
    &waiting_room::DASHBOARD,
    &infrastructure::DASHBOARD,
];

/// One page of Grafana.
struct Dashboard {
    /// The last part of its address, and the name of its file.
    uid: &'static str,
    title: &'static str,
    /// What question it answers.
    description: &'static str,
    rows: &'static [Row],
}

struct Row {
    title: &'static str,
    panels: &'static [Panel],
}

struct Panel {
    shape: Shape,
    title: &'static str,
    /// What it shows, and when to worry.
    description: &'static str,
    unit: Unit,
    /// Each with the name of its lines.
    queries: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Lines,
    /// One number, red from this threshold on.
    Number(Option<u32>),
}

#[derive(Clone, Copy)]
enum Unit {
    PerSecond,
    Seconds,
    Share,
    Count,
}

impl Unit {
    /// As Grafana calls it.
    const fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "cps",
            Unit::Seconds => "s",
            Unit::Share => "percentunit",
            Unit::Count => "short",
        }
    }
}

type Queries = &'static [(&'static str, &'static str)];

const fn lines(title: &'static str, unit: Unit, description: &'static str, queries: Queries) -> Panel {
    Panel { shape: Shape::Lines, title, description, unit, queries }
}

const fn number(
    title: &'static str,
    unit: Unit,
    red_from: Option<u32>,
    description: &'static str,
    queries: Queries,
) -> Panel {
    Panel { shape: Shape::Number(red_from), title, description, unit, queries }
}

pub(super) fn files() -> Vec<File> {
    let file = |dashboard: &&Dashboard| {
        let text = format!("{:#}", written(dashboard));
        (format!("{FOLDER}/{}.json", dashboard.uid), text)
    };
    let mut files: Vec<File> = ALL.iter().map(file).collect();
    files.push((format!("{FOLDER}/kustomization.yaml"), kustomization()));
    files
}

/// Grafana's sidecar reads every ConfigMap that has the label.
fn kustomization() -> String {
    let files: String = ALL.iter().map(|dashboard| format!("      - {}.json\n", dashboard.uid)).collect();
    format!(
        "# {NOTICE}
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
configMapGenerator:
  - name: grafana-dashboards
    files:
{files}    options:
      disableNameSuffixHash: true
      labels:
        grafana_dashboard: \"1\"
      annotations:
        grafana_folder: Stampede
"
    )
}

/// The prometheus that the page is looked at with.
fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn written(dashboard: &Dashboard) -> Value {
    json!({
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": format!("{} {NOTICE}", dashboard.description),
        "tags": ["stampede"],
        "schemaVersion": 39,
        "editable": false,
        "timezone": "browser",
        "time": { "from": "now-1h", "to": "now" },
        "refresh": "10s",
        // Moments of one panel are shown in all of them.
        "graphTooltip": 1,
        "links": [{ "type": "dashboards", "title": "Stampede", "tags": ["stampede"], "asDropdown": true, "keepTime": true }],
        "templating": { "list": [
            { "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus" },
            {
                "name": "service", "label": "Service", "type": "query", "datasource": source(),
                "query": "label_values(stampede_tokens_refused_total, service)",
                "refresh": 2, "sort": 1, "multi": true, "includeAll": true,
                "current": { "text": ["All"], "value": ["$__all"] },
            },
        ] },
        "panels": panels(dashboard.rows),
    })
}

/// Grafana's pages are so many units wide.
const WIDTH: u64 = 24;

/// All panels, from left to right and from top to bottom, each row under its title.
fn panels(rows: &[Row]) -> Vec<Value> {
    let (mut panels, mut y) = (Vec::new(), 0);
    for row in rows {
        let id = panels.len() + 1;
        panels.push(json!({
            "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
            "gridPos": { "x": 0, "y": y, "w": WIDTH, "h": 1 },
        }));
        y += 1;
        let (mut x, mut height) = (0, 0);
        for panel in row.panels {
            let (w, h) = match panel.shape {
                Shape::Lines => (WIDTH / 2, 8),
                Shape::Number(_) => (WIDTH / 6, 4),
            };
            if x + w > WIDTH {
                (x, y, height) = (0, y + height, 0);
            }
            let place = json!({ "x": x, "y": y, "w": w, "h": h });
            panels.push(written_panel(panels.len() + 1, &place, panel));
            (x, height) = (x + w, height.max(h));
        }
        y += height;
    }
    panels
}

fn written_panel(id: usize, place: &Value, panel: &Panel) -> Value {
    let targets = panel.queries.iter().zip('A'..).map(|((expression, legend), name)| {
        json!({ "refId": name, "datasource": source(), "expr": expression, "legendFormat": legend })
    });
    let (kind, options, mut defaults) = match panel.shape {
        Shape::Lines => (
            "timeseries",
            json!({
                "legend": { "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            json!({ "min": 0, "custom": { "fillOpacity": 10, "showPoints": "never" } }),
        ),
        Shape::Number(red_from) => (
            "stat",
            json!({ "reduceOptions": { "calcs": ["lastNotNull"] }, "colorMode": "background", "graphMode": "area" }),
            json!({ "noValue": "0", "thresholds": { "mode": "absolute", "steps": steps(red_from) } }),
        ),
    };
    defaults["unit"] = panel.unit.name().into();
    json!({
        "id": id,
        "type": kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": source(),
        "gridPos": place,
        "fieldConfig": { "defaults": defaults, "overrides": [] },
        "options": options,
        "targets": targets.collect::<Vec<_>>(),
    })
}

fn steps(red_from: Option<u32>) -> Vec<Value> {
    let base = json!({ "color": if red_from.is_some() { "green" } else { "blue" }, "value": null });
    let red = red_from.map(|value| json!({ "color": "red", "value": value }));
    [Some(base), red].into_iter().flatten().collect()
}
