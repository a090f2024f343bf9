//! What is special to tests of the queue: its sale events, its rooms, and what lies in Redis.

use std::ops::Deref;

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Answer, Builder, Client, PATIENT, fresh_key, text};
use uuid::Uuid;

/// No loop looks by itself: each test says which of them does.
const QUIET: [(&str, &str); 8] = [
    ("queue.timer_period_ms", "3600000"),
    ("queue.scan_period_ms", "3600000"),
    ("queue.recovery_period_ms", "3600000"),
    ("queue.listen_retry_ms", "50"),
    ("queue.tick_period_ms", "3600000"),
    ("queue.sync_period_ms", "3600000"),
    ("queue.entries_per_minute", "100000"),
    ("redis.timeout_ms", "20000"),
];

/// A running queue.
pub struct Site {
    kit: testkit::Site,
    redis: MultiplexedConnection,
}

impl Deref for Site {
    type Target = testkit::Site;

    fn deref(&self) -> &testkit::Site {
        &self.kit
    }
}

impl Site {
    pub async fn start_with(settings: &[(&str, &str)]) -> Site {
        Self::new(builder(settings).start().await).await
    }

    /// Another process on the same data, with `settings` in place of the first one's.
    pub async fn replica_with(&self, settings: &[(&str, &str)]) -> Site {
        Self::new(builder(settings).namespace(self.namespace()).on(self.servers).start().await).await
    }

    /// With what the test adds to the host.
    pub async fn start_beside(settings: &[(&str, &str)], mount: impl FnOnce(&mut common::Host) + 'static) -> Site {
        Self::new(builder(settings).with(mount).start().await).await
    }

    async fn new(kit: testkit::Site) -> Site {
        let client = redis::Client::open(kit.servers.redis_url()).unwrap();
        let patient = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let redis = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
        Site { kit, redis }
    }

    // --- sale events

    pub async fn schedule(&self, key: &str, event: &Value) -> Answer {
        let admin = self.admin();
        admin.send(admin.request(Method::POST, "/admin/events").header("Idempotency-Key", key).json(event)).await
    }

    /// A new sale event that opens in an hour, with `members` beyond that or in their place. Returns its id.
    pub async fn event(&self, members: Value) -> String {
        let mut event = coming();
        event.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        text(&self.schedule(&fresh_key(), &event).await.expect(201).json()["eventId"])
    }

    pub async fn read(&self, event: &str) -> Value {
        self.anyone().get(&format!("/events/{event}")).await.expect(200).json()
    }

    pub async fn move_event(&self, event: &str, etag: &str, change: &Value) -> Answer {
        let admin = self.admin();
        let request = admin.request(Method::PATCH, &format!("/admin/events/{event}"));
        admin.send(request.header("If-Match", etag).json(change)).await
    }

    /// `open`, `close`, ... as an administrator.
    pub async fn command(&self, event: &str, command: &str) -> Answer {
        self.admin().post(&format!("/admin/events/{event}/{command}"), &json!({})).await
    }

    /// Moves the opening to a second ago, without telling anybody.
    pub async fn opening_is_over(&self, event: &str) {
        let over = "update {queue}.sale_events set opens_at = now() - interval '1 second' where id =";
        self.execute(&format!("{over} '{event}'")).await;
    }

    /// The `EVENT_OPEN` of a sale event.
    pub async fn openings(&self, event: &str) -> i64 {
        self.told(event, "EVENT_OPEN").await
    }

    pub async fn told(&self, event: &str, topic: &str) -> i64 {
        self.number(&format!(
            "select count(*) from {{queue}}.outbox_events where topic = '{topic}' and key = '{event}'"
        ))
        .await
    }

    pub async fn until_open(&self, event: &str) {
        let open = format!("select count(*) from {{queue}}.sale_events where id = '{event}' and status = 'OPEN'");
        self.until_number(&open, 1).await;
    }

    // --- Redis

    /// Runs a command. Names that begin with `:` are keys of this site.
    pub async fn redis<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = Cmd::new();
        for word in words {
            match word.strip_prefix(':') {
                Some(key) => command.arg(format!("{}{key}", self.namespace())),
                None => command.arg(word),
            };
        }
        command.query_async(&mut self.redis.clone()).await.unwrap()
    }

    /// Removes every key of this site, as a Redis that lost its memory has none.
    pub async fn flush(&self) {
        let keys: Vec<String> = self.redis(&["KEYS", ":*"]).await;
        for key in keys {
            let () = self.redis(&["DEL", &key]).await;
        }
    }
}

fn builder(settings: &[(&str, &str)]) -> Builder {
    testkit::Site::builder(&[queue::spec()]).settings(&PATIENT).settings(&QUIET).settings(settings)
}

/// The request of a sale event that opens in an hour.
pub fn coming() -> Value {
    json!({
        "name": "한정판 스니커즈",
        "opensAt": in_seconds(3600),
        "productIds": [Uuid::now_v7()],
        "queueManageRequired": false,
    })
}

pub fn in_seconds(seconds: i64) -> String {
    (Utc::now() + Duration::seconds(seconds)).to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

/// Somebody who is no administrator.
pub async fn nobody(site: &Site) -> Client {
    site.buyer().await
}
