//! The buyers: a closed loop of workers who each take the next buyer and ask until there is a definite answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use client::{Buyer, Client, Reply};
use common::backoff::Backoff;
use futures_util::future::join_all;
use rand::RngExt;
use reqwest::Request;
use tokio::time::Instant;
use uuid::Uuid;

use super::counters::Counters;
use super::coupons::Coupons;
use super::kills::Pace;
use super::pay::Payers;
use super::record::{Answer, Call, Record};

/// Between attempts whose outcome is unknown. Short at first, since a restarted part is back within a second or two.
const RETRY: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };
/// How many requests with one key a duplicate sends at once, at most.
const COPIES_MAX: usize = 3;

/// One visit of a buyer: `copies` requests with the buyer's key at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    pub buyer: usize,
    pub copies: usize,
}

/// Every buyer once in random order, and a share of `duplicates` twice or more: half of these at the same moment, half
/// at some later time.
pub fn visits(buyers: usize, duplicates: f64) -> Vec<Visit> {
    let mut rng = rand::rng();
    let mut timed: Vec<(f64, Visit)> = Vec::with_capacity(buyers);
    for buyer in 0..buyers {
        let at: f64 = rng.random();
        let is_duplicate = rng.random::<f64>() < duplicates;
        let at_once = is_duplicate && rng.random();
        let copies = if at_once { rng.random_range(2..=COPIES_MAX) } else { 1 };
        timed.push((at, Visit { buyer, copies }));
        if is_duplicate && !at_once {
            timed.push((at + (1.0 - at) * rng.random::<f64>(), Visit { buyer, copies: 1 }));
        }
    }
    timed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    timed.into_iter().map(|(_, visit)| visit).collect()
}

/// What the workers share.
pub struct Load {
    pub client: Client,
    pub product: Uuid,
    /// Units that each buyer wants.
    pub quantity: u64,
    /// What every buyer orders who has no coupon.
    pub order: Request,
    /// Where there are coupons.
    pub coupons: Option<Coupons>,
    pub buyers: Arc<Vec<Buyer>>,
    pub visits: Vec<Visit>,
    pub next: AtomicUsize,
    pub counters: Arc<Counters>,
    pub pace: Arc<Pace>,
    /// The buyers who pay for what they ordered, where orders are paid.
    pub payers: Option<Payers>,
    /// Nobody asks again after this.
    pub deadline: Instant,
}

/// Runs the whole load. `records[n]` is what `buyers[n]` was told, in the order of the answers.
pub async fn run(load: Arc<Load>, concurrency: usize) -> Vec<Record> {
    let workers: Vec<_> = (0..concurrency).map(|_| tokio::spawn(work(load.clone()))).collect();
    let mut records = vec![Record::default(); load.buyers.len()];
    for worker in join_all(workers).await {
        for (buyer, call) in worker.expect("a worker only counts and waits, so it cannot panic") {
            records[buyer].calls.push(call);
        }
    }
    for record in &mut records {
        record.calls.sort_by_key(|call| call.ended_at);
    }
    records
}

async fn work(load: Arc<Load>) -> Vec<(usize, Call)> {
    let mut answered = Vec::new();
    loop {
        load.pace.wait(&load.counters, load.deadline).await;
        let Some(visit) = load.visits.get(load.next.fetch_add(1, Ordering::Relaxed)) else { return answered };
        let order = order_of(&load, visit.buyer).await;
        if visit.copies == 1 {
            answered.push((visit.buyer, call(&load, visit.buyer, &order).await));
        } else {
            let copies = join_all((0..visit.copies).map(|_| call(&load, visit.buyer, &order))).await;
            answered.extend(copies.into_iter().map(|call| (visit.buyer, call)));
        }
    }
}

/// What the buyer orders: each time the same.
async fn order_of(load: &Load, buyer: usize) -> Request {
    let plain = || load.order.try_clone().expect("its body is in memory");
    match &load.coupons {
        Some(coupons) => {
            coupons.order_of(buyer, load.product, load.quantity, &load.counters).await.unwrap_or_else(plain)
        }
        None => plain(),
    }
}

async fn call(load: &Load, buyer: usize, order: &Request) -> Call {
    let sent_at = load.counters.elapsed();
    let mut unknown_attempts = 0;
    let mut attempt = 0;
    let answer = loop {
        let delay = match load.client.place_for(&load.buyers[buyer], order).await {
            Reply::Answered { status, body } => break Some(Answer::of(status, &body)),
            Reply::Busy(delay) => delay,
            Reply::Unknown => {
                unknown_attempts += 1;
                Duration::ZERO
            }
        };
        attempt += 1;
        load.counters.record_retry();
        let delay = delay + RETRY.delay(attempt);
        if Instant::now() + delay >= load.deadline {
            break None;
        }
        tokio::time::sleep(delay).await;
    };
    let ended_at = load.counters.elapsed();
    let latency = ended_at - sent_at;
    match &answer {
        Some(Answer::Placed { body, .. }) => {
            let is_new = load.counters.record_placed(buyer, latency);
            if let Some(payers) = load.payers.as_ref().filter(|_| is_new) {
                payers.start(buyer, body);
            }
        }
        Some(Answer::OutOfStock) => load.counters.record_refused(latency),
        _ => load.counters.record_answered(latency),
    }
    Call { sent_at, ended_at, answer, unknown_attempts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buyer_comes_and_a_share_comes_again() {
        let visits = visits(10_000, 0.2);
        let mut came = vec![0; 10_000];
        for visit in &visits {
            assert!((1..=COPIES_MAX).contains(&visit.copies));
            came[visit.buyer] += visit.copies;
        }
        assert!(came.iter().all(|count| (1..=COPIES_MAX).contains(count)));
        let again = came.iter().filter(|count| **count > 1).count();
        assert!((1_800..2_200).contains(&again), "{again}");
        let later = visits.len() - 10_000;
        assert!((850..1_150).contains(&later), "{later}");
    }

    #[test]
    fn without_duplicates_every_buyer_comes_once() {
        let visits = visits(100, 0.0);
        assert!(visits.len() == 100 && visits.iter().all(|visit| visit.copies == 1));
    }
}
