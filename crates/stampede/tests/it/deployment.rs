//! What is deployed: the manifests for Kubernetes, the compose file and the image, as far as files can be judged without a
//! cluster. `k8s/check.py` renders the overlays with kustomize and validates them; the rules are here.

mod alerts;
mod components;
mod dashboards;
mod kafka_rights;
mod kafka_users;
mod network;
mod objects;
mod pods;
mod refusals;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::LazyLock;

use common::Host;
use common::manifest::ServiceSpec;
use common::settings::Settings;
use serde_json::Value;
use stampede::manifests;
use stampede::services::SERVICES;

use crate::tidy::{self, holds, root};

/// What to do where an object of a service is missing.
const WRITE_THEM: &str = "`stampede manifests` writes what follows from the services";

/// What `k8s/check.py` rendered.
pub struct Rendered {
    /// Each overlay's objects.
    pub overlays: BTreeMap<String, Vec<Value>>,
    /// Those of each folder of `k8s/checks`: components that no overlay has.
    pub checks: BTreeMap<String, Vec<Value>>,
    pub compose: Value,
}

/// Fails with everything that is wrong if anything is.
pub fn rendered() -> &'static Rendered {
    static RENDERED: LazyLock<Result<Rendered, String>> = LazyLock::new(|| {
        let output = Command::new("/usr/bin/python3")
            .arg(root().join("k8s/check.py"))
            .arg("--json")
            .output()
            .map_err(|error| format!("/usr/bin/python3: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let mut all: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        let mut objects = |of: &str| serde_json::from_value(all[of].take()).map_err(|error| error.to_string());
        let (overlays, checks) = (objects("overlays")?, objects("checks")?);
        Ok(Rendered { overlays, checks, compose: all["compose"].take() })
    });
    RENDERED.as_ref().unwrap_or_else(|wrong| panic!("k8s/check.py:\n{wrong}"))
}

/// Objects of one kind in an overlay.
pub fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// Whether an overlay has the Gateway API in place of the Ingress.
pub fn has_gateway_api(overlay: &str) -> bool {
    overlay.ends_with("gateway-api")
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The paths of a service's routes, with 7 for each parameter.
pub async fn paths_of(service: &ServiceSpec) -> Vec<String> {
    let offline = ["host.http_listen", "host.grpc_listen"].map(|key| (key.to_owned(), "127.0.0.1:0".to_owned()));
    let mut host = Host::new(Settings::load(&[], &offline).expect("the settings are known")).await.expect("it binds");
    (service.describe)(&mut host);
    let concrete = |path: &String| {
        let parts = path.split('/').map(|part| if part.starts_with('{') { "7" } else { part });
        parts.collect::<Vec<_>>().join("/")
    };
    let paths: Vec<String> =
        host.openapi().expect("it is described")["paths"].as_object().expect("paths").keys().map(concrete).collect();
    assert!(!paths.is_empty(), "{} describes no path", service.name);
    paths
}

#[test]
fn every_overlay_and_the_compose_file_are_valid() {
    let overlays: Vec<&str> = rendered().overlays.keys().map(String::as_str).collect();
    let gateways = ["prod-gateway-api", "prod-mtls-gateway-api", "sale-day-gateway-api"];
    let expected: BTreeSet<&str> = ["dev", "prod", "prod-mtls", "sale-day"].into_iter().chain(gateways).collect();
    assert_eq!(overlays, Vec::from_iter(expected));
}

#[test]
fn what_follows_from_the_services_is_as_they_say() {
    let files = manifests::files(&root()).expect("the files can be made");
    let differs = |path: &str, text: &str| std::fs::read_to_string(root().join(path)).ok().as_deref() != Some(text);
    let stale = files.iter().filter(|(path, text)| differs(path, text)).map(|(path, _)| path.clone());
    holds("run `cargo run -p stampede -- manifests` and commit the result; out of date:", stale.collect());
    let written: BTreeSet<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    let entries = std::fs::read_dir(root().join("k8s/base/services")).expect("the folder is there");
    let there = entries.map(|entry| entry.expect("it can be read").file_name().into_string().expect("a plain name"));
    let left = there.map(|file| format!("k8s/base/services/{file}")).filter(|path| !written.contains(path.as_str()));
    holds("of a service that there is not:", left.collect());
}

#[test]
fn a_manifest_names_the_services_that_its_service_asks_and_secrets_that_there_are() {
    let known: BTreeSet<String> = Settings::defaults()
        .expect("they can be read")
        .lines()
        .iter()
        .filter_map(|line| Some(line.split_once(" = ")?.0.to_owned()))
        .collect();
    let mut wrong = Vec::new();
    for service in SERVICES {
        let folder = format!("services/{}/src/", service.name);
        let sources = tidy::sources();
        let own = sources.iter().filter(|source| source.path.starts_with(&folder));
        let asked: BTreeSet<&str> = own
            .flat_map(|source| source.code().split(".upstream(\"").skip(1))
            .filter_map(|rest| rest.split('"').next())
            .collect();
        let said: BTreeSet<&str> = service.deploy.calls.iter().copied().collect();
        if asked != said {
            wrong.push(format!("{} asks {asked:?}, and its manifest says {said:?}", service.name));
        }
        let unknown = service.deploy.secrets.iter().filter(|key| !known.contains(**key));
        wrong.extend(unknown.map(|key| format!("{}: config/default.toml has no {key}", service.name)));
    }
    holds("`deploy` of a service's manifest", wrong);
}

/// An unknown setting keeps every pod from starting.
#[test]
fn every_setting_of_a_deployment_is_known() {
    let mut variables: BTreeSet<String> = BTreeSet::new();
    let mut add = |text: &str| {
        let names = text.split(|mark: char| !(mark.is_ascii_alphanumeric() || mark == '_'));
        variables.extend(names.filter(|name| name.starts_with("STAMPEDE__")).map(str::to_owned));
    };
    for file in ["Dockerfile", "k8s/base/services/upstreams.env", "k8s/components/dev-secrets/public-keys.env"] {
        add(&std::fs::read_to_string(root().join(file)).expect("it is there"));
    }
    add(&rendered().compose.to_string());
    let (overlays, checks) = (rendered().overlays.values(), rendered().checks.values());
    overlays.chain(checks).flatten().for_each(|object| add(&object.to_string()));
    assert!(variables.len() > 20, "{variables:?}");
    // Of a known one the value may be wrong, which is another error.
    let is_unknown = |key: &str| {
        let loaded = Settings::load(&[], &[(key.to_owned(), "1".to_owned())]);
        loaded.is_err_and(|error| error.to_string().contains("unknown settings"))
    };
    let unknown = variables.iter().filter(|variable| {
        let key = variable.trim_start_matches("STAMPEDE__").to_lowercase().replace("__", ".");
        is_unknown(&key) && key.strip_suffix("_file").is_none_or(is_unknown)
    });
    holds("config/default.toml does not have:", unknown.cloned().collect());
}

#[test]
fn the_compose_file_has_a_container_for_each_service_and_the_servers() {
    let services = rendered().compose["services"].as_object().expect("services");
    let ours: BTreeSet<&str> = SERVICES.iter().map(|service| service.name).collect();
    let expected: BTreeSet<&str> =
        ours.iter().copied().chain(["gateway", "kafka", "migrate", "postgres", "redis"]).collect();
    assert_eq!(services.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    let mut wrong = Vec::new();
    for (name, service) in services {
        let mut rule = |holds: bool, what: &str| {
            if !holds {
                wrong.push(format!("{name}: {what}"));
            }
        };
        let is_ours = ours.contains(name.as_str());
        rule(!is_ours || texts(&service["command"]) == [name.as_str()], "its command is its name");
        rule(!is_ours || service["depends_on"]["migrate"]["condition"] == "service_completed_successfully", "migrate");
        rule(!is_ours || service["read_only"] == true, "its file system is read only");
        rule(name == "gateway" || service["ports"].is_null(), "only the gateway is reached from outside");
        rule(!service["healthcheck"].is_null(), "has no health check");
        rule(
            service["image"].as_str().is_some_and(|image| image.contains(':') && !image.ends_with(":latest")),
            "image",
        );
        let depends = service["depends_on"].as_object();
        rule(
            depends.is_none_or(|on| on.keys().all(|other| services.contains_key(other))),
            "depends on what is not there",
        );
        let files = texts(&service["env_file"]).into_iter().map(str::to_owned);
        let mounted = texts(&service["volumes"]).into_iter().filter(|volume| volume.starts_with("./"));
        let mounted = mounted.map(|volume| volume.split(':').next().unwrap_or_default().to_owned());
        rule(files.chain(mounted).all(|file| root().join(file).is_file()), "names a file that is not there");
    }
    holds("docker-compose.yml", wrong);
}

#[test]
fn the_image_is_built_with_the_compiler_and_the_files_of_the_workspace() {
    let text = |path: &str| std::fs::read_to_string(root().join(path)).expect("it is there");
    let workspace = text("Cargo.toml");
    let version = workspace.split("rust-version = \"").nth(1).and_then(|rest| rest.split('"').next());
    let version = version.expect("the workspace says its version of Rust");
    let dockerfile = text("Dockerfile");
    assert!(dockerfile.contains(&format!("ARG RUST={version}\n")), "Cargo.toml asks for Rust {version}");
    assert!(dockerfile.contains("\nUSER 65532:65532\n") && dockerfile.contains("distroless/"), "not root, no shell");
    // Whatever the code includes lies in folders that the build is given.
    let ignore = text(".dockerignore");
    let mut wrong = Vec::new();
    for source in tidy::sources() {
        for rest in source.text.split("include_str!(\"").chain(source.text.split("embed_migrations!(\"")).skip(1) {
            let Some((path, _)) = rest.split_once('"').filter(|(path, _)| path.starts_with("../")) else { continue };
            let base = root().join(source.folder());
            let manifest = base.ancestors().find(|folder| folder.join("Cargo.toml").is_file()).unwrap_or(&base);
            let found = [base.join(path), manifest.join(path)].into_iter().find_map(|path| path.canonicalize().ok());
            let top = found.as_deref().and_then(|path| path.strip_prefix(root()).ok()?.iter().next()?.to_str());
            if !top.is_some_and(|top| ignore.lines().any(|line| line == format!("!{top}"))) {
                wrong.push(format!("{}: {path}", source.path));
            }
        }
    }
    holds(".dockerignore lets everything into the build that is compiled in.", wrong);
}

#[test]
fn the_list_of_what_the_executable_is_made_of_is_made_in_one_way() {
    let text = |path: &str| std::fs::read_to_string(root().join(path)).expect("it is there");
    let commands = [
        "cargo install cargo-cyclonedx --locked --version ",
        "cargo cyclonedx --manifest-path crates/stampede/Cargo.toml --format json --spec-version ",
    ];
    let found = ["Dockerfile", ".github/workflows/ci.yml", "docs/deploy.md"].map(|path| {
        let text = text(path);
        commands.map(|command| {
            let rest = text.split(command).nth(1).unwrap_or_else(|| panic!("{path} lacks {command}"));
            rest.split_whitespace().next().unwrap_or_default().to_owned()
        })
    });
    assert!(found.iter().all(|versions| versions == &found[0]), "its versions are the same everywhere: {found:?}");
}
