//! The gate in front of stock: Redis refuses the many who come too late, so that PostgreSQL meets only the few it can
//! serve.
//!
//! It is advisory. A gate that gives too much sends requests to PostgreSQL, which refuses them and has the gate
//! rebuilt; one that gives too little under-sells until the next check. One that is lost or away lets everyone through.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use common::db::Db;
use common::redis::{Redis, Script};
use contract::ids::{HoldId, ProductId};
use parking_lot::Mutex;
use serde::Deserialize;

use crate::refused::{Refused, Shortage};
use crate::stock::Wanted;

static TAKE: LazyLock<Script> =
    LazyLock::new(|| Script::new("gate_take", concat!(include_str!("gate.lua"), include_str!("gate_take.lua"))));
static SETTLE: LazyLock<Script> =
    LazyLock::new(|| Script::new("gate_settle", concat!(include_str!("gate.lua"), include_str!("gate_settle.lua"))));

/// Settlements that one script call makes: it stops everybody else meanwhile.
const SETTLE_MAX: usize = 500;

/// Products whose epoch a process remembers between two checks. Those beyond are served, but not checked from here.
const PRODUCTS_MAX: usize = 10_000;

/// Section `[inventory.gate]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSettings {
    pub take_ms: u64,
    pub rebuild_pause_ms: u64,
    pub check_period_ms: u64,
    pub idle_seconds: u64,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    pub(crate) redis: Redis,
    pub(crate) db: Db,
    pub(crate) settings: Arc<GateSettings>,
    seen: Arc<Mutex<HashMap<ProductId, Seen>>>,
    pub(crate) rebuilding: Arc<Mutex<HashSet<ProductId>>>,
}

/// What this process knows of one product's gate.
#[derive(Default)]
struct Seen {
    epoch: i64,
    /// Since the last check.
    touched: bool,
}

/// What the gate said to one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// Its units are set aside; they come back by themselves if nobody settles them.
    Taken,
    /// This hold is in the gate already.
    Known,
    /// The gate cannot tell: PostgreSQL decides alone.
    Straight,
}

/// What became of one line of a hold in PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is held for so many milliseconds more; None: pinned, without end.
    Keep { remaining_ms: Option<i64> },
    /// Its units are on sale again.
    Back,
    /// Its units are sold.
    Sold,
    /// So many units came into the stock (or left it), by an adjustment or a return.
    Units,
}

/// A change of PostgreSQL that the gate has yet to hear of.
#[derive(Debug, Clone, Copy)]
pub struct Settlement {
    pub product: ProductId,
    /// Unused for [`Mark::Units`].
    pub hold: HoldId,
    pub quantity: i64,
    pub mark: Mark,
}

impl Gate {
    pub fn new(redis: Redis, db: Db, settings: GateSettings) -> Self {
        Self { redis, db, settings: Arc::new(settings), seen: Arc::default(), rebuilding: Arc::default() }
    }

    /// Takes every line or none. Refuses with `OUT_OF_STOCK`, except a repeat of a hold that the gate knows.
    pub async fn take(&self, wanted: &Wanted) -> Result<Vec<Take>, Refused> {
        let mut takes = Vec::with_capacity(wanted.lines.len());
        for line in &wanted.lines {
            match self.take_line(wanted.hold, line.product, line.quantity).await {
                Ok(take) => takes.push(take),
                // A hold that the gate knows by another line is a repeat: PostgreSQL has its answer.
                Err(_) if takes.contains(&Take::Known) => takes.push(Take::Straight),
                Err(short) => {
                    self.give_back(wanted, &takes);
                    metrics::counter!("stampede_gate_total", "outcome" => "refused").increment(1);
                    return Err(Refused::OutOfStock { shortages: vec![short] });
                }
            }
        }
        Ok(takes)
    }

    async fn take_line(&self, hold: HoldId, product: ProductId, quantity: i32) -> Result<Take, Shortage> {
        let epoch = self.touch(product);
        let keys = self.keys(product);
        let args = [
            member(hold, i64::from(quantity)),
            quantity.to_string(),
            self.settings.take_ms.to_string(),
            epoch.to_string(),
        ];
        let (take, outcome) = match self.redis.run::<(i64, i64, i64)>(&TAKE, &keys, &args).await {
            Ok((0, available, _)) => {
                return Err(Shortage { product, requested: quantity, available: available.max(0) });
            }
            Ok((1, _, epoch)) => {
                self.saw(product, epoch);
                (Take::Taken, "taken")
            }
            Ok((2, ..)) => (Take::Known, "known"),
            Ok(_) => {
                self.rebuild_later(product);
                (Take::Straight, "rebuild")
            }
            Err(_) => (Take::Straight, "away"),
        };
        metrics::counter!("stampede_gate_total", "outcome" => outcome).increment(1);
        Ok(take)
    }

    /// Gives back what `takes` set aside, without waiting.
    pub fn give_back(&self, wanted: &Wanted, takes: &[Take]) {
        let taken = wanted.lines.iter().zip(takes).filter(|(_, take)| **take == Take::Taken);
        let back = |product, quantity| Settlement { product, hold: wanted.hold, quantity, mark: Mark::Back };
        self.settle_later(taken.map(|(line, _)| back(line.product, i64::from(line.quantity))).collect());
    }

    /// Tells the gate what PostgreSQL has committed, without making anyone wait for it. Should it be lost, an unsettled
    /// take lapses by itself and the periodic check finds the rest.
    pub fn settle_later(&self, settlements: Vec<Settlement>) {
        if settlements.is_empty() {
            return;
        }
        let gate = self.clone();
        tokio::spawn(async move { gate.settle(&settlements).await });
    }

    async fn settle(&self, settlements: &[Settlement]) {
        self.db.point("hold.before_gate_settle").await;
        let mut of_product: BTreeMap<ProductId, Vec<&Settlement>> = BTreeMap::new();
        for settlement in settlements {
            of_product.entry(settlement.product).or_default().push(settlement);
        }
        for (product, settlements) in of_product {
            let keys = self.keys(product);
            for some in settlements.chunks(SETTLE_MAX) {
                let args: Vec<String> = some.iter().flat_map(|settlement| settlement.args()).collect();
                if self.redis.run::<i64>(&SETTLE, &keys, &args).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Both keys of a product share a hash tag, so that they lie in one slot of a cluster.
    pub(crate) fn keys(&self, product: ProductId) -> [String; 2] {
        [self.redis.key(&format!("stock:{{{product}}}")), self.redis.key(&format!("holds:{{{product}}}"))]
    }

    /// Notes that `product` is being sold; returns the newest epoch this process has seen.
    pub(crate) fn touch(&self, product: ProductId) -> i64 {
        let mut seen = self.seen.lock();
        if let Some(known) = seen.get_mut(&product) {
            known.touched = true;
            return known.epoch;
        }
        if seen.len() < PRODUCTS_MAX {
            seen.insert(product, Seen { epoch: 0, touched: true });
        }
        0
    }

    fn saw(&self, product: ProductId, epoch: i64) {
        if let Some(known) = self.seen.lock().get_mut(&product) {
            known.epoch = known.epoch.max(epoch);
        }
    }

    /// The products sold since the last call; forgets those that were not.
    pub(crate) fn touched(&self) -> Vec<ProductId> {
        let mut seen = self.seen.lock();
        seen.retain(|_, known| std::mem::take(&mut known.touched));
        seen.keys().copied().collect()
    }
}

impl Settlement {
    fn args(&self) -> [String; 4] {
        let (mark, remaining) = match self.mark {
            Mark::Keep { remaining_ms: Some(remaining) } => ("keep", remaining.max(0).to_string()),
            Mark::Keep { remaining_ms: None } => ("keep", "inf".to_owned()),
            Mark::Back => ("back", String::new()),
            Mark::Sold => ("sold", String::new()),
            Mark::Units => ("units", String::new()),
        };
        [mark.to_owned(), member(self.hold, self.quantity), self.quantity.to_string(), remaining]
    }
}

/// How the gate names one line of a hold. The quantity is in it, so that a lapsed take says what it gives back.
pub(crate) fn member(hold: HoldId, quantity: i64) -> String {
    format!("{hold}:{quantity}")
}
