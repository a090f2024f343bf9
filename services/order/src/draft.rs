//! An order before it is stored: what may be ordered, and the draft that a request and its hold make.

use std::collections::HashMap;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::idempotency::reused;
use common::telemetry::Context;
use common::{Refused, Result};
use contract::coupon::Redemption;
use contract::ids::{AccountId, CouponIssueId, HoldId, OrderId, ProductId};
use contract::inventory::{Hold, HoldLine};
use contract::money::KRW;
use serde::{Deserialize, Serialize};

use crate::order::{Item, Order, Shipping};
use crate::status::Status;

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

/// Refuses an order without lines or with too many, a product that has two lines, and a quantity out of bounds.
pub fn check_items(items: &[WantedItem], limits: &Limits) -> Result<(), Refused> {
    if items.is_empty() || items.len() > limits.lines_max {
        return Err(Refused::invalid("items", format!("An order has 1 to {} lines.", limits.lines_max)));
    }
    for (line, item) in items.iter().enumerate() {
        if !(1..=limits.quantity_max).contains(&item.quantity) {
            let field = format!("items[{line}].quantity");
            return Err(Refused::invalid(&field, format!("Must be 1 to {}.", limits.quantity_max)));
        }
        if items[..line].iter().any(|earlier| earlier.product_id == item.product_id) {
            let field = format!("items[{line}].productId");
            return Err(Refused::invalid(&field, "One line for each product; add up the quantities."));
        }
    }
    Ok(())
}

/// What is to be ordered.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// Checked by [`check_items`].
    Items(Vec<WantedItem>),
    /// The seats of a reservation.
    Reservation(HoldId),
}

/// What the owner of an Idempotency-Key asks for.
#[derive(Debug, Clone)]
pub struct Intent {
    pub order_id: OrderId,
    pub user_id: AccountId,
    pub idempotency_key: String,
    pub fingerprint: Vec<u8>,
    pub wanted: Wanted,
    /// The issued coupon that it uses.
    pub coupon: Option<CouponIssueId>,
    pub shipping: Option<Shipping>,
}

/// An order whose units are held and which is about to be stored.
#[derive(Debug, Clone)]
pub struct Draft {
    pub order_id: OrderId,
    pub user_id: AccountId,
    pub idempotency_key: String,
    pub fingerprint: Vec<u8>,
    pub items: Vec<Item>,
    pub coupon: Option<CouponIssueId>,
    /// The items less their discounts.
    pub amount: i64,
    pub currency: String,
    pub hold_expires_at: DateTime<Utc>,
    pub shipping: Option<Shipping>,
    /// The request that places the order.
    pub context: Context,
}

impl Draft {
    /// Names, prices and seats come from `hold`, discounts from `redemption`, and none from the client. The lines keep the
    /// order of the request; those of a reservation are in the order of the hold.
    ///
    /// Refuses with `IDEMPOTENCY_KEY_REUSED` if the hold is for other lines, or the redemption for another coupon: then an
    /// earlier request with this key reserved them, and its process died before it stored the order.
    pub fn new(intent: Intent, hold: Hold, redemption: Option<Redemption>, context: Context) -> Result<Draft> {
        let expires_at = hold.expires_at.context("the hold has no expiry")?;
        let hold_expires_at = DateTime::try_from(expires_at).map_err(|_| anyhow::anyhow!("the hold's expiry"))?;
        let wanted = match intent.wanted {
            Wanted::Items(_) if hold.lines.iter().any(|line| !line.seats.is_empty()) => return Err(reused().into()),
            Wanted::Items(items) => items,
            Wanted::Reservation(_) if hold.lines.iter().any(|line| line.seats.is_empty()) => {
                return Err(reused().into());
            }
            Wanted::Reservation(_) => hold.lines.iter().map(wanted_item).collect::<anyhow::Result<_>>()?,
        };
        let mut held: HashMap<String, HoldLine> =
            hold.lines.into_iter().map(|line| (line.product_id.clone(), line)).collect();
        let mut items = Vec::with_capacity(wanted.len());
        let mut currency = KRW.to_owned();
        let mut discounts = discounts(intent.coupon, redemption)?;
        for WantedItem { product_id, quantity } in wanted {
            let line = held.remove(&product_id.to_string()).filter(|line| line.quantity == quantity);
            let line = line.ok_or_else(reused)?;
            currency = line.currency;
            let discount = discounts.remove(&line.product_id).unwrap_or_default();
            let (sku, name, unit_price) = (line.sku, line.name, line.unit_price);
            let seats = line.seats.into_iter().map(|seat| seat.label).collect();
            items.push(Item { product_id, sku, name, quantity, unit_price, discount, seats });
        }
        if !held.is_empty() || !discounts.is_empty() {
            return Err(reused().into());
        }
        Ok(Draft {
            order_id: intent.order_id,
            user_id: intent.user_id,
            idempotency_key: intent.idempotency_key,
            fingerprint: intent.fingerprint,
            amount: total(&items).context("the order's total leaves the range of money")?,
            items,
            coupon: intent.coupon,
            currency,
            hold_expires_at,
            shipping: intent.shipping,
            context,
        })
    }

    /// The order as it is stored.
    pub fn to_order(&self, created_at: DateTime<Utc>) -> Order {
        Order {
            id: self.order_id,
            user_id: self.user_id,
            status: Status::Created,
            version: 1,
            amount: self.amount,
            currency: self.currency.clone(),
            coupon_issue_id: self.coupon,
            fingerprint: self.fingerprint.clone(),
            hold_expires_at: self.hold_expires_at,
            first_hold_expires_at: self.hold_expires_at,
            created_at,
            cancel_reason: None,
            reservation: None,
            ended_attempt_ids: Vec::new(),
            paid_payment_id: None,
            returned_payment_ids: Vec::new(),
            items: self.items.clone(),
            shipping: self.shipping.clone(),
        }
    }
}

/// What a line of a hold is an answer to.
fn wanted_item(line: &HoldLine) -> anyhow::Result<WantedItem> {
    Ok(WantedItem { product_id: line.product_id.parse().context("the hold's product")?, quantity: line.quantity })
}

/// What the coupon takes off each product.
fn discounts(wanted: Option<CouponIssueId>, redemption: Option<Redemption>) -> Result<HashMap<String, i64>> {
    let Some(redemption) = redemption else { return Ok(HashMap::new()) };
    if wanted.is_none_or(|issue| issue.to_string() != redemption.issue_id) {
        return Err(reused().into());
    }
    Ok(redemption.lines.into_iter().map(|line| (line.product_id, line.discount)).collect())
}

/// What all lines cost less their discounts, in minor units, or `None` if it leaves the range of money. No discount is
/// negative or more than its line, and something is left to pay.
fn total(items: &[Item]) -> Option<i64> {
    let rest = |item: &Item| {
        let price = item.unit_price.checked_mul(item.quantity.into())?;
        (0..=price).contains(&item.discount).then_some(price - item.discount)
    };
    let sum = items.iter().try_fold(0_i64, |sum, item| sum.checked_add(rest(item)?))?;
    (sum > 0).then_some(sum)
}

#[cfg(test)]
mod tests {
    use contract::coupon::LineDiscount;

    use super::*;

    const LIMITS: Limits = Limits { lines_max: 3, quantity_max: 10 };

    fn wanted(quantities: &[i32]) -> Vec<WantedItem> {
        quantities
            .iter()
            .map(|quantity| WantedItem { product_id: ProductId::generate(), quantity: *quantity })
            .collect()
    }

    fn intent(items: &[WantedItem]) -> Intent {
        Intent {
            order_id: OrderId::generate(),
            user_id: AccountId::generate(),
            idempotency_key: "key".to_owned(),
            fingerprint: vec![1],
            wanted: Wanted::Items(items.to_vec()),
            coupon: None,
            shipping: None,
        }
    }

    /// What inventory answers: each unit costs 100 won more than that of the line before.
    fn hold(items: &[WantedItem]) -> Hold {
        let line = |(number, item): (i64, &WantedItem)| HoldLine {
            product_id: item.product_id.to_string(),
            quantity: item.quantity,
            unit_price: number * 100,
            currency: KRW.to_owned(),
            name: format!("Sneaker {number}"),
            sku: format!("SNEAKER-{number}"),
            seats: Vec::new(),
        };
        let lines = (1..).zip(items).map(line).collect();
        Hold { lines, expires_at: Some(DateTime::<Utc>::UNIX_EPOCH.into()), ..Hold::default() }
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
    fn a_draft_takes_names_and_prices_from_the_hold_and_the_order_of_lines_from_the_request() {
        let wanted = wanted(&[2, 3]);
        let mut hold = hold(&wanted);
        hold.lines.reverse();
        let draft = Draft::new(intent(&wanted), hold, None, Context::default()).unwrap();
        let lines = draft.items.iter().map(|item| (item.product_id, item.name.as_str(), item.unit_price));
        let expected = [(wanted[0].product_id, "Sneaker 1", 100), (wanted[1].product_id, "Sneaker 2", 200)];
        assert_eq!(lines.collect::<Vec<_>>(), expected);
        assert_eq!((draft.amount, draft.currency.as_str()), (2 * 100 + 3 * 200, KRW));
    }

    #[test]
    fn a_hold_of_other_lines_belongs_to_another_request_under_the_key() {
        let wanted = wanted(&[2, 3]);
        let mut more = wanted.clone();
        more[1].quantity = 4;
        for other in [&wanted[..1], &more, &[wanted.clone(), self::wanted(&[1])].concat()] {
            let refused = Draft::new(intent(&wanted), hold(other), None, Context::default()).unwrap_err();
            assert_eq!(refused.reason(), Some("IDEMPOTENCY_KEY_REUSED"), "{other:?}");
        }
    }

    #[test]
    fn a_total_that_leaves_the_range_of_money_is_none() {
        assert_eq!(total(&[item(100, 3, 0), item(7, 1, 0)]), Some(307));
        assert_eq!(total(&[item(i64::MAX, 2, 0)]), None);
        assert_eq!(total(&[item(i64::MAX, 1, 0), item(1, 1, 0)]), None);
    }

    #[test]
    fn discounts_come_off_their_lines_and_leave_something_to_pay() {
        assert_eq!(total(&[item(100, 3, 50), item(7, 1, 7)]), Some(250));
        for bad in [item(100, 3, -1), item(100, 3, 301), item(100, 3, 300)] {
            assert_eq!(total(std::slice::from_ref(&bad)), None, "{bad:?}");
        }
    }

    #[test]
    fn a_draft_takes_its_discounts_from_the_redemption_of_its_own_coupon() {
        let wanted = wanted(&[2, 3]);
        let coupon = CouponIssueId::generate();
        let redemption = |issue: CouponIssueId, products: &[ProductId]| Redemption {
            issue_id: issue.to_string(),
            lines: (1..)
                .zip(products)
                .map(|(discount, id)| LineDiscount { product_id: id.to_string(), discount })
                .collect(),
            ..Redemption::default()
        };
        let draft = |redemption| {
            let intent = Intent { coupon: Some(coupon), ..intent(&wanted) };
            Draft::new(intent, hold(&wanted), Some(redemption), Context::default())
        };
        let both = [wanted[0].product_id, wanted[1].product_id];
        let made = draft(redemption(coupon, &both)).unwrap();
        assert_eq!(made.items.iter().map(|item| item.discount).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((made.amount, made.coupon), (2 * 100 - 1 + 3 * 200 - 2, Some(coupon)));
        let of_another_request =
            [redemption(CouponIssueId::generate(), &both), redemption(coupon, &[ProductId::generate()])];
        for redemption in of_another_request {
            assert_eq!(draft(redemption).unwrap_err().reason(), Some("IDEMPOTENCY_KEY_REUSED"));
        }
    }

    fn item(unit_price: i64, quantity: i32, discount: i64) -> Item {
        let (product_id, sku, name) = (ProductId::generate(), String::new(), String::new());
        Item { product_id, sku, name, quantity, unit_price, discount, seats: Vec::new() }
    }
}
