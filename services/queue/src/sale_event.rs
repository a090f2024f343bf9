//! Rules of sale events: when they are open, what may still be changed, and what others are told.

use chrono::{DateTime, TimeDelta, Utc};
use common::page::is_storable;
use common::{Result, signed};
use contract::events::{EventClosed, EventOpen, EventScheduled, EventSoldOut, NOT_SOLD_OUT, SaleRules};
use contract::ids::{ProductId, SaleEventId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::names::{Mode, SoldOut, Status};
use crate::refused::Refused;
use crate::schema::sale_events;

/// A key of Redis lives until the event opens, and an event a year ahead is a typing error.
const AHEAD_MAX: TimeDelta = TimeDelta::days(366);
const PRODUCTS_MAX: usize = 100;

/// A stored sale event.
#[derive(Debug, Clone, PartialEq, diesel::Queryable, diesel::Selectable, diesel::Insertable)]
#[diesel(table_name = sale_events)]
pub struct SaleEvent {
    pub id: SaleEventId,
    pub name: String,
    pub status: Status,
    pub sold_out: Option<SoldOut>,
    pub opens_at: DateTime<Utc>,
    pub closes_at: Option<DateTime<Utc>>,
    pub prequeue_at: Option<DateTime<Utc>>,
    pub opened_at: Option<DateTime<Utc>>,
    pub closed_at: Option<DateTime<Utc>>,
    pub product_ids: Vec<ProductId>,
    pub queue_manage_required: bool,
    #[diesel(embed)]
    pub room: RoomRules,
    pub mode: Mode,
    pub pass_public_key: Vec<u8>,
    pub pass_private_key: Vec<u8>,
    pub draw_seed: Vec<u8>,
    pub fingerprint: Vec<u8>,
    pub version: i64,
    pub created_by: Uuid,
}

/// How many a room lets in, and what the buying path does without it.
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    diesel::Queryable,
    diesel::Selectable,
    diesel::Insertable,
    diesel::AsChangeset,
)]
#[diesel(table_name = sale_events)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoomRules {
    /// Passes in use and offers at the same time.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub max_active: i32,
    /// People who are admitted in a minute at the most.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub rate_per_minute: i32,
    /// How long a pass is valid, from the moment at which it was claimed.
    #[schema(minimum = 1, maximum = 86_400)]
    pub session_seconds: i32,
    /// How long a slot is offered to whoever is next.
    #[schema(minimum = 1, maximum = 3_600)]
    pub claim_seconds: i32,
    /// People who may wait; one more is refused.
    #[schema(minimum = 1, maximum = 100_000_000)]
    pub waiting_max: i64,
    /// While this service does not answer, a pass with a valid signature is let through. Else: 503.
    pub verify_offline: bool,
    /// While this service is dead, nobody buys without a pass. Else: as many as the room admits.
    pub closed_on_outage: bool,
}

impl RoomRules {
    pub fn check(&self) -> Result<(), common::Refused> {
        let bounds = [
            ("queue.maxActive", i64::from(self.max_active), 1_000_000),
            ("queue.ratePerMinute", i64::from(self.rate_per_minute), 1_000_000),
            ("queue.sessionSeconds", i64::from(self.session_seconds), 86_400),
            ("queue.claimSeconds", i64::from(self.claim_seconds), 3_600),
            ("queue.waitingMax", self.waiting_max, 100_000_000),
        ];
        for (field, value, max) in bounds {
            if !(1..=max).contains(&value) {
                return Err(common::Refused::invalid(field, format!("must be 1 to {max}")));
            }
        }
        Ok(())
    }
}

/// When a sale is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Times {
    pub opens_at: DateTime<Utc>,
    pub closes_at: Option<DateTime<Utc>>,
    pub prequeue_at: Option<DateTime<Utc>>,
}

impl Times {
    pub fn check(&self, now: DateTime<Utc>) -> Result<(), common::Refused> {
        let all = [("opensAt", Some(self.opens_at)), ("closesAt", self.closes_at), ("prequeueAt", self.prequeue_at)];
        for (field, at) in all {
            if at.is_some_and(|at| !is_storable(&at) || at > now + AHEAD_MAX) {
                let message = format!("must be at most {} days ahead", AHEAD_MAX.num_days());
                return Err(common::Refused::invalid(field, message));
            }
        }
        if self.closes_at.is_some_and(|at| at <= self.opens_at) {
            return Err(common::Refused::invalid("closesAt", "must be after opensAt"));
        }
        if self.prequeue_at.is_some_and(|at| at >= self.opens_at) {
            return Err(common::Refused::invalid("prequeueAt", "must be before opensAt"));
        }
        Ok(())
    }
}

/// Sorted, each once.
pub fn check_products(mut products: Vec<ProductId>) -> Result<Vec<ProductId>, common::Refused> {
    products.sort_unstable();
    products.dedup();
    if products.is_empty() || products.len() > PRODUCTS_MAX {
        return Err(common::Refused::invalid("productIds", format!("must be 1 to {PRODUCTS_MAX} products")));
    }
    Ok(products)
}

/// What can be done with an event at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nobody may come yet.
    Ahead,
    /// People may come early; a draw puts them in order.
    Prequeue,
    Open,
    Closed,
}

impl SaleEvent {
    /// Follows from the times: a trigger that is lost keeps no sale shut, and one that comes early opens none. `now` is the
    /// database's.
    pub fn phase(&self, now: DateTime<Utc>) -> Phase {
        if self.status == Status::Closed || self.closes_at.is_some_and(|at| at <= now) {
            Phase::Closed
        } else if self.status == Status::Open || self.opens_at <= now {
            Phase::Open
        } else if self.queue_manage_required && self.prequeue_at.is_some_and(|at| at <= now) {
            Phase::Prequeue
        } else {
            Phase::Ahead
        }
    }

    pub fn status_at(&self, now: DateTime<Utc>) -> Status {
        match self.phase(now) {
            Phase::Ahead | Phase::Prequeue => Status::Pending,
            Phase::Open => Status::Open,
            Phase::Closed => Status::Closed,
        }
    }

    pub fn times(&self) -> Times {
        Times { opens_at: self.opens_at, closes_at: self.closes_at, prequeue_at: self.prequeue_at }
    }

    /// Whether the times may become `wanted` at `now`: what has begun cannot be put off, and its end can.
    pub fn may_move(&self, wanted: &Times, now: DateTime<Utc>) -> Result<(), Refused> {
        match self.phase(now) {
            Phase::Closed => Err(Refused::Closed(self.id)),
            Phase::Open if (wanted.opens_at, wanted.prequeue_at) != (self.opens_at, self.prequeue_at) => {
                Err(Refused::AlreadyOpen(self.id))
            }
            // Whoever has come early keeps the promise that the draw is at the opening.
            Phase::Prequeue if wanted.prequeue_at != self.prequeue_at => Err(Refused::AlreadyOpen(self.id)),
            _ => Ok(()),
        }
    }

    /// SHA-256 over the seed of the draw and the event's id: told before anybody comes.
    pub fn draw_commitment(&self) -> String {
        let digest = Sha256::new().chain_update(&self.draw_seed).chain_update(self.id.as_bytes()).finalize();
        hex(&digest)
    }

    fn rules(&self) -> SaleRules {
        SaleRules {
            queue_manage_required: self.queue_manage_required,
            verify_offline: self.room.verify_offline,
            closed_on_outage: self.room.closed_on_outage,
            rate_per_minute: self.room.rate_per_minute.into(),
            pass_key: signed::public_text(&self.pass_public_key),
        }
    }

    fn products(&self) -> Vec<String> {
        self.product_ids.iter().map(ToString::to_string).collect()
    }

    pub fn as_scheduled(&self) -> EventScheduled {
        EventScheduled {
            event_id: self.id.to_string(),
            version: self.version,
            name: self.name.clone(),
            opens_at: Some(self.opens_at.into()),
            closes_at: self.closes_at.map(Into::into),
            product_ids: self.products(),
            rules: Some(self.rules()),
            sold_out: self.sold_out.map_or(NOT_SOLD_OUT, <&str>::from).to_owned(),
        }
    }

    pub fn as_open(&self) -> EventOpen {
        EventOpen {
            event_id: self.id.to_string(),
            version: self.version,
            name: self.name.clone(),
            opens_at: Some(self.opens_at.into()),
            opened_at: self.opened_at.map(Into::into),
            closes_at: self.closes_at.map(Into::into),
            product_ids: self.products(),
            rules: Some(self.rules()),
        }
    }

    pub fn as_closed(&self) -> EventClosed {
        EventClosed {
            event_id: self.id.to_string(),
            version: self.version,
            closed_at: self.closed_at.map(Into::into),
            product_ids: self.products(),
        }
    }

    pub fn as_sold_out(&self, kind: SoldOut, held: i64) -> EventSoldOut {
        EventSoldOut {
            event_id: self.id.to_string(),
            version: self.version,
            kind: <&str>::from(kind).to_owned(),
            held,
            product_ids: self.products(),
        }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
        text
    })
}

#[cfg(test)]
pub mod tests;
