//! Loads the gate of a product from PostgreSQL when it is lost or wrong, and compares the gates of the products that are
//! being sold with PostgreSQL every few seconds.

use std::collections::HashMap;
use std::sync::LazyLock;

use common::db::Prepared;
use common::redis::{Script, Unavailable, cmd};
use common::{Error, Result};
use contract::ids::{HoldId, ProductId};
use diesel::sql_types::{BigInt, Integer, Nullable, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use crate::gate::{Gate, member};
use crate::stock_rows::read_units;

static LOAD: LazyLock<Script> = LazyLock::new(|| Script::new("gate_load", include_str!("gate_load.lua")));
static PUBLISH: LazyLock<Script> = LazyLock::new(|| Script::new("gate_publish", include_str!("gate_publish.lua")));
static CHECK: LazyLock<Script> =
    LazyLock::new(|| Script::new("gate_check", concat!(include_str!("gate.lua"), include_str!("gate_check.lua"))));

/// Living holds that one call of the script loads: Redis serves nobody else meanwhile.
const LOAD_MAX: usize = 1000;

/// The gate and PostgreSQL are read one after the other while sales go on, so a single difference proves nothing. One
/// that shows in each of so many looks is real.
const LOOKS: usize = 3;

/// Products compared by one query.
const CHECK_MAX: usize = 100;

/// Loads the gate of `product` in the background. Until then PostgreSQL decides alone.
///
/// One process does it for all replicas, and not again before `rebuild_pause_ms`.
pub fn rebuild_later(gate: &Gate, product: ProductId) {
    if !gate.rebuilding.lock().insert(product) {
        return;
    }
    let gate = gate.clone();
    tokio::spawn(async move {
        match rebuild(&gate, product).await {
            Ok(Rebuild::Done) => metrics::counter!("stampede_gate_rebuilds_total").increment(1),
            Ok(Rebuild::Skipped) => {}
            Err(error) => {
                tracing::warn!(product.id = %product, %error, "Gate of product {product} not loaded; the next hold of it tries again");
            }
        }
        gate.rebuilding.lock().remove(&product);
    });
}

enum Rebuild {
    Done,
    /// It was loaded lately, or is being loaded by another replica, or there is no such product.
    Skipped,
}

async fn rebuild(gate: &Gate, product: ProductId) -> Result<Rebuild> {
    let away = |away: Unavailable| Error::transient(away);
    // Nobody deletes this key: a gate that is wrong again within the pause would soon be wrong a third time.
    let lock = gate.redis.key(&format!("gate-lock:{{{product}}}"));
    let pause_ms = gate.settings.rebuild_pause_ms;
    let set: Option<String> =
        gate.redis.command(cmd("SET").arg(lock).arg("1").arg("NX").arg("PX").arg(pause_ms)).await.map_err(away)?;
    if set.is_none() {
        return Ok(Rebuild::Skipped);
    }
    let Some(snapshot) = read_snapshot(gate, product).await? else { return Ok(Rebuild::Skipped) };
    let next = gate.redis.key(&format!("holds-next:{{{product}}}"));
    // A process that died may have left some.
    gate.redis.delete(std::slice::from_ref(&next)).await.map_err(away)?;
    for chunk in snapshot.holds.chunks(LOAD_MAX) {
        let mut args = Vec::with_capacity(2 * chunk.len());
        for hold in chunk {
            args.push(member(hold.id, hold.quantity.into()));
            args.push(hold.remaining_ms.map_or_else(|| "inf".to_owned(), |remaining| remaining.to_string()));
        }
        gate.redis.run::<i64>(&LOAD, std::slice::from_ref(&next), &args).await.map_err(away)?;
    }
    let [stock, holds] = gate.keys(product);
    let idle_ms = gate.settings.idle_seconds * 1000;
    let args = [snapshot.epoch_ms.to_string(), snapshot.tokens.to_string(), idle_ms.to_string()];
    gate.redis.run::<i64>(&PUBLISH, &[stock, holds, next], &args).await.map_err(away)?;
    tracing::info!(
        product.id = %product, tokens = snapshot.tokens, holds = snapshot.holds.len(),
        "Loaded the gate of product {product}"
    );
    Ok(Rebuild::Done)
}

/// What a gate has to count, by PostgreSQL.
struct Snapshot {
    epoch_ms: i64,
    tokens: i64,
    holds: Vec<LivingHold>,
}

struct LivingHold {
    id: HoldId,
    quantity: i32,
    /// None: pinned.
    remaining_ms: Option<i64>,
}

#[derive(QueryableByName)]
struct SnapshotRow {
    #[diesel(sql_type = BigInt)]
    epoch_ms: i64,
    #[diesel(sql_type = BigInt)]
    on_hand: i64,
    #[diesel(sql_type = Nullable<Uuid>)]
    hold_id: Option<HoldId>,
    #[diesel(sql_type = Nullable<Integer>)]
    quantity: Option<i32>,
    #[diesel(sql_type = Nullable<BigInt>)]
    remaining_ms: Option<i64>,
}

/// None: there is no such product.
async fn read_snapshot(gate: &Gate, product: ProductId) -> Result<Option<Snapshot>> {
    let query = sql_query(include_str!("rebuild_gate.sql")).bind::<Uuid, _>(product);
    let rows: Vec<SnapshotRow> = Prepared(query).load(&mut gate.db.read().await?).await?;
    let Some(first) = rows.as_slice().first() else { return Ok(None) };
    let (epoch_ms, on_hand) = (first.epoch_ms, first.on_hand);
    let living = |row: SnapshotRow| {
        Some(LivingHold { id: row.hold_id?, quantity: row.quantity?, remaining_ms: row.remaining_ms })
    };
    let holds: Vec<LivingHold> = rows.into_iter().filter_map(living).collect();
    let held: i64 = holds.iter().map(|hold| i64::from(hold.quantity)).sum();
    Ok(Some(Snapshot { epoch_ms, tokens: on_hand - held, holds }))
}

/// Compares the gates of the products that were asked for lately with PostgreSQL, and has those loaded that differ.
pub async fn check_gates(gate: &Gate) -> Result<()> {
    let asked = gate.asked_products();
    metrics::gauge!("stampede_gate_products").set(asked.len() as f64);
    for chunk in asked.chunks(CHECK_MAX) {
        let mut suspects = chunk.to_vec();
        for _ in 0..LOOKS {
            suspects = differing(gate, &suspects).await?;
        }
        for product in suspects {
            metrics::counter!("stampede_gate_total", "outcome" => "drift").increment(1);
            rebuild_later(gate, product);
            // It may have been loaded too lately to be loaded again now: the next check looks once more.
            gate.note_asked(product);
        }
    }
    Ok(())
}

async fn differing(gate: &Gate, products: &[ProductId]) -> Result<Vec<ProductId>> {
    let mut gates = HashMap::new();
    let args = [gate.settings.take_ms.to_string(), (gate.settings.idle_seconds * 1000).to_string()];
    for product in products {
        match gate.redis.run::<(i64, i64, i64)>(&CHECK, &gate.keys(*product), &args).await {
            Ok((1, tokens, young)) => drop(gates.insert(*product, (tokens, young))),
            // Not loaded: the next take has it loaded.
            Ok(_) => {}
            Err(_) => return Ok(Vec::new()),
        }
    }
    if gates.is_empty() {
        return Ok(Vec::new());
    }
    let products: Vec<ProductId> = gates.keys().copied().collect();
    let units = read_units(&mut *gate.db.read().await?, &products).await?;
    let differs = |(product, (tokens, young)): (ProductId, (i64, i64))| {
        let units = units.get(&product)?;
        let available = units.on_hand - units.held;
        // PostgreSQL may have committed the young takes already, or not yet.
        (tokens > available || tokens < available - young).then_some(product)
    };
    Ok(gates.into_iter().filter_map(differs).collect())
}
