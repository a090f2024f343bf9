//! PostgreSQL's clock, as this process knows it. PostgreSQL decides when a coupon opens and closes; so the gate, which refuses
//! in its name, asks this clock and not that of Redis.
//!
//! It is read again and again, and goes on by this process's own clock in between. What it says is an interval: whoever is
//! refused by it would have been refused by PostgreSQL.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::Result;
use common::db::Db;
use common::sql::clock_timestamp;
use diesel_async::RunQueryDsl;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Two clocks run away from each other by less than a thousandth of the time: so much is allowed for until the next reading.
const DRIFT: i64 = 1000;

/// Cheap to clone.
#[derive(Clone)]
pub struct Clock {
    db: Db,
    slack_ms: i64,
    reading: Arc<Mutex<Reading>>,
}

impl Clock {
    /// `slack_ms`: by how much PostgreSQL's clock may be set forward or back without being read again.
    pub async fn open(db: &Db, slack_ms: i64) -> Result<Clock> {
        Ok(Clock { db: db.clone(), slack_ms, reading: Arc::new(Mutex::new(read(db).await?)) })
    }

    /// Asks PostgreSQL again.
    pub async fn read(&self) -> Result<()> {
        let new = read(&self.db).await?;
        let mut reading = self.reading.lock();
        *reading = reading.or_better(new, Instant::now());
        Ok(())
    }

    pub fn now(&self) -> Now {
        self.reading.lock().at(Instant::now()).widened(self.slack_ms)
    }
}

async fn read(db: &Db) -> Result<Reading> {
    // Taken out of the pool first: waiting for a connection would make the reading a bad one.
    let mut conn = db.read().await?;
    let before = Instant::now();
    let told: DateTime<Utc> = diesel::select(clock_timestamp()).get_result(&mut *conn).await?;
    Ok(Reading { before, told_us: told.timestamp_micros(), after: Instant::now() })
}

/// PostgreSQL's time now is between the two, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub earliest_ms: i64,
    pub latest_ms: i64,
}

impl Now {
    fn widened(self, by_ms: i64) -> Now {
        Now { earliest_ms: self.earliest_ms - by_ms, latest_ms: self.latest_ms + by_ms }
    }

    fn width_ms(self) -> i64 {
        self.latest_ms - self.earliest_ms
    }

    fn contradicts(self, other: Now) -> bool {
        self.earliest_ms > other.latest_ms || other.earliest_ms > self.latest_ms
    }
}

/// PostgreSQL has told its time between `before` and `after` of this process's clock.
#[derive(Debug, Clone, Copy)]
struct Reading {
    before: Instant,
    told_us: i64,
    after: Instant,
}

impl Reading {
    fn at(&self, now: Instant) -> Now {
        let since = |then: Instant| i64::try_from((now - then).as_micros()).unwrap_or(i64::MAX / 4);
        let (shortest, longest) = (since(self.after), since(self.before));
        Now {
            earliest_ms: (self.told_us + shortest - shortest / DRIFT).div_euclid(1000),
            latest_ms: (self.told_us + longest + longest / DRIFT).div_euclid(1000) + 1,
        }
    }

    /// The one that is more exact at `now`; the new one if PostgreSQL's clock was set meanwhile.
    fn or_better(self, new: Reading, now: Instant) -> Reading {
        let (known, told) = (self.at(now), new.at(now));
        if told.contradicts(known) || told.width_ms() <= known.width_ms() { new } else { self }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    fn now(earliest_ms: i64, latest_ms: i64) -> Now {
        Now { earliest_ms, latest_ms }
    }

    #[test]
    fn a_reading_is_as_exact_as_its_answer_was_quick_and_gets_older() {
        let start = Instant::now();
        let reading = Reading { before: start, told_us: 500_000, after: after(start, 4) };
        assert_eq!(reading.at(after(start, 4)), now(500, 505));
        assert_eq!(reading.at(after(start, 1004)), now(1499, 1506), "a thousandth of a second is a millisecond");
        assert_eq!(reading.at(after(start, 4)).widened(5), now(495, 510));
    }

    #[test]
    fn a_slow_answer_replaces_no_better_one_unless_the_clock_was_set() {
        let start = Instant::now();
        let quick = Reading { before: start, told_us: 0, after: after(start, 1) };
        let told = |told_ms: i64, begun_ms| {
            let (before, after) = (after(start, begun_ms), after(start, 1000));
            quick.or_better(Reading { before, told_us: told_ms * 1000, after }, after).told_us / 1000
        };
        assert_eq!(told(950, 900), 0, "it took longer");
        assert_eq!(told(999, 999), 999, "it is more exact than one that is a second old");
        assert_eq!(told(-60_000, 900), -60_000, "the clock was set back");
        assert_eq!(told(60_000, 900), 60_000, "the clock was set forward");
    }
}
