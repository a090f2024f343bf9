//! Loads the gate of a coupon from PostgreSQL: when it is lost, when the coupon was changed, and when it was wrong.
//!
//! First the epoch is raised: from then on PostgreSQL refuses what older gates have let through, so nothing is issued
//! between the count and the publication.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use common::db::Prepared;
use common::redis::{Script, Unavailable, cmd};
use common::{Error, Result};
use contract::ids::{AccountId, CouponId};
use diesel::sql_types::{BigInt, Bool, Timestamptz};
use diesel::{ExpressionMethods, QueryDsl, QueryableByName, sql_query};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, ready};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::App;
use crate::gate::Gate;
use crate::refused::Refused;
use crate::schema::coupon_issue;

static USERS: LazyLock<Script> =
    LazyLock::new(|| Script::new("coupon_load_users", include_str!("load_gate_users.lua")));
static UNLOCK: LazyLock<Script> =
    LazyLock::new(|| Script::new("coupon_load_unlock", include_str!("load_gate_unlock.lua")));
static PUBLISH: LazyLock<Script> =
    LazyLock::new(|| Script::new("coupon_publish", include_str!("load_gate_publish.lua")));

/// Users that one query reads and one call of the script loads: Redis serves nobody else meanwhile.
const USERS_MAX: i64 = 2000;

/// How soon a process looks again whether another one has loaded a gate, or whether its coupon has opened.
pub const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A load of a gate, for all who wait for it. It goes on when nobody does any more.
type Loading = Shared<BoxFuture<'static, Result<()>>>;

/// The loads that are under way in this process: one at a time for each coupon.
pub type Loads = Mutex<HashMap<CouponId, Loading>>;

/// Begins to load the gate of `coupon` unless it is newer than `seen`. The answer comes when it may be: this process has loaded
/// it, or another one is doing so. Refuses with `COUPON_NOT_FOUND`.
pub fn load_gate(app: &Arc<App>, coupon: CouponId, seen: i64) -> Loading {
    let mut loads = app.loads.lock();
    // A load notes its epoch before it leaves the map.
    if app.gate.epoch(coupon) > seen {
        return ready(Ok(())).boxed().shared();
    }
    let begin = || {
        let task = tokio::spawn(load_once(app.clone(), coupon));
        async move { task.await? }.boxed().shared()
    };
    loads.entry(coupon).or_insert_with(begin).clone()
}

/// Waits for [`load_gate`] until `deadline`. Fails for now when it takes longer; the load goes on all the same.
pub async fn load_in_time(app: &Arc<App>, coupon: CouponId, seen: i64, deadline: Instant) -> Result<()> {
    let loading = load_gate(app, coupon, seen);
    let late = || Error::transient(anyhow::anyhow!("the gate of coupon {coupon} is not loaded in time"));
    if Instant::now() >= deadline {
        return Err(late());
    }
    timeout_at(deadline, loading).await.map_err(|_| late())?
}

/// Has the gate of `coupon` loaded anew, without waiting for it.
pub fn load_later(app: &Arc<App>, coupon: CouponId) {
    let loading = load_gate(app, coupon, app.gate.epoch(coupon));
    tokio::spawn(async move {
        if let Err(error) = loading.await {
            tracing::warn!(
                coupon.id = %coupon, %error,
                "The gate of coupon {coupon} is not loaded; the next request that finds it cold and the loop load_old_gates try again"
            );
        }
    });
}

/// The next request may begin a load. Dropped also when this one panics.
struct Ended(Arc<App>, CouponId);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.loads.lock().remove(&self.1);
    }
}

async fn load_once(app: Arc<App>, coupon: CouponId) -> Result<()> {
    let _ended = Ended(app.clone(), coupon);
    if let Load::Busy = load(&app.gate, coupon).await? {
        app.db.point("coupon.gate_is_busy").await;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

enum Load {
    Done,
    /// Another process loads it.
    Busy,
}

async fn load(gate: &Gate, coupon: CouponId) -> Result<Load> {
    let away = |away: Unavailable| Error::transient(away);
    let lock = Lock { key: gate.key(coupon, "loading"), token: Uuid::now_v7().to_string() };
    // It goes by itself if this process dies; whoever comes then raises the epoch once more.
    let mut set = cmd("SET");
    set.arg(&lock.key).arg(&lock.token).arg("NX").arg("PX").arg(gate.settings.load_ms);
    if gate.redis.command::<Option<String>>(&set).await.map_err(away)?.is_none() {
        return Ok(Load::Busy);
    }
    let loaded = load_and_publish(gate, coupon, &lock).await;
    gate.redis.run::<i64>(&UNLOCK, &[lock.key], &[lock.token]).await.map_err(away)?;
    let Some(epoch) = loaded? else { return Ok(Load::Busy) };
    gate.note_epoch(coupon, epoch);
    metrics::counter!("stampede_coupon_gate_loads_total").increment(1);
    tracing::info!(coupon.id = %coupon, epoch, "Loaded the gate of coupon {coupon}");
    Ok(Load::Done)
}

/// Keeps other processes from loading the same gate. Without it the result is the same, and the work is done twice.
struct Lock {
    key: String,
    token: String,
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

/// Returns the epoch of the gate; None if the lock was lost while the users were read.
async fn load_and_publish(gate: &Gate, coupon: CouponId, lock: &Lock) -> Result<Option<i64>> {
    let away = |away: Unavailable| Error::transient(away);
    let raise = sql_query(include_str!("load_gate.sql")).bind::<diesel::sql_types::Uuid, _>(coupon);
    let fence: Vec<Fence> = gate.db.tx("raise_epoch", async move |tx| Ok(Prepared(raise).load(tx).await?)).await?;
    let fence = fence.into_iter().next().ok_or(Refused::CouponNotFound(coupon))?;
    gate.db.point("coupon.after_epoch").await;
    let next = gate.key(coupon, &format!("issued-next:{}", fence.epoch));
    let mut last: Option<AccountId> = None;
    loop {
        let users = read_users(gate, coupon, last).await?;
        if !users.is_empty() && !add_users(gate, &next, lock, &users).await? {
            return Ok(None);
        }
        last = users.last().copied();
        if (users.len() as i64) < USERS_MAX {
            break;
        }
    }
    gate.db.point("coupon.before_publication").await;
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
    Ok(Some(fence.epoch))
}

/// Collects a page of users, and keeps the lock for as long again. False: the lock is lost.
async fn add_users(gate: &Gate, next: &str, lock: &Lock, users: &[AccountId]) -> Result<bool> {
    let mut args = vec![lock.token.clone(), gate.settings.load_ms.to_string()];
    args.extend(users.iter().map(ToString::to_string));
    let kept = gate.redis.run::<i64>(&USERS, &[next.to_owned(), lock.key.clone()], &args).await;
    Ok(kept.map_err(Error::transient)? == 1)
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
