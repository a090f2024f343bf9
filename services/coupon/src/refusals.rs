//! Who was told a moment ago that a coupon is sold out. They are told so again without asking the gate: after the last unit is
//! taken, most requests of a crowd are repeats.
//!
//! Two things must be known. That nothing is left: the gate has said so, to anybody, a few milliseconds ago. And that the user has
//! no coupon: the gate has said so to this user, a little longer ago. Both end at once when this process learns better; what
//! another replica has done is seen when they are too old.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use contract::ids::{AccountId, CouponId};
use parking_lot::Mutex;
use quick_cache::sync::Cache as Memory;

/// Coupons that are remembered. One that is forgotten is only asked about again.
const COUPONS_MAX: usize = 10_000;
/// Users that are remembered, of all coupons together.
const USERS_MAX: usize = 200_000;
/// A user is asked about again after this many times the age that is allowed for the coupon.
const USER_FACTOR: u32 = 100;

pub struct Refusals {
    age_max: Duration,
    coupons: Mutex<HashMap<CouponId, SoldOut>>,
    users: Memory<(CouponId, AccountId), Asking>,
    numbers: AtomicU64,
}

/// What the gate of a coupon has said.
struct SoldOut {
    /// Another one each time when a unit may be back.
    number: u64,
    /// When the gate was last asked by somebody whom it told so.
    asked_at: Option<Instant>,
    closes_ms: i64,
}

/// A question to the gate: when it was asked, and under which number of its coupon.
#[derive(Debug, Clone, Copy)]
pub struct Asking {
    number: u64,
    at: Instant,
}

impl Refusals {
    /// `age_max`: how old the gate's last `SOLD_OUT` may be.
    pub fn new(age_max: Duration) -> Refusals {
        Refusals { age_max, coupons: Mutex::default(), users: Memory::new(USERS_MAX), numbers: AtomicU64::new(1) }
    }

    /// Before the gate of `coupon` is asked, which is done now.
    pub fn asking(&self, coupon: CouponId, now: Instant) -> Asking {
        let mut coupons = self.coupons.lock();
        if coupons.len() >= COUPONS_MAX && !coupons.contains_key(&coupon) {
            coupons.clear();
        }
        let number = coupons.entry(coupon).or_insert_with(|| self.begin()).number;
        Asking { number, at: now }
    }

    /// The gate has told `user` that `coupon`, which closes at `closes_ms`, is sold out.
    pub fn note(&self, asking: Asking, coupon: CouponId, user: AccountId, closes_ms: i64) {
        let mut coupons = self.coupons.lock();
        // A unit may have come back while the answer was under way.
        let Some(sold_out) = coupons.get_mut(&coupon).filter(|sold_out| sold_out.number == asking.number) else {
            return;
        };
        sold_out.asked_at = sold_out.asked_at.max(Some(asking.at));
        sold_out.closes_ms = closes_ms;
        drop(coupons);
        self.users.insert((coupon, user), asking);
    }

    /// `user` has a coupon.
    pub fn forget_user(&self, coupon: CouponId, user: AccountId) {
        self.users.remove(&(coupon, user));
    }

    /// A unit of `coupon` may be back.
    pub fn forget(&self, coupon: CouponId) {
        if let Some(sold_out) = self.coupons.lock().get_mut(&coupon) {
            *sold_out = self.begin();
        }
    }

    /// Whether `user` was told so, and would be told so again now. `now_ms` has come for certain by PostgreSQL's clock.
    pub fn has(&self, coupon: CouponId, user: AccountId, now: Instant, now_ms: i64) -> bool {
        let is_young = |at: Instant, age_max| now.saturating_duration_since(at) < age_max;
        let number = match self.coupons.lock().get(&coupon) {
            Some(SoldOut { number, asked_at: Some(at), closes_ms })
                if is_young(*at, self.age_max) && now_ms < *closes_ms =>
            {
                *number
            }
            _ => return false,
        };
        let told = self.users.get(&(coupon, user));
        told.is_some_and(|told| told.number == number && is_young(told.at, self.age_max * USER_FACTOR))
    }

    fn begin(&self) -> SoldOut {
        SoldOut { number: self.numbers.fetch_add(1, Ordering::Relaxed), asked_at: None, closes_ms: 0 }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const CLOSES_MS: i64 = 1_000;

    fn ids() -> (CouponId, AccountId, AccountId) {
        (CouponId::from(Uuid::from_u128(1)), AccountId::from(Uuid::from_u128(2)), AccountId::from(Uuid::from_u128(3)))
    }

    fn after(begun: Instant, ms: u64) -> Instant {
        begun + Duration::from_millis(ms)
    }

    /// One user was refused.
    fn refused() -> (Refusals, Instant) {
        let (coupon, user, _) = ids();
        let (refusals, begun) = (Refusals::new(Duration::from_millis(20)), Instant::now());
        refusals.note(refusals.asking(coupon, begun), coupon, user, CLOSES_MS);
        (refusals, begun)
    }

    #[test]
    fn a_refusal_is_repeated_for_its_user_alone_as_long_as_the_gate_has_said_so_lately() {
        let ((refusals, begun), (coupon, user, other)) = (refused(), ids());
        assert!(refusals.has(coupon, user, after(begun, 19), 0));
        assert!(!refusals.has(coupon, other, after(begun, 19), 0), "the other one may have a coupon");
        assert!(!refusals.has(coupon, user, after(begun, 20), 0));
        // The age counts from the question, and an answer to one tells of all who were refused before.
        refusals.note(refusals.asking(coupon, after(begun, 25)), coupon, other, CLOSES_MS);
        for user in [user, other] {
            assert!(refusals.has(coupon, user, after(begun, 44), 0));
            assert!(!refusals.has(coupon, user, after(begun, 45), 0));
        }
    }

    /// The user may have got a coupon elsewhere.
    #[test]
    fn a_user_is_asked_about_again_however_often_others_are_refused() {
        let ((refusals, begun), (coupon, user, other)) = (refused(), ids());
        for ms in [1_999, 2_000] {
            refusals.note(refusals.asking(coupon, after(begun, ms)), coupon, other, CLOSES_MS);
            assert_eq!(refusals.has(coupon, user, after(begun, ms), 0), ms < 2_000, "after {ms} ms");
        }
        let (refusals, begun) = refused();
        refusals.forget_user(coupon, user);
        assert!(!refusals.has(coupon, user, begun, 0));
    }

    #[test]
    fn a_refusal_ends_with_its_coupon() {
        let ((refusals, begun), (coupon, user, _)) = (refused(), ids());
        assert!(refusals.has(coupon, user, begun, CLOSES_MS - 1));
        assert!(!refusals.has(coupon, user, begun, CLOSES_MS), "it is closed, not sold out");
    }

    #[test]
    fn a_unit_that_is_back_ends_all_refusals_and_answers_from_before_begin_none() {
        let ((refusals, begun), (coupon, user, other)) = (refused(), ids());
        let from_before = refusals.asking(coupon, begun);
        refusals.forget(coupon);
        assert!(!refusals.has(coupon, user, begun, 0));
        refusals.note(from_before, coupon, user, CLOSES_MS);
        assert!(!refusals.has(coupon, user, begun, 0));
        refusals.note(refusals.asking(coupon, begun), coupon, other, CLOSES_MS);
        assert!(refusals.has(coupon, other, begun, 0));
        assert!(!refusals.has(coupon, user, begun, 0), "the user has not asked since");
    }
}
