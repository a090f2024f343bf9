//! `stampede doctor`: a sound system has nothing to mend, and what is broken is named with what to do.

use std::time::Duration;

use common::redis::{Redis, cmd};
use common::settings::Settings;
use sandbox::{External, Sandbox};
use serde_json::Value;
use stampede::doctor::{self, Level, Report};
use stampede::services;
use testkit::{Site, eventually, servers};

use crate::commands::Place;
use crate::site::system;

async fn examined(settings: Settings) -> Report {
    doctor::examine(Ok(settings), &[], Duration::from_millis(50)).await
}

/// The settings of `site` with others above them.
pub fn with(site: &Site, changes: &[(&str, &str)]) -> Settings {
    let own = site.settings();
    let keys = ["host.namespace", "postgres.url", "redis.url", "kafka.brokers", "kafka.partitions"];
    let same = keys.map(|key| (key.to_owned(), text(&own, key)));
    let changes = changes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Settings::load(&[], &same.into_iter().chain(changes).collect::<Vec<_>>()).expect("the settings are known")
}

fn text(settings: &Settings, key: &str) -> String {
    match settings.section::<Value>(key).expect("it is set") {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// The one finding of `check` at `level`, which says what to do.
#[track_caller]
fn only(report: &Report, level: Level, check: &str) -> String {
    let found: Vec<_> = report.of(level).filter(|finding| finding.check == check).collect();
    assert_eq!(found.len(), 1, "{}", report.text());
    assert!(found[0].remedy.as_ref().is_some_and(|remedy| !remedy.is_empty()), "{}", report.text());
    found[0].found.clone()
}

/// The machine may be small and busy, and its disk slow.
const OF_THE_MACHINE: [&str; 2] = ["machine", "disk"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_system_has_nothing_to_mend() {
    let site = system().start().await;
    let report = eventually("topics are there and all is well", async || {
        let report = examined(site.settings()).await;
        let is_sound = |report: &Report| {
            report.findings.iter().all(|finding| finding.level == Level::Ok || OF_THE_MACHINE.contains(&finding.check))
        };
        is_sound(&report).then_some(report)
    })
    .await;
    let checks: Vec<&str> = report.findings.iter().map(|finding| finding.check).collect();
    for check in ["machine", "settings", "postgresql", "schemas", "disk", "redis", "kafka", "neighbours", "clocks"] {
        assert!(checks.contains(&check), "{check} was not looked at: {}", report.text());
    }
    let disk = report.disk.as_ref().expect("it was measured");
    assert!(disk.commits_per_second > 0.0 && disk.lanes_commits_per_second > 0.0, "{disk:?}");
    assert!(disk.commit_p99_ms >= disk.commit_p50_ms && disk.commit_p50_ms > 0.0, "{disk:?}");
}

/// Without a flush, nothing that it writes into the log would be on the disk a moment later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_measured_are_commits_that_reach_the_disk_and_no_rows() {
    let site = system().migrate().await;
    let flushed = "pg_current_wal_flush_lsn() - '0/0'::pg_lsn";
    let before = site.number(&format!("select ({flushed})::bigint")).await;
    let report = examined(site.settings()).await;
    let after = site.number(&format!("select ({flushed})::bigint")).await;
    let commits = report.disk.expect("it was measured").commits_per_second * 0.05;
    assert!((after - before) as f64 > commits * 32.0, "{commits} commits wrote {} bytes", after - before);
    let tables = "select count(*) from pg_tables where tablename like '%doctor%'";
    assert_eq!(site.number(tables).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_is_not_applied_and_topics_that_are_not_there_are_named() {
    let site = system().migrate().await;
    let newest = "select max(version) from {coupon}.__diesel_schema_migrations";
    let row = site.rows(&format!("{newest} as version")).await;
    let version = row[0]["max"].as_str().expect("there is one").to_owned();
    site.execute(&format!("delete from {{coupon}}.__diesel_schema_migrations where version = '{version}'")).await;
    site.execute("insert into {queue}.__diesel_schema_migrations (version) values ('29991231')").await;

    let report = examined(with(&site, &[("host.migrate", "false")])).await;
    let missing = only(&report, Level::Error, "schemas");
    assert!(missing.contains("coupon lacks 1 of") && missing.contains(&version), "{missing}");
    let newer = only(&report, Level::Warning, "schemas");
    assert!(newer.contains("queue") && newer.contains("29991231"), "{newer}");
    let topics = only(&report, Level::Warning, "kafka");
    assert!(topics.contains("topics are missing") && topics.contains(&site.topic("ORDER_PLACED")), "{topics}");

    let report = examined(with(&site, &[("host.migrate", "true")])).await;
    assert_eq!(report.worst(), Level::Warning, "the next start applies it: {}", report.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_throws_gates_away_is_named() {
    let shared = servers::shared().await;
    let external = External {
        postgres_url: Some(shared.postgres_url()),
        redis_url: None,
        kafka_brokers: Some(shared.kafka_brokers()),
    };
    let options = sandbox::Options { external, ..servers::options("doctor_redis") };
    let own = Sandbox::start(options).await.expect("a Redis of its own starts");
    let site = system().migrate().await;
    let settings = with(&site, &[("redis.url", &own.redis_url())]);
    let redis = Redis::open(&settings.section("redis").expect("it is there"), "").expect("the address is one");
    let set = async |name: &str, value: &str| {
        let set = redis.command::<String>(cmd("CONFIG").arg("SET").arg(name).arg(value)).await;
        assert_eq!(set.expect("Redis answers"), "OK");
    };
    assert_eq!(examined(settings.clone()).await.of(Level::Warning).filter(|one| one.check == "redis").count(), 0);
    set("maxmemory-policy", "allkeys-lru").await;
    let policy = only(&examined(settings.clone()).await, Level::Warning, "redis");
    assert!(policy.contains("maxmemory-policy is allkeys-lru"), "{policy}");
    set("maxmemory-policy", "noeviction").await;
    set("appendonly", "yes").await;
    let disk = only(&examined(settings.clone()).await, Level::Warning, "redis");
    assert!(disk.contains("writes to its disk"), "{disk}");
    own.stop().await.expect("it stops");
}

/// Nothing listens on port 1.
const NOBODY: &str = "127.0.0.1:1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_server_and_neighbour_that_does_not_answer_is_named() {
    let site = system().start().await;
    let grpc = site.grpc.as_str();
    let away = format!("http://{NOBODY}");
    let neighbours =
        [("upstreams.order", grpc), ("upstreams.coupon", &away), ("upstreams.nobody", &away), ("auth.jwks_url", &away)];
    let report = examined(with(&site, &neighbours)).await;
    let failed: Vec<&str> = report.of(Level::Error).map(|finding| finding.found.as_str()).collect();
    assert!(failed.len() == 2 && failed[0].contains("coupon does not answer"), "{failed:?}");
    assert!(failed[1].contains("keys of access tokens cannot be read"), "{failed:?}");
    assert!(report.text().contains("order serves at http://"), "{}", report.text());
    assert!(only(&report, Level::Warning, "neighbours").contains("upstreams.nobody names no service"));

    // Alone, queue calls none of those that are away: they may be closed to it.
    let queue = [services::find("queue").expect("it is a service")];
    let report = doctor::examine(Ok(with(&site, &neighbours)), &queue, Duration::from_millis(50)).await;
    let failed: Vec<&str> = report.of(Level::Error).map(|finding| finding.found.as_str()).collect();
    assert!(failed.len() == 1 && failed[0].contains("keys of access tokens cannot be read"), "{failed:?}");

    let servers = [
        ("postgres.url", "postgres://stampede:secret@127.0.0.1:1/stampede"),
        ("redis.url", "redis://:secret@127.0.0.1:1/0"),
        ("kafka.brokers", NOBODY),
    ];
    let report = examined(with(&site, &servers)).await;
    let failed: Vec<&str> = report.of(Level::Error).map(|finding| finding.check).collect();
    assert_eq!(failed, ["postgresql", "redis", "kafka"], "{}", report.text());
    assert!(!report.text().contains("secret") && report.text().contains(NOBODY), "{}", report.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_ends_with_1_only_where_something_will_not_work() {
    let place = Place::new("doctor").await;
    // Nothing is migrated and no topic is there, which the first start mends.
    let ended =
        place.stampede("doctor --seconds 1 --json --data-dir {data}").await.expect(0, &["stampede migrate order"]);
    let report = ended.json();
    assert!(report["machine"]["processors"].as_u64().is_some_and(|processors| processors > 0), "{ended}");
    assert!(report["machine"]["ordersPerSecondByProcessors"].as_f64().is_some_and(|orders| orders > 0.0), "{ended}");
    assert!(report["disk"]["commitsPerSecond"].as_f64().is_some_and(|commits| commits > 0.0), "{ended}");
    let place = place.set("redis.url", &format!("redis://{NOBODY}/0"));
    let shown = ["redis       ERROR", "-> start Redis", "durable commits/s", "doctor: errors 1"];
    place.stampede("doctor --data-dir {data}").await.expect(1, &shown);
    let place = place.set("postgres.connections_max", "many");
    place.stampede("doctor --data-dir {data}").await.expect(1, &["settings    ERROR", "must be a whole number"]);
}
