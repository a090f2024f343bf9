//! The payers: every buyer who has an order prepares its payment, authorises it at the provider and approves it, and
//! asks for as long as nobody knows.

mod course;

use std::sync::Arc;
use std::time::Duration;

use common::backoff::Backoff;
use futures_util::future::join_all;
use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use course::{Ending, Paying};
use course::{Sense, approval, standing};

use super::api::{Api, Bill, Buyer, Heard, Prepared};
use super::kills::Pace;
use super::tally::Tally;

/// Between two questions about one payment.
const RETRY: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(2) };
/// Who is declined so often leaves.
const DECLINES_MAX: u32 = 3;
/// Of those who click twice: the share that has two windows of the provider open, and not one.
const TWO_WINDOWS: f64 = 0.5;

/// Everybody who is paying.
pub struct Payers {
    shop: Arc<Shop>,
    at_work: Mutex<JoinSet<Paying>>,
}

/// What payers share.
struct Shop {
    api: Arc<Api>,
    buyers: Arc<Vec<Buyer>>,
    tally: Arc<Tally>,
    pace: Arc<Pace>,
    /// As many pay at once as order at once; who only waits takes nobody's place.
    places: Arc<Semaphore>,
    /// Share of the payers who approve twice at the same moment.
    double_clicks: f64,
    deadline: Instant,
}

impl Payers {
    pub fn new(
        api: Arc<Api>,
        buyers: Arc<Vec<Buyer>>,
        tally: Arc<Tally>,
        pace: Arc<Pace>,
        concurrency: usize,
        double_clicks: f64,
        deadline: Instant,
    ) -> Payers {
        let places = Arc::new(Semaphore::new(concurrency));
        let shop = Shop { api, buyers, tally, pace, places, double_clicks, deadline };
        Payers { shop: Arc::new(shop), at_work: Mutex::default() }
    }

    /// Has `buyer` pay for `order`, which is the answer that told of it. Returns at once.
    pub fn start(&self, buyer: usize, order: &[u8]) {
        let (shop, bill) = (self.shop.clone(), Bill::of(order));
        let Ok(bill) = bill else {
            // Then nobody pays for this order, which the verdict counts.
            tracing::error!("An order has no amount that could be paid");
            return;
        };
        self.at_work.lock().spawn(async move { shop.pay(buyer, bill).await });
    }

    /// Waits for everybody. Nobody may start any more.
    pub async fn finish(&self) -> Vec<Paying> {
        let mut at_work = std::mem::take(&mut *self.at_work.lock());
        let mut all = Vec::with_capacity(at_work.len());
        while let Some(paying) = at_work.join_next().await {
            all.push(paying.expect("a payer only asks and waits, so it cannot panic"));
        }
        all
    }
}

/// A payer's place at the counter.
struct Place<'a> {
    shop: &'a Shop,
    permit: Option<OwnedSemaphorePermit>,
    waits: u32,
}

impl Place<'_> {
    async fn take(shop: &Shop) -> Place<'_> {
        let permit = shop.places.clone().acquire_owned().await.ok();
        Place { shop, permit, waits: 0 }
    }

    /// Steps aside for `delay` and a little. False: the time is up.
    async fn wait(&mut self, delay: Duration) -> bool {
        self.waits += 1;
        let delay = delay + RETRY.delay(self.waits);
        if Instant::now() + delay >= self.shop.deadline {
            return false;
        }
        self.permit = None;
        tokio::time::sleep(delay).await;
        self.permit = self.shop.places.clone().acquire_owned().await.ok();
        true
    }
}

impl Shop {
    async fn pay(&self, buyer: usize, bill: Bill) -> Paying {
        let mut place = Place::take(self).await;
        self.pace.wait(&self.tally, self.deadline).await;
        let at = self.tally.elapsed();
        let who = &self.buyers[buyer];
        let mut payment_id = None;
        let ending = match self.prepare(&mut place, who, &bill).await {
            Ok(prepared) => {
                payment_id = Some(prepared.payment_id);
                self.course(&mut place, who, &bill, &prepared).await
            }
            Err(ending) => ending,
        };
        drop(place);
        self.tally.record_settled(ending == Ending::Paid);
        Paying { order_id: bill.order_id, payment_id, ending, at, until: self.tally.elapsed() }
    }

    async fn prepare(&self, place: &mut Place<'_>, who: &Buyer, bill: &Bill) -> Result<Prepared, Ending> {
        loop {
            let delay = match self.api.prepare_payment(who, bill).await {
                Heard::Told { status: 201, body } => {
                    let unreadable = || Ending::Refused { status: 201, code: "without a window".to_owned() };
                    return Prepared::of(&body).ok_or_else(unreadable);
                }
                Heard::Told { status, body } => {
                    let code = body["code"].as_str().unwrap_or("without a code").to_owned();
                    return Err(Ending::Refused { status, code });
                }
                Heard::Later(delay) => delay,
                Heard::Unknown => Duration::ZERO,
            };
            self.tally.record_retry();
            if !place.wait(delay).await {
                return Err(Ending::Unknown);
            }
        }
    }

    /// Authorises and approves until there is an end.
    async fn course(&self, place: &mut Place<'_>, who: &Buyer, bill: &Bill, prepared: &Prepared) -> Ending {
        let mut declines = 0;
        let mut clicks_twice = rand::rng().random::<f64>() < self.double_clicks;
        loop {
            place.waits = 0;
            let windows = if clicks_twice && rand::rng().random::<f64>() < TWO_WINDOWS { 2 } else { 1 };
            let Some(mut authorised) = self.authorise(place, prepared, windows).await else { return Ending::Unknown };
            if clicks_twice && windows == 1 {
                authorised.push(authorised[0].clone());
            }
            // Everybody learns.
            clicks_twice = false;
            match self.approve(place, who, bill, prepared, authorised).await {
                Some(Sense::Paid) => return Ending::Paid,
                Some(Sense::Declined) => {
                    declines += 1;
                    if declines == DECLINES_MAX {
                        return Ending::Declined;
                    }
                }
                Some(Sense::NotTaken | Sense::Wait | Sense::Again) => {
                    if !place.wait(Duration::ZERO).await {
                        return Ending::Unknown;
                    }
                }
                Some(Sense::Refused(status, code)) => return Ending::Refused { status, code },
                None => return Ending::Unknown,
            }
        }
    }

    /// Opens `windows` windows of the provider and agrees in each.
    async fn authorise(&self, place: &mut Place<'_>, prepared: &Prepared, windows: usize) -> Option<Vec<String>> {
        let mut authorised = Vec::new();
        while authorised.len() < windows {
            match self.api.authorise(&prepared.redirect_url).await {
                Ok(pg_payment_id) => authorised.push(pg_payment_id),
                Err(error) => {
                    tracing::warn!("The provider's window does not open: {error:#}");
                    if !place.wait(Duration::ZERO).await {
                        return None;
                    }
                }
            }
        }
        Some(authorised)
    }

    /// Approves all of `authorised` at once, and asks until it is known what came of it. None: the time is up.
    async fn approve(
        &self,
        place: &mut Place<'_>,
        who: &Buyer,
        bill: &Bill,
        prepared: &Prepared,
        authorised: Vec<String>,
    ) -> Option<Sense> {
        loop {
            let payment = prepared.payment_id;
            let clicks = authorised.iter().map(|pg| self.api.approve_payment(who, bill, payment, pg));
            let heard = join_all(clicks).await;
            let mut sense = heard.iter().map(approval).min()?;
            let delay = heard.iter().map(|heard| if let Heard::Later(delay) = heard { *delay } else { Duration::ZERO });
            let mut delay = delay.max().unwrap_or_default();
            let is_unheard = sense == Sense::Again;
            while matches!(sense, Sense::Wait | Sense::Again) {
                self.tally.record_retry();
                if !place.wait(delay).await {
                    return None;
                }
                delay = Duration::ZERO;
                sense = standing(&self.api.read_payment(who, payment).await);
            }
            // It never arrived, or it failed on its way: the same again.
            if is_unheard && sense == Sense::NotTaken {
                continue;
            }
            return Some(sense);
        }
    }
}
