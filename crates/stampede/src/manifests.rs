//! `stampede manifests`: writes the deployment's files that follow from `SERVICES`, so that a new service is in all of them.
//! A test compares what is committed with what this writes.

mod dashboards;
mod kafka_users;
mod kubernetes;

use std::path::Path;

use anyhow::{Context, Result};
use common::manifest::ServiceSpec;
use common::rpc::key_of;
use sandbox::nginx;

use crate::services::SERVICES;

/// The first line of each file.
const NOTICE: &str = "Written by `stampede manifests` from the services' manifests in code. Do not edit it.";

/// A path from the root of the repository, and the file's text.
pub type File = (String, String);

/// Every file as it should be. Reads the parts that are written by hand below `root`.
pub fn files(root: &Path) -> Result<Vec<File>> {
    let mut files = kubernetes::files()?;
    files.extend(dashboards::files());
    files.push(("gateway/nginx.conf".to_owned(), nginx::for_containers(NOTICE, &routes())?));
    files.push((COMPOSE.to_owned(), compose(root)?));
    files.iter_mut().for_each(|(_, text)| *text = format!("{}\n", text.trim_end()));
    Ok(files)
}

/// Writes those that are not as they should be, and says which.
pub fn write(root: &Path) -> Result<Vec<String>> {
    let mut written = Vec::new();
    for (path, text) in files(root)? {
        let file = root.join(&path);
        if std::fs::read_to_string(&file).is_ok_and(|found| found == text) {
            continue;
        }
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        written.push(path);
    }
    Ok(written)
}

/// The gateway's table: a path prefix, and the service that it belongs to.
fn routes() -> Vec<(String, String)> {
    let of = |spec: &'static ServiceSpec| spec.paths.iter().map(|path| ((*path).to_owned(), spec.name.to_owned()));
    SERVICES.iter().flat_map(of).collect()
}

const COMPOSE: &str = "docker-compose.yml";
const BEGIN: &str = "  # --- written by `stampede manifests`: a container for each service\n";
const END: &str = "  # ---\n";

/// The compose file, with the part between two marks made anew.
fn compose(root: &Path) -> Result<String> {
    let text = std::fs::read_to_string(root.join(COMPOSE))
        .with_context(|| format!("{COMPOSE} is not in {}; run this in the repository", root.display()))?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("{COMPOSE} lacks the line {BEGIN:?}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{COMPOSE} lacks the line {END:?}"))?;
    let service = |spec: &ServiceSpec| {
        let key = match spec.deploy.calls {
            [] => String::new(),
            _ => format!(
                "    environment: {{ <<: *settings, {}: {} }}\n",
                variable("rpc.token_key"),
                development_key(spec.name)
            ),
        };
        format!(
            "  {0}:\n    <<: *service\n    command: [\"{0}\"]\n    networks: {{ default: {{ aliases: [{0}-grpc] }} }}\n{key}",
            spec.name
        )
    };
    let services: String = SERVICES.iter().map(service).collect();
    Ok(format!("{before}{BEGIN}{services}{END}{after}"))
}

/// The private key of a service where everybody may know it.
fn development_key(service: &str) -> String {
    let bytes = format!("development:{service}").into_bytes();
    key_of(std::array::from_fn(|at| bytes.get(at).copied().unwrap_or(b' ')))
}

/// The environment's name for a setting.
pub(crate) fn variable(key: &str) -> String {
    format!("STAMPEDE__{}", key.replace('.', "__").to_uppercase())
}

/// `template` with each `{key}` replaced.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(template.to_owned(), |text, (key, value)| text.replace(&format!("{{{key}}}"), value))
}
