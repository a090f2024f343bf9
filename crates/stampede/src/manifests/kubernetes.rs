//! The Kubernetes manifests that follow from the services' manifests in code.

use std::fmt::Write as _;

use common::manifest::{ServiceSpec, identifier};
use common::rpc::ServiceKey;
use common::settings::Settings;
use contract::events::TOPICS;

use super::{File, NOTICE, development_key, fill, kafka_users};
use crate::services::SERVICES;

/// Everything of one service: its workload, its edges and its migration.
const SERVICE: &str = include_str!("service.yaml");
const SCALED_OBJECT: &str = include_str!("scaled_object.yaml");
const LAG_TRIGGER: &str = include_str!("lag_trigger.yaml");
const EXTERNAL_SECRET: &str = include_str!("external_secret.yaml");
const DEV_SECRET: &str = include_str!("dev_secret.yaml");
const CERTIFICATE: &str = include_str!("certificate.yaml");
const CERTIFICATE_MOUNTS: &str = include_str!("certificate_mounts.yaml");
const KAFKA_MOUNTS: &str = include_str!("kafka_mounts.yaml");
const TOPIC: &str = include_str!("topic.yaml");
const ROLE: &str = include_str!("role.yaml");
const SCHEMA: &str = include_str!("schema.yaml");

/// Secrets of every service.
const SHARED_SECRETS: [&str; 2] = ["postgres.url", "redis.url"];
/// Of every service that calls another.
const TOKEN_KEY: &str = "rpc.token_key";

pub(super) fn files() -> anyhow::Result<Vec<File>> {
    let settings: common::kafka::KafkaSettings = Settings::defaults()?.section("kafka")?;
    let mut files: Vec<File> =
        SERVICES.iter().map(|spec| (format!("k8s/base/services/{}.yaml", spec.name), service(spec))).collect();
    let of_all = |path: &str, text: String| (path.to_owned(), format!("# {NOTICE}\n{text}"));
    files.extend([
        of_all("k8s/base/services/kustomization.yaml", kustomization()),
        of_all("k8s/base/services/upstreams.env", format!("{JWKS_URL}\n{}", upstreams("http"))),
        of_all("k8s/base/ingress-rules.yaml", ingress_rules()),
        of_all("k8s/components/gateway-api/routes.yaml", each(http_route)),
        of_all("k8s/components/keda/scaled-objects.yaml", each(scaled_object)),
        of_all("k8s/components/keda/consumers/kustomization.yaml", consumers()),
        of_all("k8s/components/strimzi/topics.yaml", topics(settings.partitions, settings.retention_hours)),
        of_all("k8s/components/strimzi/users.yaml", each(kafka_users::of_service) + &kafka_users::of_operators()),
        of_all("k8s/components/strimzi/mounts.yaml", each(|spec| fill(KAFKA_MOUNTS, &[("name", spec.name)]))),
        of_all("k8s/components/keda/user.yaml", kafka_users::of_scaler()),
        of_all("k8s/components/cnpg/database.yaml", database()),
        of_all("k8s/components/cnpg/roles.yaml", roles()),
        of_all("k8s/components/external-secrets/services.yaml", each(external_secret)),
        of_all("k8s/components/rpc-tls/upstreams.env", upstreams("https")),
        of_all("k8s/components/rpc-tls/certificates.yaml", each(|spec| fill(CERTIFICATE, &[("name", spec.name)]))),
        of_all("k8s/components/rpc-tls/mounts.yaml", each(|spec| fill(CERTIFICATE_MOUNTS, &[("name", spec.name)]))),
        of_all("k8s/components/dev-secrets/services.yaml", each(dev_secret)),
        of_all("k8s/components/dev-secrets/public-keys.env", development_public_keys()?),
    ]);
    Ok(files)
}

fn each(render: impl Fn(&ServiceSpec) -> String) -> String {
    SERVICES.iter().map(render).collect()
}

fn secrets(spec: &ServiceSpec) -> impl Iterator<Item = &'static str> {
    SHARED_SECRETS.into_iter().chain(own_secrets(spec))
}

/// Secrets that no other service has.
fn own_secrets(spec: &ServiceSpec) -> impl Iterator<Item = &'static str> {
    let key = (!spec.deploy.calls.is_empty()).then_some(TOKEN_KEY);
    key.into_iter().chain(spec.deploy.secrets.iter().copied())
}

fn service(spec: &ServiceSpec) -> String {
    let (mut secret_env, mut secret_items) = (String::new(), String::new());
    for key in secrets(spec) {
        let variable = super::variable(key);
        let _ = writeln!(secret_env, "            - name: {variable}_FILE");
        let _ = writeln!(secret_env, "              value: /run/secrets/stampede/{key}");
        let _ = writeln!(secret_items, "              - key: {key}\n                path: {key}");
    }
    let callers: Vec<&str> =
        SERVICES.iter().filter(|other| other.deploy.calls.contains(&spec.name)).map(|other| other.name).collect();
    let ingress = match callers.as_slice() {
        [] => "  ingress: []\n".to_owned(),
        callers => format!("  ingress:\n    - from:\n{}{}", peers(callers), port(9090)),
    };
    let mut egress = String::new();
    if !spec.deploy.calls.is_empty() {
        let _ = write!(egress, "    - to:\n{}{}", peers(spec.deploy.calls), port(9090));
    }
    if !spec.deploy.outside.is_empty() {
        egress.push_str(OUTSIDE);
        spec.deploy.outside.iter().for_each(|outside| egress.push_str(&port_line(*outside)));
    }
    let egress = if egress.is_empty() { "  egress: []\n".to_owned() } else { format!("  egress:\n{egress}") };
    fill(
        SERVICE,
        &[
            ("notice", NOTICE),
            ("name", spec.name),
            ("cpu_millis", &spec.deploy.cpu_millis.to_string()),
            ("memory_mib", &spec.deploy.memory_mib.to_string()),
            ("replicas_max", &spec.deploy.replicas_max.to_string()),
            ("secret_env", &secret_env),
            ("secret_items", &secret_items),
            ("ingress", &ingress),
            ("egress", &egress),
        ],
    )
}

/// The internet, and nothing of the cluster or of the networks beside it.
const OUTSIDE: &str = "    - to:
        - ipBlock:
            cidr: 0.0.0.0/0
            except: [10.0.0.0/8, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]
      ports:
";

fn peers(names: &[&str]) -> String {
    let peer = |name: &&str| {
        format!(
            "        - podSelector:\n            matchLabels:\n              app.kubernetes.io/name: {name}\n              \
             app.kubernetes.io/component: service\n"
        )
    };
    names.iter().map(peer).collect()
}

fn port(port: u16) -> String {
    format!("      ports:\n{}", port_line(port))
}

fn port_line(port: u16) -> String {
    format!("        - protocol: TCP\n          port: {port}\n")
}

fn kustomization() -> String {
    let resources: String = each(|spec| format!("  - {}.yaml\n", spec.name));
    format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n# The settings of every service; `..` adds to \
         them.\nconfigMapGenerator:\n  - name: stampede\n    envs: [upstreams.env]\nresources:\n{resources}"
    )
}

/// Where the services find each other, by names that containers and Kubernetes have in common.
fn upstreams(scheme: &str) -> String {
    each(|spec| {
        format!(
            "{}={scheme}://{}-grpc:9090\n",
            super::variable(&format!("upstreams.{}", identifier(spec.name))),
            spec.name
        )
    })
}

const JWKS_URL: &str = "STAMPEDE__AUTH__JWKS_URL=http://account:8080/.well-known/jwks.json";

/// `*` and the end of a prefix as patterns.
fn pattern(path: &str) -> String {
    path.replace('.', r"\.").replace('*', "[^/]+")
}

/// A patch, so that the rest of the Ingress is written by hand. ingress-nginx tries the longest pattern first.
fn ingress_rules() -> String {
    let mut paths: Vec<(String, &str)> = SERVICES
        .iter()
        .flat_map(|spec| spec.paths.iter().map(|path| (format!("{}(/|$)", pattern(path)), spec.name)))
        .collect();
    paths.sort_by_key(|(path, _)| (std::cmp::Reverse(path.len()), path.clone()));
    let mut text = String::from("- op: add\n  path: /spec/rules/0/http/paths\n  value:\n");
    for (path, name) in paths {
        let _ = write!(
            text,
            "    - path: {path}\n      pathType: ImplementationSpecific\n      backend:\n        service:\n          \
             name: {name}\n          port:\n            name: http\n"
        );
    }
    text
}

fn http_route(spec: &ServiceSpec) -> String {
    let mut text = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: {}\nspec:\n  parentRefs:\n    \
         - name: stampede\n  rules:\n",
        spec.name
    );
    if !spec.streams.is_empty() {
        // Zero is no limit.
        text += &http_rule(spec, spec.streams.iter().copied(), "0s");
    }
    text + &http_rule(spec, spec.paths.iter().copied().filter(|path| !spec.streams.contains(path)), "75s")
}

fn http_rule(spec: &ServiceSpec, paths: impl Iterator<Item = &'static str>, timeout: &str) -> String {
    let mut text = String::from("    - matches:\n");
    for path in paths {
        let (kind, value) = match path.contains('*') {
            true => ("RegularExpression", format!("{}(/.*)?", pattern(path))),
            false => ("PathPrefix", path.to_owned()),
        };
        let _ = write!(text, "        - path:\n            type: {kind}\n            value: {value}\n");
    }
    let _ = write!(
        text,
        "      timeouts:\n        request: {timeout}\n      backendRefs:\n        - name: {}\n          port: 8080\n",
        spec.name
    );
    text
}

fn scaled_object(spec: &ServiceSpec) -> String {
    let name = ("name", spec.name);
    let object = fill(SCALED_OBJECT, &[name, ("replicas_max", &spec.deploy.replicas_max.to_string())]);
    if spec.consumes.is_empty() { object } else { object + &fill(LAG_TRIGGER, &[name]) }
}

/// Puts the cluster's id into the names of the consumers' groups.
fn consumers() -> String {
    let target = |spec: &ServiceSpec| match spec.consumes {
        [] => String::new(),
        _ => format!(
            "      - select:\n          kind: ScaledObject\n          name: {}\n        fieldPaths:\n          - \
             spec.triggers.[type=kafka].metadata.consumerGroup\n        options:\n          delimiter: \"@\"\n          \
             index: 1\n",
            spec.name
        ),
    };
    format!(
        "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nreplacements:\n  - source:\n      kind: \
         ConfigMap\n      name: kafka-cluster\n      fieldPath: data.id\n    targets:\n{}",
        each(target)
    )
}

fn topics(partitions: i32, retention_hours: u64) -> String {
    let retention_ms = (retention_hours * 3_600_000).to_string();
    let topic = |topic: &&str| {
        let name = topic.to_lowercase().replace('_', "-");
        let partitions = partitions.to_string();
        let values = [("name", &*name), ("topic", topic), ("partitions", &partitions), ("retention_ms", &retention_ms)];
        fill(TOPIC, &values)
    };
    TOPICS.iter().map(topic).collect()
}

/// One schema for each service, owned by its role.
fn database() -> String {
    let schemas = each(|spec| fill(SCHEMA, &[("schema", &identifier(spec.name))]));
    format!(
        "apiVersion: postgresql.cnpg.io/v1\nkind: Database\nmetadata:\n  name: stampede\nspec:\n  cluster:\n    name: \
         stampede-postgres\n  name: stampede\n  owner: stampede\n  schemas:\n{schemas}"
    )
}

/// A patch of the cluster: one role for each service.
fn roles() -> String {
    let roles = each(|spec| fill(ROLE, &[("schema", &identifier(spec.name)), ("name", spec.name)]));
    format!(
        "apiVersion: postgresql.cnpg.io/v1\nkind: Cluster\nmetadata:\n  name: stampede-postgres\nspec:\n  managed:\n    \
         roles:\n{roles}"
    )
}

fn external_secret(spec: &ServiceSpec) -> String {
    let (mut templates, mut remotes) = (String::new(), String::new());
    for key in own_secrets(spec) {
        let name = key.replace('.', "_");
        let _ = writeln!(templates, "        {key}: \"{{{{ .{name} }}}}\"");
        let _ = writeln!(
            remotes,
            "    - secretKey: {name}\n      remoteRef:\n        key: stampede/{}\n        property: {name}",
            spec.name
        );
    }
    let values =
        [("name", spec.name), ("schema", &*identifier(spec.name)), ("templates", &templates), ("remotes", &remotes)];
    fill(EXTERNAL_SECRET, &values)
}

/// What a service needs on a cluster for development. Nothing outside is reachable with it.
fn dev_secret(spec: &ServiceSpec) -> String {
    let value = |key: &str| match key {
        TOKEN_KEY => format!("  {key}: {}\n", development_key(spec.name)),
        "account.demo_accounts" => format!("  {key}: ADMIN:admin@stampede.dev:Demo Admin:admin-stampede\n"),
        key => format!("  {key}: \"\"\n"),
    };
    let values: String = own_secrets(spec).map(value).collect();
    fill(DEV_SECRET, &[("name", spec.name), ("schema", &identifier(spec.name)), ("values", &values)])
}

/// The public halves of the keys of [`dev_secret`].
fn development_public_keys() -> anyhow::Result<String> {
    let callers = SERVICES.iter().filter(|spec| !spec.deploy.calls.is_empty());
    let line = |spec: &ServiceSpec| {
        let key = ServiceKey::read(&development_key(spec.name))?;
        Ok(format!("{}={}\n", super::variable(&format!("rpc.public_keys.{}", identifier(spec.name))), key.public()))
    };
    callers.map(line).collect()
}
