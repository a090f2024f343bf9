//! Why the queue says no. Callers can act on each of these.

use std::time::Duration;

use common::error::VERSION_CONFLICT;
use common::{Code, Refusal};
use contract::codes;
use contract::ids::{ProductId, SaleEventId, TicketId};
use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("There is no sale event {0}.")]
    EventNotFound(SaleEventId),
    #[error("Sale event {0} has begun already.")]
    AlreadyOpen(SaleEventId),
    #[error("Sale event {0} has ended.")]
    Closed(SaleEventId),
    #[error("Sale event {event} has not begun; nobody may enter its line yet.")]
    NotOpen { event: SaleEventId, begins_in: Duration },
    #[error("Everything is sold out.")]
    SoldOut { products: Vec<ProductId> },
    #[error("Nobody may enter the line of sale event {0} any more; those who wait are still served.")]
    Draining(SaleEventId),
    #[error("{waiting_max} people are waiting; come back later.")]
    Full { waiting_max: i64 },
    #[error("You have no ticket {0}.")]
    TicketNotFound(TicketId),
    #[error("The turn of ticket {0} is over; enter the line again.")]
    TicketExpired(TicketId),
    #[error("The sale event has changed since; read it again.")]
    VersionConflict { current: i64 },
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Refused::EventNotFound(_) => codes::EVENT_NOT_FOUND,
            Refused::AlreadyOpen(_) => codes::EVENT_ALREADY_OPEN,
            Refused::Closed(_) => codes::EVENT_CLOSED,
            Refused::NotOpen { .. } => codes::EVENT_NOT_OPEN,
            Refused::SoldOut { .. } => codes::EVENT_SOLD_OUT,
            Refused::Draining(_) => codes::QUEUE_DRAINING,
            Refused::Full { .. } => codes::QUEUE_FULL,
            Refused::TicketNotFound(_) => codes::TICKET_NOT_FOUND,
            Refused::TicketExpired(_) => codes::TICKET_EXPIRED,
            Refused::VersionConflict { .. } => VERSION_CONFLICT,
        }
    }

    fn details(&self) -> Vec<Value> {
        match self {
            Refused::VersionConflict { current } => vec![json!({ "version": current })],
            Refused::SoldOut { products } => {
                let subscription = |id: &ProductId| format!("/api/v1/products/{id}/restock-subscriptions");
                let places =
                    products.iter().map(|id| json!({ "productId": id, "restockSubscriptions": subscription(id) }));
                places.collect()
            }
            _ => Vec::new(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Refused::NotOpen { begins_in, .. } => Some(*begins_in),
            Refused::Full { .. } => Some(FULL_FOR),
            _ => None,
        }
    }
}

/// Places in a full line become free at the pace of the room, so there is no point in asking at once.
const FULL_FOR: Duration = Duration::from_secs(10);
