//! Rules of a place in the line: how far it is to the front, how long that takes, and when to ask again.

use std::time::Duration;

/// What is known of a room, as it was at its last tick.
#[derive(Debug, Clone, PartialEq)]
pub struct RoomStatus {
    pub epoch: i64,
    /// The last number that was given.
    pub issued: i64,
    /// The last number whose turn has come.
    pub front: i64,
    /// Numbers up to here must show that they are here.
    pub edge: i64,
    pub offers: i64,
    pub active: i64,
    /// Those who were passed over and have come back: they are next.
    pub back: i64,
    /// Passes that the stock bears; below 0: nobody knows.
    pub stock: i64,
    /// Numbers that the front passes in a second, smoothed.
    pub pace: f64,
}

/// How long a poll near the front may wait: people who are next should not notice it.
const POLL_NEAR: Duration = Duration::from_secs(2);
/// Far from the front nothing happens for long, but everybody must ask twice before presence counts.
const POLL_FAR: Duration = Duration::from_secs(20);
/// How much of the pace one tick replaces.
const SMOOTHING: f64 = 0.05;

impl RoomStatus {
    pub fn waiting(&self) -> i64 {
        (self.issued - self.front).max(0) + self.back
    }

    /// Nothing of Redis is needed to answer a number so far from the front. A ticket of another epoch has to be shown.
    pub fn is_far(&self, seq: i64, epoch: i64) -> bool {
        epoch == self.epoch && seq > self.edge
    }

    /// Those before `seq`.
    pub fn ahead(&self, seq: i64) -> i64 {
        if seq > self.front { seq - self.front - 1 + self.back } else { 0 }
    }

    /// The pace after `elapsed`, in which the front went from `before` to here. A room that stands still keeps its pace: that it
    /// goes on is the best guess.
    pub fn next_pace(&self, before: &RoomStatus, elapsed: Duration) -> f64 {
        let passed = self.front - before.front;
        if passed <= 0 || before.epoch != self.epoch || elapsed.is_zero() {
            return before.pace;
        }
        let now = passed as f64 / elapsed.as_secs_f64();
        before.pace + SMOOTHING * (now - before.pace)
    }
}

/// How long until the turn of whoever has `ahead` before them, at `pace` numbers a second.
pub fn eta_seconds(ahead: i64, pace: f64) -> i64 {
    const LONGEST: f64 = 86_400.0;
    (ahead.max(0) as f64 / pace.max(0.001)).min(LONGEST).ceil() as i64
}

/// When to ask again. `dither` from 0 to 1 spreads those who came at the same moment.
pub fn poll_after(ahead: i64, pace: f64, dither: f64) -> Duration {
    let eta = Duration::from_secs(u64::try_from(eta_seconds(ahead, pace)).unwrap_or_default());
    let after = (eta / 5).clamp(POLL_NEAR, POLL_FAR);
    after.mul_f64(0.8 + 0.2 * dither.clamp(0.0, 1.0))
}

/// The same for those who came before the opening: not all of them at the very moment.
pub fn poll_before_opening(left: Duration, dither: f64) -> Duration {
    const SPREAD: Duration = Duration::from_secs(2);
    left.min(POLL_FAR) + SPREAD.mul_f64(dither.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn room() -> RoomStatus {
        RoomStatus {
            epoch: 1,
            issued: 1_000,
            front: 100,
            edge: 400,
            offers: 5,
            active: 20,
            back: 2,
            stock: -1,
            pace: 10.0,
        }
    }

    #[test]
    fn those_before_a_number_are_counted() {
        let room = room();
        assert_eq!((room.ahead(101), room.ahead(111), room.ahead(50)), (2, 12, 0));
        assert_eq!(room.waiting(), 902);
    }

    #[test]
    fn only_numbers_beyond_the_edge_are_far_and_a_ticket_from_before_never_is() {
        let room = room();
        assert!(room.is_far(401, 1));
        assert!(!room.is_far(400, 1));
        assert!(!room.is_far(401, 0));
    }

    #[test]
    fn a_room_that_stands_still_keeps_its_pace() {
        let (before, second) = (room(), Duration::from_secs(1));
        assert_eq!(room().next_pace(&before, second), 10.0);
        let moved = RoomStatus { front: 130, ..room() };
        assert_eq!(moved.next_pace(&before, second), 11.0);
    }

    proptest! {
        #![proptest_config(testkit::properties::quick(256))]

        /// Presence lasts 45 seconds: everybody asks twice in it.
        #[test]
        fn everybody_asks_twice_before_presence_ends(ahead in 0..10_000_000_i64, pace in 0.0..10_000.0_f64, dither in 0.0..1.0_f64) {
            let after = poll_after(ahead, pace, dither);
            prop_assert!(after >= POLL_NEAR.mul_f64(0.8) && after <= POLL_FAR, "{after:?}");
        }

        #[test]
        fn nobody_asks_before_the_opening_for_nothing(left_ms in 0..3_600_000_u64, dither in 0.0..1.0_f64) {
            let left = Duration::from_millis(left_ms);
            let after = poll_before_opening(left, dither);
            prop_assert!(after >= left.min(POLL_FAR));
        }
    }
}
