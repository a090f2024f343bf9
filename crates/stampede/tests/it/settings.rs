//! Settings: the defaults serve every service, whatever is unknown is refused, and secrets are not shown.

use crate::site::system;
use std::process::{Command, Output};

use common::settings::Settings;
use stampede::services::SERVICES;

use crate::tidy;

/// The sections that are no service's own.
const SECTIONS: [&str; 12] = [
    "auth",
    "host",
    "http",
    "inbox",
    "kafka",
    "outbox",
    "postgres",
    "redis",
    "rpc",
    "sandbox",
    "telemetry",
    "upstreams",
];

fn stampede(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stampede"))
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .expect("the executable runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_defaults_serve_every_service() {
    // Only what says where the servers are, and what keeps tests apart, is not a default here.
    let defaults = Settings::defaults().expect("config/default.toml can be read");
    let services = SERVICES.iter().map(|service| service.name.replace('-', "_"));
    for section in services.chain(SECTIONS.map(str::to_owned)) {
        let table: Result<std::collections::BTreeMap<String, serde_json::Value>, _> = defaults.section(&section);
        assert!(table.is_ok(), "config/default.toml has no section [{section}]: {table:?}");
    }
    system().start().await.stop().await;
}

#[test]
fn the_demo_and_every_other_file_of_settings_is_understood() {
    let folder = tidy::root().join("config");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        assert!(!name.contains(".part."), "{name} is a draft that belongs into default.toml");
        if name != "default.toml" {
            seen += 1;
            Settings::load(&[&path], &[]).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
    }
    assert!(seen > 0, "the demo's settings are gone");
}

#[test]
fn every_default_says_why() {
    let text = std::fs::read_to_string(tidy::root().join("config/default.toml")).expect("it is there");
    let settings = || text.lines().filter(|line| line.contains(" = ") && !line.starts_with('#'));
    // Addresses speak for themselves, and what is explained in one section need not be in the next.
    let explained: Vec<&str> =
        settings().filter(|line| line.contains('#')).filter_map(|line| line.split(' ').next()).collect();
    let speaks = |name: &str| ["url", "brokers"].contains(&name) || explained.contains(&name);
    let unexplained: Vec<&str> = settings().filter(|line| !line.split(' ').next().is_some_and(speaks)).collect();
    assert!(unexplained.is_empty(), "say what it is for and why it has that value: {unexplained:#?}");
}

#[test]
fn a_setting_that_nobody_knows_stops_the_start_and_is_named() {
    let cases =
        [("STAMPEDE__HOST__HTPP_LISTEN", "host.htpp_listen"), ("STAMPEDE__ORDRE__LINES_MAX", "ordre.lines_max")];
    for (variable, named) in cases {
        for command in [&["all"][..], &["order"], &["config"]] {
            let output = stampede(command, &[(variable, "1")]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains(named), "{command:?} with {variable}: {said}");
        }
    }
}

#[test]
fn all_values_that_can_never_work_are_told_at_start() {
    let wrong = [
        ("STAMPEDE__ORDER__LINES_MAX", "many"),
        ("STAMPEDE__HOST__HTTP_WORKERS", "-1"),
        ("STAMPEDE__KAFKA__PARTITIONS", "1.5"),
        ("STAMPEDE__POSTGRES__URL", "host=h password=hunter2"),
    ];
    for command in [&["all"][..], &["order"], &["config"]] {
        let output = stampede(command, &wrong);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        for key in ["order.lines_max", "host.http_workers", "kafka.partitions", "postgres.url"] {
            assert!(said.contains(key), "{command:?} does not name {key}: {said}");
        }
        assert!(!said.contains("hunter2") && !said.contains("panicked"), "{said}");
    }
}

/// TLS and passwords: what does not fit together, and files that cannot be used, by setting and by path.
#[test]
fn certificates_that_cannot_be_used_are_told_at_start() {
    let folder = std::env::temp_dir().join(format!("stampede-settings-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("it can be made");
    let authority = testkit::tls::Authority::new(&folder, "authority");
    let [ours, others] = ["ours", "others"].map(|name| authority.sign(name, "stampede"));
    let not_pem = folder.join("not.pem").display().to_string();
    std::fs::write(&not_pem, "hunter2").expect("it can be written");
    let wrong = [
        ("STAMPEDE__POSTGRES__URL", "postgres://u:hunter2@h/d?sslmode=verify-full&sslrootcert=/nothing/pg.pem"),
        ("STAMPEDE__REDIS__URL", "rediss://:hunter2@h:6379/0#insecure"),
        ("STAMPEDE__REDIS__CA_FILE", &not_pem),
        ("STAMPEDE__REDIS__CERT_FILE", &ours.file),
        ("STAMPEDE__REDIS__KEY_FILE", &others.key),
        ("STAMPEDE__KAFKA__SECURITY", "sasl_ssl"),
        ("STAMPEDE__KAFKA__PASSWORD", "hunter2"),
        ("STAMPEDE__KAFKA__CERT_FILE", "/nothing/kafka.crt"),
        ("STAMPEDE__ORDER__LINES_MAX", "many"),
    ];
    for command in [&["all"][..], &["config"]] {
        let output = stampede(command, &wrong);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        for told in [
            "postgres.url has an sslrootcert that cannot be used: /nothing/pg.pem cannot be read: No such file",
            "redis.url ends with #insecure",
            &format!("redis.ca_file cannot be used: {not_pem} is no file of certificates in PEM format"),
            &format!("redis.cert_file and redis.key_file cannot be used: the key in {} is not that", others.key),
            "kafka.username is needed by kafka.security = \"sasl_ssl\"",
            "kafka.cert_file needs kafka.key_file",
            "order.lines_max must be a whole number",
        ] {
            assert!(said.contains(told), "{command:?} does not say {told:?}: {said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
    }
    std::fs::remove_dir_all(&folder).expect("it is ours");
}

#[test]
fn what_is_in_force_is_printed_without_secrets() {
    let environment = [
        ("STAMPEDE__POSTGRES__URL", "postgres://stampede:hunter2@db.example:5432/stampede"),
        ("STAMPEDE__REDIS__URL", "rediss://shop:hunter2@cache.example:6379/0"),
        ("STAMPEDE__KAFKA__SECURITY", "sasl_ssl"),
        ("STAMPEDE__KAFKA__USERNAME", "shop"),
        ("STAMPEDE__KAFKA__PASSWORD", "hunter2"),
        ("STAMPEDE__ORDER__LINES_MAX", "7"),
        ("STAMPEDE__ACCOUNT__DEMO_ACCOUNTS", "ADMIN:root@example.com:Root:hunter2"),
    ];
    let output = stampede(&["config"], &environment);
    let printed = String::from_utf8(output.stdout).expect("it is text");
    assert!(output.status.success());
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(printed.contains("order.lines_max = 7"), "{printed}");
    assert!(printed.contains("db.example:5432") && printed.contains("rediss://***@cache.example:6379/0"), "{printed}");
    assert!(printed.contains("kafka.username = shop") && printed.contains("kafka.password = ***"), "{printed}");
}
