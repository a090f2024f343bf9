//! The waiting room of `stampede rush --seats --queue`: everybody enters when it opens, and waits for their turn.

use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use client::{Buyer, Client, Place, fresh_key};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::Rush;
use super::verdict::Visit;

/// Between two looks at what is about to change.
pub const LOOK: Duration = Duration::from_millis(20);
/// Between two knocks at a line that is not open yet.
const KNOCK: Duration = Duration::from_millis(200);
/// A pass whose owner closed the tab keeps its slot so long, and the last seats let few people in at once. Longer than any
/// buyer needs, also while a part is down.
const SESSION_SECONDS: u32 = 60;
/// From its scheduling to the opening of the sale: time enough for everybody to hear of it.
const SALE_IN: TimeDelta = TimeDelta::seconds(10);

/// The sale of the concert, if it has a waiting room.
pub struct Queue {
    pub event: Uuid,
    opens_at: DateTime<Utc>,
    pub slots_max: u64,
}

impl Queue {
    /// As many may be in the shop as ask at the same time.
    pub async fn schedule(admin: &Client, name: &str, product: Uuid, concurrency: u64) -> anyhow::Result<Queue> {
        let opens_at = Utc::now() + SALE_IN;
        let body = json!({
            "name": name,
            "opensAt": opens_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            "productIds": [product],
            "queueManageRequired": true,
            "queue": {
                "maxActive": concurrency, "ratePerMinute": 1_000_000, "sessionSeconds": SESSION_SECONDS, "claimSeconds": 10,
                "waitingMax": 1_000_000, "verifyOffline": false, "closedOnOutage": false,
            },
        });
        let request = admin.request(Method::POST, "/admin/events").header("Idempotency-Key", fresh_key()).json(&body);
        let told: Value = admin.try_send(request).await?.succeeded()?.read()?;
        let event = told["eventId"].as_str().context("a sale event without an id")?.parse()?;
        Ok(Queue { event, opens_at, slots_max: concurrency })
    }
}

impl Rush {
    /// Asks until the line is open, and has a place in it then.
    pub async fn enter(&self, buyer: &Buyer, queue: &Queue, visit: &mut Visit) -> anyhow::Result<(Place, Value)> {
        loop {
            let opens_in = (queue.opens_at - Utc::now()).to_std().unwrap_or_default();
            // A moment before: nobody may be let in early.
            tokio::time::sleep(opens_in.saturating_sub(LOOK)).await;
            let (status, told) = self.answered("entering", || self.client.enter_for(buyer, queue.event)).await?;
            match status {
                200 | 201 => {
                    let late = (Utc::now() - queue.opens_at).num_milliseconds();
                    let mut line = self.line.lock();
                    line.opened_ms = Some(line.opened_ms.map_or(late, |first| first.min(late)));
                    visit.seq = told["seq"].as_i64();
                    let text =
                        |name: &str| told[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
                    let place = Place { event: queue.event, ticket: text("ticketId")?, token: text("ticketToken")? };
                    return Ok((place, told));
                }
                409 => self.pause(KNOCK, "waiting for the opening").await?,
                status => bail!("entering the line: {status} {told}"),
            }
        }
    }

    /// The pass, when it is their turn. None: all that is left is held or sold.
    pub async fn wait_for_turn(
        &self,
        buyer: &Buyer,
        place: &Place,
        mut told: Value,
        visit: &mut Visit,
    ) -> anyhow::Result<Option<String>> {
        let mut place = place.clone();
        let mut admitted_before = None;
        loop {
            if let Some(newer) = told["ticketToken"].as_str() {
                place.token = newer.to_owned();
            }
            match (told["passToken"].as_str(), told["status"].as_str()) {
                (Some(pass), _) => {
                    visit.admitted_at = Some(Instant::now());
                    let mut line = self.line.lock();
                    line.last_admitted = line.last_admitted.max(visit.seq);
                    return Ok(Some(pass.to_owned()));
                }
                (None, Some("SOLD_OUT")) => return Ok(None),
                (None, _) if told["soldOut"].is_string() => return Ok(None),
                (None, _) => {
                    // Somebody behind them had the turn before they asked.
                    visit.was_overtaken |= admitted_before.is_some_and(|last| Some(last) > visit.seq);
                }
            }
            let after = Duration::from_millis(told["pollAfterMs"].as_u64().unwrap_or(1_000));
            self.pause(after, "waiting in line").await.with_context(|| format!("last told: {told}"))?;
            admitted_before = self.line.lock().last_admitted;
            let (status, answer) = self.answered("polling", || self.client.ticket_for(buyer, &place)).await?;
            match status {
                200 => told = answer,
                // The turn is over: they were not there in time.
                410 => return Ok(None),
                status => bail!("waiting in line: {status} {answer}"),
            }
        }
    }

    pub async fn leave(&self, buyer: &Buyer, place: Option<&Place>, visit: &mut Visit) -> anyhow::Result<()> {
        let Some(place) = place else { return Ok(()) };
        visit.gives_the_slot_back();
        self.answered("leaving", || self.client.leave_for(buyer, place)).await?;
        Ok(())
    }
}
