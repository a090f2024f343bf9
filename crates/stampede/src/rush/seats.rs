//! `stampede rush --seats [--queue]`: many buyers want the seats of one concert, with --queue through its waiting room. Some
//! go away in line, some give back what they have reserved, some come without a pass or with a forged one.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use client::{Buyer, Client, NewConcert, NewSeats, Reply};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

use super::prepare::{self, Administrator, Buyers};
use super::seats_verdict::{Line, Verdict, Visit, judge};
use super::waiting_line::{LOOK, Queue};
use super::{Ended, REST_TIMEOUT, RushArgs, rest};
use crate::audit;
use crate::site::Site;

/// Between two tries of what was not answered.
const RETRY: Duration = Duration::from_millis(50);
/// In won.
const PRICE: i64 = 150_000;
/// Seats that a buyer tries to get before looking at the map again.
const TRIES: usize = 8;

/// What a buyer has in mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mind {
    Buys,
    /// Goes away while waiting.
    GoesAway,
    /// Tries without a pass and with a forged one first.
    Intrudes,
    /// Gives the seats back and leaves.
    GivesBack,
}

impl Mind {
    /// Seven of ten buy without more ado.
    fn of(buyer: usize) -> Mind {
        match buyer % 10 {
            3 => Mind::GoesAway,
            5 => Mind::Intrudes,
            7 => Mind::GivesBack,
            _ => Mind::Buys,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    buyers: u64,
    seats: u64,
    seats_ordered: u64,
    /// Answers 409 to somebody who wanted a seat that others had.
    seats_refused: u64,
    seconds: f64,
    #[serde(flatten)]
    verdict: Verdict,
    audit: audit::Report,
    violations: Vec<String>,
    #[serde(rename = "verdict")]
    word: audit::Verdict,
}

pub async fn run(args: &RushArgs, site: &Site) -> anyhow::Result<Ended> {
    let db = prepare::account_db(site.settings()).await?;
    let client = Client::for_load(site.api(), usize::try_from(args.concurrency)?)?;
    eprintln!("Preparing {} seats and {} buyers at {}", args.stock, args.buyers, site.api());
    let auth = site.settings().section("auth")?;
    let (count, sample) = (usize::try_from(args.buyers)?, usize::try_from(args.sample)?);
    let Buyers { all, .. } = prepare::buyers(&client, &db, &auth, count, sample).await?;
    let admin = Administrator::make(&client, &db).await?;
    let rush = Rush::prepare(args, client, all, &admin.client).await;
    admin.resign(&db).await?;
    let outcome = rush?.run(site).await?;
    Ok(Ended { json: json!(outcome), text: outcome.text(), is_clean: outcome.violations.is_empty() })
}

pub struct Rush {
    pub client: Client,
    buyers: Vec<Buyer>,
    concert: Uuid,
    seats: Vec<Uuid>,
    queue: Option<Queue>,
    /// Requests under way.
    slots: Semaphore,
    concurrency: usize,
    /// Seats that somebody was told to have lost to others: not worth trying.
    gone: Mutex<HashSet<Uuid>>,
    pub line: Mutex<Line>,
    refused: AtomicU64,
    deadline: Instant,
}

impl Rush {
    async fn prepare(args: &RushArgs, client: Client, buyers: Vec<Buyer>, admin: &Client) -> anyhow::Result<Arc<Rush>> {
        let name = format!("RUSH-{}", Uuid::now_v7().simple());
        let concert = NewConcert {
            title: &name,
            starts_at: "2036-01-01T10:00:00Z",
            max_per_user: 10,
            queue_manage_required: args.queue,
        };
        let concert = admin.create_concert(&concert).await.context("creating the concert")?;
        let count = usize::try_from(args.stock)?;
        let category = NewSeats { sku: &name, name: "Rush seat", price: PRICE, row: "A", count };
        let product = admin.add_seats(concert, &category).await.context("adding the seats")?;
        let queue = match args.queue {
            true => {
                Some(Queue::schedule(admin, &name, product, args.concurrency).await.context("scheduling the sale")?)
            }
            false => None,
        };
        let map: Value = admin
            .try_send(admin.request(Method::GET, &format!("/concerts/{concert}/seats")))
            .await?
            .succeeded()?
            .read()?;
        let concurrency = usize::try_from(args.concurrency)?;
        Ok(Arc::new(Rush {
            client,
            buyers,
            concert,
            seats: seats_of(&map, |_| true),
            queue,
            slots: Semaphore::new(concurrency),
            concurrency,
            gone: Mutex::default(),
            line: Mutex::default(),
            refused: AtomicU64::new(0),
            deadline: Instant::now() + Duration::from_secs(args.timeout_seconds),
        }))
    }

    async fn run(self: Arc<Rush>, site: &Site) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        // Everybody waits in line at once; without a line, as many ask as may.
        let at_once = if self.queue.is_some() { self.buyers.len() } else { self.concurrency };
        let visits = stream::iter(0..self.buyers.len()).map(|buyer| self.visit(buyer)).buffer_unordered(at_once);
        let visits: Vec<anyhow::Result<Visit>> = visits.collect().await;
        let visits = visits.into_iter().collect::<anyhow::Result<Vec<Visit>>>()?;
        let seconds = started.elapsed().as_secs_f64();
        eprintln!("All buyers are done after {seconds:.1} s; waiting for the system to come to rest");
        rest::wait(site.settings(), self.deadline.max(Instant::now() + REST_TIMEOUT)).await?;
        let lost = self.count_lost(&visits).await?;
        let slots_max = self.queue.as_ref().map(|queue| queue.slots_max);
        let verdict = judge(&visits, &self.line.lock(), slots_max, lost);
        let audit = audit::run(site.settings()).await?;
        let mut violations = verdict.violations();
        if !audit.violated().is_empty() {
            violations.push(format!("the audit finds {} violated", audit.violated().join(", ")));
        }
        let word = if violations.is_empty() { audit::Verdict::Pass } else { audit::Verdict::Fail };
        Ok(Outcome {
            buyers: self.buyers.len() as u64,
            seats: self.seats.len() as u64,
            seats_ordered: visits.iter().map(|visit| visit.ordered.len() as u64).sum(),
            seats_refused: self.refused.load(Ordering::Relaxed),
            seconds,
            verdict,
            audit,
            violations,
            word,
        })
    }

    /// One buyer from the door to the order.
    async fn visit(&self, number: usize) -> anyhow::Result<Visit> {
        let (buyer, mind) = (&self.buyers[number], Mind::of(number));
        let mut visit = Visit { buyer: number, ..Visit::default() };
        let mut pass = None;
        let mut place = None;
        if let Some(queue) = &self.queue {
            if mind == Mind::Intrudes {
                visit.let_in_without_pass += self.intrude(buyer).await?;
            }
            let (entered, told) = self.enter(buyer, queue, &mut visit).await?;
            if mind == Mind::GoesAway {
                // They close the tab: nobody hears of it.
                return Ok(visit);
            }
            pass = self.wait_for_turn(buyer, &entered, told, &mut visit).await?;
            place = Some(entered);
            if pass.is_none() {
                // All that is left is held or sold.
                self.leave(buyer, place.as_ref(), &mut visit).await?;
                return Ok(visit);
            }
        }
        if let Some((reservation, seat)) = self.reserve(buyer, number, pass.as_deref()).await? {
            if mind == Mind::GivesBack {
                self.answered("cancelling", || self.client.cancel_reservation_for(buyer, &reservation)).await?;
                self.gone.lock().remove(&seat);
            } else {
                visit.order = Some(self.order(buyer, &reservation).await?);
                visit.ordered.push(seat);
            }
        }
        self.leave(buyer, place.as_ref(), &mut visit).await?;
        Ok(visit)
    }

    /// Returns how often that got them a seat.
    async fn intrude(&self, buyer: &Buyer) -> anyhow::Result<u64> {
        let mut let_in = 0;
        for pass in [None, Some("eyJhbGciOiJFZERTQSJ9.e30.c3RvbGVu")] {
            let seat = self.seats[0];
            let ask = || self.client.reserve_for(buyer, self.concert, std::slice::from_ref(&seat), pass);
            let (status, _) = self.answered("intruding", ask).await?;
            let_in += u64::from(status == 200);
        }
        Ok(let_in)
    }

    /// A free seat, taken. None: there is none.
    async fn reserve(
        &self,
        buyer: &Buyer,
        number: usize,
        pass: Option<&str>,
    ) -> anyhow::Result<Option<(String, Uuid)>> {
        let mut free = self.seats.clone();
        loop {
            let worth: Vec<Uuid> = {
                let gone = self.gone.lock();
                free.iter().filter(|seat| !gone.contains(seat)).copied().collect()
            };
            for n in 0..TRIES.min(worth.len()) {
                // Different buyers begin at different seats.
                let seat = worth[(number * 7919 + n) % worth.len()];
                let seats = [seat];
                let ask = || self.client.reserve_for(buyer, self.concert, &seats, pass);
                let (status, told) = self.answered("reserving", ask).await?;
                match (status, told["code"].as_str()) {
                    (200, _) => {
                        let id = told["reservationId"].as_str().context("a reservation without an id")?;
                        self.gone.lock().insert(seat);
                        return Ok(Some((id.to_owned(), seat)));
                    }
                    (409, Some("SEAT_ALREADY_RESERVED")) => {
                        self.refused.fetch_add(1, Ordering::Relaxed);
                        self.gone.lock().insert(seat);
                    }
                    // Inventory has yet to hear of the sale that the buyer has a pass for.
                    (409, Some("EVENT_NOT_OPEN")) if pass.is_some() => self.pause(LOOK, "reserving").await?,
                    _ => bail!("reserving: {status} {told}"),
                }
            }
            let path = format!("/concerts/{}/seats", self.concert);
            let (_, map) = self.answered("looking at the seats", || self.client.read_for(buyer, &path)).await?;
            free = seats_of(&map, |seat| seat["status"] == "AVAILABLE");
            if free.is_empty() {
                return Ok(None);
            }
            // What was given back is worth trying again.
            let mut gone = self.gone.lock();
            free.iter().for_each(|seat| {
                gone.remove(seat);
            });
        }
    }

    async fn order(&self, buyer: &Buyer, reservation: &str) -> anyhow::Result<String> {
        let order = self.client.reservation_order_request(reservation)?;
        let (status, told) = self.answered("ordering", || self.client.place_for(buyer, &order)).await?;
        match told["orderId"].as_str() {
            Some(id) if status == 201 => Ok(id.to_owned()),
            _ => bail!("ordering a reservation: {status} {told}"),
        }
    }

    /// Orders that were acknowledged and are not there.
    async fn count_lost(&self, visits: &[Visit]) -> anyhow::Result<u64> {
        let reads = visits.iter().filter_map(|visit| Some((visit.buyer, visit.order.clone()?)));
        let reads = stream::iter(reads).map(|(buyer, order)| async move {
            let path = format!("/orders/{order}");
            let (status, _) = self.answered("reading", || self.client.read_for(&self.buyers[buyer], &path)).await?;
            anyhow::Ok(u64::from(status != 200))
        });
        let lost: Vec<anyhow::Result<u64>> = reads.buffer_unordered(self.concurrency).collect().await;
        lost.into_iter().sum()
    }

    /// A definite answer, asked for until there is one.
    pub async fn answered<F, R>(&self, what: &str, ask: F) -> anyhow::Result<(u16, Value)>
    where
        F: Fn() -> R,
        R: Future<Output = Reply>,
    {
        loop {
            let reply = {
                let _slot = self.slots.acquire().await?;
                ask().await
            };
            let pause = match &reply {
                Reply::Answered { status, .. } => return Ok((*status, reply.json())),
                Reply::Busy(pause) => *pause,
                Reply::Unknown => RETRY,
            };
            self.pause(pause, what).await?;
        }
    }

    pub async fn pause(&self, pause: Duration, what: &str) -> anyhow::Result<()> {
        if Instant::now() + pause >= self.deadline {
            bail!("{what} was not over in time; see --timeout-seconds");
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

fn seats_of(map: &Value, wanted: impl Fn(&Value) -> bool) -> Vec<Uuid> {
    let seats = map["seats"].as_array().into_iter().flatten().filter(|seat| wanted(seat));
    seats.filter_map(|seat| seat["seatId"].as_str()?.parse().ok()).collect()
}

impl Outcome {
    /// The outcome for people.
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| text.push_str(&format!("{name:<24}{value}\n"));
        line("buyers", format!("{} in {:.1} s", self.buyers, self.seconds));
        line("seats ordered", format!("{} of {}", self.seats_ordered, self.seats));
        line("refused a taken seat", self.seats_refused.to_string());
        let Verdict { double_seats, orders_lost, .. } = &self.verdict;
        line("double seats", double_seats.to_string());
        line("orders lost", orders_lost.to_string());
        line("let in without a pass", self.verdict.admitted_without_pass.to_string());
        line("order violations", self.verdict.order_violations.to_string());
        line("capacity exceeded by", self.verdict.capacity_exceeded.to_string());
        if let Some(late) = self.verdict.open_lateness_ms {
            line("opened", format!("{late} ms after its time"));
        }
        text.push('\n');
        text.push_str(&self.audit.text());
        for violation in &self.violations {
            text.push_str(&format!("violation: {violation}\n"));
        }
        let verdict = if self.word == audit::Verdict::Pass { "PASS" } else { "FAIL" };
        text.push_str(&format!("rush: {verdict}\n"));
        text
    }
}
