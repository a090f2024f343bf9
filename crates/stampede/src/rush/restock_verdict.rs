//! Rules: the verdict over restock alerts, from what subscribers were promised and who was told when.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use uuid::Uuid;

/// The founding document's limit, over all replicas.
const PER_SECOND_MAX: u64 = 500;
/// So long after the last unit is gone nobody is told any more.
const SOLD_OUT_MS_MAX: u64 = 1_000;

/// An alert as the hub has recorded it.
#[derive(Debug, Clone, Copy, diesel::QueryableByName)]
pub struct Alert {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    pub round: i64,
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    pub user: Uuid,
    /// The place in the order.
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    pub subscription: i64,
    #[diesel(sql_type = diesel::sql_types::Bool)]
    pub is_sent: bool,
    /// When it was handed to the mail server.
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Timestamptz>)]
    pub at: Option<DateTime<Utc>>,
}

/// What the buyers know.
#[derive(Debug, Clone)]
pub struct Promised {
    /// The users whose subscription was acknowledged, and its number.
    pub subscriptions: HashMap<Uuid, i64>,
    /// The round in which the product was bought out, and when the last unit was acknowledged.
    pub sold_out: (i64, DateTime<Utc>),
    /// The round in which it was not.
    pub whole: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Subscribers who were not told of the restock that lasted.
    pub restock_missing: u64,
    /// Alerts beyond the first of one user in one round.
    pub restock_duplicates: u64,
    /// Alerts that went out after that of a later subscriber.
    pub restock_out_of_order: u64,
    /// How long after the last unit was gone an alert still went out.
    pub sent_after_sold_out_ms: u64,
    /// Alerts in the fullest second, of all rounds.
    pub max_per_second: u64,
}

pub fn judge(promised: &Promised, alerts: &[Alert]) -> Verdict {
    let mut sent: Vec<(&Alert, DateTime<Utc>)> =
        alerts.iter().filter(|alert| alert.is_sent).filter_map(|alert| Some((alert, alert.at?))).collect();
    sent.sort_by_key(|(alert, at)| (*at, alert.subscription));
    let told: HashSet<Uuid> =
        sent.iter().filter(|(alert, _)| alert.round == promised.whole).map(|(alert, _)| alert.user).collect();
    let mut seen = HashSet::new();
    let mut verdict = Verdict {
        restock_missing: promised.subscriptions.keys().filter(|user| !told.contains(user)).count() as u64,
        max_per_second: fullest_second(&sent.iter().map(|(_, at)| *at).collect::<Vec<_>>()),
        ..Verdict::default()
    };
    // The greatest subscription that was told before, in each round.
    let mut last: HashMap<i64, i64> = HashMap::new();
    let (bought_out, gone_at) = promised.sold_out;
    for (alert, at) in sent {
        verdict.restock_duplicates += u64::from(!seen.insert((alert.round, alert.user)));
        let last = last.entry(alert.round).or_default();
        verdict.restock_out_of_order += u64::from(alert.subscription < *last);
        *last = (*last).max(alert.subscription);
        if alert.round == bought_out {
            let late = u64::try_from((at - gone_at).num_milliseconds()).unwrap_or(0);
            verdict.sent_after_sold_out_ms = verdict.sent_after_sold_out_ms.max(late);
        }
    }
    verdict
}

/// The most of `times`, which are in order, within less than a second.
fn fullest_second(times: &[DateTime<Utc>]) -> u64 {
    let mut first = 0;
    let mut most = 0;
    for (last, at) in times.iter().enumerate() {
        while *at - times[first] >= TimeDelta::seconds(1) {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most as u64
}

impl Verdict {
    /// Why it is FAIL, a sentence each; empty for PASS.
    pub fn violations(&self) -> Vec<String> {
        let checks = [
            (self.restock_missing, 0, "subscribers were not told that the product is back"),
            (self.restock_duplicates, 0, "alerts went to somebody who had been told of the same restock"),
            (self.restock_out_of_order, 0, "alerts went out behind that of a later subscriber"),
            (self.sent_after_sold_out_ms, SOLD_OUT_MS_MAX, "ms after the product had sold out an alert went out"),
            (self.max_per_second, PER_SECOND_MAX, "alerts went out in one second"),
        ];
        let broken = checks.into_iter().filter(|(found, max, _)| found > max);
        broken.map(|(found, _, what)| format!("{found} {what}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + ms).unwrap()
    }

    fn alert(round: i64, subscription: i64, ms: i64) -> Alert {
        Alert { round, user: Uuid::from_u128(subscription as u128), subscription, is_sent: true, at: Some(at(ms)) }
    }

    fn promised() -> Promised {
        let subscriptions = (1..=3).map(|n| (Uuid::from_u128(n as u128), n)).collect();
        Promised { subscriptions, sold_out: (1, at(10)), whole: 2 }
    }

    #[test]
    fn all_in_order_once_and_in_time_is_a_pass() {
        let alerts = [alert(1, 1, 0), alert(1, 2, 20), alert(2, 1, 2_000), alert(2, 2, 2_000), alert(2, 3, 2_010)];
        let verdict = judge(&promised(), &alerts);
        let expected = Verdict { sent_after_sold_out_ms: 10, max_per_second: 3, ..Verdict::default() };
        assert_eq!(verdict, expected);
        assert!(verdict.violations().is_empty());
    }

    #[test]
    fn each_broken_promise_is_counted() {
        let unsent = Alert { is_sent: false, ..alert(2, 3, 2_020) };
        let alerts = [alert(1, 1, 1_500), alert(2, 2, 2_000), alert(2, 1, 2_010), alert(2, 2, 2_015), unsent];
        let verdict = judge(&promised(), &alerts);
        let expected = Verdict {
            restock_missing: 1,
            restock_duplicates: 1,
            restock_out_of_order: 1,
            sent_after_sold_out_ms: 1_490,
            max_per_second: 4,
        };
        assert_eq!(verdict, expected);
        assert_eq!(verdict.violations().len(), 4);
    }

    #[test]
    fn the_fullest_second_is_half_open() {
        assert_eq!(fullest_second(&[]), 0);
        assert_eq!(fullest_second(&[at(0), at(999), at(1_000)]), 2);
        assert_eq!(fullest_second(&(0..600).map(|ms| at(ms * 2)).collect::<Vec<_>>()), 500);
    }
}
