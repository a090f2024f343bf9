//! The gate in front of stock: Redis refuses the many who come too late, so that PostgreSQL meets only the few it can
//! serve.
//!
//! The gate is advisory: PostgreSQL decides. A gate that promises too much sends requests to PostgreSQL, which refuses
//! them and has the gate loaded anew; one that promises too little under-sells until the next check. If a gate is not
//! loaded, or Redis does not answer, every request goes to PostgreSQL.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use common::db::Db;
use common::redis::{Redis, Script};
use contract::ids::{HoldId, ProductId};
use parking_lot::Mutex;
use serde::Deserialize;

use crate::refused::Shortage;
use crate::wanted::WantedLine;

static TAKE: LazyLock<Script> =
    LazyLock::new(|| Script::new("gate_take", concat!(include_str!("gate.lua"), include_str!("gate_take.lua"))));
static APPLY: LazyLock<Script> =
    LazyLock::new(|| Script::new("gate_apply", concat!(include_str!("gate.lua"), include_str!("gate_apply.lua"))));

/// Updates that one call of the script applies: Redis serves nobody else meanwhile.
const UPDATES_MAX: usize = 500;

/// Products that a process remembers between two checks. More are served, but not checked by this process.
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
    /// The products whose gates this process is loading.
    pub(crate) rebuilding: Arc<Mutex<HashSet<ProductId>>>,
}

/// What this process knows of one product's gate.
#[derive(Default)]
struct Seen {
    /// The newest epoch.
    epoch: i64,
    /// Whether the product was asked for since the last check.
    asked: bool,
}

/// The gate's answer for one line that may go on to PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// Its units are set aside. They come back after `take_ms` unless an update keeps them.
    Taken,
    /// The gate has this hold already.
    Repeat,
    /// The gate is not loaded, or is older than one that was seen: have it loaded.
    NotLoaded,
    /// The gate cannot tell.
    Unknown,
}

/// What PostgreSQL has committed and the gate has yet to hear.
#[derive(Debug, Clone, Copy)]
pub struct GateUpdate {
    pub product: ProductId,
    pub quantity: i64,
    pub mark: Mark,
}

/// What became of the units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// They are held for so many milliseconds more; None: pinned, without end.
    Keep { hold: HoldId, remaining_ms: Option<i64> },
    /// They are on sale again.
    Back { hold: HoldId },
    /// They are sold.
    Sold { hold: HoldId },
    /// They came into the stock, or left it, by an adjustment or a return.
    Units,
}

impl Gate {
    pub fn new(redis: Redis, db: Db, settings: GateSettings) -> Self {
        Self { redis, db, settings: Arc::new(settings), seen: Arc::default(), rebuilding: Arc::default() }
    }

    /// Sets units of `product` aside for lines of holds, each with its quantity. An answer for each.
    pub async fn take(&self, product: ProductId, lines: &[(HoldId, i32)]) -> Vec<Result<Take, Shortage>> {
        let mut args = vec![self.settings.take_ms.to_string(), self.note_asked(product).to_string()];
        args.extend(
            lines.iter().flat_map(|(hold, quantity)| [member(*hold, (*quantity).into()), quantity.to_string()]),
        );
        let answers: Vec<(i64, i64, i64)> = match self.redis.run(&TAKE, &self.keys(product), &args).await {
            Ok(answers) => answers,
            Err(_) => return lines.iter().map(|_| Ok(counted(Take::Unknown, "away"))).collect(),
        };
        let answers = answers.into_iter().zip(lines);
        answers.map(|(answer, (_, requested))| self.answer(product, *requested, answer)).collect()
    }

    fn answer(&self, product: ProductId, requested: i32, answer: (i64, i64, i64)) -> Result<Take, Shortage> {
        match answer {
            (0, available, _) => Err(Shortage { product, requested, available: available.max(0) }),
            (1, _, epoch) => {
                self.note_epoch(product, epoch);
                Ok(counted(Take::Taken, "taken"))
            }
            (2, ..) => Ok(counted(Take::Repeat, "known")),
            _ => Ok(counted(Take::NotLoaded, "rebuild")),
        }
    }

    /// Puts units back that a hold has taken and PostgreSQL will not hold, without waiting.
    pub fn undo_takes(&self, hold: HoldId, lines: &[WantedLine], takes: &[Take]) {
        let taken = lines.iter().zip(takes).filter(|(_, take)| **take == Take::Taken);
        let back = |line: &WantedLine| GateUpdate {
            product: line.product,
            quantity: line.quantity.into(),
            mark: Mark::Back { hold },
        };
        self.apply_later(taken.map(|(line, _)| back(line)).collect());
    }

    /// Tells the gate what PostgreSQL has committed, without waiting. If an update is lost, a take ends by itself and the
    /// periodic check finds every other difference.
    pub fn apply_later(&self, updates: Vec<GateUpdate>) {
        if updates.is_empty() {
            return;
        }
        let gate = self.clone();
        tokio::spawn(async move { gate.apply(&updates).await });
    }

    async fn apply(&self, updates: &[GateUpdate]) {
        self.db.point("hold.before_gate_settle").await;
        let mut of_product: BTreeMap<ProductId, Vec<&GateUpdate>> = BTreeMap::new();
        for update in updates {
            of_product.entry(update.product).or_default().push(update);
        }
        for (product, updates) in of_product {
            let keys = self.keys(product);
            for chunk in updates.chunks(UPDATES_MAX) {
                let args: Vec<String> = chunk.iter().flat_map(|update| update.args()).collect();
                if self.redis.run::<i64>(&APPLY, &keys, &args).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Both keys of a product have a hash tag in common, so that they lie in one slot of a cluster.
    pub(crate) fn keys(&self, product: ProductId) -> [String; 2] {
        [self.redis.key(&format!("stock:{{{product}}}")), self.redis.key(&format!("holds:{{{product}}}"))]
    }

    /// Has `product` looked at by the next check. Returns the newest epoch that this process has seen.
    pub(crate) fn note_asked(&self, product: ProductId) -> i64 {
        let mut seen = self.seen.lock();
        if let Some(known) = seen.get_mut(&product) {
            known.asked = true;
            return known.epoch;
        }
        if seen.len() < PRODUCTS_MAX {
            seen.insert(product, Seen { epoch: 0, asked: true });
        }
        0
    }

    fn note_epoch(&self, product: ProductId, epoch: i64) {
        if let Some(known) = self.seen.lock().get_mut(&product) {
            known.epoch = known.epoch.max(epoch);
        }
    }

    /// The products that were asked for since the last call; forgets the others.
    pub(crate) fn asked_products(&self) -> Vec<ProductId> {
        let mut seen = self.seen.lock();
        seen.retain(|_, known| std::mem::take(&mut known.asked));
        seen.keys().copied().collect()
    }
}

impl GateUpdate {
    fn args(&self) -> [String; 4] {
        let member = |hold| member(hold, self.quantity);
        let (mark, member, remaining) = match self.mark {
            Mark::Keep { hold, remaining_ms: Some(remaining) } => ("keep", member(hold), remaining.max(0).to_string()),
            Mark::Keep { hold, remaining_ms: None } => ("keep", member(hold), "inf".to_owned()),
            Mark::Back { hold } => ("back", member(hold), String::new()),
            Mark::Sold { hold } => ("sold", member(hold), String::new()),
            Mark::Units => ("units", String::new(), String::new()),
        };
        [mark.to_owned(), member, self.quantity.to_string(), remaining]
    }
}

fn counted(take: Take, outcome: &'static str) -> Take {
    metrics::counter!("stampede_gate_total", "outcome" => outcome).increment(1);
    take
}

/// The gate's name for one line of a hold. It contains the quantity: that is what an ended take puts back.
pub(crate) fn member(hold: HoldId, quantity: i64) -> String {
    format!("{hold}:{quantity}")
}
