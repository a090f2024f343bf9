//! One measurement at a time: orders that are placed, or placed and paid, and what they cost until they are sold.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use diesel::sql_types;
use serde_json::json;

use super::super::cost::{Memory, Meter};
use super::super::disk::Disk;
use super::super::figures::{Aftermath, Kind, Run};
use super::super::generator::Generator;
use super::super::load::Outcome;
use super::super::measure::{self, LOOK, REST_TIMEOUT, Rest, wal};
use super::super::prepare::Shop;
use super::super::report::Conditions;
use super::report::{Measured, Stored};
use crate::audit::{Ledger, provider_book};
use crate::site::Site;

/// A site under measurement, and the payment provider beside it.
pub struct Till {
    meter: Meter,
    ledger: Ledger,
    shop: Shop,
    provider: String,
    provider_ms: u64,
    began: DateTime<Utc>,
    /// Orders that were told placed, and those that were told PAID too.
    acknowledged: u64,
    paid: u64,
    refused: BTreeMap<String, u64>,
    resident_mib_max: f64,
}

/// What became of the orders of one measurement.
#[derive(Debug, Clone, Copy, diesel::QueryableByName)]
struct Sold {
    #[diesel(sql_type = sql_types::BigInt)]
    sold: i64,
    #[diesel(sql_type = sql_types::Double)]
    p50_ms: f64,
    #[diesel(sql_type = sql_types::Double)]
    p99_ms: f64,
    /// From the start to the last confirmation.
    #[diesel(sql_type = sql_types::Double)]
    seconds: f64,
}

impl Till {
    /// From now on the provider takes `provider_ms` for each capture, and makes no mistakes.
    pub async fn open(site: &Site, provider_ms: u64) -> anyhow::Result<Till> {
        let provider = provider_book::address(site.settings())?;
        let faults = if provider_ms == 0 { json!({}) } else { json!({ "late": 1.0, "lateMs": provider_ms }) };
        let client = reqwest::Client::builder().no_proxy().build()?;
        client.put(format!("{provider}/faults")).json(&faults).send().await?.error_for_status()?;
        let mut ledger = Ledger::open(site.settings()).await?;
        let began = wal(&mut ledger).await?.at;
        Ok(Till {
            meter: Meter::new(site),
            ledger,
            shop: Shop::open(site).await?,
            provider,
            provider_ms,
            began,
            acknowledged: 0,
            paid: 0,
            refused: BTreeMap::new(),
            resident_mib_max: 0.0,
        })
    }

    pub async fn postgres_version(&mut self) -> anyhow::Result<String> {
        measure::postgres_version(&mut self.ledger).await
    }

    /// Orders over HTTP, each paid if `kind` is `Paid`, and all they lead to until the system is at rest again.
    pub async fn run(&mut self, kind: Kind, clients: usize, seconds: u64) -> anyhow::Result<Run> {
        let pays = kind == Kind::Paid;
        let generator = Generator::start(&self.shop.job(clients, seconds, pays)).await?;
        let (before, look) = (wal(&mut self.ledger).await?, self.meter.look()?);
        let outcome = generator.go().await?;
        self.resident_mib_max = self.resident_mib_max.max(self.meter.memory().resident_mib);
        ensure!(outcome.placed > 0, "no order came through; the answers were {:?}", outcome.refused);
        self.count(pays, &outcome);
        let started = Instant::now();
        let sold = self.rest(before.at, outcome.placed, pays).await?;
        let rest_ms = sold.is_some().then(|| started.elapsed().as_secs_f64() * 1000.0);
        let cost = self.meter.since(&look)?;
        let after = wal(&mut self.ledger).await?;
        // Placing ends with the answer; paying with the sale.
        let seconds = sold.filter(|_| pays).map_or(outcome.seconds, |sold| sold.seconds);
        Ok(Run {
            kind,
            clients,
            orders: outcome.placed,
            orders_per_second: outcome.placed as f64 / seconds,
            p50_ms: outcome.p50_ms,
            p99_ms: outcome.p99_ms,
            cost,
            wal_bytes: (after.bytes - before.bytes) as f64,
            wal_syncs: None,
            aftermath: sold.filter(|_| pays).map(|sold| Aftermath {
                consumer_p50_ms: sold.p50_ms,
                consumer_p99_ms: sold.p99_ms,
                rest_ms,
            }),
        })
    }

    fn count(&mut self, pays: bool, outcome: &Outcome) {
        self.acknowledged += outcome.placed;
        self.paid += if pays { outcome.placed } else { 0 };
        for (answer, times) in &outcome.refused {
            *self.refused.entry(answer.clone()).or_default() += times;
        }
    }

    /// Waits until all `orders` since `since` are published, consumed, notified and, where they were paid, sold. None:
    /// that did not come in time.
    async fn rest(&mut self, since: DateTime<Utc>, orders: u64, paid: bool) -> anyhow::Result<Option<Sold>> {
        let orders = i64::try_from(orders)?;
        let (notifications, sales) = if paid { (2 * orders, orders) } else { (orders, 0) };
        let started = Instant::now();
        while started.elapsed() < REST_TIMEOUT {
            let statement = self.ledger.statement(include_str!("rest.sql")).into_boxed();
            let statement =
                statement.bind::<sql_types::Timestamptz, _>(since).bind::<sql_types::BigInt, _>(notifications);
            let looked: Vec<Rest> = self.ledger.bound_rows(statement).await?;
            if looked.iter().any(|rest| rest.is_at_rest) {
                // Reads all holds, so it is asked last.
                let statement = self.ledger.statement(include_str!("sold.sql")).into_boxed();
                let statement = statement.bind::<sql_types::Timestamptz, _>(since);
                let sold: Vec<Sold> = self.ledger.bound_rows(statement).await?;
                if let Some(sold) = sold.into_iter().find(|sold| sold.sold >= sales) {
                    return Ok(Some(sold));
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(None)
    }

    /// Puts what was told beside what is stored and beside the provider's book.
    pub async fn conclude(
        mut self,
        conditions: Conditions,
        disks: Vec<Disk>,
        runs: Vec<Run>,
    ) -> anyhow::Result<Measured> {
        let statement = self.ledger.statement(include_str!("stored.sql")).into_boxed();
        let stored: Vec<Stored> =
            self.ledger.bound_rows(statement.bind::<sql_types::Timestamptz, _>(self.began)).await?;
        let book = provider_book::read_totals(&self.provider).await?;
        Ok(Measured {
            conditions,
            provider_ms: self.provider_ms,
            disks,
            runs,
            memory: Memory { resident_mib: self.resident_mib_max, ..self.meter.memory() },
            acknowledged: self.acknowledged,
            paid: self.paid,
            refused: self.refused,
            stored: stored.into_iter().next().context("a sum is one row")?,
            captured: book.captured - book.cancelled,
        })
    }
}
