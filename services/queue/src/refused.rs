//! Why the queue says no. Callers can act on each of these.

use common::error::VERSION_CONFLICT;
use common::{Code, Refusal};
use contract::codes;
use contract::ids::SaleEventId;
use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("There is no sale event {0}.")]
    EventNotFound(SaleEventId),
    #[error("Sale event {0} has begun already.")]
    AlreadyOpen(SaleEventId),
    #[error("Sale event {0} has ended.")]
    Closed(SaleEventId),
    #[error("The sale event has changed since; read it again.")]
    VersionConflict { current: i64 },
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Refused::EventNotFound(_) => codes::EVENT_NOT_FOUND,
            Refused::AlreadyOpen(_) => codes::EVENT_ALREADY_OPEN,
            Refused::Closed(_) => codes::EVENT_CLOSED,
            Refused::VersionConflict { .. } => VERSION_CONFLICT,
        }
    }

    fn details(&self) -> Vec<Value> {
        match self {
            Refused::VersionConflict { current } => vec![json!({ "version": current })],
            _ => Vec::new(),
        }
    }
}
