//! Takes that nobody has stored: their process has died, or could not undo them. Any replica finds them in the journals by
//! their age, and stores or undoes them.

use std::sync::Arc;

use common::redis::{Unavailable, cmd};
use common::telemetry::Context;
use common::{Error, Result};
use contract::ids::{AccountId, CouponId, CouponIssueId};
use futures_util::future::join_all;

use crate::App;
use crate::commit_issues::Outcome;
use crate::gate::Take;
use crate::issue::{Wanted, take_id};
use crate::issue_coupon::store;
use crate::record_failures::record_failures;

/// Takes that one sweep of a journal stores.
const TAKES_MAX: usize = 256;

/// Looks at the journals of all gates that are loaded. Any number of replicas may run it: to store a take twice is to store it
/// once.
pub async fn sweep_journals(app: &Arc<App>) -> Result<()> {
    // Without Redis the journals are away with it.
    let Ok(loaded) = app.gate.loaded().await else { return Ok(()) };
    let mut pending = 0;
    for coupon in loaded {
        pending += sweep_journal(app, coupon).await?;
        record_failures(app, coupon).await?;
        forget_gate(app, coupon).await.map_err(Error::transient)?;
    }
    metrics::gauge!("stampede_coupon_takes_left").set(pending as f64);
    Ok(())
}

/// Returns how many old takes it has found.
async fn sweep_journal(app: &Arc<App>, coupon: CouponId) -> Result<usize> {
    let old = old_takes(app, coupon).await.map_err(Error::transient)?;
    let found = old.len();
    join_all(old.iter().map(async |wanted| match store(app, wanted).await {
        Ok(Outcome::Stored(_)) => {
            metrics::counter!("stampede_coupons_issued_total", "outcome" => "recovered").increment(1);
        }
        // Its gate is being replaced, which ends the take; or it was undone.
        Ok(Outcome::Stale { .. }) | Err(Error::Refused(_)) => {}
        Err(Error::Fault(fault)) => tracing::warn!(
            issue.id = %wanted.issue, error = format!("{:#}", fault.cause),
            "The take of issue {} could not be stored and was undone; its user may ask again", wanted.issue
        ),
    }))
    .await;
    Ok(found)
}

/// The takes of a journal that are so old that their own requests have given up or died.
async fn old_takes(app: &App, coupon: CouponId) -> Result<Vec<Wanted>, Unavailable> {
    let [meta, _, _, journal] = app.gate.keys(coupon);
    let epoch: Option<i64> = app.gate.redis.command(cmd("HGET").arg(meta).arg("epoch")).await?;
    let Some(epoch) = epoch else { return Ok(Vec::new()) };
    let (seconds, micros): (i64, i64) = app.gate.redis.command(&cmd("TIME")).await?;
    // The name of an entry begins with its time, in milliseconds of the same clock.
    let until_ms = seconds * 1000 + micros / 1000 - app.settings.takes.idle_ms;
    let range = cmd("XRANGE").arg(journal).arg("-").arg(until_ms).arg("COUNT").arg(TAKES_MAX).to_owned();
    let entries: Vec<(String, Vec<String>)> = app.gate.redis.command(&range).await?;
    let wanted = |(entry, fields): (String, Vec<String>)| {
        let field = |name: &str| {
            let mut pairs = fields.chunks_exact(2);
            pairs.find_map(|pair| (pair[0] == name).then(|| pair[1].as_str()))
        };
        let user: AccountId = field("user")?.parse().ok()?;
        let issue: CouponIssueId = field("issue")?.parse().ok()?;
        // Taken by the gate that is loaded now: publishing one empties the journal.
        let take = Take { epoch, entry };
        let take_id = take_id(&take);
        Some(Wanted { issue, coupon, user, take: Some(take), take_id, context: Context::default() })
    };
    Ok(entries.into_iter().filter_map(wanted).collect())
}

/// Looks no more at a coupon whose gate has gone. It is looked at again when it is loaded.
async fn forget_gate(app: &App, coupon: CouponId) -> Result<(), Unavailable> {
    let [meta, ..] = app.gate.keys(coupon);
    let (redis, name) = (&app.gate.redis, coupon.to_string());
    let (is_loaded, is_loading): (i64, i64) = (
        redis.command(cmd("EXISTS").arg(&meta)).await?,
        redis.command(cmd("EXISTS").arg(app.gate.key(coupon, "loading"))).await?,
    );
    if is_loaded + is_loading > 0 {
        return Ok(());
    }
    redis.command::<i64>(cmd("SREM").arg(app.gate.loaded_key()).arg(&name)).await?;
    // It may have been loaded between the two.
    if redis.command::<i64>(cmd("EXISTS").arg(&meta)).await? > 0 {
        redis.command::<i64>(cmd("SADD").arg(app.gate.loaded_key()).arg(&name)).await?;
    }
    Ok(())
}
