//! Coupons that are sold out are answered without the gate: after the last unit is taken, most of a crowd is still to come.
//!
//! Two things must be known. That nothing is left: the gate has said so, to anybody, a few milliseconds ago. And that the user has
//! no coupon: this process has read who has one, and the gate has said with its answer that these are still all. Both end at once
//! when this process learns better; what another replica has done is seen when the gate's answer is too old.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use contract::ids::{AccountId, CouponId};
use parking_lot::Mutex;

/// Coupons that are remembered. One that is forgotten is only asked about again.
const COUPONS_MAX: usize = 10_000;
/// Users that are remembered, of all coupons together: 16 bytes each. Of a coupon with more, the gate is always asked.
const USERS_MAX: usize = 1_000_000;
/// The users of one coupon are not read again sooner than this.
const READ_PAUSE: Duration = Duration::from_secs(1);

pub struct Refusals {
    age_max: Duration,
    coupons: Mutex<HashMap<CouponId, SoldOut>>,
    numbers: AtomicU64,
}

/// Names what the gate's set of users was: of two gates of one epoch with as many undone takes, the later one has all users of
/// the earlier one. So equal versions have equal users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub epoch: i64,
    /// Takes that were undone.
    pub undone: i64,
    /// How many users have a coupon.
    pub users: i64,
}

/// What the gate of a coupon has said.
struct SoldOut {
    /// Another one each time when a unit may be back.
    number: u64,
    said: Option<Said>,
    users: Option<Users>,
    /// When the users were last read, or are being read since.
    read_at: Option<Instant>,
}

/// An answer `SOLD_OUT` of the gate.
#[derive(Clone, Copy)]
struct Said {
    asked_at: Instant,
    closes_ms: i64,
    version: Version,
}

/// Who has a coupon.
struct Users {
    version: Version,
    sorted: Arc<[AccountId]>,
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
        Refusals { age_max, coupons: Mutex::default(), numbers: AtomicU64::new(1) }
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

    /// The gate has said that `coupon`, which closes at `closes_ms`, is sold out, and that its users are those of `version`.
    /// Returns whether the caller is to read them now.
    pub fn note(&self, asking: Asking, coupon: CouponId, closes_ms: i64, version: Version) -> bool {
        let mut coupons = self.coupons.lock();
        // A unit may have come back while the answer was under way.
        let Some(sold_out) = coupons.get_mut(&coupon).filter(|sold_out| sold_out.number == asking.number) else {
            return false;
        };
        if sold_out.said.is_none_or(|said| said.asked_at <= asking.at) {
            sold_out.said = Some(Said { asked_at: asking.at, closes_ms, version });
        }
        let is_known = sold_out.users.as_ref().is_some_and(|users| users.version == version);
        let was_read = sold_out.read_at.is_some_and(|at| asking.at.saturating_duration_since(at) < READ_PAUSE);
        let is_readable =
            !self.age_max.is_zero() && usize::try_from(version.users).is_ok_and(|users| users <= USERS_MAX);
        let reads = is_readable && !is_known && !was_read;
        if reads {
            sold_out.read_at = Some(asking.at);
        }
        reads
    }

    /// `users`, in order, are all who had `coupon` at `version`.
    pub fn know(&self, coupon: CouponId, version: Version, users: Vec<AccountId>) {
        let mut coupons = self.coupons.lock();
        let others = coupons.iter().filter(|(other, _)| **other != coupon);
        let kept: usize = others.filter_map(|(_, sold_out)| Some(sold_out.users.as_ref()?.sorted.len())).sum();
        if kept + users.len() > USERS_MAX {
            coupons.values_mut().for_each(|sold_out| sold_out.users = None);
        }
        if let Some(sold_out) = coupons.get_mut(&coupon) {
            sold_out.users = Some(Users { version, sorted: users.into() });
        }
    }

    /// A unit of `coupon` may be back.
    pub fn forget(&self, coupon: CouponId) {
        if let Some(sold_out) = self.coupons.lock().get_mut(&coupon) {
            (sold_out.number, sold_out.said) = (self.next_number(), None);
        }
    }

    /// Whether the gate would tell `user` now that `coupon` is sold out. `now_ms` has come for certain by PostgreSQL's clock.
    pub fn has(&self, coupon: CouponId, user: AccountId, now: Instant, now_ms: i64) -> bool {
        let users = match self.coupons.lock().get(&coupon) {
            Some(SoldOut { said: Some(said), users: Some(users), .. })
                if now.saturating_duration_since(said.asked_at) < self.age_max
                    && now_ms < said.closes_ms
                    && users.version == said.version =>
            {
                users.sorted.clone()
            }
            _ => return false,
        };
        users.binary_search(&user).is_err()
    }

    fn begin(&self) -> SoldOut {
        SoldOut { number: self.next_number(), said: None, users: None, read_at: None }
    }

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const CLOSES_MS: i64 = 1_000;
    const FIRST: Version = Version { epoch: 1, undone: 0, users: 1 };

    /// A coupon, who has it, and who has not.
    fn ids() -> (CouponId, AccountId, AccountId) {
        (CouponId::from(Uuid::from_u128(1)), AccountId::from(Uuid::from_u128(2)), AccountId::from(Uuid::from_u128(3)))
    }

    fn after(begun: Instant, ms: u64) -> Instant {
        begun + Duration::from_millis(ms)
    }

    /// The gate has said that the coupon is sold out, and the users were read.
    fn sold_out() -> (Refusals, Instant) {
        let (coupon, holder, _) = ids();
        let (refusals, begun) = (Refusals::new(Duration::from_millis(20)), Instant::now());
        assert!(refusals.note(refusals.asking(coupon, begun), coupon, CLOSES_MS, FIRST));
        refusals.know(coupon, FIRST, vec![holder]);
        (refusals, begun)
    }

    #[test]
    fn who_has_no_coupon_is_refused_as_long_as_the_gate_has_said_so_lately() {
        let ((refusals, begun), (coupon, holder, user)) = (sold_out(), ids());
        assert!(refusals.has(coupon, user, after(begun, 19), 0));
        assert!(!refusals.has(coupon, user, after(begun, 20), 0));
        assert!(!refusals.has(coupon, holder, begun, 0), "the gate tells who has one");
        // The age counts from the question. An older question that is answered later takes nothing back.
        let older = refusals.asking(coupon, after(begun, 10));
        assert!(!refusals.note(refusals.asking(coupon, after(begun, 25)), coupon, CLOSES_MS, FIRST), "they are known");
        refusals.note(older, coupon, CLOSES_MS, FIRST);
        assert!(refusals.has(coupon, user, after(begun, 44), 0));
        assert!(!refusals.has(coupon, user, after(begun, 45), 0));
    }

    #[test]
    fn nobody_is_refused_while_the_users_are_not_those_of_the_gate() {
        let ((refusals, begun), (coupon, holder, user)) = (sold_out(), ids());
        // Another replica has undone the take of one and taken for the other one.
        let second = Version { undone: 1, ..FIRST };
        let asked = |ms| refusals.note(refusals.asking(coupon, after(begun, ms)), coupon, CLOSES_MS, second);
        assert!(!asked(999), "they were read less than a second ago");
        assert!(!refusals.has(coupon, holder, after(begun, 999), 0));
        assert!(asked(1_000));
        assert!(!asked(1_001), "they are being read");
        refusals.know(coupon, second, vec![user]);
        assert!(refusals.has(coupon, holder, after(begun, 1_001), 0));
        assert!(!refusals.has(coupon, user, after(begun, 1_001), 0));
    }

    #[test]
    fn a_refusal_ends_with_its_coupon() {
        let ((refusals, begun), (coupon, _, user)) = (sold_out(), ids());
        assert!(refusals.has(coupon, user, begun, CLOSES_MS - 1));
        assert!(!refusals.has(coupon, user, begun, CLOSES_MS), "it is closed, not sold out");
    }

    #[test]
    fn a_unit_that_is_back_ends_all_refusals_and_answers_from_before_begin_none() {
        let ((refusals, begun), (coupon, _, user)) = (sold_out(), ids());
        let from_before = refusals.asking(coupon, begun);
        refusals.forget(coupon);
        assert!(!refusals.has(coupon, user, begun, 0));
        refusals.note(from_before, coupon, CLOSES_MS, FIRST);
        assert!(!refusals.has(coupon, user, begun, 0));
        refusals.note(refusals.asking(coupon, begun), coupon, CLOSES_MS, FIRST);
        assert!(refusals.has(coupon, user, begun, 0));
    }

    #[test]
    fn the_users_of_a_coupon_with_too_many_are_not_read_and_those_of_others_make_room() {
        let ((refusals, begun), (coupon, _, user)) = (sold_out(), ids());
        let (large, many) = (CouponId::from(Uuid::from_u128(9)), i64::try_from(USERS_MAX).unwrap());
        let asked = |users, ms| {
            let version = Version { users, ..FIRST };
            (refusals.note(refusals.asking(large, after(begun, ms)), large, CLOSES_MS, version), version)
        };
        assert!(!asked(many + 1, 0).0);
        let (reads, version) = asked(many, 0);
        assert!(reads);
        let users = (10..).map(|number| AccountId::from(Uuid::from_u128(number))).take(USERS_MAX).collect();
        refusals.know(large, version, users);
        assert!(refusals.has(large, user, begun, 0));
        assert!(!refusals.has(coupon, user, begun, 0), "forgotten for the larger one");
    }

    #[test]
    fn nothing_is_remembered_when_the_age_is_zero() {
        let (coupon, _, user) = ids();
        let (refusals, begun) = (Refusals::new(Duration::ZERO), Instant::now());
        assert!(!refusals.note(refusals.asking(coupon, begun), coupon, CLOSES_MS, FIRST));
        assert!(!refusals.has(coupon, user, begun, 0));
    }
}
