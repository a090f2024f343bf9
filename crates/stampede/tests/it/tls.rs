//! PostgreSQL, Redis and Kafka over TLS: everything works with the right certificates, and nothing is sent to anybody else.
//! A refusal names the server and the setting, and no password.

use std::time::Duration;

use common::db::Db;
use common::kafka::Kafka;
use common::redis::{Redis, cmd};
use common::settings::Settings;
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use testkit::tls::{CERTIFIED, Certificate, KAFKA_PASSWORD, KAFKA_USER, TlsServers};
use testkit::{eventually, fresh_key};
use tokio::sync::OnceCell;

use crate::commands::Place;
use crate::ledger::Ledger;
use crate::site::system;

/// Nobody's password.
const WRONG: &str = "hunter2wrong";

async fn tls() -> &'static TlsServers {
    static SERVERS: OnceCell<TlsServers> = OnceCell::const_new();
    SERVERS.get_or_init(|| TlsServers::start("tls")).await
}

fn settings(overrides: &[(&str, &str)]) -> Settings {
    let overrides: Vec<_> = overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Settings::load(&[], &overrides).unwrap_or_else(|error| panic!("{error:#}"))
}

/// What a refusal says. `None`: there is none.
fn told(outcome: anyhow::Result<()>) -> Option<String> {
    let told = format!("{:#}", outcome.err()?);
    assert!(!told.contains("hunter2"), "a secret is told: {told}");
    Some(told)
}

#[track_caller]
fn assert_told(told: Option<String>, expected: &[&str]) {
    let told = told.unwrap_or_else(|| panic!("nothing was refused, but {expected:?} was expected"));
    assert!(expected.iter().all(|words| told.contains(words)), "{expected:?} is not all in: {told}");
}

/// `postgres.url` with the parameters `parameters`.
fn postgres_url(host: &str, database: &str, parameters: &str) -> impl Future<Output = String> {
    let (host, database, parameters) = (host.to_owned(), database.to_owned(), parameters.to_owned());
    async move {
        let plain = tls().await.sandbox.postgres_url();
        let (server, _) = plain.rsplit_once('/').expect("it has a database");
        format!("{}/{database}?{parameters}", server.replace("127.0.0.1", &host))
    }
}

async fn postgres(url: &str) -> Option<String> {
    let settings = settings(&[("postgres.url", url)]).section("postgres").expect("the settings are right");
    let db = Db::open(&settings, "tls").await.expect("the pool opens");
    told(db.wait_until_answering(Duration::ZERO).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_over_tls_with_certificates_and_passwords() {
    let servers = tls().await;
    let us = servers.authority.sign("everything", "stampede");
    let ca = &servers.authority.file;
    let files = format!("sslmode=verify-full&sslrootcert={ca}&sslcert={}&sslkey={}", us.file, us.key);
    let site = system()
        .on(&servers.sandbox)
        .set("postgres.url", postgres_url("localhost", "stampede", &files).await)
        .set("redis.url", format!("rediss://localhost:{}/0", servers.redis_port))
        .set("redis.ca_file", ca)
        .set("kafka.brokers", format!("localhost:{}", servers.kafka_sasl_port))
        .set("kafka.security", "sasl_ssl")
        .set("kafka.username", KAFKA_USER)
        .set("kafka.password", KAFKA_PASSWORD)
        .set("kafka.ca_file", ca)
        .start()
        .await;
    let (product, buyer) = (site.product(1).await, site.buyer().await);
    buyer.order(&fresh_key(), &product, 1).await.expect(201);
    buyer.order(&fresh_key(), &product, 1).await.refused(409, "OUT_OF_STOCK");
    eventually("the order's event has gone through Kafka to the hub", async || {
        (site.number("select count(*) from {notification_hub}.notifications").await == 1).then_some(())
    })
    .await;
    let ours = format!(
        "from pg_stat_activity join pg_stat_ssl using (pid) where application_name like '{}%'",
        site.namespace()
    );
    assert!(site.number(&format!("select count(*) {ours} and ssl and client_dn like '%everything%'")).await > 7);
    assert_eq!(site.number(&format!("select count(*) {ours} and not ssl")).await, 0, "pools, relays, listeners");
    let gates = site.number("select count(*) from {inventory}.holds").await;
    assert_eq!(gates, 1, "the second buyer was refused by the gate in Redis");
    site.assert_consistent().await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_believed_as_far_as_sslmode_says() {
    let servers = tls().await;
    let (ca, stranger) = (servers.authority.file.as_str(), servers.stranger.file.as_str());
    let full = async |host: &str, ca: &str| {
        postgres(&postgres_url(host, "stampede", &format!("sslmode=verify-full&sslrootcert={ca}")).await).await
    };
    let refused = "TLS with PostgreSQL at ";
    assert_eq!(full("localhost", ca).await, None);
    assert_told(full("localhost", stranger).await, &[refused, "localhost:", "UnknownIssuer", "sslrootcert=", stranger]);
    assert_told(full("localhost", "system").await, &[refused, "UnknownIssuer", "sslrootcert=system"]);
    assert_told(full("127.0.0.1", ca).await, &[refused, "not valid for name", "sslmode=verify-full"]);
    for (parameters, is_refused) in [
        (format!("sslmode=verify-ca&sslrootcert={ca}"), false),
        (format!("sslmode=verify-ca&sslrootcert={stranger}"), true),
        (format!("sslmode=require&sslrootcert={stranger}"), true),
        ("sslmode=require".to_owned(), false),
        ("sslmode=prefer".to_owned(), false),
        ("sslmode=disable".to_owned(), false),
    ] {
        let told = postgres(&postgres_url("127.0.0.1", "stampede", &parameters).await).await;
        assert_eq!(told.is_some(), is_refused, "{parameters}: {told:?}");
    }
    // A server without TLS.
    let plain = format!("{}?sslmode=require", testkit::servers::shared().await.postgres_url());
    assert_told(postgres(&plain).await, &[refused, "does not speak TLS", "sslmode=require"]);
    // A wrong password may be right in a moment, when the role has been made: it is told when the wait is over.
    let wrong = postgres_url("localhost", "stampede", "sslmode=require").await;
    let (before, after) = wrong.split_once('@').expect("there is a password");
    let (user, _) = before.rsplit_once(':').expect("there is a user");
    assert_told(postgres(&format!("{user}:{WRONG}@{after}")).await, &["localhost:", "password authentication failed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_gets_our_certificate_where_it_asks_for_one() {
    let servers = tls().await;
    let mut admin = AsyncPgConnection::establish(&servers.sandbox.postgres_url()).await.expect("PostgreSQL is there");
    admin.batch_execute(&format!("create database {CERTIFIED}")).await.expect("the database can be made");
    let ca = &servers.authority.file;
    let with = async |certificate: Option<&Certificate>| {
        let mut parameters = format!("sslmode=verify-full&sslrootcert={ca}");
        if let Some(Certificate { file, key }) = certificate {
            parameters += &format!("&sslcert={file}&sslkey={key}");
        }
        postgres(&postgres_url("localhost", CERTIFIED, &parameters).await).await
    };
    assert_eq!(with(Some(&servers.authority.sign("pg-right", "stampede"))).await, None);
    assert_told(with(None).await, &["localhost:", "valid client certificate"]);
    let wrong = servers.stranger.sign("pg-wrong", "stampede");
    assert_told(with(Some(&wrong)).await, &["TLS with PostgreSQL at localhost:", "sslcert=", &wrong.file]);
}

async fn redis(overrides: &[(&str, &str)]) -> Option<String> {
    let settings = settings(overrides);
    let settings = settings.section("redis").expect("the settings are right");
    let redis = Redis::open(&settings, "tls").expect("the client can be made");
    told(redis.check_access().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_has_to_prove_itself_and_to_know_us() {
    let servers = tls().await;
    let (ca, stranger) = (servers.authority.file.as_str(), servers.stranger.file.as_str());
    let port = servers.redis_port;
    let url = format!("rediss://localhost:{port}/0");
    assert_eq!(redis(&[("redis.url", &url), ("redis.ca_file", ca)]).await, None);
    let refused = "Redis at localhost:";
    assert_told(
        redis(&[("redis.url", &url), ("redis.ca_file", stranger)]).await,
        &[refused, "UnknownIssuer", "redis.ca_file"],
    );
    assert_told(redis(&[("redis.url", &url)]).await, &[refused, "UnknownIssuer", "redis.ca_file"]);
    let by_number = format!("rediss://127.0.0.1:{port}/0");
    assert_told(redis(&[("redis.url", &by_number), ("redis.ca_file", ca)]).await, &["not valid for name"]);

    let admin = settings(&[("redis.url", &servers.sandbox.redis_url())]);
    let admin = Redis::open(&admin.section("redis").unwrap(), "").unwrap();
    let mut make = cmd("ACL");
    make.arg(&["SETUSER", "shop", "on", ">hunter2redis", "~*", "&*", "+@all"]);
    admin.command::<()>(&make).await.expect("Redis makes the user");
    for (password, is_refused) in [("hunter2redis", false), (WRONG, true)] {
        let url = format!("rediss://shop:{password}@localhost:{port}/0");
        let told = redis(&[("redis.url", &url), ("redis.ca_file", ca)]).await;
        match is_refused {
            true => assert_told(told, &[refused, "does not accept the user and the password", "redis.url"]),
            false => assert_eq!(told, None),
        }
    }
    let closed = "a Redis that is away is no reason to end";
    assert_eq!(redis(&[("redis.url", "rediss://localhost:1/0"), ("redis.ca_file", ca)]).await, None, "{closed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_gets_our_certificate_where_it_asks_for_one() {
    let servers = tls().await;
    let ca = &servers.authority.file;
    let url = format!("rediss://localhost:{}/0", servers.redis_certified_port);
    let with = async |certificate: Option<Certificate>| {
        let Certificate { file, key } = certificate.unwrap_or(Certificate { file: String::new(), key: String::new() });
        let files = [("redis.cert_file", file.as_str()), ("redis.key_file", &key), ("redis.ca_file", ca)];
        redis(&[&[("redis.url", url.as_str())][..], &files].concat()).await
    };
    assert_eq!(with(Some(servers.authority.sign("redis-right", "stampede"))).await, None);
    let expected = ["Redis at localhost:", "TLS fails", "redis.cert_file"];
    assert_told(with(None).await, &expected);
    assert_told(with(Some(servers.stranger.sign("redis-wrong", "stampede"))).await, &expected);
}

/// Makes a topic if nothing is refused: brokers that are away are no refusal.
async fn kafka(port: u16, overrides: &[(&str, &str)]) -> Option<String> {
    kafka_at("localhost", port, overrides).await
}

async fn kafka_at(host: &str, port: u16, overrides: &[(&str, &str)]) -> Option<String> {
    let brokers = format!("{host}:{port}");
    let all = [&[("kafka.brokers", brokers.as_str()), ("kafka.request_timeout_ms", "30000")], overrides].concat();
    let settings = settings(&all).section("kafka").expect("the settings are right");
    let kafka = Kafka::open(&settings, "tls_").expect("the client can be made");
    let told = told(kafka.check_access().await);
    if told.is_none() {
        let missing = kafka.ensure_topics(&["TRIED"]).await.unwrap_or_else(|error| panic!("{error:?}"));
        assert!(missing.is_empty(), "{missing:?}");
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_has_to_prove_itself() {
    let servers = tls().await;
    let (ca, stranger) = (servers.authority.file.as_str(), servers.stranger.file.as_str());
    let with = |file| [("kafka.security", "ssl"), ("kafka.ca_file", file)];
    assert_eq!(kafka(servers.kafka_port, &with(ca)).await, None);
    let expected = ["Kafka at localhost:", "certificate", "kafka.ca_file"];
    assert_told(kafka(servers.kafka_port, &with(stranger)).await, &expected);
    assert_told(kafka(servers.kafka_port, &with("")).await, &expected);
    assert_told(kafka_at("127.0.0.1", servers.kafka_port, &with(ca)).await, &["Kafka at 127.0.0.1:", "certificate"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_gets_our_certificate_where_it_asks_for_one() {
    let servers = tls().await;
    let with = async |certificate: Option<&Certificate>| {
        let mut settings = vec![("kafka.security", "ssl"), ("kafka.ca_file", servers.authority.file.as_str())];
        if let Some(Certificate { file, key }) = certificate {
            settings.extend([("kafka.cert_file", file.as_str()), ("kafka.key_file", key)]);
        }
        kafka(servers.kafka_certified_port, &settings).await
    };
    assert_eq!(with(Some(&servers.authority.sign("kafka-right", "stampede"))).await, None);
    let expected = ["Kafka at localhost:", "kafka.cert_file"];
    assert_told(with(None).await, &expected);
    assert_told(with(Some(&servers.stranger.sign("kafka-wrong", "stampede"))).await, &expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_gets_our_password_by_each_mechanism() {
    let servers = tls().await;
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let with = async |password: &str| {
            let settings = [
                ("kafka.security", "sasl_ssl"),
                ("kafka.ca_file", &servers.authority.file),
                ("kafka.sasl_mechanism", mechanism),
                ("kafka.username", KAFKA_USER),
                ("kafka.password", password),
            ];
            kafka(servers.kafka_sasl_port, &settings).await
        };
        assert_eq!(with(KAFKA_PASSWORD).await, None, "{mechanism}");
        assert_told(with(WRONG).await, &["Kafka at localhost:", "uthentication", "kafka.username and kafka.password"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_whose_server_is_somebody_else_ends_and_says_so() {
    let servers = tls().await;
    let stranger = &servers.stranger.file;
    let place = Place::new("tls").await;
    let url = postgres_url("localhost", "stampede", &format!("sslmode=verify-full&sslrootcert={stranger}")).await;
    let wrong = place.set("postgres.url", &url).stampede("order").await;
    wrong.expect(1, &["TLS with PostgreSQL at localhost:", "UnknownIssuer", "postgres.url"]);

    let place = Place::new("tls").await;
    let redis = format!("rediss://shop:{WRONG}@localhost:{}/0", servers.redis_port);
    let kafka = format!("localhost:{}", servers.kafka_sasl_port);
    let place = place.set("redis.url", &redis).set("redis.ca_file", stranger).set("kafka.brokers", &kafka);
    let place = place.set("kafka.security", "sasl_ssl").set("kafka.ca_file", &servers.authority.file);
    let place = place.set("kafka.username", KAFKA_USER).set("kafka.password", WRONG);
    let both = ["Redis at localhost:", "redis.ca_file", "Kafka at localhost:", "kafka.password"];
    let ended = place.stampede("order").await.expect(1, &both);
    assert!(!ended.to_string().contains("hunter2"), "{ended}");
}
