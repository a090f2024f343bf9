//! Takes that nobody has stored: their process has died, or could not undo them. Any replica finds them in the journals by
//! their age, and stores or undoes them.

use std::sync::Arc;

use common::redis::{Unavailable, cmd};
use common::telemetry::Context;
use common::{Error, Result};
use contract::ids::{AccountId, CouponId, CouponIssueId};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

use crate::App;
use crate::commit_issues::Outcome;
use crate::gate::Take;
use crate::issue::{Wanted, take_id};
use crate::issue_coupon::store;
use crate::record_failures::record_failures;

/// Takes of a journal that are stored side by side.
const TAKES_MAX: usize = 256;
/// Journals that one sweep looks at side by side: one whose takes cannot be stored now keeps no other waiting.
const JOURNALS_MAX: usize = 8;

/// Looks at the journals of all gates that are loaded. Any number of replicas may run it: to store a take twice is to store it
/// once.
pub async fn sweep_journals(app: &Arc<App>) -> Result<()> {
    // Without Redis the journals are away with it.
    let Ok(loaded) = app.gate.loaded().await else { return Ok(()) };
    let sweeps = stream::iter(loaded).map(|coupon| sweep_coupon(app, coupon)).buffer_unordered(JOURNALS_MAX);
    let swept: Vec<Result<usize>> = sweeps.collect().await;
    let found: usize = swept.iter().flatten().sum();
    metrics::gauge!("stampede_coupon_takes_left").set(found as f64);
    swept.into_iter().find_map(Result::err).map_or(Ok(()), Err)
}

/// Returns how many old takes it has found. Says by itself what has failed.
async fn sweep_coupon(app: &Arc<App>, coupon: CouponId) -> Result<usize> {
    let sweep = async {
        let found = sweep_journal(app, coupon).await?;
        record_failures(app, coupon).await?;
        forget_gate(app, coupon).await.map_err(Error::transient)?;
        Ok(found)
    };
    let swept: Result<usize> = sweep.await;
    swept.inspect_err(|error| {
        tracing::warn!(
            coupon.id = %coupon, %error,
            "The takes of coupon {coupon} that nobody has stored are not all looked at; the next sweep tries again"
        );
    })
}

/// Stores the takes that are so old that their own requests have given up or died. Returns how many it has found.
async fn sweep_journal(app: &Arc<App>, coupon: CouponId) -> Result<usize> {
    let Some(journal) = Journal::open(app, coupon).await.map_err(Error::transient)? else { return Ok(0) };
    let (mut found, mut from) = (0, "-".to_owned());
    loop {
        let page = journal.page(app, &from).await.map_err(Error::transient)?;
        found += page.len();
        let is_full = page.len() == TAKES_MAX;
        let last = page.last().map(|(entry, _)| entry.clone());
        let old: Vec<Wanted> = page.into_iter().filter_map(|entry| journal.wanted(entry)).collect();
        let settled = store_all(app, &old).await;
        match last {
            // What is stored is taken out of the journal a little later: the next page begins behind it.
            Some(last) if is_full && settled > 0 => from = format!("({last}"),
            _ => return Ok(found),
        }
    }
}

/// Returns how many have come to an end.
async fn store_all(app: &Arc<App>, old: &[Wanted]) -> usize {
    let stores = old.iter().map(async |wanted| match store(app, wanted).await {
        Ok(Outcome::Stored(_)) => {
            metrics::counter!("stampede_coupons_issued_total", "outcome" => "recovered").increment(1);
            true
        }
        // Its gate is being replaced, which ends the take; or it was undone.
        Ok(Outcome::Stale { .. }) | Err(Error::Refused(_)) => true,
        Err(Error::Fault(fault)) => {
            tracing::warn!(
                issue.id = %wanted.issue, error = format!("{:#}", fault.cause),
                "The take of issue {} could not be stored and was undone; its user may ask again", wanted.issue
            );
            false
        }
    });
    join_all(stores).await.into_iter().filter(|is_settled| *is_settled).count()
}

/// The old takes of a gate.
struct Journal {
    coupon: CouponId,
    key: String,
    /// Of the gate that is loaded now: publishing one empties the journal.
    epoch: i64,
    /// Takes are old up to here, in milliseconds of Redis's clock.
    until_ms: i64,
}

/// Its name, which begins with its time, and its fields.
type Entry = (String, Vec<String>);

impl Journal {
    /// None: the gate is not loaded.
    async fn open(app: &App, coupon: CouponId) -> Result<Option<Journal>, Unavailable> {
        let [meta, _, _, key] = app.gate.keys(coupon);
        let epoch: Option<i64> = app.gate.redis.command(cmd("HGET").arg(meta).arg("epoch")).await?;
        let Some(epoch) = epoch else { return Ok(None) };
        let (seconds, micros): (i64, i64) = app.gate.redis.command(&cmd("TIME")).await?;
        let until_ms = seconds * 1000 + micros / 1000 - app.settings.takes.idle_ms;
        Ok(Some(Journal { coupon, key, epoch, until_ms }))
    }

    async fn page(&self, app: &App, from: &str) -> Result<Vec<Entry>, Unavailable> {
        let mut range = cmd("XRANGE");
        range.arg(&self.key).arg(from).arg(self.until_ms).arg("COUNT").arg(TAKES_MAX);
        app.gate.redis.command(&range).await
    }

    fn wanted(&self, (entry, fields): Entry) -> Option<Wanted> {
        let field = |name: &str| {
            let mut pairs = fields.chunks_exact(2);
            pairs.find_map(|pair| (pair[0] == name).then(|| pair[1].as_str()))
        };
        let user: AccountId = field("user")?.parse().ok()?;
        let issue: CouponIssueId = field("issue")?.parse().ok()?;
        let take = Take { epoch: self.epoch, entry };
        let (take_id, context) = (take_id(&take), Context::default());
        Some(Wanted { issue, coupon: self.coupon, user, take: Some(take), take_id, context })
    }
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
