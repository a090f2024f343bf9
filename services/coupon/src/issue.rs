//! Rules of a batch of issues: who gets a coupon, in the order of arrival.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use common::telemetry::Context;
use contract::ids::{AccountId, CouponId, CouponIssueId};

use crate::coupon::Offer;
use crate::gate::Take;
use crate::refused::Refused;

/// A request that the gate has let through.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub issue: CouponIssueId,
    pub coupon: CouponId,
    pub user: AccountId,
    /// None: Redis is away, and PostgreSQL decides alone.
    pub take: Option<Take>,
    /// Names the take, so that exactly one request is told that it has issued the coupon.
    pub take_id: String,
    pub context: Context,
}

/// The row of a coupon, as it was locked.
#[derive(Debug, Clone)]
pub struct Locked {
    pub offer: Offer,
    pub epoch: i64,
    pub name: String,
}

/// The row of an issue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub issue: CouponIssueId,
    pub take_id: String,
    pub issued_at: DateTime<Utc>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Create,
    /// It was stored before, or is by an earlier request of this batch.
    Exists,
    /// Its gate is not the newest one.
    Stale {
        epoch: i64,
    },
}

/// The id of the issue of `coupon` for `user`: an account has a coupon once.
pub fn issue_id(coupon: CouponId, user: AccountId) -> CouponIssueId {
    CouponIssueId::derive(&[coupon.as_bytes(), user.as_bytes()])
}

/// What a take is called in PostgreSQL.
pub fn take_id(take: &Take) -> String {
    format!("{}:{}", take.epoch, take.entry)
}

/// Who gets a coupon. `stored` are the issues that exist; the clock is that of the database.
pub fn decide(
    wanted: &[Wanted],
    coupons: &HashMap<CouponId, Locked>,
    stored: &HashSet<CouponIssueId>,
    now: DateTime<Utc>,
) -> Vec<Result<Decision, Refused>> {
    let mut created: HashSet<CouponIssueId> = HashSet::new();
    let mut taken: HashMap<CouponId, i64> = HashMap::new();
    let mut decide_one = |wanted: &Wanted| {
        let coupon = coupons.get(&wanted.coupon).ok_or(Refused::CouponNotFound(wanted.coupon))?;
        // An issue that is stored is issued, whatever its gate is worth by now.
        if stored.contains(&wanted.issue) || created.contains(&wanted.issue) {
            return Ok(Decision::Exists);
        }
        if wanted.take.as_ref().is_some_and(|take| take.epoch != coupon.epoch) {
            return Ok(Decision::Stale { epoch: coupon.epoch });
        }
        let Offer { total, issued, starts_at, expires_at, closed } = coupon.offer;
        if now < starts_at {
            return Err(Refused::NotOpen { opens_in_ms: (starts_at - now).num_milliseconds() + 1 });
        }
        if closed || now >= expires_at {
            return Err(Refused::Ended);
        }
        let taken = taken.entry(wanted.coupon).or_default();
        if issued + *taken >= total {
            return Err(Refused::SoldOut);
        }
        *taken += 1;
        created.insert(wanted.issue);
        Ok(Decision::Create)
    };
    wanted.iter().map(&mut decide_one).collect()
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn wanted(coupon: CouponId, epoch: Option<i64>) -> Wanted {
        let user = AccountId::generate();
        let take = epoch.map(|epoch| Take { epoch, entry: "1-0".to_owned() });
        let issue = issue_id(coupon, user);
        Wanted { issue, coupon, user, take, take_id: "t".to_owned(), context: Context::default() }
    }

    fn locked(total: i64, issued: i64) -> Locked {
        let (starts_at, expires_at) = (NOW, NOW + Duration::milliseconds(10));
        Locked {
            offer: Offer { total, issued, starts_at, expires_at, closed: false },
            epoch: 3,
            name: "coupon".to_owned(),
        }
    }

    fn outcomes(wanted: &[Wanted], coupon: Locked, stored: &[CouponIssueId], at_ms: i64) -> Vec<String> {
        let coupons = HashMap::from([(wanted[0].coupon, coupon)]);
        let now = NOW + Duration::milliseconds(at_ms);
        let outcomes = decide(wanted, &coupons, &stored.iter().copied().collect(), now);
        let name = |outcome: &Result<Decision, Refused>| match outcome {
            Ok(decision) => format!("{decision:?}"),
            Err(refused) => common::Refusal::code(refused).reason.to_string(),
        };
        outcomes.iter().map(name).collect()
    }

    #[test]
    fn the_window_opens_and_closes_to_the_millisecond() {
        let coupon = CouponId::generate();
        for (at_ms, outcome) in
            [(-1, "COUPON_NOT_OPEN"), (0, "Create"), (9, "Create"), (10, "COUPON_EXPIRED"), (11, "COUPON_EXPIRED")]
        {
            assert_eq!(outcomes(&[wanted(coupon, Some(3))], locked(1, 0), &[], at_ms), [outcome], "{at_ms}");
        }
        let mut closed = locked(1, 0);
        closed.offer.closed = true;
        assert_eq!(outcomes(&[wanted(coupon, Some(3))], closed, &[], 5), ["COUPON_EXPIRED"]);
    }

    #[test]
    fn the_first_get_what_is_left_and_nobody_gets_two() {
        let coupon = CouponId::generate();
        let (a, b, c) = (wanted(coupon, Some(3)), wanted(coupon, Some(3)), wanted(coupon, None));
        let stored = wanted(coupon, Some(3));
        let batch = [a.clone(), stored.clone(), a, b, c];
        let expected = ["Create", "Exists", "Exists", "Create", "COUPON_SOLD_OUT"];
        assert_eq!(outcomes(&batch, locked(5, 3), &[stored.issue], 5), expected);
    }

    #[test]
    fn what_an_older_gate_has_let_through_is_not_stored() {
        let coupon = CouponId::generate();
        let (old, alone) = (wanted(coupon, Some(2)), wanted(coupon, None));
        assert_eq!(outcomes(&[old.clone(), alone], locked(5, 0), &[], 5), ["Stale { epoch: 3 }", "Create"]);
        assert_eq!(outcomes(std::slice::from_ref(&old), locked(5, 0), &[old.issue], 5), ["Exists"]);
    }
}
