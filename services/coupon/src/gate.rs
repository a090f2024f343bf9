//! The gate in front of a coupon: one script in Redis refuses who comes too late or again, and notes every take in a
//! journal, so that a take whose process dies is not lost.
//!
//! PostgreSQL decides: what the gate lets through is stored there or refused, under the epoch of the gate. So a gate may be
//! lost, be old, or promise too much, and costs speed, never truth.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use common::db::Db;
use common::redis::{Redis, Script, Unavailable, cmd};
use contract::ids::{AccountId, CouponId, CouponIssueId};
use parking_lot::Mutex;
use serde::Deserialize;

use crate::clock::{Clock, Now};
use crate::read_users::read_users_later;
use crate::refusals::{Asking, Refusals, Version};
use crate::refused::Refused;

/// The script that takes a coupon; public for the benchmark, which runs it alone.
pub const TAKE_SCRIPT: &str = concat!(include_str!("gate.lua"), include_str!("gate_take.lua"));
static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new("coupon_take", TAKE_SCRIPT));
static SETTLE: LazyLock<Script> =
    LazyLock::new(|| Script::new("coupon_settle", concat!(include_str!("gate.lua"), include_str!("gate_settle.lua"))));
static UNDO: LazyLock<Script> =
    LazyLock::new(|| Script::new("coupon_undo", concat!(include_str!("gate.lua"), include_str!("gate_undo.lua"))));

/// Takes that one call of the script settles: Redis serves nobody else meanwhile.
const SETTLED_MAX: usize = 500;

/// Coupons whose epoch a process remembers. An epoch that is forgotten is only learnt again.
const COUPONS_MAX: usize = 10_000;

/// Section `[coupon.gate]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSettings {
    pub clock_slack_ms: i64,
    pub clock_period_ms: u64,
    pub load_ms: u64,
    pub wait_ms: u64,
    pub kept_ms: u64,
    pub refusals_ms: u64,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    pub(crate) redis: Redis,
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) settings: Arc<GateSettings>,
    /// The newest epoch of each coupon that this process has seen.
    epochs: Arc<Mutex<HashMap<CouponId, i64>>>,
    pub(crate) refusals: Arc<Refusals>,
}

/// A coupon that the gate has set aside for a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Take {
    pub epoch: i64,
    /// Of the journal.
    pub entry: String,
}

/// The gate's answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Taken(Take),
    /// The user has a take that PostgreSQL may not have stored yet.
    Pending(Take),
    /// PostgreSQL has the user's issue.
    Stored,
    /// The coupon opens in these milliseconds, and PostgreSQL may take it for open or not. Nothing is taken yet.
    Opening {
        opens_in_ms: i64,
    },
    /// The gate is not loaded, or is older than one that was seen.
    Cold,
    /// Redis does not answer.
    Away,
}

impl Gate {
    pub fn new(redis: Redis, db: Db, clock: Clock, settings: GateSettings) -> Self {
        let refusals = Arc::new(Refusals::new(Duration::from_millis(settings.refusals_ms)));
        Self { redis, db, clock, settings: Arc::new(settings), epochs: Arc::default(), refusals }
    }

    /// Whether `coupon` was sold out a moment ago and `user` has none: then the gate need not be asked.
    pub fn has_refused(&self, coupon: CouponId, user: AccountId) -> bool {
        self.refusals.has(coupon, user, Instant::now(), self.clock.now().earliest_ms)
    }

    /// Takes a coupon for each of `users`. An answer for each: `COUPON_SOLD_OUT`, `COUPON_NOT_OPEN` and `COUPON_EXPIRED` are
    /// refusals.
    pub async fn take(&self, coupon: CouponId, users: &[(AccountId, CouponIssueId)]) -> Vec<Result<Answer, Refused>> {
        let (asking, now) = (self.refusals.asking(coupon, Instant::now()), self.clock.now());
        let mut args = vec![self.epoch(coupon).to_string(), now.earliest_ms.to_string()];
        args.extend(users.iter().flat_map(|(user, issue)| [user.to_string(), issue.to_string()]));
        let answers: Vec<Vec<String>> = match self.redis.run(&TAKE, &self.keys(coupon), &args).await {
            Ok(answers) => answers,
            Err(Unavailable::Away(_) | Unavailable::Refused(_)) => {
                // It may have taken units all the same, after others had come back.
                self.refusals.forget(coupon);
                return users.iter().map(|_| Ok(Answer::Away)).collect();
            }
        };
        answers.iter().map(|words| self.answer((asking, now), coupon, words)).collect()
    }

    fn answer(&self, (asking, now): (Asking, Now), coupon: CouponId, words: &[String]) -> Result<Answer, Refused> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let take = |epoch: &str, entry: &str| epoch.parse().map(|epoch| Take { epoch, entry: entry.to_owned() });
        match words.as_slice() {
            ["TAKEN", epoch, entry] => Ok(take(epoch, entry).map_or(Answer::Cold, |take| {
                self.note_epoch(coupon, take.epoch);
                self.refusals.forget(coupon);
                Answer::Taken(take)
            })),
            ["PENDING", epoch, entry] => Ok(take(epoch, entry).map_or(Answer::Cold, Answer::Pending)),
            ["STORED"] => Ok(Answer::Stored),
            ["CLOSED"] => Err(Refused::Ended),
            ["EARLY", opens_ms] => opens_ms.parse().map_or(Ok(Answer::Cold), |opens_ms| before_opening(opens_ms, now)),
            ["SOLD_OUT", closes_ms, version @ ..] => {
                if let (Ok(closes_ms), Some(version)) = (closes_ms.parse(), version_of(version))
                    && self.refusals.note(asking, coupon, closes_ms, version)
                {
                    read_users_later(self, coupon, version);
                }
                Err(Refused::SoldOut)
            }
            _ => Ok(Answer::Cold),
        }
    }

    /// Tells the gate that PostgreSQL has stored takes, without waiting. If this is lost, the journal's sweep repeats it.
    pub fn settle_later(&self, stored: Vec<(CouponId, AccountId, Take)>) {
        if stored.is_empty() {
            return;
        }
        let gate = self.clone();
        tokio::spawn(async move {
            gate.db.point("coupon.before_settle").await;
            gate.settle(&stored).await
        });
    }

    /// Tells the gate that PostgreSQL has stored takes.
    pub async fn settle(&self, stored: &[(CouponId, AccountId, Take)]) {
        let mut of_gate: BTreeMap<(CouponId, i64), Vec<String>> = BTreeMap::new();
        for (coupon, user, take) in stored {
            of_gate.entry((*coupon, take.epoch)).or_default().extend([user.to_string(), take.entry.clone()]);
        }
        for ((coupon, epoch), pairs) in of_gate {
            for chunk in pairs.chunks(2 * SETTLED_MAX) {
                let args = [&[epoch.to_string()], chunk].concat();
                if self.redis.run::<i64>(&SETTLE, &self.keys(coupon), &args).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Undoes a take, once. `failure` is noted in the same step, for whoever records it later. If this is lost, the
    /// journal's sweep asks PostgreSQL about the take again.
    pub async fn undo(&self, coupon: CouponId, user: AccountId, take: &Take, failure: &str) {
        let [meta, stock, issued, journal] = self.keys(coupon);
        let keys = [meta, stock, issued, journal, self.key(coupon, "failed")];
        let args = [take.epoch.to_string(), user.to_string(), take.entry.clone(), failure.to_owned()];
        let undone = self.redis.run::<i64>(&UNDO, &keys, &args).await;
        self.refusals.forget(coupon);
        if let Err(away) = undone {
            tracing::warn!(
                coupon.id = %coupon, user.id = %user, error = %away,
                "The take of coupon {coupon} by user {user} is not undone; the journal's sweep decides about it"
            );
        }
    }

    /// All keys of a coupon have a hash tag in common, so that they lie in one slot of a cluster.
    pub(crate) fn keys(&self, coupon: CouponId) -> [String; 4] {
        ["meta", "stock", "issued", "journal"].map(|name| self.key(coupon, name))
    }

    pub(crate) fn key(&self, coupon: CouponId, name: &str) -> String {
        self.redis.key(&format!("coupon:{{{coupon}}}:{name}"))
    }

    /// The coupons whose gates are loaded, or were until lately.
    pub(crate) async fn loaded(&self) -> Result<Vec<CouponId>, Unavailable> {
        let names: Vec<String> = self.redis.command(cmd("SMEMBERS").arg(self.loaded_key())).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The set of coupons whose gates are loaded.
    pub(crate) fn loaded_key(&self) -> String {
        self.redis.key("coupons:loaded")
    }

    /// The newest epoch that this process has seen.
    pub(crate) fn epoch(&self, coupon: CouponId) -> i64 {
        self.epochs.lock().get(&coupon).copied().unwrap_or(0)
    }

    /// From here on no older gate is believed.
    pub(crate) fn note_epoch(&self, coupon: CouponId, epoch: i64) {
        let mut epochs = self.epochs.lock();
        if epochs.len() >= COUPONS_MAX && !epochs.contains_key(&coupon) {
            epochs.clear();
        }
        let newest = epochs.entry(coupon).or_default();
        if epoch > *newest {
            *newest = epoch;
            self.refusals.forget(coupon);
        }
    }

    /// How the gate of `coupon` looks; None if it is not loaded or Redis is away.
    pub(crate) async fn look(&self, coupon: CouponId) -> Option<GateView> {
        let [meta, stock, issued, journal] = self.keys(coupon);
        let epoch: Option<i64> = self.redis.command(cmd("HGET").arg(meta).arg("epoch")).await.ok()?;
        let left: Option<i64> = self.redis.command(cmd("GET").arg(stock)).await.ok()?;
        let users = self.redis.command(cmd("HLEN").arg(issued)).await.ok()?;
        let pending = self.redis.command(cmd("XLEN").arg(journal)).await.ok()?;
        Some(GateView { epoch: epoch?, left: left?, users, pending })
    }
}

fn version_of(words: &[&str]) -> Option<Version> {
    let [epoch, undone, users] = words else { return None };
    Some(Version { epoch: epoch.parse().ok()?, undone: undone.parse().ok()?, users: users.parse().ok()? })
}

/// What is said to who comes before the coupon has opened for certain. Not that it is sold out: nobody could take one yet.
fn before_opening(opens_ms: i64, now: Now) -> Result<Answer, Refused> {
    let opens_in_ms = opens_ms - now.earliest_ms;
    if now.latest_ms < opens_ms { Err(Refused::NotOpen { opens_in_ms }) } else { Ok(Answer::Opening { opens_in_ms }) }
}

/// What a gate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GateView {
    pub epoch: i64,
    pub left: i64,
    pub users: i64,
    pub pending: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_too_early_for_certain_is_refused_and_others_wait_for_the_opening() {
        let answer = |opens_ms| before_opening(opens_ms, Now { earliest_ms: 90, latest_ms: 110 });
        assert_eq!(answer(111), Err(Refused::NotOpen { opens_in_ms: 21 }));
        assert_eq!(answer(110), Ok(Answer::Opening { opens_in_ms: 20 }));
        assert_eq!(answer(91), Ok(Answer::Opening { opens_in_ms: 1 }));
    }
}
