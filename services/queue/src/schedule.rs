//! The schedule in Redis: the state of each event, a sorted set of what is due when, and for each a key that expires at the
//! opening.
//!
//! All of it is a hint. It is written after the commit, it may be lost at any moment, and the recovery writes it again.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use common::redis::{Redis, Script, Unavailable, cmd};
use contract::ids::SaleEventId;

use crate::App;
use crate::names::Status;
use crate::sale_event::SaleEvent;

static UNLOCK: LazyLock<Script> = LazyLock::new(|| Script::new("unlock", include_str!("schedule_unlock.lua")));

/// Longer than opening takes; a process that dies with the lock keeps others from nothing, since they open without it.
const LOCK_MS: u64 = 5_000;

/// The sorted set of what is due when.
pub fn schedule_key(redis: &Redis) -> String {
    redis.key("event:schedule")
}

fn state_key(redis: &Redis, id: SaleEventId) -> String {
    redis.key(&format!("event:{{{id}}}:state"))
}

fn due_key(redis: &Redis, id: SaleEventId) -> String {
    redis.key(&due_name(id))
}

/// Without the namespace.
pub fn due_name(id: SaleEventId) -> String {
    format!("event:{{{id}}}:due")
}

/// The event whose opening this key stands for.
pub fn due_event(name: &str) -> Option<SaleEventId> {
    name.strip_prefix("event:{")?.strip_suffix("}:due")?.parse().ok()
}

/// Writes down when `event` opens, if that is still ahead, and has the timer look again.
pub async fn arm(app: &App, event: &SaleEvent, now: DateTime<Utc>) {
    if event.status == Status::Pending
        && let Err(error) = write(&app.redis, event, now).await
    {
        tracing::debug!(event.id = %event.id, %error, "The schedule in Redis is not written; the recovery writes it");
    }
    app.rescheduled.notify_one();
}

async fn write(redis: &Redis, event: &SaleEvent, now: DateTime<Utc>) -> Result<(), Unavailable> {
    let left_ms = (event.opens_at - now).num_milliseconds().max(1);
    redis.command::<()>(cmd("SET").arg(state_key(redis, event.id)).arg("PENDING")).await?;
    let score = event.opens_at.timestamp_millis();
    redis.command::<()>(cmd("ZADD").arg(schedule_key(redis)).arg(score).arg(event.id.to_string())).await?;
    redis.command::<()>(cmd("SET").arg(due_key(redis, event.id)).arg("1").arg("PX").arg(left_ms)).await
}

/// The event has reached `state`: it leaves the schedule.
pub async fn disarm(app: &App, id: SaleEventId, state: &str) {
    let redis = &app.redis;
    let day_ms = 86_400_000;
    let outcome = async {
        redis.command::<()>(cmd("SET").arg(state_key(redis, id)).arg(state).arg("PX").arg(day_ms)).await?;
        redis.command::<()>(cmd("ZREM").arg(schedule_key(redis)).arg(id.to_string())).await?;
        redis.delete(&[due_key(redis, id)]).await
    };
    if let Err(error) = outcome.await {
        tracing::debug!(event.id = %id, %error, "The schedule in Redis still has the event; the scan removes it");
    }
}

/// What the sorted set says is due at `now`, at most `count`.
pub async fn due(redis: &Redis, now: DateTime<Utc>, count: usize) -> Result<Vec<SaleEventId>, Unavailable> {
    let mut query = cmd("ZRANGEBYSCORE");
    query.arg(schedule_key(redis)).arg("-inf").arg(now.timestamp_millis()).arg("LIMIT").arg(0).arg(count);
    let members: Vec<String> = redis.command(&query).await?;
    Ok(members.iter().filter_map(|member| member.parse().ok()).collect())
}

/// The lock of one event's opening, for as long as this lives.
pub struct Lock {
    key: String,
    token: String,
}

/// None: another replica has it.
pub async fn lock(redis: &Redis, id: SaleEventId, token: String) -> Result<Option<Lock>, Unavailable> {
    let key = redis.key(&format!("event:{{{id}}}:lock"));
    let mut set = cmd("SET");
    set.arg(&key).arg(&token).arg("NX").arg("PX").arg(LOCK_MS);
    let taken: Option<String> = redis.command(&set).await?;
    Ok(taken.map(|_| Lock { key, token }))
}

/// Only if it is still ours.
pub async fn unlock(redis: &Redis, lock: Lock) {
    let Lock { key, token } = lock;
    if let Err(error) = redis.run::<i64>(&UNLOCK, &[key], &[token]).await {
        tracing::debug!(%error, "A lock of the schedule ends by itself");
    }
}

/// Whether the schedule says that the event is open.
pub async fn is_open(redis: &Redis, id: SaleEventId) -> Result<bool, Unavailable> {
    Ok(redis.get(&state_key(redis, id)).await?.as_deref() == Some(b"OPEN"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_names_its_event() {
        let id = SaleEventId::derive(&[b"event"]);
        assert_eq!(due_event(&due_name(id)), Some(id));
        for other in ["event:schedule", "event:{}:due", "event:{x}:due", &format!("event:{{{id}}}:lock")] {
            assert_eq!(due_event(other), None, "{other}");
        }
    }
}
