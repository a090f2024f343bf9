//! `Hold`: the gate refuses who comes too late, then one transaction decides for everybody who is waiting.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use common::db::{Db, Prepared, Tx};
use common::{Error, Result};
use contract::ids::{AccountId, HoldId, ProductId};
use diesel::sql_types::{Array, BigInt, Integer, Text, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::expire_holds::{mark_expired, take_over_due};
use crate::gate::{Gate, Mark, Settlement, Take};
use crate::hold::{Hold, HoldState};
use crate::ledger::{lock_stocks, move_stocks};
use crate::read_holds::{Known, known_holds};
use crate::refused::Refused;
use crate::stock::{self, Decision, Moves, Scene, Stock, Wanted};

/// How often a batch is served when an id of it appears meanwhile.
const ATTEMPTS_MAX: u32 = 5;

/// One caller of a batch: what is wanted and what the gate said to each line.
#[derive(Debug, Clone)]
pub struct Caller {
    pub wanted: Arc<Wanted>,
    pub takes: Arc<[Take]>,
}

/// A hold, and whether this call made it.
#[derive(Debug, Clone)]
pub struct Held {
    pub hold: Hold,
    pub created: bool,
}

/// Takes every line out of sale until the hold's time is up, or none.
///
/// Idempotent by the hold's id: a repeat is answered with the first hold. Refuses with `OUT_OF_STOCK`,
/// `PRODUCT_NOT_FOUND`, `PURCHASE_LIMIT_EXCEEDED`, `HOLD_EXPIRED` and `HOLD_ALREADY_RELEASED`.
pub async fn hold_stock(app: &App, wanted: Wanted) -> Result<Held> {
    let takes = app.gate.take(&wanted).await.inspect_err(|_| count("gate_refused"))?;
    let caller = Caller { wanted: Arc::new(wanted), takes: takes.into() };
    let outcome = app.holds.submit(caller.clone()).await;
    match &outcome {
        Ok(held) => count(if held.created { "held" } else { "repeated" }),
        Err(Error::Refused(_)) => count("refused"),
        Err(Error::Fault(_)) => {
            count("failed");
            // Most likely it never began: a full queue must not keep units from others. Should it have committed all
            // the same, the gate gives too much until it is told, which PostgreSQL can bear.
            app.gate.give_back(&caller.wanted, &caller.takes);
        }
    }
    outcome
}

fn count(outcome: &'static str) {
    metrics::counter!("stampede_holds_total", "outcome" => outcome).increment(1);
}

/// Serves one batch, then tells the gate. Idempotent, so that a batch may be run again in parts.
pub async fn hold_batch(db: &Db, gate: &Gate, ttl: Duration, callers: Arc<[Caller]>) -> Result<Vec<Result<Held>>> {
    let served = serve_once_all_is_known(db, ttl, &callers).await?;
    db.point("hold.after_commit").await;
    gate.settle_later(settlements(&callers, &served));
    for (caller, outcome) in callers.iter().zip(&served.outcomes) {
        if let Err(Refused::OutOfStock { shortages }) = outcome {
            // The gate had let it through: it promises more than there is.
            let lines = caller.wanted.lines.iter().zip(caller.takes.iter());
            let taken = |short: ProductId| lines.clone().any(|(l, take)| l.product == short && *take == Take::Taken);
            shortages.iter().filter(|s| taken(s.product)).for_each(|s| gate.rebuild_later(s.product));
        }
    }
    Ok(served.outcomes.into_iter().map(|outcome| outcome.map_err(Into::into)).collect())
}

/// A twin on another replica that wants other products, and the tombstone of an early release, need none of the rows
/// that this batch locks, so they show only when both insert the same id. By then the other has committed, and the next
/// look finds it.
async fn serve_once_all_is_known(db: &Db, ttl: Duration, callers: &[Caller]) -> Result<Served> {
    let mut attempt = 1;
    loop {
        match db.tx("hold_stock", async |tx| serve(tx, ttl, callers).await).await {
            Err(error) if attempt < ATTEMPTS_MAX && is_twin(&error) => attempt += 1,
            outcome => return outcome,
        }
    }
}

fn is_twin(error: &Error) -> bool {
    use diesel::result::{DatabaseErrorKind, Error as Diesel};
    let Error::Fault(fault) = error else { return false };
    let cause = fault.cause.downcast_ref::<Diesel>();
    matches!(cause, Some(Diesel::DatabaseError(DatabaseErrorKind::UniqueViolation, _)))
}

struct Served {
    outcomes: Vec<Result<Held, Refused>>,
    now: DateTime<Utc>,
}

async fn serve(tx: &mut Tx, ttl: Duration, callers: &[Caller]) -> Result<Served> {
    let requests: Vec<Wanted> = callers.iter().map(|caller| Wanted::clone(&caller.wanted)).collect();
    let products: Vec<_> = distinct(requests.iter().flat_map(|wanted| &wanted.lines).map(|line| line.product));
    let ids: Vec<_> = distinct(requests.iter().map(|wanted| wanted.hold));

    // In this order and as two statements: only a snapshot taken under the lock sees a twin that has just committed.
    let locked = lock_stocks(tx, &products).await?;
    let Known { now, holds } = known_holds(tx, &ids).await?;
    let owned = owned_units(tx, &requests, &locked, now).await?;

    let mut scene = Scene { stocks: locked.clone(), holds, owned };
    let mut outcomes = stock::decide(&requests, &scene, now);
    let mut moves = Moves::new();
    let mut before = locked;
    let short = stock::short_products(&mut outcomes);
    if !short.is_empty() {
        // What has lapsed is on sale, whether or not the sweeper has come.
        let taken_over = take_over_due(tx, &short, &before, &[], now).await?;
        for (product, units) in taken_over.units {
            moves.entry(product).or_default().held -= units;
            if let Some(stock) = scene.stocks.get_mut(&product) {
                stock.held -= units;
            }
        }
        before.extend(taken_over.also_locked);
        if !taken_over.holds.is_empty() {
            mark_expired(tx, &taken_over.holds, now).await?;
            outcomes = stock::decide(&requests, &scene, now);
        }
    }

    let new: Vec<Hold> = requests
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| **outcome == Ok(Decision::Take))
        .map(|(wanted, _)| stock::new_hold(wanted, &scene.stocks, now + ttl))
        .collect();
    for line in new.iter().flat_map(|hold| &hold.lines) {
        moves.entry(line.product).or_default().held += i64::from(line.quantity);
    }
    insert_holds(tx, &new, now, now + ttl).await?;
    moves.retain(|_, change| change.held != 0);
    if !moves.is_empty() {
        move_stocks(tx, &before, &moves).await?;
    }
    tx.point("hold.before_commit").await;
    Ok(Served { outcomes: answers(&requests, outcomes, new, &scene), now })
}

fn answers(
    requests: &[Wanted],
    outcomes: Vec<Result<Decision, Refused>>,
    new: Vec<Hold>,
    scene: &Scene,
) -> Vec<Result<Held, Refused>> {
    let new: HashMap<HoldId, Hold> = new.into_iter().map(|hold| (hold.id, hold)).collect();
    let answer = |(wanted, outcome): (&Wanted, Result<Decision, Refused>)| {
        let decision = outcome?;
        let hold = new.get(&wanted.hold).or_else(|| scene.holds.get(&wanted.hold));
        let hold = hold.cloned().ok_or(Refused::HoldNotFound(wanted.hold))?;
        Ok(Held { hold, created: decision == Decision::Take })
    };
    requests.iter().zip(outcomes).map(answer).collect()
}

fn distinct<T: Ord>(of: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = of.collect();
    all.sort();
    all.dedup();
    all
}

#[derive(QueryableByName)]
struct OwnedRow {
    #[diesel(sql_type = Uuid)]
    user_id: AccountId,
    #[diesel(sql_type = Uuid)]
    product_id: ProductId,
    #[diesel(sql_type = BigInt)]
    units: i64,
}

/// What the callers hold and own of products with a limit. Exact, because whoever changes it has the product's lock.
async fn owned_units(
    tx: &mut Tx,
    requests: &[Wanted],
    stocks: &BTreeMap<ProductId, Stock>,
    now: DateTime<Utc>,
) -> Result<HashMap<(AccountId, ProductId), i64>> {
    let limited = |product: &ProductId| stocks.get(product).is_some_and(|stock| stock.max_per_user.is_some());
    let pairs = requests.iter().flat_map(|wanted| wanted.lines.iter().map(|line| (wanted.user, line.product)));
    let pairs: HashSet<_> = pairs.filter(|(_, product)| limited(product)).collect();
    if pairs.is_empty() {
        return Ok(HashMap::new());
    }
    let (users, products): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let rows: Vec<OwnedRow> = Prepared(
        sql_query(
            "select holds.user_id, hold_lines.product_id, sum(hold_lines.quantity)::bigint as units
           from unnest($1::uuid[], $2::uuid[]) as asked (user_id, product_id)
           join holds on holds.user_id = asked.user_id
                     and holds.state in ('HELD', 'PINNED', 'CONFIRMED')
                     and (holds.state <> 'HELD' or holds.expires_at > $3)
           join hold_lines on hold_lines.hold_id = holds.hold_id and hold_lines.product_id = asked.product_id
          group by holds.user_id, hold_lines.product_id",
        )
        .bind::<Array<Uuid>, _>(users)
        .bind::<Array<Uuid>, _>(products)
        .bind::<Timestamptz, _>(now),
    )
    .load(tx)
    .await?;
    Ok(rows.into_iter().map(|row| ((row.user_id, row.product_id), row.units)).collect())
}

async fn insert_holds(tx: &mut Tx, new: &[Hold], now: DateTime<Utc>, expires_at: DateTime<Utc>) -> Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let ids: Vec<HoldId> = new.iter().map(|hold| hold.id).collect();
    let users: Vec<AccountId> = new.iter().filter_map(|hold| hold.user).collect();
    let lines: Vec<_> = new.iter().flat_map(|hold| hold.lines.iter().map(|line| (hold.id, line))).collect();
    Prepared(
        sql_query(include_str!("hold_stock.sql"))
            .bind::<Array<Uuid>, _>(ids)
            .bind::<Array<Uuid>, _>(users)
            .bind::<Timestamptz, _>(expires_at)
            .bind::<Timestamptz, _>(now)
            .bind::<Array<Uuid>, _>(lines.iter().map(|(hold, _)| *hold).collect::<Vec<_>>())
            .bind::<Array<Uuid>, _>(lines.iter().map(|(_, line)| line.product).collect::<Vec<_>>())
            .bind::<Array<Integer>, _>(lines.iter().map(|(_, line)| line.quantity).collect::<Vec<_>>())
            .bind::<Array<BigInt>, _>(lines.iter().map(|(_, line)| line.unit_price).collect::<Vec<_>>())
            .bind::<Array<Text>, _>(lines.iter().map(|(_, line)| line.currency.as_str()).collect::<Vec<_>>())
            .bind::<Array<Text>, _>(lines.iter().map(|(_, line)| line.sku.as_str()).collect::<Vec<_>>())
            .bind::<Array<Text>, _>(lines.iter().map(|(_, line)| line.name.as_str()).collect::<Vec<_>>()),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// What the gate has to hear of a batch: holds stay taken until their time is up, takes for nothing go back.
fn settlements(callers: &[Caller], served: &Served) -> Vec<Settlement> {
    let mut settlements = Vec::new();
    for (caller, outcome) in callers.iter().zip(&served.outcomes) {
        for (line, take) in caller.wanted.lines.iter().zip(caller.takes.iter()) {
            let kept = outcome.as_ref().ok().and_then(|held| kept_ms(&held.hold, line, served.now));
            let mark = match (kept, take) {
                (Some(remaining_ms), _) => Mark::Keep { remaining_ms },
                (None, Take::Taken) => Mark::Back,
                (None, Take::Known | Take::Straight) => continue,
            };
            let (product, quantity) = (line.product, i64::from(line.quantity));
            settlements.push(Settlement { product, hold: caller.wanted.hold, quantity, mark });
        }
    }
    settlements
}

/// How much longer a living hold keeps exactly this line; None: it does not.
fn kept_ms(hold: &Hold, line: &stock::WantedLine, now: DateTime<Utc>) -> Option<Option<i64>> {
    if !hold.lines.iter().any(|held| (held.product, held.quantity) == (line.product, line.quantity)) {
        return None;
    }
    match hold.state_at(now) {
        HoldState::Held => Some(Some((hold.expires_at - now).num_milliseconds())),
        HoldState::Pinned => Some(None),
        HoldState::Confirmed | HoldState::Released | HoldState::Expired | HoldState::Returned => None,
    }
}
