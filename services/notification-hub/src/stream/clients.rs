//! Who is connected to this process, who gets which fact, and what is kept for those who come back.
//!
//! A fact finds its receivers by index: a personal one costs as much as its account has streams, however many others there
//! are. Nobody is waited for: a client that does not take its frames in time is cut.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use actix_web::web::Bytes;
use common::http::sse;
use contract::ids::{AccountId, SaleEventId};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use uuid::Uuid;

use super::full::Full;
use super::ring::{Bounds, Ring, Told};
use super::sales::{SaleFact, SaleNews, Sales};
use super::topics::{About, Topics, Wanted};
use super::{Ended, StreamSettings};

/// Whose stream it is, which is what limits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Account(AccountId),
    /// Somebody without a token; the address is unknown only where there is no network.
    Address(Option<IpAddr>),
}

/// The id of a frame, `{epoch}-{number}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameId {
    epoch: Arc<str>,
    number: u64,
}

impl std::fmt::Display for FrameId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

/// Why a client must read anew what it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Cause {
    /// Its last frame came from another process, or from this one before it was started again.
    OtherEpoch,
    /// More was told since its last frame than is kept.
    TooOld,
}

/// How a stream begins.
#[derive(Debug)]
pub enum Start {
    /// With the frames that the client missed.
    Replay(Vec<Bytes>),
    /// With what is known.
    Snapshot { id: FrameId, sales: Vec<SaleNews>, resync: Option<Cause> },
}

/// A stream that has its place.
#[derive(Debug)]
pub struct Opened {
    pub client: u64,
    pub start: Start,
    pub frames: mpsc::Receiver<Bytes>,
    /// Why `frames` has ended.
    pub ended: Arc<OnceLock<Ended>>,
}

struct Client {
    owner: Owner,
    topics: Topics,
    frames: mpsc::Sender<Bytes>,
    ended: Arc<OnceLock<Ended>>,
}

/// An account with a stream here, or one that had one not long ago.
struct Account {
    ring: Ring,
    /// Streams that hold a place, cut ones included.
    places: usize,
    clients: Vec<u64>,
    left_at: Option<Instant>,
}

pub struct Clients {
    settings: StreamSettings,
    state: Mutex<State>,
}

struct State {
    epoch: Arc<str>,
    /// The number of the last fact.
    last: u64,
    is_caught_up: bool,
    sales: Sales,
    public: Ring,
    accounts: HashMap<AccountId, Account>,
    /// Accounts that have left, the first one first. Some have come back since.
    left: VecDeque<(Instant, AccountId)>,
    places: usize,
    places_by_address: HashMap<IpAddr, usize>,
    clients: HashMap<u64, Client>,
    clients_made: u64,
    of_all_sales: HashSet<u64>,
    of_sale: HashMap<SaleEventId, HashSet<u64>>,
}

impl Clients {
    /// `epoch` differs from that of every other process.
    pub fn new(settings: &StreamSettings, epoch: &str) -> Clients {
        let state = State {
            epoch: epoch.into(),
            last: 0,
            is_caught_up: false,
            sales: Sales::default(),
            public: Ring::new(0, settings.public_bounds()),
            accounts: HashMap::new(),
            left: VecDeque::new(),
            places: 0,
            places_by_address: HashMap::new(),
            clients: HashMap::new(),
            clients_made: 0,
            of_all_sales: HashSet::new(),
            of_sale: HashMap::new(),
        };
        Clients { settings: settings.clone(), state: Mutex::new(state) }
    }

    /// From now on streams can be opened: what is told is complete.
    pub fn caught_up(&self) {
        self.state.lock().is_caught_up = true;
    }

    /// Facts may have been missed: everybody is sent away, and gets a snapshot when it comes back.
    pub fn begin_epoch(&self, epoch: &str) {
        let mut state = self.state.lock();
        state.epoch = epoch.into();
        state.last = 0;
        state.public = Ring::new(0, self.settings.public_bounds());
        state.accounts.values_mut().for_each(|account| account.ring = Ring::new(0, self.settings.account_bounds()));
        let all: Vec<u64> = state.clients.keys().copied().collect();
        all.into_iter().for_each(|client| state.end(client, Ended::LogReplaced));
    }

    /// Gives a stream its place. `last_seen` is the client's `Last-Event-ID`.
    pub fn open(&self, owner: Owner, topics: Topics, last_seen: Option<&str>, now: Instant) -> Result<Opened, Full> {
        let mut state = self.state.lock();
        state.check_limits(owner, &self.settings)?;
        state.forget_accounts(&self.settings, now);
        let start = state.start(owner, &topics, last_seen, now);
        let (sender, frames) = mpsc::channel(self.settings.client_frames);
        let ended = Arc::new(OnceLock::new());
        state.clients_made += 1;
        let client = state.clients_made;
        state.take_place(client, owner, self.settings.account_bounds());
        match &topics.sales {
            Wanted::All => drop(state.of_all_sales.insert(client)),
            Wanted::Only(ids) => {
                for id in ids {
                    state.of_sale.entry(*id).or_default().insert(client);
                }
            }
        }
        state.clients.insert(client, Client { owner, topics, frames: sender, ended: ended.clone() });
        Ok(Opened { client, start, frames, ended })
    }

    /// Gives the place of a stream that is over to others.
    pub fn leave(&self, client: u64, owner: Owner, now: Instant) {
        let mut state = self.state.lock();
        drop(state.forget(client));
        state.places -= 1;
        match owner {
            Owner::Account(id) => {
                if let Some(account) = state.accounts.get_mut(&id) {
                    account.places -= 1;
                    if account.places == 0 {
                        account.left_at = Some(now);
                        state.left.push_back((now, id));
                    }
                }
            }
            Owner::Address(address) => {
                if let Some(address) = address
                    && let Some(places) = state.places_by_address.get_mut(&address)
                {
                    *places -= 1;
                    if *places == 0 {
                        state.places_by_address.remove(&address);
                    }
                }
            }
        }
        metrics::gauge!("stampede_stream_clients").set(state.places as f64);
    }

    /// Tells everybody who wants to know of this sale event. False: it was known, or it is of the past.
    pub fn tell_sale(&self, fact: SaleFact<'_>, event_id: Uuid, is_past: bool, now: Instant) -> bool {
        let mut state = self.state.lock();
        let Some(news) = state.sales.hear(fact).cloned() else { return false };
        let Some(sale) = fact.event_id().filter(|_| !is_past) else { return false };
        let about = About::Sale(sale);
        let Some(told) = state.write(event_id, about, fact.kind(), &news, now) else { return false };
        let of_sale = state.of_sale.get(&sale).into_iter().flatten();
        let receivers: Vec<u64> = state.of_all_sales.iter().chain(of_sale).copied().collect();
        state.send(&receivers, fact.kind(), &told.frame);
        state.public.push(told);
        true
    }

    /// Tells the owner of `account`, if it has a stream here or had one not long ago. False: it has not, or it is a repeat.
    pub fn tell_owner<D: Serialize>(&self, account: AccountId, news: &OwnFact<D>, now: Instant) -> bool {
        let OwnFact { event_id, about, kind, data } = news;
        let mut state = self.state.lock();
        let Some(known) = state.accounts.get(&account) else { return false };
        if known.ring.has(*event_id) {
            return false;
        }
        let wants = |client: &&u64| state.clients.get(client).is_some_and(|client| client.topics.have(*about));
        let receivers: Vec<u64> = known.clients.iter().filter(wants).copied().collect();
        let Some(told) = state.write(*event_id, *about, kind, data, now) else { return false };
        state.send(&receivers, kind, &told.frame);
        if let Some(known) = state.accounts.get_mut(&account) {
            known.ring.push(told);
        }
        true
    }
}

/// A fact for the owner of an account.
pub struct OwnFact<D> {
    pub event_id: Uuid,
    pub about: About,
    /// The `event` of the frame.
    pub kind: &'static str,
    pub data: D,
}

impl State {
    fn check_limits(&self, owner: Owner, settings: &StreamSettings) -> Result<(), Full> {
        if !self.is_caught_up {
            return Err(Full::NotReady);
        }
        if self.places >= settings.streams_max {
            return Err(Full::Process);
        }
        let (owner, taken, limit) = match owner {
            Owner::Account(id) => ("account", self.accounts.get(&id).map(|it| it.places), settings.streams_per_account),
            Owner::Address(address) => {
                let taken = address.and_then(|it| self.places_by_address.get(&it)).copied();
                ("address", taken, settings.streams_per_address)
            }
        };
        if taken.unwrap_or(0) >= limit {
            return Err(Full::Owner { owner, limit });
        }
        Ok(())
    }

    fn start(&mut self, owner: Owner, topics: &Topics, last_seen: Option<&str>, now: Instant) -> Start {
        let missed = last_seen.map(|last_seen| self.missed(owner, topics, last_seen, now));
        let (outcome, start) = match missed {
            Some(Ok(missed)) => ("replayed", Start::Replay(missed)),
            missed => {
                let resync = missed.and_then(Result::err);
                let id = FrameId { epoch: self.epoch.clone(), number: self.last };
                let outcome = if resync.is_some() { "resync" } else { "new" };
                (outcome, Start::Snapshot { id, sales: self.sales.known(&topics.sales), resync })
            }
        };
        metrics::counter!("stampede_streams_opened_total", "start" => outcome).increment(1);
        start
    }

    /// The frames after `last_seen`, in order.
    fn missed(&mut self, owner: Owner, topics: &Topics, last_seen: &str, now: Instant) -> Result<Vec<Bytes>, Cause> {
        let seen = last_seen.split_once('-').filter(|(epoch, _)| **epoch == *self.epoch);
        let seen = seen.and_then(|(_, number)| number.parse::<u64>().ok()).filter(|number| *number <= self.last);
        let number = seen.ok_or(Cause::OtherEpoch)?;
        let mut missed: Vec<Told> = self.public.since(number, now).ok_or(Cause::TooOld)?.cloned().collect();
        if let Owner::Account(id) = owner {
            let account = self.accounts.get_mut(&id).ok_or(Cause::TooOld)?;
            missed.extend(account.ring.since(number, now).ok_or(Cause::TooOld)?.cloned());
        }
        missed.retain(|told| topics.have(told.about));
        missed.sort_by_key(|told| told.number);
        Ok(missed.into_iter().map(|told| told.frame).collect())
    }

    fn take_place(&mut self, client: u64, owner: Owner, bounds: Bounds) {
        self.places += 1;
        metrics::gauge!("stampede_stream_clients").set(self.places as f64);
        match owner {
            Owner::Account(id) => {
                let last = self.last;
                let new = || Account { ring: Ring::new(last, bounds), places: 0, clients: Vec::new(), left_at: None };
                let account = self.accounts.entry(id).or_insert_with(new);
                account.places += 1;
                account.left_at = None;
                account.clients.push(client);
            }
            Owner::Address(address) => {
                if let Some(address) = address {
                    *self.places_by_address.entry(address).or_default() += 1;
                }
            }
        }
    }

    /// Forgets the accounts that left long ago, and the first of those that are too many.
    fn forget_accounts(&mut self, settings: &StreamSettings, now: Instant) {
        let Bounds { age_max, .. } = settings.account_bounds();
        while let Some((left_at, id)) = self.left.front().copied() {
            if now.duration_since(left_at) <= age_max && self.left.len() <= settings.streams_max {
                return;
            }
            self.left.pop_front();
            if self.accounts.get(&id).is_some_and(|account| account.left_at == Some(left_at)) {
                self.accounts.remove(&id);
            }
        }
    }

    /// Gives a fact its number and its frame.
    fn write(&mut self, event_id: Uuid, about: About, kind: &str, data: &impl Serialize, at: Instant) -> Option<Told> {
        let id = FrameId { epoch: self.epoch.clone(), number: self.last + 1 };
        let frame = sse::frame(Some(&id), kind, data)
            .inspect_err(
                |error| tracing::error!(%error, event.id = %event_id, "A fact cannot be written; nobody is told"),
            )
            .ok()?;
        self.last = id.number;
        Some(Told { number: id.number, event_id, at, about, frame: frame.into() })
    }

    fn send(&mut self, receivers: &[u64], kind: &'static str, frame: &Bytes) {
        let mut sent = 0;
        for receiver in receivers {
            let Some(client) = self.clients.get(receiver) else { continue };
            match client.frames.try_send(frame.clone()) {
                Ok(()) => sent += 1,
                Err(TrySendError::Full(_)) => self.end(*receiver, Ended::Slow),
                // Its connection has ended, and it leaves in a moment.
                Err(TrySendError::Closed(_)) => {}
            }
        }
        metrics::counter!("stampede_stream_frames_total", "event" => kind).increment(sent);
    }

    /// The client gets nothing more. Its stream keeps its place until the connection has ended.
    fn end(&mut self, client: u64, why: Ended) {
        if let Some(Client { ended, .. }) = self.forget(client) {
            // It is set once: a client is forgotten once.
            let _ = ended.set(why);
        }
    }

    fn forget(&mut self, id: u64) -> Option<Client> {
        let client = self.clients.remove(&id)?;
        self.of_all_sales.remove(&id);
        for sale in client.topics.sales.named() {
            if let Some(clients) = self.of_sale.get_mut(&sale) {
                clients.remove(&id);
                if clients.is_empty() {
                    self.of_sale.remove(&sale);
                }
            }
        }
        if let Owner::Account(account) = client.owner
            && let Some(account) = self.accounts.get_mut(&account)
        {
            account.clients.retain(|other| *other != id);
        }
        Some(client)
    }
}

#[cfg(test)]
mod tests;
