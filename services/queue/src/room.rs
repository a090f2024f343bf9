//! A room in Redis: its scripts, and what it said last.
//!
//! Redis holds the line and promises nothing: a room that is lost is built again from PostgreSQL and from the tickets of
//! those who wait, see [`crate::restore_room`].

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use common::batch::{Batch, BatchSettings};
use common::redis::{Redis, Script, Unavailable};
use common::{Error, Result};
use contract::ids::{AccountId, SaleEventId};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::place::RoomStatus;
use crate::ticket::Pass;

mod snapshot;
mod words;

pub use snapshot::{Checkpoint, Snapshot, Turns};
use words::Words;

macro_rules! script {
    ($name:literal, $file:literal) => {
        LazyLock::new(|| Script::new($name, concat!(include_str!("room.lua"), include_str!($file))))
    };
}

/// The scripts of entering and of asking; public for the benchmark, which runs them alone.
pub const JOIN_SCRIPT: &str = concat!(include_str!("room.lua"), include_str!("room_join.lua"));
pub const CLAIM_SCRIPT: &str = concat!(include_str!("room.lua"), include_str!("room_claim.lua"));

static JOIN: LazyLock<Script> = LazyLock::new(|| Script::new("room_join", JOIN_SCRIPT));
static CLAIM: LazyLock<Script> = LazyLock::new(|| Script::new("room_claim", CLAIM_SCRIPT));
static TICK: LazyLock<Script> = script!("room_tick", "room_tick.lua");
static END: LazyLock<Script> = script!("room_end", "room_end.lua");
static VERIFY: LazyLock<Script> = script!("room_verify", "room_verify.lua");
static LOAD: LazyLock<Script> = script!("room_load", "room_load.lua");
static CONFIGURE: LazyLock<Script> = script!("room_configure", "room_configure.lua");
static SAVE: LazyLock<Script> = script!("room_save", "room_save.lua");
static RAISE: LazyLock<Script> = script!("room_raise", "room_raise.lua");

/// Redis has no such room, or an older one: it must be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cold;

/// What a script answered, or that there is no room.
pub type Answer<T> = std::result::Result<T, Cold>;

/// Why somebody got no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoNumber {
    SoldOut,
    Draining,
    Closed,
    Full,
    /// Numbers up to this one are given: more must be reserved first.
    Reserve(i64),
}

/// A number that an account has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    pub seq: i64,
    pub is_new: bool,
    pub front: i64,
    pub epoch: i64,
}

pub type Joined = std::result::Result<Number, NoNumber>;

/// Where a number stands, after its holder has shown up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Waiting,
    /// Passed over, and next now.
    Back,
    /// Has a pass until this moment, in milliseconds.
    Active {
        until_ms: i64,
    },
    Completed,
    Left,
    SoldOut,
    /// Had its turn.
    Gone,
}

/// Where a number stands in the room of this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looked {
    pub standing: Standing,
    pub epoch: i64,
}

/// A number that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub seq: i64,
    /// False: it had ended before.
    pub is_new: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Ok,
    Expired,
    Ended,
}

/// The rules that a room follows.
#[derive(Debug, Clone)]
pub struct Rules {
    pub version: i64,
    /// Passes that the stock bears; -1: nobody knows.
    pub stock: i64,
    /// Since the stock was asked for.
    pub stock_age_ms: i64,
    pub state: &'static str,
    pub cap: i64,
    pub rate_per_minute: i64,
    pub session_ms: i64,
    pub claim_ms: i64,
    pub alive_ms: i64,
    pub grace_ms: i64,
    pub window: i64,
    pub waiting_max: i64,
}

impl Rules {
    /// In the order of the scripts.
    fn numbers(&self) -> [i64; 8] {
        [
            self.cap,
            self.rate_per_minute,
            self.session_ms,
            self.claim_ms,
            self.alive_ms,
            self.grace_ms,
            self.window,
            self.waiting_max,
        ]
    }
}

/// A closed room is forgotten after the last pass that it can have given, and an hour.
const FORGOTTEN_AFTER_MS: i64 = 3_600_000;

/// The rooms in Redis, and what each said last. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    redis: Redis,
    told: Arc<Mutex<HashMap<SaleEventId, watch::Sender<Option<Told>>>>>,
}

/// What a room said last, and when.
#[derive(Clone)]
pub struct Told {
    pub status: Arc<RoomStatus>,
    at: Instant,
}

/// Starts the queue in front of the doors: one call of the script for all accounts that enter the same room meanwhile.
pub fn joins_batch(settings: &BatchSettings, rooms: &Rooms) -> Batch<(SaleEventId, AccountId), Answer<Joined>> {
    let rooms = rooms.clone();
    Batch::start_by(
        "queue_joins",
        settings,
        |(event, _)| *event,
        move |event, entering| {
            let rooms = rooms.clone();
            async move {
                let accounts: Vec<AccountId> = entering.into_iter().map(|(_, account)| account).collect();
                rooms.join(event, &accounts).await
            }
        },
    )
}

impl Rooms {
    pub fn new(redis: &Redis) -> Rooms {
        Rooms { redis: redis.clone(), told: Arc::default() }
    }

    async fn run(&self, script: &Script, event: SaleEventId, args: &[String]) -> Result<Words> {
        let run = self.redis.run::<Vec<String>>(script, &self.keys(event), args).await;
        run.map(Words).map_err(|away: Unavailable| Error::transient(away))
    }

    fn keys(&self, event: SaleEventId) -> [String; 9] {
        let keys = ["meta", "who", "seen", "offer", "active", "parked", "back", "ended", "shown"];
        keys.map(|part| self.redis.key(&format!("q:{{{event}}}:{part}")))
    }

    /// One answer for each account.
    async fn join(&self, event: SaleEventId, accounts: &[AccountId]) -> Vec<Result<Answer<Joined>>> {
        let args: Vec<String> = accounts.iter().map(ToString::to_string).collect();
        match self.redis.run::<Vec<Vec<String>>>(&JOIN, &self.keys(event), &args).await {
            Ok(answers) => answers.into_iter().map(|answer| Self::joined(&Words(answer))).collect(),
            Err(away) => {
                let away = Error::transient(away);
                accounts.iter().map(|_| Err(away.clone())).collect()
            }
        }
    }

    fn joined(answer: &Words) -> Result<Answer<Joined>> {
        Ok(Ok(match answer.word(0)? {
            "COLD" => return Ok(Err(Cold)),
            "SOLD_OUT" => Err(NoNumber::SoldOut),
            "DRAINING" => Err(NoNumber::Draining),
            "CLOSED" => Err(NoNumber::Closed),
            "FULL" => Err(NoNumber::Full),
            "RESERVE" => Err(NoNumber::Reserve(answer.number(1)?)),
            kind => Ok(Number {
                seq: answer.number(1)?,
                is_new: kind == "NEW",
                front: answer.number(2)?,
                epoch: answer.number(4)?,
            }),
        }))
    }

    /// The holder of this number is here.
    pub async fn claim(&self, event: SaleEventId, account: AccountId, seq: i64, epoch: i64) -> Result<Answer<Looked>> {
        let answer = self.run(&CLAIM, event, &[account.to_string(), seq.to_string(), epoch.to_string()]).await?;
        let standing = match answer.word(0)? {
            "COLD" => return Ok(Err(Cold)),
            "WAITING" => Standing::Waiting,
            "BACK" => Standing::Back,
            "ACTIVE" => Standing::Active { until_ms: answer.number(1)? },
            "COMPLETED" => Standing::Completed,
            "LEFT" => Standing::Left,
            "SOLD_OUT" => Standing::SoldOut,
            _ => Standing::Gone,
        };
        Ok(Ok(Looked { standing, epoch: answer.number(4)? }))
    }

    /// Offers free slots, and remembers how the room stands.
    pub async fn tick(&self, event: SaleEventId, scan_max: u32) -> Result<Answer<Told>> {
        let answer = self.run(&TICK, event, &[scan_max.to_string()]).await?;
        if answer.word(0)? == "COLD" {
            return Ok(Err(Cold));
        }
        let mut status = RoomStatus {
            epoch: answer.number(1)?,
            issued: answer.number(2)?,
            front: answer.number(3)?,
            edge: answer.number(4)?,
            offers: answer.number(5)?,
            active: answer.number(6)?,
            back: answer.number(7)?,
            // 8 is the room's state. What people are told of it comes from the sale.
            stock: answer.number(9)?,
            // Until it is known better.
            pace: answer.number(11)? as f64 / 60.0,
        };
        metrics::counter!("stampede_queue_no_shows_total").increment(answer.number(10)?.unsigned_abs());
        let now = Instant::now();
        let mut rooms = self.told.lock();
        let room = rooms.entry(event).or_insert_with(|| watch::Sender::new(None));
        if let Some(before) = &*room.borrow() {
            status.pace = status.next_pace(&before.status, now - before.at);
        }
        let told = Told { status: Arc::new(status), at: now };
        room.send_replace(Some(told.clone()));
        Ok(Ok(told))
    }

    /// How the room stood at its last tick in this process.
    pub fn last(&self, event: SaleEventId) -> Option<Arc<RoomStatus>> {
        let rooms = self.told.lock();
        let told = rooms.get(&event)?.borrow().clone();
        told.map(|told| told.status)
    }

    /// Each tick of the room in this process.
    pub fn watch(&self, event: SaleEventId) -> watch::Receiver<Option<Told>> {
        self.told.lock().entry(event).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    /// Forgets rooms that nobody runs any more.
    pub fn retain(&self, live: &[SaleEventId]) {
        self.told.lock().retain(|event, room| live.contains(event) || room.receiver_count() > 0);
    }

    /// Ends a number. None: there is none, or its turn is over.
    pub async fn end(
        &self,
        event: SaleEventId,
        account: AccountId,
        seq: Option<i64>,
        why: &str,
    ) -> Result<Answer<Option<End>>> {
        let seq = seq.map(|seq| seq.to_string()).unwrap_or_default();
        let answer = self.run(&END, event, &[account.to_string(), seq, why.to_owned()]).await?;
        match answer.word(0)? {
            "COLD" => Ok(Err(Cold)),
            kind @ ("DONE" | "ENDED") => Ok(Ok(Some(End { seq: answer.number(1)?, is_new: kind == "DONE" }))),
            _ => Ok(Ok(None)),
        }
    }

    /// `buys`: the pass is shown to whoever sells, and not only tried.
    pub async fn verify(
        &self,
        event: SaleEventId,
        account: AccountId,
        pass: Pass,
        buys: bool,
    ) -> Result<Answer<Verdict>> {
        let Pass { seq, epoch, until_ms } = pass;
        let args = [seq, epoch, until_ms].map(|number| number.to_string());
        let args = [&args[..], &[account.to_string(), i32::from(buys).to_string()]].concat();
        let answer = self.run(&VERIFY, event, &args).await?;
        Ok(match answer.word(0)? {
            "COLD" => Err(Cold),
            "OK" => Ok(Verdict::Ok),
            "ENDED" => Ok(Verdict::Ended),
            _ => Ok(Verdict::Expired),
        })
    }

    /// Of the room that is there.
    pub async fn epoch(&self, event: SaleEventId) -> Result<Option<i64>> {
        let mut query = common::redis::cmd("HGET");
        query.arg(self.redis.key(&format!("q:{{{event}}}:meta"))).arg("epoch");
        let epoch: Option<String> =
            self.redis.command(&query).await.map_err(|away: Unavailable| Error::transient(away))?;
        epoch.map(|epoch| epoch.parse().map_err(Error::fault)).transpose()
    }

    pub async fn build(&self, event: SaleEventId, snapshot: &Snapshot, rules: &Rules) -> Result<()> {
        let Snapshot { epoch, next, ceil, front, floor, hole, granted, extra, turns, ended } = snapshot;
        let Turns { active, offered, back } = turns;
        let mut args: Vec<String> = [*epoch, *next, *ceil, *front, *floor, hole.0, hole.1, rules.version, rules.stock]
            .map(|n| n.to_string())
            .into();
        args.extend(rules.numbers().map(|number| number.to_string()));
        args.extend([granted.to_string(), extra.to_string()]);
        args.extend([active.len(), offered.len(), back.len()].map(|count| count.to_string()));
        args.extend(active.iter().flat_map(|(seq, until_ms)| [seq.to_string(), until_ms.to_string()]));
        args.extend([offered, back, ended].into_iter().flatten().map(ToString::to_string));
        self.run(&LOAD, event, &args).await.map(|_| ())
    }

    pub async fn configure(&self, event: SaleEventId, rules: &Rules) -> Result<Answer<()>> {
        let mut args = vec![rules.version.to_string(), rules.stock.to_string(), rules.state.to_owned()];
        args.extend(rules.numbers().map(|number| number.to_string()));
        args.extend([rules.session_ms + FORGOTTEN_AFTER_MS, rules.stock_age_ms].map(|ms| ms.to_string()));
        cold_or_done(&self.run(&CONFIGURE, event, &args).await?)
    }

    /// Numbers up to `ceil` may be given.
    pub async fn raise_ceil(&self, event: SaleEventId, ceil: i64) -> Result<Answer<()>> {
        cold_or_done(&self.run(&RAISE, event, &["ceil".to_owned(), ceil.to_string()]).await?)
    }

    /// `granted` people in all are let in beyond the rate.
    pub async fn let_in(&self, event: SaleEventId, granted: i64) -> Result<Answer<()>> {
        cold_or_done(&self.run(&RAISE, event, &["granted".to_owned(), granted.to_string()]).await?)
    }

    /// What is saved of a room, all of one moment.
    pub async fn checkpoint(&self, event: SaleEventId) -> Result<Answer<Checkpoint>> {
        let answer = self.run(&SAVE, event, &[]).await?;
        if answer.word(0)? == "COLD" { Ok(Err(Cold)) } else { Checkpoint::read(&answer).map(Ok) }
    }
}

fn cold_or_done(answer: &Words) -> Result<Answer<()>> {
    Ok(if answer.word(0)? == "COLD" { Err(Cold) } else { Ok(()) })
}
