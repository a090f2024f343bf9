//! The gate made right again: loaded anew from PostgreSQL when it is lost or wrong, and compared with it every few
//! seconds for the products that are being sold.

use std::collections::HashMap;
use std::sync::LazyLock;

use common::db::Prepared;
use common::redis::{Script, Unavailable};
use common::{Error, Result};
use contract::ids::{HoldId, ProductId};
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use crate::gate::{Gate, member};

static LOAD: LazyLock<Script> = LazyLock::new(|| Script::new("gate_load", include_str!("gate_load.lua")));
static PUBLISH: LazyLock<Script> = LazyLock::new(|| Script::new("gate_publish", include_str!("gate_publish.lua")));
static CHECK: LazyLock<Script> =
    LazyLock::new(|| Script::new("gate_check", concat!(include_str!("gate.lua"), include_str!("gate_check.lua"))));
static LOCK: LazyLock<Script> = LazyLock::new(|| {
    Script::new("gate_lock", "return redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) and 1 or 0")
});

/// Live holds that one script call loads: it stops everybody else meanwhile.
const LOAD_MAX: usize = 1000;

/// The gate and PostgreSQL are read one after the other, and sales go on meanwhile; a difference that shows in every
/// one of so many looks is no coincidence.
const LOOKS: usize = 3;

/// Products compared by one query.
const CHECK_MAX: usize = 100;

impl Gate {
    /// Loads the gate of `product` from PostgreSQL in the background. Meanwhile everyone else asks PostgreSQL.
    ///
    /// One rebuilder per product over all replicas, and not again before `rebuild_pause_ms`.
    pub fn rebuild_later(&self, product: ProductId) {
        if !self.rebuilding.lock().insert(product) {
            return;
        }
        let gate = self.clone();
        tokio::spawn(async move {
            match gate.rebuild(product).await {
                Ok(true) => metrics::counter!("stampede_gate_rebuilds_total").increment(1),
                Ok(false) => {}
                Err(error) => tracing::warn!(product.id = %product, %error, "The gate could not be rebuilt for now"),
            }
            gate.rebuilding.lock().remove(&product);
        });
    }

    /// False: someone else does it, or there is nothing to load.
    async fn rebuild(&self, product: ProductId) -> Result<bool> {
        let away = |away: Unavailable| Error::transient(away);
        let lock = self.redis.key(&format!("gate-lock:{{{product}}}"));
        let pause_ms = self.settings.rebuild_pause_ms.to_string();
        // Nobody unlocks: a gate that is wrong again within the pause would only be wrong a third time.
        if self.redis.run::<i64>(&LOCK, &[lock], &[pause_ms]).await.map_err(away)? == 0 {
            return Ok(false);
        }
        let Some(snapshot) = self.snapshot(product).await? else { return Ok(false) };
        let next = self.redis.key(&format!("holds-next:{{{product}}}"));
        for (index, some) in snapshot.holds.chunks(LOAD_MAX).enumerate() {
            let mut args = vec![if index == 0 { "first" } else { "more" }.to_owned()];
            for hold in some {
                args.push(member(hold.hold_id, i64::from(hold.quantity)));
                args.push(hold.remaining_ms.map_or_else(|| "inf".to_owned(), |remaining| remaining.to_string()));
            }
            self.redis.run::<i64>(&LOAD, std::slice::from_ref(&next), &args).await.map_err(away)?;
        }
        let [stock, holds] = self.keys(product);
        let idle_ms = self.settings.idle_seconds * 1000;
        let args = [snapshot.epoch_ms.to_string(), snapshot.tokens.to_string(), idle_ms.to_string()];
        self.redis.run::<i64>(&PUBLISH, &[stock, holds, next], &args).await.map_err(away)?;
        tracing::info!(product.id = %product, tokens = snapshot.tokens, holds = snapshot.holds.len(), "Loaded the gate of {product}");
        Ok(true)
    }

    /// What PostgreSQL says, in one statement and so of one instant.
    async fn snapshot(&self, product: ProductId) -> Result<Option<Snapshot>> {
        let mut conn = self.db.read().await?;
        let rows: Vec<SnapshotRow> = Prepared(
            sql_query(
                "select (extract(epoch from clock.now) * 1000)::bigint as epoch_ms, stocks.on_hand, live.hold_id,
                    live.quantity, live.remaining_ms
               from (select clock_timestamp() as now) as clock
               join stocks on stocks.product_id = $1
               left join lateral (
                    select holds.hold_id, hold_lines.quantity,
                           case when holds.state = 'HELD'
                                then (extract(epoch from holds.expires_at - clock.now) * 1000)::bigint
                            end as remaining_ms
                      from holds
                      join hold_lines on hold_lines.hold_id = holds.hold_id and hold_lines.product_id = $1
                     where holds.state = 'PINNED'
                        or (holds.state = 'HELD' and holds.expires_at > clock.now)
                    ) as live on true",
            )
            .bind::<Uuid, _>(product),
        )
        .load(&mut conn)
        .await?;
        let Some(first) = rows.as_slice().first() else { return Ok(None) };
        let (epoch_ms, on_hand) = (first.epoch_ms, first.on_hand);
        let holds: Vec<LiveHold> = rows.into_iter().filter_map(LiveHold::from_row).collect();
        let held: i64 = holds.iter().map(|hold| i64::from(hold.quantity)).sum();
        Ok(Some(Snapshot { epoch_ms, tokens: on_hand - held, holds }))
    }

    /// Compares the gates of the products sold lately with PostgreSQL, and rebuilds those that differ.
    pub async fn check(&self) -> Result<()> {
        let touched = self.touched();
        metrics::gauge!("stampede_gate_products").set(touched.len() as f64);
        for some in touched.chunks(CHECK_MAX) {
            let mut suspects = some.to_vec();
            for _ in 0..LOOKS {
                suspects = self.differing(&suspects).await?;
            }
            for product in suspects {
                metrics::counter!("stampede_gate_total", "outcome" => "drift").increment(1);
                self.rebuild_later(product);
                // It may have been loaded too recently to be loaded again: the next check looks once more.
                self.touch(product);
            }
        }
        Ok(())
    }

    async fn differing(&self, products: &[ProductId]) -> Result<Vec<ProductId>> {
        let mut gates = HashMap::new();
        let args = [self.settings.take_ms.to_string(), (self.settings.idle_seconds * 1000).to_string()];
        for product in products {
            match self.redis.run::<(i64, i64, i64)>(&CHECK, &self.keys(*product), &args).await {
                Ok((1, tokens, young)) => drop(gates.insert(*product, (tokens, young))),
                // Not loaded: the next take has it rebuilt.
                Ok(_) => {}
                Err(_) => return Ok(Vec::new()),
            }
        }
        if gates.is_empty() {
            return Ok(Vec::new());
        }
        let available = self.available(gates.keys().copied().collect()).await?;
        let differs = |(product, (tokens, young)): (ProductId, (i64, i64))| {
            // Young takes may or may not be in PostgreSQL by now.
            let available = *available.get(&product)?;
            (tokens > available || tokens < available - young).then_some(product)
        };
        Ok(gates.into_iter().filter_map(differs).collect())
    }

    /// Units on sale by PostgreSQL's account, without counting what has lapsed as held.
    async fn available(&self, products: Vec<ProductId>) -> Result<HashMap<ProductId, i64>> {
        let mut conn = self.db.read().await?;
        let rows: Vec<AvailableRow> = Prepared(
            sql_query(
                "select stocks.product_id,
                    (stocks.on_hand - stocks.held + coalesce(lapsed.units, 0))::bigint as available
               from stocks
               left join (
                    select hold_lines.product_id, sum(hold_lines.quantity) as units
                      from holds
                      join hold_lines on hold_lines.hold_id = holds.hold_id
                     where holds.state = 'HELD' and holds.expires_at <= statement_timestamp()
                     group by hold_lines.product_id
                    ) as lapsed on lapsed.product_id = stocks.product_id
              where stocks.product_id = any($1)",
            )
            .bind::<Array<Uuid>, _>(products),
        )
        .load(&mut conn)
        .await?;
        Ok(rows.into_iter().map(|row| (row.product_id, row.available)).collect())
    }
}

struct Snapshot {
    epoch_ms: i64,
    tokens: i64,
    holds: Vec<LiveHold>,
}

struct LiveHold {
    hold_id: HoldId,
    quantity: i32,
    remaining_ms: Option<i64>,
}

impl LiveHold {
    fn from_row(row: SnapshotRow) -> Option<LiveHold> {
        Some(LiveHold { hold_id: row.hold_id?, quantity: row.quantity?, remaining_ms: row.remaining_ms })
    }
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

#[derive(QueryableByName)]
struct AvailableRow {
    #[diesel(sql_type = Uuid)]
    product_id: ProductId,
    #[diesel(sql_type = BigInt)]
    available: i64,
}
