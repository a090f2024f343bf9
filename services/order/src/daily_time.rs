//! The rules of something that is done once a day, at a set time.

use anyhow::Context as _;
use chrono::{DateTime, FixedOffset, NaiveTime, TimeDelta, Utc};

/// A time of day, as a clock shows it that is a fixed time ahead of UTC.
#[derive(Debug, Clone, Copy)]
pub struct DailyTime {
    time: NaiveTime,
    offset: FixedOffset,
}

impl DailyTime {
    /// `time` is hours and minutes, such as `03:00`.
    pub fn parse(time: &str, utc_offset_minutes: i32) -> anyhow::Result<DailyTime> {
        let time = NaiveTime::parse_from_str(time, "%H:%M").with_context(|| format!("{time:?} is no time of day"))?;
        let seconds = utc_offset_minutes.checked_mul(60);
        let offset = seconds.and_then(FixedOffset::east_opt).context("the offset from UTC is a day at the most")?;
        Ok(DailyTime { time, offset })
    }

    /// The last of these times that has come. None if everything up to it is done.
    pub fn due(self, now: DateTime<Utc>, done_until: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let shown = now.with_timezone(&self.offset).naive_local();
        let of_today = shown.date().and_time(self.time);
        let last = if of_today <= shown { of_today } else { of_today - TimeDelta::days(1) };
        // A fixed offset has no time that comes twice or never.
        let last = last.and_local_timezone(self.offset).single()?.to_utc();
        (last > done_until).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn it_is_due_once_a_day_at_the_time_that_the_clock_of_the_place_shows() {
        let seoul = DailyTime::parse("03:00", 540).unwrap();
        let (yesterday, today) = (at("2026-11-27T18:00:00Z"), at("2026-11-28T18:00:00Z"));
        assert_eq!(seoul.due(at("2026-11-28T17:59:59Z"), yesterday), None);
        assert_eq!(seoul.due(today, yesterday), Some(today));
        assert_eq!(seoul.due(at("2026-11-29T12:00:00Z"), yesterday), Some(today), "it is made up for");
        assert_eq!(seoul.due(at("2026-11-29T12:00:00Z"), today), None, "it is done");
        assert_eq!(seoul.due(at("2026-11-28T17:59:59Z"), at("2026-11-27T17:00:00Z")), Some(yesterday));
    }

    #[test]
    fn days_that_were_missed_are_made_up_for_once() {
        let utc = DailyTime::parse("00:00", 0).unwrap();
        assert_eq!(utc.due(at("2026-11-28T00:00:01Z"), at("2026-11-01T12:00:00Z")), Some(at("2026-11-28T00:00:00Z")));
    }

    #[test]
    fn what_was_installed_after_the_time_waits_for_the_next() {
        let west = DailyTime::parse("23:30", -300).unwrap();
        let installed = at("2026-11-28T05:00:00Z");
        assert_eq!(west.due(installed, installed), None);
        assert_eq!(west.due(at("2026-11-29T04:30:00Z"), installed), Some(at("2026-11-29T04:30:00Z")));
    }

    #[test]
    fn what_is_no_time_of_day_is_refused() {
        for (time, offset) in [("24:00", 0), ("3", 0), ("03:00:00", 0), ("", 0), ("03:00", 1440), ("03:00", i32::MIN)] {
            assert!(DailyTime::parse(time, offset).is_err(), "{time} {offset}");
        }
    }
}
