//! Rules: what may be ordered, and what it costs.

use chrono::{DateTime, Utc};
use common::Refused as BadRequest;
use common::telemetry::Context;
use contract::ids::{AccountId, OrderId, ProductId};
use serde::{Deserialize, Serialize};

/// Bounds of one order.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub lines_max: usize,
    pub quantity_max: i32,
}

/// One product and how many of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WantedItem {
    #[schema(value_type = String, format = Uuid)]
    pub product_id: ProductId,
    /// At least 1.
    #[schema(minimum = 1)]
    pub quantity: i32,
}

/// Refuses lines that break a rule of form: none, too many, one product twice, a quantity out of bounds.
pub fn check_items(items: &[WantedItem], limits: &Limits) -> Result<(), BadRequest> {
    if items.is_empty() || items.len() > limits.lines_max {
        return Err(BadRequest::invalid("items", format!("An order has 1 to {} lines.", limits.lines_max)));
    }
    for (line, item) in items.iter().enumerate() {
        if !(1..=limits.quantity_max).contains(&item.quantity) {
            let field = format!("items[{line}].quantity");
            return Err(BadRequest::invalid(&field, format!("Must be 1 to {}.", limits.quantity_max)));
        }
        if items[..line].iter().any(|earlier| earlier.product_id == item.product_id) {
            let field = format!("items[{line}].productId");
            return Err(BadRequest::invalid(&field, "One line for each product; add up the quantities."));
        }
    }
    Ok(())
}

/// A line with the price it was held at.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Item {
    pub product_id: ProductId,
    pub sku: String,
    pub name: String,
    pub quantity: i32,
    pub unit_price: i64,
}

/// The sum of all lines in minor units, or `None` where it leaves the range of money.
pub fn total(items: &[Item]) -> Option<i64> {
    items.iter().try_fold(0_i64, |sum, item| sum.checked_add(item.unit_price.checked_mul(item.quantity.into())?))
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipping {
    pub recipient: String,
    pub phone: String,
    pub postal_code: String,
    pub address: String,
    pub memo: Option<String>,
}

/// An order that is about to be stored.
#[derive(Debug, Clone)]
pub struct Draft {
    pub id: OrderId,
    pub user_id: AccountId,
    pub idempotency_key: String,
    pub fingerprint: Vec<u8>,
    pub items: Vec<Item>,
    pub amount: i64,
    pub currency: String,
    pub hold_expires_at: DateTime<Utc>,
    pub shipping: Option<Shipping>,
    /// The request that asks for it.
    pub context: Context,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { lines_max: 3, quantity_max: 10 };

    fn wanted(quantities: &[i32]) -> Vec<WantedItem> {
        quantities
            .iter()
            .map(|quantity| WantedItem { product_id: ProductId::generate(), quantity: *quantity })
            .collect()
    }

    #[test]
    fn lines_outside_the_bounds_are_refused() {
        assert!(check_items(&wanted(&[1, 10]), &LIMITS).is_ok());
        for bad in [&[][..], &[0], &[-1], &[11], &[i32::MAX], &[1, 1, 1, 1]] {
            assert!(check_items(&wanted(bad), &LIMITS).is_err(), "{bad:?}");
        }
        let mut twice = wanted(&[1, 1]);
        twice[1].product_id = twice[0].product_id;
        let refused = check_items(&twice, &LIMITS).unwrap_err();
        assert_eq!(refused.details[0]["field"], "items[1].productId");
    }

    #[test]
    fn a_total_that_leaves_the_range_of_money_is_none() {
        let item = |unit_price, quantity| Item {
            product_id: ProductId::generate(),
            sku: String::new(),
            name: String::new(),
            quantity,
            unit_price,
        };
        assert_eq!(total(&[item(100, 3), item(7, 1)]), Some(307));
        assert_eq!(total(&[item(i64::MAX, 2)]), None);
        assert_eq!(total(&[item(i64::MAX, 1), item(1, 1)]), None);
    }
}
