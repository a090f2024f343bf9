//! Money: integer minor units of one currency.

use serde::{Deserialize, Serialize};

/// The currency of every price. The won has no decimals, so a minor unit is one won.
pub const KRW: &str = "KRW";

/// Money as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Money {
    /// Integer minor units: whole won.
    pub amount: i64,
    /// ISO 4217; only `KRW`.
    pub currency: Currency,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Currency {
    #[serde(rename = "KRW")]
    Krw,
}

impl Money {
    pub fn krw(amount: i64) -> Self {
        Self { amount, currency: Currency::Krw }
    }
}
