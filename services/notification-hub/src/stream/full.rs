//! Why there is no place for one more stream.

use std::time::Duration;

use common::Refusal;
use common::error::{Code, RATE_LIMITED, SERVICE_UNAVAILABLE};
use serde_json::{Value, json};

/// Others may have gone by then.
const COME_BACK: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("The stream is not ready yet; try again.")]
    NotReady,
    #[error("Too many streams are open; try again later.")]
    Process,
    /// `owner` is `account` or `address`.
    #[error("This {owner} has {limit} streams open already.")]
    Owner { owner: &'static str, limit: usize },
}

impl Full {
    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Full::NotReady => "not_ready",
            Full::Process => "process",
            Full::Owner { owner, .. } => owner,
        }
    }
}

impl Refusal for Full {
    fn code(&self) -> Code {
        match self {
            Full::NotReady | Full::Process => SERVICE_UNAVAILABLE,
            Full::Owner { .. } => RATE_LIMITED,
        }
    }

    fn details(&self) -> Vec<Value> {
        match self {
            Full::NotReady | Full::Process => Vec::new(),
            Full::Owner { limit, .. } => {
                vec![json!({ "limit": limit, "remaining": 0, "resetSeconds": COME_BACK.as_secs() })]
            }
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        Some(COME_BACK)
    }
}
