//! Kill -9 for each server, by us and by somebody else; a lost disk; a clean stop and a second start.

use std::process::Command;
use std::time::Duration;

use sandbox::{KafkaKind, Options, Sandbox, Server};
use tokio::time::{Instant, sleep};

use crate::ground::*;

#[tokio::test]
async fn killed_servers_come_back_with_their_data_and_redis_comes_back_empty() {
    let sandbox = Sandbox::start(options("kill")).await.unwrap();
    assert_eq!(sandbox.kafka_kind(), KafkaKind::Apache);
    let (postgres, redis_url, brokers) = (sandbox.postgres_url(), sandbox.redis_url(), sandbox.kafka_brokers());
    sql(&postgres, "CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)");
    assert_eq!(redis(&redis_url, "SET lost 1"), "+OK");
    create_topic(&brokers, "kept").await;
    send(&brokers, "kept", "still here").await;

    let mut busy = Command::new("psql").args([&postgres, "-qc", "SELECT pg_sleep(60)"]).spawn().unwrap();
    while sql(&postgres, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)'") == "0" {
        sleep(Duration::from_millis(20)).await;
    }
    let before = sandbox.describe();
    for server in Server::ALL {
        sandbox.kill(server).await.unwrap();
    }
    for info in &before {
        assert!(!is_alive(info.pid.unwrap()), "{} is still alive", info.name);
    }
    assert!(!busy.wait().unwrap().success(), "the backend of a killed PostgreSQL must be gone, too");
    assert!(sandbox.describe().iter().all(|info| info.pid.is_none()));
    sandbox.kill(Server::Postgres).await.unwrap();

    for server in Server::ALL {
        sandbox.restart(server).await.unwrap();
    }
    assert_eq!(
        (&postgres, &redis_url, &brokers),
        (&sandbox.postgres_url(), &sandbox.redis_url(), &sandbox.kafka_brokers())
    );
    assert_eq!(sql(&postgres, "SELECT id FROM kept"), "7");
    assert_eq!(sql(&postgres, "SHOW synchronous_commit"), "on");
    assert_eq!(sql(&postgres, "SHOW fsync"), "on");
    assert_eq!(sql(&postgres, "SHOW data_checksums"), "on");
    assert_eq!(redis(&redis_url, "DBSIZE"), ":0");
    assert_eq!(first_message(&brokers, "kept"), "still here");
    sandbox.stop().await.unwrap();
}

#[tokio::test]
async fn a_wiped_kafka_is_another_empty_cluster_at_the_same_address() {
    let mut options = options("wipe");
    options.external.postgres_url = Some(UNUSED.to_owned());
    options.external.redis_url = Some(UNUSED.to_owned());
    let sandbox = Sandbox::start(options).await.unwrap();
    let brokers = sandbox.kafka_brokers();
    create_topic(&brokers, "lost").await;
    let before = cluster_id(&brokers);
    sandbox.wipe_kafka().await.unwrap();
    assert_eq!(sandbox.kafka_brokers(), brokers);
    assert_ne!(cluster_id(&brokers), before);
    assert!(!topics(&brokers).contains(&"lost".to_owned()));
    assert!(sandbox.kill(Server::Postgres).await.unwrap_err().to_string().contains("not ours"));
    assert_eq!(sandbox.postgres_url(), UNUSED);
}

#[tokio::test]
async fn a_server_killed_by_somebody_else_is_started_again() {
    let mut options = options("revive");
    options.external.kafka_brokers = Some(UNUSED.to_owned());
    let sandbox = Sandbox::start(options).await.unwrap();
    for (index, server) in [Server::Postgres, Server::Redis].into_iter().enumerate() {
        let pid = sandbox.describe()[index].pid.unwrap();
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(30);
        while sandbox.describe()[index].pid.is_none_or(|now| now == pid) {
            assert!(Instant::now() < deadline, "{server} stays down");
            sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(sql(&sandbox.postgres_url(), "SELECT 1"), "1");
    assert_eq!(redis(&sandbox.redis_url(), "PING"), "+PONG");
}

#[tokio::test]
async fn a_server_that_keeps_dying_is_left_down_until_it_is_restarted() {
    let sandbox = Sandbox::start(redis_only("dying")).await.unwrap();
    let mut deaths = 0;
    let mut down_since = Instant::now();
    while down_since.elapsed() < Duration::from_secs(2) {
        if let Some(pid) = sandbox.describe()[1].pid {
            if Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success() && is_alive(pid) {
                sleep(Duration::from_millis(20)).await;
            }
            while sandbox.describe()[1].pid == Some(pid) {
                sleep(Duration::from_millis(5)).await;
            }
            deaths += 1;
            down_since = Instant::now();
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(deaths, 6);
    sandbox.restart(Server::Redis).await.unwrap();
    assert_eq!(redis(&sandbox.redis_url(), "PING"), "+PONG");
}

#[tokio::test]
async fn a_second_start_finds_the_data_and_the_addresses_of_the_first() {
    let keep = || Options { ephemeral: false, ..options_at("again") };
    let first = Sandbox::start(keep()).await.unwrap();
    let (postgres, brokers) = (first.postgres_url(), first.kafka_brokers());
    sql(&postgres, "CREATE TABLE kept AS SELECT 7 AS id");
    let cluster = cluster_id(&brokers);
    let pids: Vec<u32> = first.describe().iter().filter_map(|info| info.pid).collect();
    first.stop().await.unwrap();
    assert!(pids.iter().all(|pid| !is_alive(*pid)));

    let second = Sandbox::start(Options { ephemeral: true, ..keep() }).await.unwrap();
    assert_eq!((second.postgres_url(), second.kafka_brokers()), (postgres.clone(), brokers.clone()));
    assert_eq!(sql(&postgres, "SELECT id FROM kept"), "7");
    assert_eq!(cluster_id(&brokers), cluster);
    second.stop().await.unwrap();
    assert!(!keep().data_dir.exists(), "an ephemeral sandbox leaves nothing");
}

/// As [`options`], without removing what is there.
fn options_at(name: &str) -> Options {
    let data_dir = std::env::temp_dir().join(format!("stampede-sandbox-{name}-{}", std::process::id()));
    Options { data_dir, ..options(&format!("{name}-unused")) }
}
