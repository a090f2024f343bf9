//! Loads the gate of a coupon from PostgreSQL: when it is lost, when the coupon was changed, and when it was wrong.
//!
//! First the epoch is raised: from then on PostgreSQL refuses what older gates have let through, so nothing is issued
//! between the count and the publication.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use common::db::Prepared;
use common::redis::{Script, Unavailable, cmd};
use common::{Error, Result};
use contract::ids::{AccountId, CouponId};
use diesel::sql_types::{BigInt, Bool, Timestamptz, Uuid};
use diesel::{ExpressionMethods, QueryDsl, QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::gate::Gate;
use crate::refused::Refused;
use crate::schema::coupon_issue;

static USERS: LazyLock<Script> =
    LazyLock::new(|| Script::new("coupon_load_users", include_str!("load_gate_users.lua")));
static PUBLISH: LazyLock<Script> =
    LazyLock::new(|| Script::new("coupon_publish", include_str!("load_gate_publish.lua")));

/// Users that one query reads and one call of the script loads: Redis serves nobody else meanwhile.
const USERS_MAX: i64 = 2000;

/// How soon a process looks again whether another one has loaded a gate, or whether its coupon has opened.
pub const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Returns when the gate of `coupon` may be newer than `seen`: somebody has loaded it, or is doing so. Refuses with
/// `COUPON_NOT_FOUND`.
pub async fn load_gate(app: &Arc<App>, coupon: CouponId, seen: i64) -> Result<()> {
    let turn = &app.load_turns[usize::from(coupon.as_bytes()[15]) % app.load_turns.len()];
    let turn = turn.lock().await;
    if app.gate.epoch(coupon) > seen {
        return Ok(());
    }
    let load = load(&app.gate, coupon).await;
    drop(turn);
    match load? {
        Load::Done => {}
        // Another process loads it.
        Load::Busy => tokio::time::sleep(LOOK_AGAIN).await,
    }
    Ok(())
}

/// Has the gate of `coupon` loaded anew, without waiting for it.
pub fn load_later(app: &Arc<App>, coupon: CouponId) {
    let app = app.clone();
    tokio::spawn(async move {
        let seen = app.gate.epoch(coupon);
        if let Err(error) = load_gate(&app, coupon, seen).await {
            tracing::warn!(
                coupon.id = %coupon, %error,
                "The gate of coupon {coupon} is not loaded; the next request for it tries again"
            );
        }
    });
}

enum Load {
    Done,
    Busy,
}

async fn load(gate: &Gate, coupon: CouponId) -> Result<Load> {
    let away = |away: Unavailable| Error::transient(away);
    let lock = gate.key(coupon, "loading");
    // It goes by itself if this process dies; whoever comes then raises the epoch once more.
    let set: Option<String> = gate
        .redis
        .command(cmd("SET").arg(&lock).arg("1").arg("NX").arg("PX").arg(gate.settings.load_ms))
        .await
        .map_err(away)?;
    if set.is_none() {
        return Ok(Load::Busy);
    }
    let loaded = load_and_publish(gate, coupon).await;
    gate.redis.delete(&[lock]).await.map_err(away)?;
    let epoch = loaded?;
    gate.note_epoch(coupon, epoch);
    metrics::counter!("stampede_coupon_gate_loads_total").increment(1);
    tracing::info!(coupon.id = %coupon, epoch, "Loaded the gate of coupon {coupon}");
    Ok(Load::Done)
}

#[derive(QueryableByName)]
struct Fence {
    #[diesel(sql_type = BigInt)]
    epoch: i64,
    #[diesel(sql_type = BigInt)]
    left: i64,
    #[diesel(sql_type = Timestamptz)]
    starts_at: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    expires_at: DateTime<Utc>,
    #[diesel(sql_type = Bool)]
    closed: bool,
}

/// Returns the epoch of the gate.
async fn load_and_publish(gate: &Gate, coupon: CouponId) -> Result<i64> {
    let away = |away: Unavailable| Error::transient(away);
    let raise = sql_query(include_str!("load_gate.sql")).bind::<Uuid, _>(coupon);
    let fence: Vec<Fence> =
        gate.db.autocommit("raise_epoch", async move |conn| Ok(Prepared(raise).load(conn).await?)).await?;
    let fence = fence.into_iter().next().ok_or(Refused::CouponNotFound(coupon))?;
    gate.db.point("coupon.after_epoch").await;
    let next = gate.key(coupon, &format!("issued-next:{}", fence.epoch));
    let mut last: Option<AccountId> = None;
    loop {
        let users = read_users(gate, coupon, last).await?;
        if !users.is_empty() {
            let args: Vec<String> = users.iter().map(ToString::to_string).collect();
            gate.redis.run::<i64>(&USERS, std::slice::from_ref(&next), &args).await.map_err(away)?;
        }
        last = users.last().copied();
        if (users.len() as i64) < USERS_MAX {
            break;
        }
    }
    // Before the publication: from its first take on, the journal is swept.
    gate.redis.command::<i64>(cmd("SADD").arg(gate.loaded_key()).arg(coupon.to_string())).await.map_err(away)?;
    let [meta, stock, issued, journal] = gate.keys(coupon);
    let args = [
        fence.epoch.to_string(),
        fence.left.to_string(),
        fence.starts_at.timestamp_millis().to_string(),
        fence.expires_at.timestamp_millis().to_string(),
        if fence.closed { "closed" } else { "open" }.to_owned(),
        gate.settings.kept_ms.to_string(),
    ];
    gate.redis.run::<i64>(&PUBLISH, &[meta, stock, issued, journal, next], &args).await.map_err(away)?;
    Ok(fence.epoch)
}

async fn read_users(gate: &Gate, coupon: CouponId, after: Option<AccountId>) -> Result<Vec<AccountId>> {
    let mut users = coupon_issue::table
        .filter(coupon_issue::coupon_id.eq(coupon))
        .select(coupon_issue::user_id)
        .order(coupon_issue::user_id)
        .limit(USERS_MAX)
        .into_boxed();
    if let Some(after) = after {
        users = users.filter(coupon_issue::user_id.gt(after));
    }
    Ok(users.load(&mut *gate.db.read().await?).await?)
}
