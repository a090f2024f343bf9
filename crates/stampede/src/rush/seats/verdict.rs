//! Rules: the verdict over seats and their line, from what each buyer was told.

use std::collections::HashMap;

use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use crate::rush::pay::PaymentRecord;

/// What one buyer knows in the end.
#[derive(Debug, Clone, Default)]
pub struct Visit {
    /// Their number among the buyers.
    pub buyer: usize,
    /// Their number in line.
    pub seq: Option<i64>,
    /// They had a pass from here ...
    pub admitted_at: Option<Instant>,
    /// ... to here.
    pub left_at: Option<Instant>,
    /// They still waited although somebody behind them had had a pass before they asked.
    pub was_overtaken: bool,
    pub let_in_without_pass: u64,
    pub order: Option<Uuid>,
    /// The seats of their order.
    pub ordered: Vec<Uuid>,
    /// How paying for it went.
    pub payment: Option<PaymentRecord>,
}

impl Visit {
    /// From now on the slot may be somebody else's, whenever the answer to the request that ends the pass comes.
    pub fn gives_the_slot_back(&mut self) {
        self.left_at.get_or_insert_with(Instant::now);
    }
}

/// What all buyers know of the line together.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// The highest number that was told to have a pass.
    pub last_admitted: Option<i64>,
    /// When the first place was told, after the time of the opening.
    pub opened_ms: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Seats that two orders have.
    pub double_seats: u64,
    /// Orders that were acknowledged and are not there.
    pub orders_lost: u64,
    pub admitted_without_pass: u64,
    /// Buyers who were overtaken in line.
    pub order_violations: u64,
    /// Passes in use at the same time beyond what the room allows.
    pub capacity_exceeded: u64,
    /// When the first place was told, after the time of the opening; absent without a line.
    pub open_lateness_ms: Option<i64>,
}

pub fn judge(visits: &[Visit], line: &Line, slots_max: Option<u64>, orders_lost: u64) -> Verdict {
    let mut owners: HashMap<Uuid, u64> = HashMap::new();
    for seat in visits.iter().flat_map(|visit| &visit.ordered) {
        *owners.entry(*seat).or_default() += 1;
    }
    Verdict {
        double_seats: owners.values().filter(|owners| **owners > 1).count() as u64,
        orders_lost,
        admitted_without_pass: visits.iter().map(|visit| visit.let_in_without_pass).sum(),
        order_violations: visits.iter().filter(|visit| visit.was_overtaken).count() as u64,
        capacity_exceeded: slots_max.map_or(0, |max| most_at_once(visits).saturating_sub(max)),
        open_lateness_ms: line.opened_ms,
    }
}

/// The most passes that were in use at the same time.
fn most_at_once(visits: &[Visit]) -> u64 {
    let mut changes: Vec<(Instant, i64)> = Vec::new();
    for (from, to) in visits.iter().filter_map(|visit| visit.admitted_at.zip(visit.left_at)) {
        changes.extend([(from, 1), (to, -1)]);
    }
    // Who leaves at an instant is gone at that instant.
    changes.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, change) in changes {
        now += change;
        most = most.max(now);
    }
    u64::try_from(most).unwrap_or(0)
}

impl Verdict {
    /// Why it is FAIL, a sentence each; empty for PASS.
    pub fn violations(&self) -> Vec<String> {
        let early = self.open_lateness_ms.map_or(0, |late| (-late).max(0));
        let checks = [
            (self.double_seats, "seats are in two orders"),
            (self.orders_lost, "acknowledged orders are not there"),
            (self.admitted_without_pass, "seats were reserved without a pass"),
            (self.order_violations, "buyers were overtaken in line"),
            (self.capacity_exceeded, "passes too many were in use at once"),
            (early.unsigned_abs(), "ms before its time the line was open"),
        ];
        let broken = checks.into_iter().filter(|(found, _)| *found > 0);
        broken.map(|(found, what)| format!("{found} {what}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn visit(start: Instant, from_ms: u64, to_ms: u64, seat: u128) -> Visit {
        Visit {
            admitted_at: Some(start + Duration::from_millis(from_ms)),
            left_at: Some(start + Duration::from_millis(to_ms)),
            ordered: vec![Uuid::from_u128(seat)],
            ..Visit::default()
        }
    }

    #[test]
    fn each_seat_once_and_few_at_a_time_is_a_pass() {
        let start = Instant::now();
        let visits = [visit(start, 0, 10, 1), visit(start, 5, 20, 2), visit(start, 10, 30, 3)];
        let line = Line { opened_ms: Some(12), ..Line::default() };
        let verdict = judge(&visits, &line, Some(2), 0);
        assert_eq!(verdict, Verdict { open_lateness_ms: Some(12), ..Verdict::default() });
        assert!(verdict.violations().is_empty());
    }

    #[test]
    fn each_broken_promise_is_counted() {
        let start = Instant::now();
        let mut visits = vec![visit(start, 0, 10, 1), visit(start, 5, 20, 1), visit(start, 9, 30, 3)];
        visits[0].was_overtaken = true;
        visits[1].let_in_without_pass = 2;
        let line = Line { opened_ms: Some(-3), ..Line::default() };
        let verdict = judge(&visits, &line, Some(2), 4);
        let expected = Verdict {
            double_seats: 1,
            orders_lost: 4,
            admitted_without_pass: 2,
            order_violations: 1,
            capacity_exceeded: 1,
            open_lateness_ms: Some(-3),
        };
        assert_eq!(verdict, expected);
        assert_eq!(verdict.violations().len(), 6);
    }
}
