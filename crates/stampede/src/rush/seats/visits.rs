//! What the buyers of seats do, from the door to the paid order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use client::{Buyer, Reply};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::Rush;
use super::verdict::Visit;
use super::waiting_line::LOOK;
use crate::rush::counters::Counters;

/// Between two tries of what was not answered.
const RETRY: Duration = Duration::from_millis(50);
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

/// The counters of a rush: who closes the tab in line is never answered, and who gives a seat back orders none.
pub fn counters(buyers: usize, seats: u64, has_line: bool, pays: bool) -> Counters {
    let count = |wanted: fn(Mind) -> bool| (0..buyers).filter(|buyer| wanted(Mind::of(*buyer))).count();
    let gone = if has_line { count(|mind| mind == Mind::GoesAway) } else { 0 };
    let ordering = buyers - gone - count(|mind| mind == Mind::GivesBack);
    Counters::new(buyers, buyers - gone, seats.min(ordering as u64), pays)
}

impl Rush {
    /// All buyers. Everybody waits in line at once; without a line, as many ask as may.
    pub async fn visits(self: Arc<Rush>) -> anyhow::Result<Vec<Visit>> {
        let at_once = if self.queue.is_some() { self.buyers.len() } else { self.concurrency };
        let visits = stream::iter(0..self.buyers.len()).map(|buyer| self.visit(buyer)).buffer_unordered(at_once);
        let visits: Vec<anyhow::Result<Visit>> = visits.collect().await;
        visits.into_iter().collect()
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
                self.counters.record_gave_up();
                return Ok(visit);
            }
        }
        self.pace.wait(&self.counters, self.deadline).await;
        let wanted = Instant::now();
        match self.reserve(buyer, number, pass.as_deref()).await? {
            None => self.counters.record_refused(wanted.elapsed()),
            Some((reservation, seat)) if mind == Mind::GivesBack => {
                self.answered("cancelling", || self.client.cancel_reservation_for(buyer, &reservation)).await?;
                self.gone.lock().remove(&seat);
                self.counters.record_answered(wanted.elapsed());
            }
            Some((reservation, seat)) => {
                let order = self.order(buyer, &reservation).await?;
                visit.order = Some(order["orderId"].as_str().context("an order without an id")?.parse()?);
                visit.ordered.push(seat);
                self.counters.record_placed(number, wanted.elapsed());
                if let Some(payers) = &self.payers {
                    // The pass ends with the payment.
                    visit.gives_the_slot_back();
                    visit.payment = Some(payers.pay(number, &serde_json::to_vec(&order)?).await?);
                }
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

    async fn order(&self, buyer: &Buyer, reservation: &str) -> anyhow::Result<Value> {
        let order = self.client.reservation_order_request(reservation)?;
        match self.answered("ordering", || self.client.place_for(buyer, &order)).await? {
            (201, told) => Ok(told),
            (status, told) => bail!("ordering a reservation: {status} {told}"),
        }
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

pub fn seats_of(map: &Value, wanted: impl Fn(&Value) -> bool) -> Vec<Uuid> {
    let seats = map["seats"].as_array().into_iter().flatten().filter(|seat| wanted(seat));
    seats.filter_map(|seat| seat["seatId"].as_str()?.parse().ok()).collect()
}
