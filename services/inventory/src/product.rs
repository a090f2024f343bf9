//! Rules of products: what may be for sale, and how its stock is shown.

use chrono::{DateTime, SecondsFormat, Utc};
use common::Refused;
use common::text::Text;
use contract::ids::{ConcertId, ProductId};
use contract::money::{Currency, Money};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A trillion won. Higher prices are typing errors, and a total of any order still fits 64 bits.
pub const PRICE_MAX: i64 = 1_000_000_000_000;

pub type Sku = Text<1, 64>;
pub type Name = Text<1, 200>;

/// Refuses with `VALIDATION_ERROR`.
pub fn check_price(price: &Money) -> Result<(), Refused> {
    match price.currency {
        Currency::Krw if (1..=PRICE_MAX).contains(&price.amount) => Ok(()),
        Currency::Krw => Err(Refused::invalid("price.amount", format!("must be 1 to {PRICE_MAX}"))),
    }
}

/// Refuses with `VALIDATION_ERROR`.
pub fn check_limit(max_per_user: Option<i32>) -> Result<(), Refused> {
    match max_per_user {
        Some(max) if max < 1 => Err(Refused::invalid("maxPerUser", "must be at least 1, or null for no limit")),
        Some(_) | None => Ok(()),
    }
}

/// A product without its stock. It is cached: only an administrator changes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Product {
    pub product_id: ProductId,
    pub sku: String,
    pub name: String,
    pub price: Money,
    /// Units that one buyer may hold and own together; null: no limit.
    pub max_per_user: Option<i32>,
    /// Its units are seats of this concert; absent: they are alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concert_id: Option<ConcertId>,
    /// For `If-Match`.
    pub version: i64,
    #[schema(example = "2026-01-01T00:00:00.000Z")]
    pub created_at: String,
    #[schema(example = "2026-01-01T00:00:00.000Z")]
    pub updated_at: String,
}

/// Times as the API writes them.
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StockStatus {
    InStock,
    Low,
    /// All units are held or sold; held ones may come back.
    SoldOutTentative,
    SoldOut,
}

/// Units as they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StockView {
    pub available: i64,
    pub held: i64,
    pub status: StockStatus,
}

impl StockView {
    /// `held` without the units of expired holds.
    pub fn new(on_hand: i64, held: i64, low_stock_units: i64) -> StockView {
        let available = on_hand - held;
        let status = if available > low_stock_units {
            StockStatus::InStock
        } else if available > 0 {
            StockStatus::Low
        } else if held > 0 {
            StockStatus::SoldOutTentative
        } else {
            StockStatus::SoldOut
        };
        StockView { available, held, status }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_follows_the_units() {
        for (on_hand, held, status) in [
            (100, 0, StockStatus::InStock),
            (100, 89, StockStatus::InStock),
            (100, 90, StockStatus::Low),
            (100, 99, StockStatus::Low),
            (100, 100, StockStatus::SoldOutTentative),
            (0, 0, StockStatus::SoldOut),
        ] {
            assert_eq!(StockView::new(on_hand, held, 10).status, status, "{on_hand} {held}");
        }
    }

    #[test]
    fn prices_are_positive_and_bounded() {
        for (amount, valid) in [(0, false), (-1, false), (1, true), (PRICE_MAX, true), (PRICE_MAX + 1, false)] {
            assert_eq!(check_price(&Money::krw(amount)).is_ok(), valid, "{amount}");
        }
    }
}
