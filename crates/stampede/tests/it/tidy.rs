//! The rules of the layout, as string searches: who may depend on whom, what each kind of file may contain, and what
//! must not exist at all. They hold without anyone having to remember them.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of ours.
pub struct Source {
    /// From the root of the repository.
    pub path: String,
    pub text: String,
}

impl Source {
    /// Without the tests at its bottom.
    pub fn code(&self) -> &str {
        self.text.split("#[cfg(test)]\nmod ").next().unwrap_or_default()
    }

    fn stem(&self) -> &str {
        Path::new(&self.path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
    }

    pub fn folder(&self) -> &str {
        Path::new(&self.path).parent().and_then(Path::to_str).unwrap_or_default()
    }

    /// Lines of code, with their numbers, that are no comments.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code().lines().enumerate().map(|(n, line)| (n + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// The names of the folders in `folder`, in alphabetical order.
pub fn folders(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).expect("the folder is there");
    let folders = entries.map(|entry| entry.expect("it can be read")).filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn services() -> Vec<String> {
    folders("services")
}

/// The code of all crates, without their tests.
pub fn sources() -> Vec<Source> {
    let mut sources = files("rs");
    sources.retain(|source| source.path.contains("/src/") && source.stem() != "tests" && source.stem() != "bad_tokens");
    assert!(sources.len() > 100, "only {} sources were found", sources.len());
    sources
}

/// All files of ours with this extension.
pub fn files(extension: &str) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    for folder in ["crates", "services", "migrations", "config", "proto"] {
        collect(&root.join(folder), extension, &mut found);
    }
    let of = |path: PathBuf| Source {
        path: path.strip_prefix(&root).expect("it was found below the root").display().to_string(),
        text: fs::read_to_string(&path).expect("it is text"),
    };
    found.into_iter().map(of).collect()
}

fn collect(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the crate lies in a workspace")
}

/// Fails with the rule, the reason and every place that breaks it.
#[track_caller]
pub fn holds(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}\n  {}", broken.join("\n  "));
}

/// Every place in `sources` where a line contains one of `words`.
fn mentions<'a>(sources: impl IntoIterator<Item = &'a Source>, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in source.lines() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                found.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    found
}

/// Names of the dependencies in the section `[kind]` of a manifest.
fn dependencies<'a>(manifest: &'a Source, kind: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.text.lines() {
        if line.starts_with('[') {
            inside = line == format!("[{kind}]");
        } else if inside && let Some(name) = line.split(['.', ' ', '=']).next() {
            names.push(name);
        }
    }
    names
}

#[test]
fn services_meet_only_in_contracts() {
    let (services, crates) = (services(), folders("crates"));
    let ours: Vec<&str> = services.iter().chain(&crates).map(String::as_str).collect();
    let every_service_and = |crates: &[&'static str]| [&ours[..services.len()], crates].concat();
    let mut broken = Vec::new();
    for manifest in files("toml").iter().filter(|file| file.stem() == "Cargo") {
        let allowed: &[&str] = match manifest.folder() {
            "crates/common" | "crates/sandbox" | "crates/client" => &[],
            "crates/contract" => &["common"],
            "crates/entry" => &["common", "contract"],
            "crates/testkit" => &["client", "common", "contract", "sandbox"],
            "crates/stampede" => &every_service_and(&["client", "common", "contract", "sandbox"]),
            _ => &["common", "contract", "entry"],
        };
        let for_tests = ["client", "common", "contract", "sandbox", "testkit"];
        for (kind, allowed) in [("dependencies", allowed), ("dev-dependencies", &for_tests)] {
            let names = dependencies(manifest, kind);
            let forbidden = names.iter().filter(|name| ours.contains(name) && !allowed.contains(name));
            broken.extend(forbidden.map(|name| format!("{}: {name} in [{kind}]", manifest.path)));
        }
    }
    holds(
        "stampede → services → entry → contract → common; no service knows another. What two need is a contract.",
        broken,
    );
}

#[test]
fn a_schema_is_touched_by_its_owner_alone() {
    let mut broken = Vec::new();
    let services = services();
    for service in &services {
        let others = || services.iter().filter(|other| *other != service).map(|other| other.replace('-', "_"));
        let verbs = ["from", "join", "into", "update", "references", "table"];
        let forbidden: Vec<String> = others()
            .flat_map(|schema| {
                verbs.map(|verb| [format!("{verb} {schema}."), format!("{verb} \"{schema}\".")]).into_iter().flatten()
            })
            // In statements of the audit.
            .chain(others().map(|schema| format!("{{{schema}}}.")))
            .chain(["search_path", "create schema", "{outbox_events}", "{parked}", "{subscribed}"].map(str::to_owned))
            .collect();
        let words: Vec<&str> = forbidden.iter().map(String::as_str).collect();
        let folders = ["src", "audit"].map(|folder| format!("services/{service}/{folder}"));
        let folders = [&folders[..], &[format!("migrations/{service}/")]].concat();
        let all = ["rs", "sql"].map(files).into_iter().flatten();
        let own: Vec<Source> =
            all.filter(|file| folders.iter().any(|folder| file.path.starts_with(folder.as_str()))).collect();
        assert!(!own.is_empty(), "nothing of {service} was found");
        broken.extend(mentions(&own, &words));
    }
    holds(
        "No query and no migration names another service's schema: ask it over gRPC, or listen to its events. An \
         invariant between services is the audit's own.",
        broken,
    );
}

#[test]
fn rules_read_no_clock_and_make_no_ids() {
    let sources = sources();
    // A noun is a file of a service that waits for nothing.
    let nouns =
        sources.iter().filter(|source| source.path.starts_with("services/") && !source.code().contains("async"));
    let words = [
        "Utc::now",
        "Local::now",
        "Instant::now",
        "SystemTime::now",
        "::generate()",
        "Uuid::new_v4",
        "Uuid::now_v7",
        "rand::random",
        "&mut Tx",
        "AsyncPgConnection",
        ".await",
    ];
    holds(
        "A file of rules takes time and ids as arguments and no connection, so that its tests need none.",
        mentions(nouns, &words),
    );
}

#[test]
fn events_leave_through_the_relay_alone() {
    let sources = sources();
    let apart = ["crates/common/src", "crates/sandbox/src", "crates/testkit/src"];
    let others = sources.iter().filter(|source| !apart.iter().any(|apart| source.path.starts_with(apart)));
    let words = ["FutureProducer", "BaseProducer", "ThreadedProducer", "FutureRecord", "BaseRecord"];
    holds("No producer outside common: what is not in an outbox was never said.", mentions(others, &words));
    let mut broken = Vec::new();
    for manifest in files("toml").iter().filter(|file| file.path.starts_with("services/")) {
        let (normal, _) = manifest.text.split_once("[dev-dependencies]").unwrap_or((&manifest.text, ""));
        let direct = ["rdkafka", "redis", "tokio-postgres", "jsonwebtoken"];
        let found = direct.iter().filter(|name| {
            normal.contains(&format!("\n{name}.")) && !(**name == "jsonwebtoken" && manifest.path.contains("account"))
        });
        broken.extend(found.map(|name| format!("{} depends on {name}", manifest.path)));
    }
    holds("Kafka, Redis and tokens are reached through common, where their guarantees are.", broken);
}

#[test]
fn nothing_is_left_to_do_and_nothing_is_hidden() {
    let sources = sources();
    let words = [
        "TODO",
        "FIXME",
        "XXX",
        "HACK",
        "todo!(",
        "unimplemented!(",
        "dbg!(",
        "#[allow(",
        "#![allow(",
        ".unwrap()",
        "unsafe {",
        "unsafe fn",
        "static mut",
    ];
    holds("Finish it, or leave it out.", mentions(&sources, &words));
    let comments = ["TODO", "FIXME"];
    let broken = ["rs", "sql", "lua", "toml", "proto"]
        .into_iter()
        .flat_map(files)
        .filter(|file| !file.path.ends_with("it/tidy.rs"));
    let broken = broken.filter(|file| comments.iter().any(|word| file.text.contains(word))).map(|file| file.path);
    holds("Neither in comments.", broken.collect());
    let features = files("toml").into_iter().filter(|file| file.stem() == "Cargo" && file.text.contains("[features]"));
    holds("No cargo features: one code path.", features.map(|file| file.path).collect());
}

/// Every file of the repository, and the folders that others make in it left out.
fn everything(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !path.is_dir() {
            found.push(path);
        } else if !["target", ".git", ".stampede", "node_modules", "__pycache__"].contains(&name) {
            everything(&path, found);
        }
    }
}

#[test]
fn no_file_has_the_marks_of_a_merge() {
    let mut found = Vec::new();
    everything(&root(), &mut found);
    assert!(found.len() > 500, "only {} files were found", found.len());
    let mut broken = Vec::new();
    for path in found {
        // Some are no text.
        let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let mut lines = text.lines().enumerate();
        let is_mark = |line: &str| ["<<<<<<< ", "||||||| ", ">>>>>>> "].iter().any(|mark| line.starts_with(mark));
        if let Some((number, line)) = lines.find(|(_, line)| is_mark(line)) {
            broken.push(format!("{}:{}: {line}", path.display(), number + 1));
        }
    }
    holds("A merge that met a conflict is finished by hand.", broken);
}

#[test]
fn files_are_short_have_a_noun_or_a_verb_for_a_name_and_say_what_they_are() {
    let all = files("rs");
    let long = all.iter().filter(|file| file.text.lines().count() > 400);
    holds(
        "At most 400 lines, or it is two files.",
        long.map(|file| format!("{}: {}", file.path, file.text.lines().count())).collect(),
    );
    let vague = all.iter().filter(|file| {
        ["utils", "util", "helpers", "helper", "service", "manager", "types", "mod", "misc"].contains(&file.stem())
    });
    holds("A helper has no file; say what it is about.", vague.map(|file| file.path.clone()).collect());
    let silent = all.iter().filter(|file| !file.text.trim_start().starts_with("//!") && file.stem() != "build");
    holds("Every file begins with a sentence about itself: `//! ...`.", silent.map(|file| file.path.clone()).collect());
}

#[test]
fn sql_and_lua_lie_beside_the_flow_that_runs_them() {
    let rust = files("rs");
    let mut broken = Vec::new();
    for file in ["sql", "lua"].into_iter().flat_map(files).filter(|file| file.path.contains("/src/")) {
        let name = Path::new(&file.path).file_name().and_then(|name| name.to_str()).expect("it has a name");
        let beside = rust.iter().any(|rust| {
            let is_flow = file.stem() == rust.stem() || file.stem().starts_with(&format!("{}_", rust.stem()));
            // Or of a step of it, in a function of that name.
            let is_step =
                rust.text.contains(&format!("fn {}(", file.stem())) && rust.text.contains(&format!("\"{name}\""));
            rust.folder() == file.folder() && (is_flow || is_step)
        });
        let in_folder_of = rust.iter().any(|rust| format!("{}.rs", file.folder()) == rust.path);
        if !beside && !in_folder_of {
            broken.push(format!("{} lies beside no flow of its name", file.path));
        }
        let crate_root = file.path.split("/src/").next().unwrap_or_default();
        let mut own = rust.iter().filter(|rust| rust.path.starts_with(crate_root));
        if !own.any(|rust| rust.text.contains("include_str!") && rust.text.contains(&format!("{name}\""))) {
            broken.push(format!("{} is included by nobody", file.path));
        }
    }
    for file in files("sql").iter().filter(|file| file.path.starts_with("services/") && file.path.contains("/audit/")) {
        let service = file.path.split("/audit/").next().unwrap_or_default();
        let lib = rust.iter().find(|rust| rust.path == format!("{service}/src/lib.rs")).expect("a service has one");
        if !lib.text.contains(&format!("include_str!(\"../audit/{}.sql\")", file.stem())) {
            broken.push(format!("{} is no invariant of {}", file.path, lib.path));
        }
    }
    holds("A script has the name of the flow that runs it, so that it is found by guessing.", broken);
}

#[test]
fn defaults_are_written_in_one_place() {
    let sources = sources();
    let words = ["serde(default = ", "env::var(", "Settings::default()"];
    // OpenTelemetry has variables of its own, which are the same for all programs.
    let others = ["crates/testkit/src/", "crates/common/src/telemetry/export.rs"];
    let of_the_product = sources.iter().filter(|source| !others.iter().any(|other| source.path.starts_with(other)));
    let mut broken = mentions(of_the_product, &words);
    broken.extend(sources.iter().flat_map(|source| {
        let lines = source.lines().filter(|(_, line)| line.contains("impl Default for") && line.contains("Settings"));
        lines.map(|(number, line)| format!("{}:{number}: {line}", source.path)).collect::<Vec<_>>()
    }));
    holds("A default is a line of config/default.toml, with its unit and its reason.", broken);
}

#[test]
fn every_migration_can_be_taken_back() {
    let mut broken = Vec::new();
    for up in files("sql").iter().filter(|file| file.path.starts_with("migrations/") && file.stem() == "up") {
        let down = root().join(up.folder()).join("down.sql");
        if fs::read_to_string(&down).map_or(true, |text| text.trim().is_empty()) {
            broken.push(format!("{} has no down.sql", up.folder()));
        }
    }
    holds("Each step has a way back, even if it is only dropping what it made.", broken);
}

#[test]
fn every_service_mounts_in_one_function_and_describes_its_routes() {
    let sources = sources();
    let mut broken = Vec::new();
    for service in services() {
        let lib = sources
            .iter()
            .find(|source| source.path == format!("services/{service}/src/lib.rs"))
            .expect("every service has one");
        for part in [
            "pub const fn spec() -> ServiceSpec",
            "pub async fn mount(host: &mut Host) -> anyhow::Result<()>",
            "pub fn routes(",
            "pub struct App",
            "const MIGRATIONS",
        ] {
            if !lib.text.contains(part) {
                broken.push(format!("{} lacks `{part}`", lib.path));
            }
        }
    }
    holds("A service's lib.rs is its table of contents, the same everywhere.", broken);
}
