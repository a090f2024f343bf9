//! Rules: percentiles, medians, and what several runs of one kind come to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::cost::{Cost, Part};

/// Latencies in microseconds, in the order in which they were met.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    micros: Vec<u64>,
}

/// [`Latencies`] in ascending order.
#[derive(Debug, Clone)]
pub struct Sorted {
    micros: Vec<u64>,
}

impl Latencies {
    pub fn record(&mut self, latency: Duration) {
        self.record_micros(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    pub fn record_micros(&mut self, micros: u64) {
        self.micros.push(micros);
    }

    pub fn append(&mut self, mut other: Latencies) {
        self.micros.append(&mut other.micros);
    }

    pub fn len(&self) -> usize {
        self.micros.len()
    }

    pub fn sorted(mut self) -> Sorted {
        self.micros.sort_unstable();
        Sorted { micros: self.micros }
    }
}

impl Sorted {
    /// The least latency, in microseconds, that at least `percent` of all do not exceed. 0 when there is none.
    pub fn percentile(&self, percent: f64) -> u64 {
        let rank = (percent / 100.0 * self.micros.len() as f64).ceil() as usize;
        self.micros.get(rank.saturating_sub(1)).or(self.micros.last()).copied().unwrap_or(0)
    }
}

pub fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// Whose orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// pgbench: lock the stock's row, update it, insert order and event, commit.
    NaiveHotRow,
    /// pgbench: the same without a common row, which is the most that this PostgreSQL can store one by one.
    NoHotRow,
    /// Over HTTP, on one hot product.
    Stampede,
    /// The same, and each order is paid by its buyer and becomes a sale.
    Paid,
}

impl Kind {
    /// Those of orders that are only placed.
    pub const ALL: [Kind; 3] = [Kind::NaiveHotRow, Kind::NoHotRow, Kind::Stampede];

    pub fn label(self) -> &'static str {
        match self {
            Kind::NaiveHotRow => "naive hot row (pgbench)",
            Kind::NoHotRow => "no hot row (pgbench)",
            Kind::Stampede => "Stampede over HTTP",
            Kind::Paid => "placed, paid, confirmed",
        }
    }
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Run {
    pub kind: Kind,
    pub clients: usize,
    pub orders: u64,
    pub orders_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub cost: Cost,
    pub wal_bytes: f64,
    /// Only where it was waited for.
    pub wal_syncs: Option<f64>,
    pub aftermath: Option<Aftermath>,
}

/// What our own orders cause after they have been answered.
#[derive(Debug, Clone, Copy)]
pub struct Aftermath {
    /// From an order's transaction to its notification's, in milliseconds.
    pub consumer_p50_ms: f64,
    pub consumer_p99_ms: f64,
    /// From the last answer until every event was published, consumed and its e-mail sent; none: not in time.
    pub rest_ms: Option<f64>,
}

/// Several runs of the same kind and concurrency. All but `min` and `max` are medians.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    pub kind: Kind,
    pub clients: usize,
    pub orders_per_second: f64,
    pub orders_per_second_min: f64,
    pub orders_per_second_max: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub cpu_seconds_per_1000_orders: BTreeMap<Part, f64>,
    /// All parts but the generator.
    pub cpu_seconds_per_1000_orders_total: f64,
    /// Of the machine's processor time, from 0 to 1: what was neither the site's nor the generator's.
    pub others_cpu_share: f64,
    pub wal_bytes_per_order: f64,
    /// Of the last run alone.
    pub wal_syncs_per_order: Option<f64>,
    pub consumer_p50_ms: Option<f64>,
    pub consumer_p99_ms: Option<f64>,
    pub rest_ms: Option<f64>,
}

/// The middle one, or the mean of the two in the middle. None of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Sums `runs` up, which are of one kind and concurrency. None of none.
pub fn point(runs: &[&Run]) -> Option<Point> {
    let (first, last) = (runs.first()?, runs.last()?);
    let middle = |value: &dyn Fn(&Run) -> f64| median(runs.iter().map(|run| value(run))).unwrap_or(0.0);
    let aftermath =
        |value: &dyn Fn(Aftermath) -> Option<f64>| median(runs.iter().filter_map(|run| run.aftermath.and_then(value)));
    let each = |run: &Run, amount: f64| amount / (run.orders.max(1)) as f64;
    let per_1000 = |part: Part| middle(&|run| 1000.0 * each(run, run.cost.spent.get(&part).copied().unwrap_or(0.0)));
    let cpu: BTreeMap<Part, f64> = first.cost.spent.keys().map(|part| (*part, per_1000(*part))).collect();
    let rates = || runs.iter().map(|run| run.orders_per_second);
    Some(Point {
        kind: first.kind,
        clients: first.clients,
        orders_per_second: middle(&|run| run.orders_per_second),
        orders_per_second_min: rates().fold(f64::INFINITY, f64::min),
        orders_per_second_max: rates().fold(0.0, f64::max),
        p50_ms: middle(&|run| run.p50_ms),
        p99_ms: middle(&|run| run.p99_ms),
        cpu_seconds_per_1000_orders_total: cpu
            .iter()
            .filter(|(part, _)| **part != Part::Generator)
            .map(|(_, cpu)| cpu)
            .sum(),
        cpu_seconds_per_1000_orders: cpu,
        others_cpu_share: middle(&|run| run.cost.others_share),
        wal_bytes_per_order: middle(&|run| each(run, run.wal_bytes)),
        wal_syncs_per_order: last.wal_syncs.map(|syncs| each(last, syncs)),
        consumer_p50_ms: aftermath(&|after| Some(after.consumer_p50_ms)),
        consumer_p99_ms: aftermath(&|after| Some(after.consumer_p99_ms)),
        rest_ms: aftermath(&|after| after.rest_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(values: impl IntoIterator<Item = u64>) -> Sorted {
        let mut latencies = Latencies::default();
        values.into_iter().for_each(|value| latencies.record_micros(value));
        latencies.sorted()
    }

    #[test]
    fn a_percentile_is_a_value_that_was_met() {
        let hundred = sorted((1..=100).rev());
        assert_eq!((hundred.percentile(50.0), hundred.percentile(99.0), hundred.percentile(100.0)), (50, 99, 100));
        assert_eq!(hundred.percentile(0.0), 1);
        let three = sorted([30, 10, 20]);
        assert_eq!((three.percentile(50.0), three.percentile(99.0)), (20, 30));
        assert_eq!(sorted([7]).percentile(50.0), 7);
        assert_eq!(sorted([]).percentile(99.0), 0);
    }

    #[test]
    fn latencies_of_several_workers_are_one_distribution() {
        let mut all = Latencies::default();
        for part in [[5, 1], [9, 3]] {
            let mut latencies = Latencies::default();
            part.into_iter().for_each(|value| latencies.record(Duration::from_micros(value)));
            all.append(latencies);
        }
        assert_eq!(all.len(), 4);
        assert_eq!(all.sorted().percentile(75.0), 5);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_two() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn a_point_is_per_order_and_its_syncs_are_of_the_last_run() {
        let run = |orders: u64, rate: f64, syncs: Option<f64>| Run {
            kind: Kind::Stampede,
            clients: 64,
            orders,
            orders_per_second: rate,
            p50_ms: rate / 100.0,
            p99_ms: rate / 10.0,
            cost: Cost {
                spent: BTreeMap::from([(Part::Services, orders as f64 / 1000.0), (Part::Generator, 5.0)]),
                others_share: rate / 800.0,
            },
            wal_bytes: orders as f64 * 900.0,
            wal_syncs: syncs,
            aftermath: Some(Aftermath { consumer_p50_ms: 4.0, consumer_p99_ms: 9.0, rest_ms: syncs }),
        };
        let runs = [run(1000, 200.0, None), run(500, 100.0, Some(50.0))];
        let point = point(&runs.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(
            (point.orders_per_second, point.orders_per_second_min, point.orders_per_second_max),
            (150.0, 100.0, 200.0)
        );
        assert_eq!((point.wal_bytes_per_order, point.wal_syncs_per_order), (900.0, Some(0.1)));
        assert_eq!(point.cpu_seconds_per_1000_orders[&Part::Services], 1.0);
        assert_eq!(point.cpu_seconds_per_1000_orders[&Part::Generator], 7.5);
        assert_eq!((point.cpu_seconds_per_1000_orders_total, point.others_cpu_share), (1.0, 0.1875));
        assert_eq!((point.consumer_p50_ms, point.rest_ms), (Some(4.0), Some(50.0)));
        assert!(super::point(&[]).is_none());
    }
}
