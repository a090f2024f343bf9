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
/// The users of one coupon are not read again sooner than this after they were read, and not sooner than this many times as long
/// as reading them took: Redis has other things to do.
const READ_PAUSE: Duration = Duration::from_secs(1);
const READ_PAUSE_FACTOR: u32 = 20;
/// The users of a coupon that nobody was refused for so long make room for others.
const KEPT: Duration = Duration::from_secs(60);

pub struct Refusals {
    age_max: Duration,
    known: Mutex<Known>,
    numbers: AtomicU64,
}

#[derive(Default)]
struct Known {
    coupons: HashMap<CouponId, SoldOut>,
    /// The number of those that are not there. Another one whenever some are forgotten.
    absent: u64,
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
    reading: Reading,
}

/// Of the users of a coupon.
#[derive(Clone, Copy)]
enum Reading {
    UnderWay,
    /// Not before this moment.
    Again(Option<Instant>),
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
        Refusals { age_max, known: Mutex::default(), numbers: AtomicU64::new(1) }
    }

    /// Before the gate of `coupon` is asked, which is done now.
    pub fn asking(&self, coupon: CouponId, now: Instant) -> Asking {
        let known = self.known.lock();
        Asking { number: known.coupons.get(&coupon).map_or(known.absent, |sold_out| sold_out.number), at: now }
    }

    /// The gate has said that `coupon`, which closes at `closes_ms`, is sold out, and that its users are those of `version`.
    /// Returns whether the caller is to read them now, and then to call [`Refusals::know`] whatever comes of it.
    pub fn note(&self, asking: Asking, coupon: CouponId, closes_ms: i64, version: Version) -> bool {
        let mut known = self.known.lock();
        let absent = known.absent;
        // A unit may have come back while the answer was under way.
        if known.coupons.get(&coupon).map_or(absent, |sold_out| sold_out.number) != asking.number {
            return false;
        }
        let sold_out = self.entry(&mut known, coupon, asking.number);
        if sold_out.said.is_none_or(|said| said.asked_at <= asking.at) {
            sold_out.said = Some(Said { asked_at: asking.at, closes_ms, version });
        }
        let is_known = sold_out.users.as_ref().is_some_and(|users| users.version == version);
        let is_readable =
            !self.age_max.is_zero() && usize::try_from(version.users).is_ok_and(|users| users <= USERS_MAX);
        let is_time = match sold_out.reading {
            Reading::UnderWay => false,
            Reading::Again(at) => at.is_none_or(|at| asking.at >= at),
        };
        let reads = is_readable && !is_known && is_time;
        if reads {
            sold_out.reading = Reading::UnderWay;
        }
        reads
    }

    /// The users were read from `begun` to `now`: they, in order, are all who had `coupon` at `version`. None: that is not known.
    pub fn know(
        &self,
        coupon: CouponId,
        version: Version,
        users: Option<Vec<AccountId>>,
        begun: Instant,
        now: Instant,
    ) {
        let users = users.map(|users| Users { version, sorted: users.into() });
        let mut known = self.known.lock();
        let is_stale =
            |said: Option<Said>| said.is_none_or(|said| now.saturating_duration_since(said.asked_at) >= KEPT);
        let stale = known.coupons.iter_mut().filter(|(other, sold_out)| **other != coupon && is_stale(sold_out.said));
        let stale: Vec<Users> = stale.filter_map(|(_, sold_out)| sold_out.users.take()).collect();
        let others = known.coupons.iter().filter(|(other, _)| **other != coupon);
        let kept: usize = others.filter_map(|(_, sold_out)| Some(sold_out.users.as_ref()?.sorted.len())).sum();
        // The others stay: if all made room for each other, they would be read again and again.
        let users = users.filter(|users| kept + users.sorted.len() <= USERS_MAX);
        let pause = READ_PAUSE.max(now.saturating_duration_since(begun) * READ_PAUSE_FACTOR);
        let Some(sold_out) = known.coupons.get_mut(&coupon) else { return };
        sold_out.reading = Reading::Again(Some(now + pause));
        let before = std::mem::replace(&mut sold_out.users, users);
        drop(known);
        // Many of them take a moment.
        drop((before, stale));
    }

    /// A unit of `coupon` may be back.
    pub fn forget(&self, coupon: CouponId) {
        let mut known = self.known.lock();
        let number = self.next_number();
        let sold_out = self.entry(&mut known, coupon, number);
        (sold_out.number, sold_out.said) = (number, None);
    }

    /// Forgets all when there are too many.
    fn entry<'k>(&self, known: &'k mut Known, coupon: CouponId, number: u64) -> &'k mut SoldOut {
        if known.coupons.len() >= COUPONS_MAX && !known.coupons.contains_key(&coupon) {
            known.coupons.clear();
            known.absent = self.next_number();
        }
        let begin = || SoldOut { number, said: None, users: None, reading: Reading::Again(None) };
        known.coupons.entry(coupon).or_insert_with(begin)
    }

    /// Whether the gate would tell `user` now that `coupon` is sold out. `now_ms` has come for certain by PostgreSQL's clock.
    pub fn has(&self, coupon: CouponId, user: AccountId, now: Instant, now_ms: i64) -> bool {
        let users = match self.known.lock().coupons.get(&coupon) {
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
        refusals.know(coupon, FIRST, Some(vec![holder]), begun, begun);
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
        refusals.know(coupon, second, Some(vec![user]), after(begun, 1_000), after(begun, 1_001));
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
    fn reading_that_takes_long_is_not_repeated_soon_whatever_came_of_it() {
        let ((refusals, begun), (coupon, ..)) = (sold_out(), ids());
        let asked = |ms, users| {
            let version = Version { users, ..FIRST };
            refusals.note(refusals.asking(coupon, after(begun, ms)), coupon, CLOSES_MS, version)
        };
        assert!(asked(1_000, 2));
        refusals.know(coupon, FIRST, None, after(begun, 1_000), after(begun, 1_500));
        assert!(!asked(11_499, 3));
        assert!(asked(11_500, 3));
    }

    #[test]
    fn the_users_of_a_coupon_with_too_many_are_not_read_and_only_those_of_quiet_coupons_make_room() {
        let ((refusals, begun), (_, _, user)) = (sold_out(), ids());
        let (large, many) = (CouponId::from(Uuid::from_u128(9)), i64::try_from(USERS_MAX).unwrap());
        let asked = |users, ms| {
            let version = Version { users, ..FIRST };
            (refusals.note(refusals.asking(large, after(begun, ms)), large, CLOSES_MS, version), version)
        };
        let read = |version, ms| {
            let users = (10..).map(|number| AccountId::from(Uuid::from_u128(number))).take(USERS_MAX).collect();
            refusals.know(large, version, Some(users), after(begun, ms), after(begun, ms));
        };
        assert!(!asked(many + 1, 0).0);
        let (reads, version) = asked(many, 0);
        assert!(reads);
        read(version, 0);
        assert!(!refusals.has(large, user, begun, 0), "there is another coupon's user");
        assert!(asked(many, 60_000).0);
        read(version, 60_000);
        assert!(refusals.has(large, user, after(begun, 60_000), 0), "nobody has asked for the other one for a minute");
    }

    #[test]
    fn coupons_that_do_not_exist_push_none_out() {
        let ((refusals, begun), (coupon, _, user)) = (sold_out(), ids());
        for number in 0..COUPONS_MAX as u128 {
            refusals.asking(CouponId::from(Uuid::from_u128(100 + number)), begun);
        }
        assert!(refusals.has(coupon, user, begun, 0));
    }

    #[test]
    fn nothing_is_remembered_when_the_age_is_zero() {
        let (coupon, _, user) = ids();
        let (refusals, begun) = (Refusals::new(Duration::ZERO), Instant::now());
        assert!(!refusals.note(refusals.asking(coupon, begun), coupon, CLOSES_MS, FIRST));
        assert!(!refusals.has(coupon, user, begun, 0));
    }
}
