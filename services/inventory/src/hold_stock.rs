//! `Hold`: the gate refuses who comes too late, then one transaction decides for everybody who is waiting.
//!
//! Seats share the transaction, but not the gate: it counts units, and a buyer of seats wants certain ones.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::batch::{Batch, BatchSettings};
use common::db::{Db, Prepared, Tx};
use common::{Error, Result};
use contract::ids::{AccountId, HoldId, ProductId, SeatId};
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Timestamptz, Uuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::find_places::{find_places, limited_pairs, lock_reservations};
use crate::gate::{Gate, GateUpdate, Mark, Take};
use crate::hold::{Hold, HoldState};
use crate::hold_rows::{HoldsRead, read_holds};
use crate::rebuild_gate::rebuild_later;
use crate::refused::Refused;
use crate::seat::Seat;
use crate::seat_rows::{owned_seats, read_seats, take_seats};
use crate::stock::{Decision, Facts, Moves, Stock, decide, due_takers, short_products};
use crate::stock_rows::{StockFeed, lock_stocks, move_stocks};
use crate::take_over::{take_over, take_over_holds};
use crate::take_units::Asked;
use crate::wanted::{Lives, Wanted, WantedLine, new_hold};

/// How often a batch is tried when other transactions insert ids of it first.
const ATTEMPTS_MAX: u32 = 5;

/// A request that the gate has let through, with the gate's answer for each line.
#[derive(Debug, Clone)]
pub struct Admitted {
    wanted: Arc<Wanted>,
    takes: Arc<[Take]>,
}

/// A hold, and whether this request has created it.
#[derive(Debug, Clone)]
pub struct Held {
    pub hold: Hold,
    pub created: bool,
}

/// Takes everything that is wanted out of sale until the hold expires, or nothing.
///
/// Idempotent by the hold's id: a repeat is answered with the first hold; who wants the same seats again gets the
/// reservation that has them. Refuses with `OUT_OF_STOCK`, `PRODUCT_NOT_FOUND`, `PURCHASE_LIMIT_EXCEEDED`,
/// `SEATS_REQUIRED`, `SEAT_NOT_FOUND`, `SEAT_ALREADY_RESERVED`, `RESERVATION_NOT_FOUND`, `RESERVATION_ENDED`,
/// `RESERVATION_ORDERED`, `HOLD_NOT_FOUND`, `HOLD_EXPIRED` and `HOLD_ALREADY_RELEASED`.
pub async fn hold_stock(app: &App, wanted: Wanted) -> Result<Held> {
    let takes = pass_gate(app, &wanted).await?;
    let admitted = Admitted { wanted: Arc::new(wanted), takes: takes.into() };
    let outcome = app.holds.submit(admitted.clone()).await;
    match &outcome {
        Ok(held) => count(if held.created { "held" } else { "repeated" }),
        Err(Error::Refused(_)) => count("refused"),
        Err(Error::Fault(_)) => {
            count("failed");
            // Most likely the queue was full, and others need the units. If the batch has committed all the same, the
            // gate promises too much until it is loaded anew, and PostgreSQL refuses.
            app.gate.undo_takes(admitted.wanted.hold, admitted.wanted.lines(), &admitted.takes);
        }
    }
    outcome
}

fn count(outcome: &'static str) {
    metrics::counter!("stampede_holds_total", "outcome" => outcome).increment(1);
}

/// Takes every line from the gate, or none. Refuses with `OUT_OF_STOCK`, but never a hold that the gate has.
async fn pass_gate(app: &App, wanted: &Wanted) -> Result<Vec<Take>> {
    let mut takes = Vec::with_capacity(wanted.lines().len());
    for line in wanted.lines() {
        let take = match app.takes.submit(Asked { hold: wanted.hold, line: *line }).await {
            Ok(Ok(take)) => take,
            // It has this hold by another line: PostgreSQL answers the repeat.
            Ok(Err(_)) if takes.contains(&Take::Repeat) => Take::Unknown,
            Ok(Err(shortage)) => {
                app.gate.undo_takes(wanted.hold, wanted.lines(), &takes);
                metrics::counter!("stampede_gate_total", "outcome" => "refused").increment(1);
                count("gate_refused");
                return Err(Refused::OutOfStock { shortages: vec![shortage] }.into());
            }
            Err(error) => {
                app.gate.undo_takes(wanted.hold, wanted.lines(), &takes);
                count("failed");
                return Err(error);
            }
        };
        if take == Take::NotLoaded {
            rebuild_later(&app.gate, line.product);
        }
        takes.push(take);
    }
    Ok(takes)
}

/// Starts the queue of [`hold_stock`].
pub fn start_batch(
    settings: &BatchSettings,
    lives: Lives,
    db: &Db,
    gate: &Gate,
    feed: &StockFeed,
) -> Batch<Admitted, Held> {
    let (db, gate, feed) = (db.clone(), gate.clone(), feed.clone());
    Batch::start("hold_stock", settings, move |requests| {
        let (db, gate, feed) = (db.clone(), gate.clone(), feed.clone());
        async move { hold_batch(&db, &gate, &feed, lives, requests).await }
    })
}

/// Serves one batch, then tells the gate. Idempotent.
async fn hold_batch(
    db: &Db,
    gate: &Gate,
    feed: &StockFeed,
    lives: Lives,
    requests: Arc<[Admitted]>,
) -> Result<Vec<Result<Held>>> {
    let served = commit_batch(db, feed, lives, &requests).await?;
    db.point("hold.after_commit").await;
    gate.apply_later(gate_updates(&requests, &served));
    for (request, outcome) in requests.iter().zip(&served.outcomes) {
        let Err(refused) = outcome else { continue };
        let lines = request.wanted.lines().iter().zip(request.takes.iter());
        let taken = |product: ProductId| lines.clone().any(|(l, take)| l.product == product && *take == Take::Taken);
        // The gate has let it through, so it promises more than there is.
        let wrong = refused.shortages().iter().filter(|shortage| taken(shortage.product));
        wrong.for_each(|shortage| rebuild_later(gate, shortage.product));
    }
    Ok(served.outcomes.into_iter().map(|outcome| outcome.map_err(Into::into)).collect())
}

/// Another replica may insert a hold or a tombstone of the same id without needing any row of stock that this batch has
/// locked. That shows only when this batch inserts its holds; by then the other has committed, and the next try reads it.
async fn commit_batch(db: &Db, feed: &StockFeed, lives: Lives, requests: &[Admitted]) -> Result<Served> {
    let mut attempt = 1;
    loop {
        match db.tx("hold_stock", async |tx| serve(tx, feed, lives, requests).await).await {
            Err(error) if attempt < ATTEMPTS_MAX && is_unique_violation(&error) => attempt += 1,
            outcome => return outcome,
        }
    }
}

fn is_unique_violation(error: &Error) -> bool {
    use diesel::result::{DatabaseErrorKind, Error as Diesel};
    let Error::Fault(fault) = error else { return false };
    let cause = fault.cause.downcast_ref::<Diesel>();
    matches!(cause, Some(Diesel::DatabaseError(DatabaseErrorKind::UniqueViolation, _)))
}

struct Served {
    outcomes: Vec<Result<Held, Refused>>,
    now: DateTime<Utc>,
}

async fn serve(tx: &mut Tx, feed: &StockFeed, lives: Lives, requests: &[Admitted]) -> Result<Served> {
    let requests: Vec<Wanted> = requests.iter().map(|request| Wanted::clone(&request.wanted)).collect();
    let ids: BTreeSet<_> = requests.iter().map(|wanted| wanted.hold).collect();
    let places = find_places(tx, &requests).await?;

    // In this order, and in statements of their own: what commits while this one waits for the lock is seen by the next.
    let stocks = lock_stocks(tx, &Vec::from_iter(places.products)).await?;
    let reservations = lock_reservations(tx, &places.reservations).await?;
    let HoldsRead { now, mut holds } = read_holds(tx, &Vec::from_iter(ids)).await?;
    holds.extend(reservations);
    let seats = read_seats(tx, &places.seats).await?;
    let owned_seats = owned_seats(tx, limited_pairs(&requests, &seats, &places.seat_limits), now).await?;
    let owned = owned_units(tx, &requests, &seats, &stocks, now).await?;

    let mut facts =
        Facts { stocks, freed: Moves::new(), holds, owned, seats, seat_limits: places.seat_limits, owned_seats };
    let mut outcomes = decide(&requests, &facts, now);
    if free_expired(tx, &mut facts, &outcomes, now).await? {
        outcomes = decide(&requests, &facts, now);
    }

    let created = requests.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == Ok(Decision::Create));
    let (from, created): (Vec<Option<HoldId>>, Vec<Hold>) =
        created.map(|(wanted, _)| (wanted.reservation(), new_hold(wanted, &facts, lives, now))).unzip();
    let mut moves = facts.freed.clone();
    // What a reservation had was held before.
    let new = from.iter().zip(&created).filter(|(from, _)| from.is_none());
    for line in new.flat_map(|(_, hold)| &hold.lines) {
        moves.entry(line.product).or_default().held += i64::from(line.quantity);
    }
    moves.retain(|_, change| change.held != 0);
    insert_holds(tx, &created, now).await?;
    if !moves.is_empty() {
        move_stocks(tx, feed, &facts.stocks, &moves).await?;
    }
    let seated: Vec<&Hold> = created.iter().filter(|hold| hold.seats().next().is_some()).collect();
    if !seated.is_empty() {
        end_reservations(tx, from.iter().zip(&created), now).await?;
        take_seats(tx, &seated, now).await?;
    }
    tx.point("hold.before_commit").await;
    facts.holds.extend(created.into_iter().map(|hold| (hold.id, hold)));
    read_same(tx, &outcomes, &mut facts.holds).await?;
    Ok(Served { outcomes: answers(&requests, outcomes, &facts.holds), now })
}

/// Takes over the expired holds that are in the way of refused requests. Returns whether that has freed anything.
async fn free_expired(
    tx: &mut Tx,
    facts: &mut Facts,
    outcomes: &[Result<Decision, Refused>],
    now: DateTime<Utc>,
) -> Result<bool> {
    let (short, due) = (short_products(outcomes), due_takers(outcomes, facts, now));
    // The reservations of this batch stay as they were read.
    let except: Vec<HoldId> = facts.holds.values().filter(|hold| hold.concert.is_some()).map(|hold| hold.id).collect();
    if !short.is_empty() {
        facts.freed = take_over(tx, &short, &mut facts.stocks, &except, now).await?;
    }
    if !due.is_empty() {
        for (product, freed) in take_over_holds(tx, &due, &mut facts.stocks, now).await? {
            facts.freed.entry(product).or_default().held += freed.held;
        }
    }
    if facts.freed.is_empty() {
        return Ok(false);
    }
    if !facts.seats.is_empty() {
        facts.seats = read_seats(tx, &facts.seats.keys().copied().collect::<Vec<_>>()).await?;
    }
    Ok(true)
}

/// A reservation whose seats an order's hold has now is over.
async fn end_reservations(
    tx: &mut Tx,
    moved: impl Iterator<Item = (&Option<HoldId>, &Hold)>,
    now: DateTime<Utc>,
) -> Result<()> {
    let moved: Vec<(HoldId, HoldId)> = moved.filter_map(|(from, hold)| Some(((*from)?, hold.id))).collect();
    if moved.is_empty() {
        return Ok(());
    }
    let query = sql_query(include_str!("hold_stock_move.sql"))
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Uuid>, _>(moved.iter().map(|(from, _)| *from).collect::<Vec<_>>())
        .bind::<Array<Uuid>, _>(moved.iter().map(|(_, to)| *to).collect::<Vec<_>>());
    let ended = Prepared(query).execute(tx).await?;
    if ended != moved.len() {
        return Err(Error::fault(anyhow::anyhow!("{ended} of {} reservations to be ordered were held", moved.len())));
    }
    Ok(())
}

/// Adds the reservations that requests are answered with because they name the same seats.
async fn read_same(
    tx: &mut Tx,
    outcomes: &[Result<Decision, Refused>],
    holds: &mut HashMap<HoldId, Hold>,
) -> Result<()> {
    let same = outcomes.iter().filter_map(|outcome| match outcome {
        Ok(Decision::Same(hold)) if !holds.contains_key(hold) => Some(*hold),
        _ => None,
    });
    let same: BTreeSet<HoldId> = same.collect();
    if !same.is_empty() {
        holds.extend(read_holds(tx, &Vec::from_iter(same)).await?.holds);
    }
    Ok(())
}

fn answers(
    requests: &[Wanted],
    outcomes: Vec<Result<Decision, Refused>>,
    holds: &HashMap<HoldId, Hold>,
) -> Vec<Result<Held, Refused>> {
    let answer = |(wanted, outcome): (&Wanted, Result<Decision, Refused>)| {
        let decision = outcome?;
        let id = if let Decision::Same(same) = decision { same } else { wanted.hold };
        let hold = holds.get(&id).cloned().ok_or(Refused::HoldNotFound(id))?;
        Ok(Held { hold, created: decision == Decision::Create })
    };
    requests.iter().zip(outcomes).map(answer).collect()
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

/// What the users of the batch hold and have bought of products with a limit. It cannot change before the commit: whoever
/// changes it locks the stock of the product.
async fn owned_units(
    tx: &mut Tx,
    requests: &[Wanted],
    seats: &HashMap<SeatId, Seat>,
    stocks: &BTreeMap<ProductId, Stock>,
    now: DateTime<Utc>,
) -> Result<HashMap<(AccountId, ProductId), i64>> {
    let limited = |product: &ProductId| stocks.get(product).is_some_and(|stock| stock.max_per_user.is_some());
    let products = |wanted: &Wanted| {
        let seats = wanted.seats().iter().filter_map(|seat| seats.get(seat)).map(|seat| seat.product);
        wanted.lines().iter().map(|line| line.product).chain(seats).collect::<Vec<_>>()
    };
    let pairs = requests.iter().flat_map(|wanted| products(wanted).into_iter().map(|product| (wanted.user, product)));
    let pairs: HashSet<_> = pairs.filter(|(_, product)| limited(product)).collect();
    if pairs.is_empty() {
        return Ok(HashMap::new());
    }
    let (users, products): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let query = sql_query(include_str!("hold_stock_owned.sql"))
        .bind::<Array<Uuid>, _>(users)
        .bind::<Array<Uuid>, _>(products)
        .bind::<Timestamptz, _>(now);
    let rows: Vec<OwnedRow> = Prepared(query).load(tx).await?;
    Ok(rows.into_iter().map(|row| ((row.user_id, row.product_id), row.units)).collect())
}

async fn insert_holds(tx: &mut Tx, holds: &[Hold], now: DateTime<Utc>) -> Result<()> {
    if holds.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = holds.iter().flat_map(|hold| hold.lines.iter().map(|line| (hold.id, line))).collect();
    let seats = lines.iter().map(|(_, line)| match line.seats.as_slice() {
        [] => Ok(None),
        seats => serde_json::to_string(seats).map(Some),
    });
    let seats: Vec<Option<String>> = seats.collect::<Result<_, _>>().map_err(Error::fault)?;
    let query = sql_query(include_str!("hold_stock.sql"))
        .bind::<Timestamptz, _>(now)
        .bind::<Array<Uuid>, _>(holds.iter().map(|hold| hold.id).collect::<Vec<HoldId>>())
        .bind::<Array<Uuid>, _>(holds.iter().filter_map(|hold| hold.user).collect::<Vec<AccountId>>())
        .bind::<Array<Timestamptz>, _>(holds.iter().map(|hold| hold.expires_at).collect::<Vec<_>>())
        .bind::<Array<Nullable<Uuid>>, _>(holds.iter().map(|hold| hold.concert).collect::<Vec<_>>())
        .bind::<Array<Uuid>, _>(lines.iter().map(|(hold, _)| *hold).collect::<Vec<_>>())
        .bind::<Array<Uuid>, _>(lines.iter().map(|(_, line)| line.product).collect::<Vec<_>>())
        .bind::<Array<Integer>, _>(lines.iter().map(|(_, line)| line.quantity).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(lines.iter().map(|(_, line)| line.unit_price).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(lines.iter().map(|(_, line)| line.currency.as_str()).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(lines.iter().map(|(_, line)| line.sku.as_str()).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(lines.iter().map(|(_, line)| line.name.as_str()).collect::<Vec<_>>())
        .bind::<Array<Nullable<Text>>, _>(seats);
    Prepared(query).execute(tx).await?;
    Ok(())
}

/// Living holds keep their takes until they expire; a take without a hold goes back.
fn gate_updates(requests: &[Admitted], served: &Served) -> Vec<GateUpdate> {
    let mut updates = Vec::new();
    for (request, outcome) in requests.iter().zip(&served.outcomes) {
        for (line, take) in request.wanted.lines().iter().zip(request.takes.iter()) {
            let kept = outcome.as_ref().ok().and_then(|held| keep(&held.hold, *line, served.now));
            let mark = match (kept, take) {
                (Some(keep), _) => keep,
                (None, Take::Taken) => Mark::Back { hold: request.wanted.hold },
                (None, Take::Repeat | Take::NotLoaded | Take::Unknown) => continue,
            };
            updates.push(GateUpdate { product: line.product, quantity: line.quantity.into(), mark });
        }
    }
    updates
}

/// How long the hold keeps the units of exactly this line; None: it does not have them.
fn keep(hold: &Hold, line: WantedLine, now: DateTime<Utc>) -> Option<Mark> {
    if !hold.lines.iter().any(|held| (held.product, held.quantity) == (line.product, line.quantity)) {
        return None;
    }
    let remaining_ms = match hold.state_at(now) {
        HoldState::Held => Some((hold.expires_at - now).num_milliseconds()),
        HoldState::Pinned => None,
        HoldState::Confirmed | HoldState::Released | HoldState::Expired | HoldState::Returned => return None,
    };
    Some(Mark::Keep { hold: hold.id, remaining_ms })
}
