//! Rules: single measurements, and the medians of several of one kind.

use std::collections::BTreeMap;

use serde::Serialize;

use super::turns::Turns;
use super::usage::{Part, Usage};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// pgbench: lock the stock's row, update it, insert order and event, commit.
    NaiveHotRow,
    /// pgbench: the same without a common row, which is the most that this PostgreSQL can store one by one.
    NoHotRow,
    /// Orders over HTTP, of one hot product.
    Stampede,
    /// The same, and each order is paid by its buyer and becomes a sale.
    Paid,
}

impl Kind {
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
    pub usage: Usage,
    pub wal_bytes: f64,
    /// None where PostgreSQL was not given the time to report them.
    pub wal_syncs: Option<f64>,
    pub aftermath: Option<Aftermath>,
    /// None for pgbench.
    pub turns: Option<Turns>,
}

/// What our own orders cause after they have been answered.
#[derive(Debug, Clone, Copy)]
pub struct Aftermath {
    /// From an order's transaction to its notification's; of a paid order from its hold to its sale. In milliseconds.
    pub consumer_p50_ms: f64,
    pub consumer_p99_ms: f64,
    /// From the last answer until every event was published, consumed and its e-mail sent. None: not in time.
    pub rest_ms: Option<f64>,
}

/// Several runs of one kind and concurrency: medians, but for `min` and `max`.
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
    /// The part of the machine's processor time that neither the site nor the generator used, from 0 to 1.
    pub others_cpu_share: f64,
    pub wal_bytes_per_order: f64,
    /// Of the last run alone.
    pub wal_syncs_per_order: Option<f64>,
    pub consumer_p50_ms: Option<f64>,
    pub consumer_p99_ms: Option<f64>,
    pub rest_ms: Option<f64>,
    /// Of the last run alone.
    pub turns: Option<Turns>,
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

/// The point of `runs`, which are of one kind and concurrency. None of none.
pub fn point(runs: &[&Run]) -> Option<Point> {
    let (first, last) = (runs.first()?, runs.last()?);
    let middle = |value: &dyn Fn(&Run) -> f64| median(runs.iter().map(|run| value(run))).unwrap_or(0.0);
    let aftermath =
        |value: &dyn Fn(Aftermath) -> Option<f64>| median(runs.iter().filter_map(|run| run.aftermath.and_then(value)));
    let each = |run: &Run, amount: f64| amount / (run.orders.max(1)) as f64;
    let per_1000 = |part: Part| middle(&|run| 1000.0 * each(run, run.usage.cpu.get(&part).copied().unwrap_or(0.0)));
    let cpu: BTreeMap<Part, f64> = first.usage.cpu.keys().map(|part| (*part, per_1000(*part))).collect();
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
        others_cpu_share: middle(&|run| run.usage.others_share),
        wal_bytes_per_order: middle(&|run| each(run, run.wal_bytes)),
        wal_syncs_per_order: last.wal_syncs.map(|syncs| each(last, syncs)),
        consumer_p50_ms: aftermath(&|after| Some(after.consumer_p50_ms)),
        consumer_p99_ms: aftermath(&|after| Some(after.consumer_p99_ms)),
        rest_ms: aftermath(&|after| after.rest_ms),
        turns: last.turns.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            usage: Usage {
                cpu: BTreeMap::from([(Part::Services, orders as f64 / 1000.0), (Part::Generator, 5.0)]),
                others_share: rate / 800.0,
            },
            wal_bytes: orders as f64 * 900.0,
            wal_syncs: syncs,
            aftermath: Some(Aftermath { consumer_p50_ms: 4.0, consumer_p99_ms: 9.0, rest_ms: syncs }),
            turns: None,
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
