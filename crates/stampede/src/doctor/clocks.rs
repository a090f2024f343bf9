//! Clocks: how far those of this process, PostgreSQL and Redis are from each other.

use chrono::{DateTime, TimeDelta, Utc};
use common::redis::{Redis, cmd};
use common::settings::Settings;
use diesel::{QueryableByName, sql_query, sql_types};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::Report;

const CHECK: &str = "clocks";
/// Each clock is read so often, and the quickest answer counts.
const READINGS: usize = 5;
/// More than this is no drift: nobody sets this clock.
const DRIFT_MAX: TimeDelta = TimeDelta::seconds(1);
const REMEDY: &str = "let all machines follow one time server (chrony, systemd-timesyncd)";

#[derive(QueryableByName)]
struct Now {
    #[diesel(sql_type = sql_types::Timestamptz)]
    now: DateTime<Utc>,
}

/// Of another clock: how far it is ahead of this process's, and how exactly that is known.
#[derive(Debug, Clone, Copy)]
struct Reading {
    ahead: TimeDelta,
    error: TimeDelta,
}

impl Reading {
    /// `told` was read between `before` and `after` of this process's clock.
    fn between(before: DateTime<Utc>, told: DateTime<Utc>, after: DateTime<Utc>) -> Reading {
        let error = (after - before) / 2;
        Reading { ahead: told - (before + error), error }
    }

    /// Whether it is further away than `most`, whatever the error.
    fn exceeds(self, most: TimeDelta) -> bool {
        self.ahead.abs() - self.error > most
    }

    fn text(self) -> String {
        let ms = |delta: TimeDelta| delta.num_microseconds().unwrap_or(i64::MAX) as f64 / 1e3;
        format!("{:+.1} ms (± {:.1})", ms(self.ahead), ms(self.error))
    }
}

/// An error is a section of the settings that cannot be read.
pub async fn examine(
    settings: &Settings,
    database: Option<&mut AsyncPgConnection>,
    redis: Option<&Redis>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let token_life = TimeDelta::minutes(settings.section("auth.access_token_minutes")?);
    let of_database = match database {
        Some(connection) => of_database(connection).await,
        None => None,
    };
    let of_redis = match redis {
        Some(redis) => of_redis(redis).await,
        None => None,
    };
    let clocks = [("PostgreSQL", of_database), ("Redis", of_redis)];
    let told: Vec<String> =
        clocks.iter().filter_map(|(name, clock)| Some(format!("{name} {}", (*clock)?.text()))).collect();
    if told.is_empty() {
        return Ok(());
    }
    report.ok(CHECK, format!("ahead of this process: {}", told.join(", ")));
    if let Some(reading) = of_database {
        judge_database(reading, token_life, report);
    }
    if let (Some(database), Some(redis)) = (of_database, of_redis) {
        let between = Reading { ahead: redis.ahead - database.ahead, error: redis.error + database.error };
        judge_redis(between, report);
    }
    Ok(())
}

fn judge_database(reading: Reading, token_life: TimeDelta, report: &mut Report) {
    if reading.exceeds(token_life) {
        let found = format!("this process and PostgreSQL differ by {}: access tokens are refused", reading.text());
        report.fail(CHECK, found, REMEDY);
    } else if reading.exceeds(DRIFT_MAX) {
        let found = format!("this process and PostgreSQL differ by {}: times in logs mislead", reading.text());
        report.warn(CHECK, found, REMEDY);
    }
}

/// A pass begins and ends by Redis' clock, and is read by PostgreSQL's.
fn judge_redis(between: Reading, report: &mut Report) {
    if between.exceeds(DRIFT_MAX) {
        let text = between.text();
        let found = format!("Redis and PostgreSQL differ by {text}: passes of waiting rooms end too early or too late");
        report.fail(CHECK, found, REMEDY);
    }
}

/// None: it has stopped answering.
async fn of_database(connection: &mut AsyncPgConnection) -> Option<Reading> {
    let mut best: Option<Reading> = None;
    for _ in 0..READINGS {
        let before = Utc::now();
        let told: Now = sql_query("select clock_timestamp() as now").get_result(connection).await.ok()?;
        best = better(best, Reading::between(before, told.now, Utc::now()));
    }
    best
}

/// The same.
async fn of_redis(redis: &Redis) -> Option<Reading> {
    let mut best: Option<Reading> = None;
    for _ in 0..READINGS {
        let before = Utc::now();
        let (seconds, micros): (i64, i64) = redis.command(&cmd("TIME")).await.ok()?;
        let told = DateTime::from_timestamp_micros(seconds * 1_000_000 + micros)?;
        best = better(best, Reading::between(before, told, Utc::now()));
    }
    best
}

fn better(best: Option<Reading>, new: Reading) -> Option<Reading> {
    Some(best.filter(|best| best.error <= new.error).unwrap_or(new))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + ms).unwrap()
    }

    #[test]
    fn a_clock_is_told_from_a_slow_answer() {
        let slow = Reading::between(at(0), at(900), at(2_000));
        assert_eq!((slow.ahead, slow.error), (TimeDelta::milliseconds(-100), TimeDelta::seconds(1)));
        assert!(!slow.exceeds(TimeDelta::zero()), "the answer took longer than the difference");
        assert!(Reading::between(at(0), at(5_001), at(2)).exceeds(TimeDelta::seconds(4)));
        let quick = better(Some(slow), Reading::between(at(0), at(7), at(2))).unwrap();
        assert_eq!(quick.text(), "+6.0 ms (± 1.0)");
    }

    #[test]
    fn clocks_that_differ_are_named_by_what_goes_wrong() {
        let differ = |ms: i64| Reading::between(at(0), at(ms), at(0));
        let judged = |ms: i64| {
            let mut report = Report::default();
            judge_database(differ(ms), TimeDelta::minutes(15), &mut report);
            judge_redis(differ(ms), &mut report);
            report.findings.into_iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(judged(900), []);
        assert_eq!(judged(-2_000), [Level::Warning, Level::Error]);
        assert_eq!(judged(16 * 60 * 1_000), [Level::Error, Level::Error]);
    }
}
