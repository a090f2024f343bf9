//! Documents are honest: what they name is there, and the Korean README has what the English one has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};
use stampede::cli::Cli;
use stampede::services::SERVICES;

use crate::readme;
use crate::tidy::{self, holds, root};

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All pages, from the root of the repository.
fn pages() -> Vec<String> {
    let of = |folder: &&str| {
        let entries = fs::read_dir(root().join(folder)).expect("the folder is there");
        let names = entries.map(|entry| entry.expect("it can be read").file_name().into_string().expect("it is text"));
        let pages = names.filter(|name| name.ends_with(".md"));
        pages.map(|name| Path::new(folder).join(name).display().to_string()).collect::<Vec<_>>()
    };
    ["", "docs", "docs/adr", "migrations"].iter().flat_map(of).collect()
}

/// The text outside of code blocks.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// What stands between single backticks, also where a line ends in between.
fn in_code(prose: &str) -> Vec<String> {
    let paragraphs = prose.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs.flat_map(|text| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// How links name a heading.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = prose(page);
    let headings =
        headings.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches(['#', ' ']));
    let anchor = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    for page in pages() {
        let folder = root().join(Path::new(&page).parent().unwrap_or(Path::new("")));
        let prose = prose(&text(&page));
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { root().join(&page) } else { folder.join(file) };
            if !path.exists() {
                broken.push(format!("{page}: {target} is not there"));
            } else if !heading.is_empty() && path.is_file() {
                let linked = fs::read_to_string(&path).expect("it is text");
                if !anchors(&linked).contains(heading) {
                    broken.push(format!("{page}: {target} has no such heading"));
                }
            }
        }
    }
    holds("Links in documents lead somewhere.", broken);
}

#[test]
fn the_decisions_are_all_in_their_index() {
    let index = text("docs/adr/README.md");
    let mut broken = Vec::new();
    for page in pages().iter().filter(|page| page.starts_with("docs/adr/0")) {
        let title = text(page);
        let title = title.lines().next().unwrap_or_default().trim_start_matches("# ");
        let (number, title) = title.split_once(". ").unwrap_or_default();
        let row = format!("| [{number}]({}) | {title} |", page.trim_start_matches("docs/adr/"));
        if !index.contains(&row) {
            broken.push(row);
        }
    }
    holds("docs/adr/README.md has a row for each decision.", broken);
}

/// Names of functions have words enough not to be anything else.
fn is_name_of_a_test(code: &str) -> bool {
    let letters = code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    letters && code.matches('_').count() >= 3
}

#[test]
fn every_test_that_the_page_of_promises_names_is_there() {
    let sources = tidy::files("rs");
    let page = prose(&text("docs/correctness.md"));
    let named: BTreeSet<String> = in_code(&page).into_iter().filter(|code| is_name_of_a_test(code)).collect();
    assert!(named.len() > 60, "only {} names were found", named.len());
    let is_there = |name: &str| sources.iter().any(|source| source.text.contains(&format!("fn {name}(")));
    holds(
        "docs/correctness.md names tests that there are.",
        named.into_iter().filter(|name| !is_there(name)).collect(),
    );
    let promises = text("README.md").matches("\n| P").count();
    assert_eq!(page.matches("\n## P").count(), promises, "each promise of the README has a section");
}

#[test]
fn the_page_of_flows_names_the_files_and_tables_that_there_are() {
    let page = prose(&text("docs/architecture.md"));
    let mut broken = Vec::new();
    let is_path = |code: &String| code.starts_with("services/") || code.starts_with("crates/");
    for code in in_code(&page).into_iter().filter(is_path) {
        if !root().join(&code).exists() {
            broken.push(format!("{code} is not there"));
        }
    }
    for service in SERVICES {
        let schema = text(&format!("services/{}/src/schema.rs", service.name));
        let tables = schema.split("diesel::table! {\n    ").skip(1);
        let tables: BTreeSet<String> = tables.filter_map(|rest| rest.split(' ').next()).map(str::to_owned).collect();
        let row = page.lines().find(|line| line.starts_with(&format!("| {} |", service.name))).unwrap_or_default();
        let told = row.split('|').nth(2).unwrap_or_default();
        let mut named: BTreeSet<String> = in_code(told).into_iter().collect();
        // "each with its `…_archive`"
        if named.remove("…_archive") {
            let archives = ["orders", "order_items", "shipping_info"].map(|table| format!("{table}_archive"));
            named.extend(archives);
        }
        if named != tables {
            broken.push(format!("{}: {:?}", service.name, named.symmetric_difference(&tables).collect::<Vec<_>>()));
        }
    }
    holds("docs/architecture.md says who owns what.", broken);
}

/// A semicolon ends a statement there, and the rest of the line is not understood.
#[test]
fn no_diagram_has_a_semicolon_in_a_line() {
    let page = text("docs/architecture.md");
    let diagrams = page.split("```mermaid\n").skip(1).filter_map(|rest| rest.split("```").next());
    let broken: Vec<String> =
        diagrams.flat_map(str::lines).filter(|line| line.contains(';')).map(str::to_owned).collect();
    assert!(page.contains("```mermaid\nsequenceDiagram"), "the diagrams were not found");
    holds("Diagrams are drawn.", broken);
}

/// Each block with the language behind its backticks, and without the comments of the shell, which are translated.
fn blocks(page: &str) -> Vec<(String, String)> {
    let blocks = page.split("\n```").skip(1).step_by(2);
    let parts = blocks.filter_map(|block| block.split_once('\n'));
    let without_comment = |line: &str| {
        // A `#` within quotes is no comment.
        let comment = line.match_indices('#').map(|(at, _)| at).find(|at| {
            let before = &line[..*at];
            (before.is_empty() || before.ends_with(' ')) && before.matches('\'').count().is_multiple_of(2)
        });
        line[..comment.unwrap_or(line.len())].trim_end().to_owned()
    };
    let cleaned = |language: &str, code: &str| match language {
        "sh" => code.lines().map(without_comment).collect::<Vec<_>>().join("\n"),
        "text" => code.to_owned(),
        // Drawings are translated.
        _ => String::new(),
    };
    parts.map(|(language, code)| (language.to_owned(), cleaned(language, code))).collect()
}

/// The levels of the headings, and how many rows tables have between them.
fn outline(page: &str) -> Vec<(usize, usize)> {
    let mut outline = Vec::new();
    for line in prose(page).lines() {
        if line.starts_with('#') {
            outline.push((line.chars().take_while(|c| *c == '#').count(), 0));
        } else if line.starts_with('|')
            && let Some((_, rows)) = outline.last_mut()
        {
            *rows += 1;
        }
    }
    outline
}

/// Every command that `--help` shows; of a group, each command in it.
fn commands_of_the_executable() -> Vec<String> {
    let cli = Cli::command();
    let shown = |command: &Command| -> Vec<Command> {
        command.get_subcommands().filter(|inner| !inner.is_hide_set()).cloned().collect()
    };
    let mut names = Vec::new();
    for command in shown(&cli) {
        let name = command.get_name();
        match shown(&command).iter().map(|inner| format!("{name} {}", inner.get_name())).collect::<Vec<_>>() {
            inner if inner.is_empty() => names.push(name.to_owned()),
            inner => names.extend(inner),
        }
    }
    assert!(names.len() > 20, "{names:?}");
    names
}

#[test]
fn the_readme_has_every_command_of_the_executable() {
    let table = readme::commands();
    // `trace order ID` stands there as `trace`.
    let group = |command: &str| command.split(' ').next().unwrap_or_default().to_owned();
    let is_there = |command: &String| table.contains(command) || table.contains(&group(command));
    let missing = commands_of_the_executable().into_iter().filter(|command| !is_there(command));
    holds("The table of commands in README.md lacks:", missing.collect());
}

#[test]
fn the_korean_readme_has_every_heading_command_and_figure_of_the_english_one() {
    let (english, korean) = (text("README.md"), text("README.ko.md"));
    assert_eq!(outline(&korean), outline(&english), "headings, and rows of tables below them");
    for (ours, theirs) in blocks(&korean).iter().zip(&blocks(&english)) {
        assert_eq!(ours, theirs, "a block of README.ko.md differs from README.md");
    }
    assert_eq!(blocks(&korean).len(), blocks(&english).len());
    let korean: BTreeSet<String> = in_code(&prose(&korean)).into_iter().collect();
    let missing: Vec<String> = in_code(&prose(&english)).into_iter().filter(|code| !korean.contains(code)).collect();
    assert!(missing.is_empty(), "README.ko.md does not name {missing:?}");
}
