//! Servers that are killed, by us and by somebody else, lose their disk, stop and start again.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use sandbox::{KafkaKind, Options, Sandbox, Server};
use tokio::time::sleep;

use crate::support::*;

#[tokio::test]
async fn a_killed_redis_stays_down_and_comes_back_empty_at_its_address() {
    let sandbox = Sandbox::start(redis_only("kill")).await.unwrap();
    let url = sandbox.redis_url();
    assert_eq!(redis(&url, "SET lost 1"), "+OK");
    let pid = sandbox.describe()[1].pid.unwrap();
    sandbox.kill(Server::Redis).await.unwrap();
    assert!(!is_alive(pid));
    assert!(sandbox.describe().iter().all(|info| info.pid.is_none()));
    sandbox.kill(Server::Redis).await.unwrap();
    sandbox.restart(Server::Redis).await.unwrap();
    assert_eq!(sandbox.redis_url(), url);
    assert_eq!(redis(&url, "DBSIZE"), ":0");
    sandbox.stop().await.unwrap();
}

#[tokio::test]
async fn a_redis_killed_by_somebody_else_is_started_again() {
    let sandbox = Sandbox::start(redis_only("revive")).await.unwrap();
    let killed = sandbox.describe()[1].pid.unwrap();
    kill_9(killed);
    eventually("Redis runs again", || sandbox.describe()[1].pid.filter(|pid| *pid != killed)).await;
    assert_eq!(redis(&sandbox.redis_url(), "PING"), "+PONG");
}

#[tokio::test]
async fn servers_that_are_not_ours_are_never_touched() {
    let sandbox = Sandbox::start(redis_only("not-ours")).await.unwrap();
    for refused in [
        sandbox.kill(Server::Postgres).await,
        sandbox.restart(Server::Postgres).await,
        sandbox.kill(Server::Kafka).await,
        sandbox.wipe_kafka().await,
    ] {
        assert!(refused.unwrap_err().to_string().contains("not ours"));
    }
    assert_eq!((sandbox.postgres_url().as_str(), sandbox.kafka_kind()), (UNUSED, KafkaKind::External));
}

/// The initial start, a kill with a backend at work, and a second owner of the same folder: one cluster for all of it.
#[tokio::test]
async fn postgres_keeps_its_data_over_a_kill_and_a_second_start() {
    let options = Options { ephemeral: false, ..postgres_only("postgres") };
    let sandbox = Sandbox::start(options.clone()).await.unwrap();
    let url = sandbox.postgres_url();
    sql(&url, "CREATE TABLE kept AS SELECT 7 AS id");
    assert_eq!(sql(&url, "SHOW synchronous_commit"), "on");
    assert_eq!(sql(&url, "SHOW fsync"), "on");
    assert_eq!(sql(&url, "SHOW data_checksums"), "on");
    let mut busy = Command::new("psql").args([&url, "-qc", "SELECT pg_sleep(60)"]).spawn().unwrap();
    eventually("a backend is busy", || {
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)'";
        (sql(&url, sleeping) != "0").then_some(())
    })
    .await;
    sandbox.kill(Server::Postgres).await.unwrap();
    assert!(!busy.wait().unwrap().success(), "the backend of a killed PostgreSQL must be gone, too");
    sandbox.restart(Server::Postgres).await.unwrap();
    assert_eq!(sandbox.postgres_url(), url);
    assert_eq!(sql(&url, "SELECT id FROM kept"), "7");
    sandbox.stop().await.unwrap();

    let sandbox = Sandbox::start(Options { ephemeral: true, ..options.clone() }).await.unwrap();
    assert_eq!(sandbox.postgres_url(), url);
    assert_eq!(sql(&url, "SELECT id FROM kept"), "7");
    sandbox.stop().await.unwrap();
    assert!(!options.data_dir.exists(), "an ephemeral sandbox leaves nothing");
    let name = format!("{}.removed-", options.data_dir.file_name().unwrap().to_str().unwrap());
    let is_left = || {
        let beside = fs::read_dir(options.data_dir.parent().unwrap()).unwrap();
        beside.flatten().any(|entry| entry.file_name().to_str().is_some_and(|other| other.starts_with(&name)))
    };
    eventually("what was in it is removed", || (!is_left()).then_some(())).await;
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing() {
    let options = postgres_only("given-up");
    let data_dir = options.data_dir.clone();
    tokio::select! {
        _ = Sandbox::start(options) => panic!("it started before it was given up"),
        () = eventually("initdb runs", || data_dir.join("postgres.new/data").exists().then_some(())) => {}
    }
    eventually("the data folder is gone", || (!data_dir.exists()).then_some(())).await;
}

#[tokio::test]
#[ignore = "soak: starts all three servers twice"]
async fn all_killed_servers_come_back_with_their_data_and_redis_comes_back_empty() {
    let sandbox = Sandbox::start(options("kill-all")).await.unwrap();
    assert_eq!(sandbox.kafka_kind(), KafkaKind::Apache);
    let (postgres, redis_url, brokers) = (sandbox.postgres_url(), sandbox.redis_url(), sandbox.kafka_brokers());
    sql(&postgres, "CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)");
    assert_eq!(redis(&redis_url, "SET lost 1"), "+OK");
    create_topics(&brokers, &["kept"]).await;
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
#[ignore = "soak: starts Kafka twice"]
async fn a_wiped_kafka_is_another_empty_cluster_at_the_same_address() {
    let sandbox = Sandbox::start(kafka_only("wipe")).await.unwrap();
    let brokers = sandbox.kafka_brokers();
    create_topics(&brokers, &["lost"]).await;
    let before = cluster_id(&brokers);
    sandbox.wipe_kafka().await.unwrap();
    assert_eq!(sandbox.kafka_brokers(), brokers);
    assert_ne!(cluster_id(&brokers), before);
    assert!(!topics(&brokers).contains(&"lost".to_owned()));
}

#[tokio::test]
#[ignore = "soak: starts PostgreSQL twice"]
async fn servers_killed_by_somebody_else_are_started_again() {
    let mut options = options("revive-all");
    options.external.kafka_brokers = Some(UNUSED.to_owned());
    let sandbox = Sandbox::start(options).await.unwrap();
    for (index, server) in [Server::Postgres, Server::Redis].into_iter().enumerate() {
        let pid = sandbox.describe()[index].pid.unwrap();
        kill_9(pid);
        eventually(&format!("{server} runs again"), || sandbox.describe()[index].pid.filter(|now| *now != pid)).await;
    }
    assert_eq!(sql(&sandbox.postgres_url(), "SELECT 1"), "1");
    assert_eq!(redis(&sandbox.redis_url(), "PING"), "+PONG");
}

#[tokio::test]
#[ignore = "soak: starts all three servers twice"]
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

/// All test binaries share one broker, and each of some 300 test sites has about 20 topics of its own.
#[tokio::test]
#[ignore = "soak: creates 6,000 topics"]
async fn one_broker_carries_the_topics_of_hundreds_of_sites() {
    let sandbox = Sandbox::start(kafka_only("topics")).await.unwrap();
    let brokers = sandbox.kafka_brokers();
    let started = Instant::now();
    for site in 0..300 {
        let names: Vec<String> = (0..20).map(|topic| format!("site{site}_topic{topic}")).collect();
        create_topics(&brokers, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    eventually("all topics are there", || (topics(&brokers).len() == 6_000).then_some(())).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.describe()[2].pid.unwrap())).unwrap();
    let memory = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    println!("6,000 topics took {:?}; the broker's {memory}", started.elapsed());
    send(&brokers, "site299_topic19", "still quick").await;
    assert_eq!(first_message(&brokers, "site299_topic19"), "still quick");
}
