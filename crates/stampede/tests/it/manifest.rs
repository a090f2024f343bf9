//! One manifest for each service: `SERVICES` has every service that there is, and nothing else lists them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::manifest::{ServiceSpec, identifier};
use contract::events::{TOPICS, TOPICS_OF_ANYBODY};
use stampede::services::SERVICES;

use crate::tidy::{files, folders, holds, root};

/// Where a list of all services must stand: here every new one adds a line.
const LISTS: [&str; 2] = ["crates/stampede/src/services.rs", "crates/stampede/Cargo.toml"];
/// So many services named beside each other are a list.
const LISTED: usize = 3;
/// Lines that count as beside each other.
const BESIDE: usize = 8;

fn names() -> BTreeSet<String> {
    SERVICES.iter().map(|service| service.name.to_owned()).collect()
}

fn schema(service: &ServiceSpec) -> String {
    identifier(service.name)
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_service_is_in_the_list_and_has_migrations_of_its_own() {
    let names = names();
    assert_eq!(names.len(), SERVICES.len(), "no two services share a name");
    assert_eq!(folders("services").into_iter().collect::<BTreeSet<_>>(), names, "services/ and SERVICES");
    let migrations = folders("migrations").into_iter().filter(|folder| folder != "common");
    assert_eq!(migrations.collect::<BTreeSet<_>>(), names, "migrations/ and SERVICES");
}

/// A schema keeps one list of the steps it has had, and `common/` is applied to every schema.
#[test]
fn no_two_migrations_have_one_number() {
    let mut numbers = BTreeSet::new();
    let steps = folders("migrations").into_iter().flat_map(|folder| folders(&format!("migrations/{folder}")));
    let taken: Vec<String> =
        steps.filter(|step| !numbers.insert(step.split('_').next().unwrap_or_default().to_owned())).collect();
    holds("A step's date and number are its identity; take numbers that no other folder has.", taken);
}

#[test]
fn every_topic_is_produced_by_one_service() {
    let mut produced: Vec<&str> = SERVICES.iter().flat_map(|service| service.produces).copied().collect();
    produced.extend(TOPICS_OF_ANYBODY);
    produced.sort_unstable();
    let mut known = TOPICS.to_vec();
    known.sort_unstable();
    assert_eq!(produced, known, "what SERVICES produce and contract::events::TOPICS");
    let unknown = SERVICES.iter().flat_map(|service| {
        let unknown = service.consumes.iter().chain(service.hears).filter(|topic| !TOPICS.contains(topic));
        unknown.map(|topic| format!("{} consumes or hears {topic}", service.name))
    });
    holds("Only topics of contract::events are consumed or heard.", unknown.collect());
}

/// Who consumes what decides what the audit looks for, so the manifest must say what the consumer does.
#[test]
fn a_service_consumes_what_its_manifest_says_under_its_own_name() {
    for service in SERVICES {
        let lib = text(&format!("services/{}/src/lib.rs", service.name));
        let named_in = |call: &str| -> BTreeSet<String> {
            lib.split(call).skip(1).filter_map(|rest| rest.split(',').next()).map(topic).collect()
        };
        let set = |topics: &[&str]| -> BTreeSet<String> { topics.iter().map(|topic| (*topic).to_owned()).collect() };
        let said = set(service.consumes);
        assert_eq!(named_in(".on::<"), said, "{}: handlers of its consumer, and `consumes`", service.name);
        let heard = set(service.hears);
        assert_eq!(named_in(".hears::<"), heard, "{}: what its listener hears, and `hears`", service.name);
        let mut own = vec![format!("host.db(\"{}\"", service.name), format!("host.settings(\"{}\")", schema(service))];
        if !said.is_empty() {
            own.push(format!("Consumer::new(\"{}\"", service.name));
        }
        if !heard.is_empty() {
            own.push(format!("Listener::new(\"{}\"", service.name));
        }
        let missing = own.into_iter().filter(|call| !lib.contains(call.as_str()));
        holds(&format!("{} calls itself by its name.", service.name), missing.collect());
    }
}

/// `OrderPlaced` is `ORDER_PLACED`.
fn topic(event: &str) -> String {
    let mut topic = String::new();
    for letter in event.trim().chars() {
        if letter.is_uppercase() && !topic.is_empty() {
            topic.push('_');
        }
        topic.extend(letter.to_uppercase());
    }
    topic
}

#[test]
fn documents_list_the_services_that_there_are() {
    let mut missing = Vec::new();
    let mut expect = |path: &str, line: String| {
        if !text(path).lines().any(|found| words(found).starts_with(&words(&line))) {
            missing.push(format!("{path} has no line {line:?}"));
        }
    };
    for [path, line] in lists_in_documents() {
        expect(path, line.to_owned());
    }
    for service in SERVICES {
        expect("ARCHITECTURE.md", format!("services/{}/ {}", service.name, service.summary));
        expect(
            "migrations/README.md",
            format!("| `{}/` | `{}` | {} |", service.name, schema(service), tables(service)),
        );
        expect("docs/operations.md", format!("| **{}** |", service.name));
    }
    holds("Documents follow SERVICES and migrations/.", missing);
}

/// However it is laid out.
fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The lines of documents that name all services.
fn lists_in_documents() -> [[&'static str; 2]; 4] {
    static LINES: std::sync::LazyLock<[String; 3]> = std::sync::LazyLock::new(|| {
        let quoted: Vec<String> = SERVICES.iter().map(|service| format!("`{}`", service.name)).collect();
        let plain = stampede::services::names();
        let [row, folders] = [format!("| {} |", quoted.join(", ")), format!("services/ {plain}")];
        [format!("{row} host these"), folders, row]
    });
    [["README.md", &LINES[0]], ["README.md", &LINES[1]], ["README.ko.md", &LINES[2]], ["README.ko.md", &LINES[1]]]
}

/// The tables and views of a service's migrations, as documents list them.
fn tables(service: &ServiceSpec) -> String {
    let folder = format!("migrations/{}/", service.name);
    let mut steps: Vec<_> = files("sql").into_iter().filter(|file| file.path.starts_with(&folder)).collect();
    steps.retain(|file| file.path.ends_with("/up.sql"));
    steps.sort_by(|a, b| a.path.cmp(&b.path));
    let made = |kind: &str| -> Vec<String> {
        let lines = steps.iter().flat_map(|step| step.text.lines());
        let names = lines.filter_map(|line| line.strip_prefix(kind)?.split([' ', '(']).next());
        // A view is made again when a table that it reads changes.
        let mut made: Vec<String> = Vec::new();
        for name in names.map(|name| format!("`{name}`")) {
            if !made.contains(&name) {
                made.push(name);
            }
        }
        made
    };
    match made("create view ").join(", ") {
        views if views.is_empty() => made("create table ").join(", "),
        views => format!("{}; view {views}", made("create table ").join(", ")),
    }
}

#[test]
fn the_table_of_events_says_who_produces_and_who_consumes() {
    let document = text("docs/events.md");
    let rows = document.lines().filter(|line| line.starts_with("| [`"));
    let found: BTreeSet<[String; 3]> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let topic = cells[1].split('`').nth(1).unwrap_or_default();
            [topic, cells[2], cells[5]].map(str::to_owned)
        })
        .collect();
    let expected: BTreeSet<[String; 3]> = TOPICS
        .iter()
        .map(|topic| {
            let consumers = SERVICES.iter().filter(|service| service.consumes.contains(topic));
            let consumers = consumers.map(|service| format!("{0} (`{0}@CLUSTER`)", service.name));
            let listeners = SERVICES.iter().filter(|service| service.hears.contains(topic));
            let listeners = listeners.map(|service| format!("{} (each replica)", service.name));
            let consumers: Vec<_> = consumers.chain(listeners).collect();
            let consumers = if consumers.is_empty() { "nobody yet".to_owned() } else { consumers.join(", ") };
            let producer = SERVICES.iter().find(|service| service.produces.contains(topic));
            [(*topic).to_owned(), producer.map_or("anybody", |service| service.name).to_owned(), consumers]
        })
        .collect();
    assert_eq!(found, expected, "docs/events.md and SERVICES");
    let sections = TOPICS.iter().filter(|topic| !document.contains(&format!("\n## `{topic}`\n")));
    holds("docs/events.md describes every event.", sections.map(|topic| (*topic).to_owned()).collect());
}

#[test]
fn nothing_else_lists_the_services() {
    let mut broken = Vec::new();
    let own = ["services/", "migrations/", "proto/", "config/"];
    let code = ["rs", "sql", "toml", "lua"].into_iter().flat_map(files).map(|file| (file.path, file.text));
    let others = ["Cargo.toml", "deny.toml", "clippy.toml", "stampede", ".ci/run", ".github/workflows/ci.yml"];
    for (path, text) in code.chain(others.map(|path| (path.to_owned(), text(path)))) {
        if !LISTS.contains(&path.as_str()) && !own.iter().any(|folder| path.starts_with(folder)) {
            broken.extend(lists_in_code(&text).map(|line| format!("{path}:{line}")));
        }
    }
    for path in documents() {
        let compared = |line: &str| {
            lists_in_documents().iter().any(|[document, list]| *document == path && words(line).starts_with(list))
                || (path == "docs/events.md" && line.starts_with("| [`"))
        };
        let text = text(&path);
        let lists = text.lines().enumerate().filter(|(_, line)| !compared(line) && names_a_list(line));
        broken.extend(lists.map(|(number, _)| format!("{path}:{}", number + 1)));
    }
    holds("Whoever needs all services derives them from SERVICES, so that none is forgotten.", broken);
}

/// The lines that begin a list of services: names as texts, tables that every service has, or calls of their functions.
fn lists_in_code(text: &str) -> impl Iterator<Item = usize> {
    let named = |line: &str, service: &ServiceSpec| {
        let (name, schema) = (service.name, schema(service));
        let quoted = ['"', '\'', '`']
            .iter()
            .any(|quote| [name, &schema].iter().any(|name| line.contains(&format!("{quote}{name}{quote}"))));
        let tables = ["outbox_events", "inbox", "parked"].map(|table| format!("{{{schema}}}.{table}"));
        let calls = ["mount", "spec", "routes", "describe"].map(|call| format!("{schema}::{call}"));
        let paths = [format!("services/{name}"), format!("{name} = {{ path"), format!("{name}.workspace")];
        quoted || tables.iter().chain(&calls).chain(&paths).any(|word| line.contains(word.as_str()))
    };
    let lines: Vec<BTreeSet<&str>> = text
        .lines()
        .map(|line| SERVICES.iter().filter(|service| named(line, service)).map(|service| service.name).collect())
        .collect();
    let starts: Vec<usize> = (0..lines.len())
        .filter(|start| !lines[*start].is_empty())
        .filter(|start| {
            let beside = &lines[*start..lines.len().min(start + BESIDE)];
            beside.iter().flatten().collect::<BTreeSet<_>>().len() >= LISTED
        })
        .map(|start| start + 1)
        .collect();
    starts.into_iter()
}

/// Whether a line of prose names services one after the other, with nothing but marks and "and" between them. Two
/// spaces are the gaps of a drawing.
fn names_a_list(line: &str) -> bool {
    line.split("  ").any(is_a_list)
}

fn is_a_list(line: &str) -> bool {
    let mut run = BTreeSet::new();
    let words = line.split(|mark: char| !(mark.is_alphanumeric() || ['-', '_'].contains(&mark)));
    for word in words.filter(|word| !word.is_empty() && *word != "and") {
        match SERVICES.iter().find(|service| [service.name, &schema(service)].contains(&word)) {
            Some(service) => drop(run.insert(service.name)),
            None => run.clear(),
        }
        if run.len() >= LISTED {
            return true;
        }
    }
    false
}

fn documents() -> Vec<String> {
    let folders = ["", "docs", "docs/adr", "migrations"];
    let of = |folder: &&str| {
        let entries = fs::read_dir(root().join(folder)).expect("the folder is there");
        let paths = entries.map(|entry| entry.expect("it can be read").path());
        let documents = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
        let relative = documents.map(|path| path.strip_prefix(root()).map(Path::to_path_buf));
        relative.map(|path| path.expect("it is below the root").display().to_string()).collect::<Vec<_>>()
    };
    folders.iter().flat_map(of).collect()
}

#[test]
fn a_list_is_recognised() {
    let list = |of: &dyn Fn(&ServiceSpec) -> String, mark: &str| SERVICES.iter().map(of).collect::<Vec<_>>().join(mark);
    let in_code = |text: &str| lists_in_code(text).count() > 0;
    assert!(in_code(&list(&|service| format!("\"{}\"", service.name), ", ")));
    assert!(in_code(&list(&|service| format!("{}::mount(host).await?;", schema(service)), "\n")));
    assert!(in_code(&list(&|service| format!("select * from {{{}}}.parked", schema(service)), "\nunion all\n")));
    assert!(!in_code("from {order}.orders join {inventory}.holds join {payment}.payments"), "a query has its tables");
    assert!(names_a_list(&list(&|service| format!("`{}`", service.name), " and ")));
    assert!(!names_a_list("payment asks order, and inventory"));
}
