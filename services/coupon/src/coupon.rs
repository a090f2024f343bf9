//! Rules of coupons: what may be entered, when one is open, and how its issues look to their owners.

use chrono::{DateTime, SecondsFormat, Utc};
use common::Refused;
use common::page::is_storable;
use common::text::Text;
use contract::ids::ProductId;
use contract::money::Currency;
use diesel::deserialize::FromSqlRow;
use diesel::expression::AsExpression;
use diesel::sql_types;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};
use utoipa::ToSchema;

use crate::redemption::RedemptionState;

pub type Name = Text<1, 200>;

/// A trillion won, as the highest price of a product. A percentage of any order still fits 64 bits.
pub const AMOUNT_MAX: i64 = 1_000_000_000_000;
/// Who issues more does not issue a coupon, but changes the price.
pub const TOTAL_MAX: i64 = 100_000_000;
/// Products that one coupon names.
pub const PRODUCTS_MAX: usize = 200;

#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    IntoStaticStr,
    EnumString,
    AsExpression,
    FromSqlRow,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[diesel(sql_type = sql_types::Text)]
#[strum(serialize_all = "UPPERCASE")]
#[serde(rename_all = "UPPERCASE")]
pub enum DiscountKind {
    Fixed,
    Percent,
}

/// What a coupon takes off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Discount {
    pub kind: DiscountKind,
    /// FIXED: minor units of the coupon's currency. PERCENT: 1 to 99, of what the coupon's products cost together.
    pub value: i64,
}

/// What an issued coupon is worth, and for what. A redemption keeps what it was given when it was reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub discount: Discount,
    pub currency: Currency,
    pub minimum_amount: i64,
    pub maximum_discount: Option<i64>,
    /// Empty: all.
    pub products: Vec<ProductId>,
    pub restored_on_refund: bool,
}

/// When, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    pub total: i64,
    pub issued: i64,
    pub starts_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub closed: bool,
}

impl Terms {
    /// Refuses with `VALIDATION_ERROR`.
    pub fn check(&self) -> Result<(), Refused> {
        let Discount { kind, value } = self.discount;
        match kind {
            DiscountKind::Fixed if !(1..=AMOUNT_MAX).contains(&value) => {
                return Err(Refused::invalid("discount.value", format!("must be 1 to {AMOUNT_MAX}")));
            }
            // No order is free: something is always left to pay.
            DiscountKind::Fixed if self.minimum_amount <= value => {
                return Err(Refused::invalid("minimumAmount", "must be more than a FIXED discount takes off"));
            }
            DiscountKind::Percent if !(1..=99).contains(&value) => {
                return Err(Refused::invalid("discount.value", "must be 1 to 99 percent"));
            }
            DiscountKind::Fixed | DiscountKind::Percent => {}
        }
        if !(0..=AMOUNT_MAX).contains(&self.minimum_amount) {
            return Err(Refused::invalid("minimumAmount", format!("must be 0 to {AMOUNT_MAX}")));
        }
        if self.maximum_discount.is_some_and(|max| !(1..=AMOUNT_MAX).contains(&max)) {
            return Err(Refused::invalid("maximumDiscount", format!("must be 1 to {AMOUNT_MAX}, or null")));
        }
        let mut products = self.products.clone();
        products.sort();
        products.dedup();
        if products.len() != self.products.len() || products.len() > PRODUCTS_MAX {
            let rule = format!("must be at most {PRODUCTS_MAX} products, each once");
            return Err(Refused::invalid("productIds", rule));
        }
        Ok(())
    }
}

impl Offer {
    /// Refuses with `VALIDATION_ERROR`.
    pub fn check(&self) -> Result<(), Refused> {
        if !(1..=TOTAL_MAX).contains(&self.total) {
            return Err(Refused::invalid("total", format!("must be 1 to {TOTAL_MAX}")));
        }
        if self.total < self.issued {
            return Err(Refused::invalid("total", format!("{} are issued already", self.issued)));
        }
        for (field, time) in [("startsAt", self.starts_at), ("expiresAt", self.expires_at)] {
            if !is_storable(&time) {
                return Err(Refused::invalid(field, "must be in the years 1 to 9999"));
            }
        }
        if self.starts_at >= self.expires_at {
            return Err(Refused::invalid("expiresAt", "must be after startsAt"));
        }
        Ok(())
    }
}

/// An issued coupon as its owner sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, Serialize, ToSchema)]
#[strum(serialize_all = "UPPERCASE")]
#[serde(rename_all = "UPPERCASE")]
pub enum IssueStatus {
    /// It can be used.
    Issued,
    /// An order that is not paid has it.
    Reserved,
    Redeemed,
    Expired,
}

impl IssueStatus {
    /// `redemption` is the living one of the issue, with the end of its time.
    pub fn at(
        now: DateTime<Utc>,
        redemption: Option<(RedemptionState, DateTime<Utc>)>,
        coupon_expires_at: DateTime<Utc>,
    ) -> IssueStatus {
        match redemption {
            Some((RedemptionState::Confirmed, _)) => IssueStatus::Redeemed,
            Some((RedemptionState::Pinned, _)) => IssueStatus::Reserved,
            Some((RedemptionState::Reserved, until)) if until > now => IssueStatus::Reserved,
            _ if coupon_expires_at <= now => IssueStatus::Expired,
            _ => IssueStatus::Issued,
        }
    }
}

/// Times as the API writes them.
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn terms(kind: DiscountKind, value: i64, minimum_amount: i64) -> Terms {
        let discount = Discount { kind, value };
        let (currency, products) = (Currency::Krw, Vec::new());
        Terms { discount, currency, minimum_amount, maximum_discount: None, products, restored_on_refund: true }
    }

    #[test]
    fn a_fixed_discount_leaves_something_to_pay_and_a_percentage_is_1_to_99() {
        use DiscountKind::{Fixed, Percent};
        for (kind, value, minimum, valid) in [
            (Fixed, 5000, 5001, true),
            (Fixed, 5000, 5000, false),
            (Fixed, 0, 1, false),
            (Fixed, -1, 0, false),
            (Fixed, AMOUNT_MAX, AMOUNT_MAX, false),
            (Percent, 1, 0, true),
            (Percent, 99, 0, true),
            (Percent, 0, 0, false),
            (Percent, 100, 0, false),
            (Percent, 10, -1, false),
        ] {
            assert_eq!(terms(kind, value, minimum).check().is_ok(), valid, "{kind:?} {value} {minimum}");
        }
        let product = ProductId::generate();
        assert!(Terms { products: vec![product], ..terms(Percent, 1, 0) }.check().is_ok());
        assert!(Terms { products: vec![product, product], ..terms(Percent, 1, 0) }.check().is_err());
        assert!(Terms { maximum_discount: Some(0), ..terms(Percent, 1, 0) }.check().is_err());
    }

    #[test]
    fn a_total_falls_no_lower_than_what_is_issued() {
        let (starts_at, expires_at) = (NOW, NOW + Duration::seconds(1));
        let offer = |total, issued| Offer { total, issued, starts_at, expires_at, closed: false };
        for (total, issued, valid) in [(1, 0, true), (5, 5, true), (4, 5, false), (0, 0, false)] {
            assert_eq!(offer(total, issued).check().is_ok(), valid, "{total} {issued}");
        }
        assert!(Offer { expires_at: starts_at, ..offer(1, 0) }.check().is_err());
    }

    #[test]
    fn an_issue_shows_what_its_living_redemption_makes_of_it() {
        use IssueStatus::{Expired, Issued, Redeemed, Reserved};
        let at = |seconds| NOW + Duration::seconds(seconds);
        for (redemption, expires, status) in [
            (None, 1, Issued),
            (None, 0, Expired),
            (Some((RedemptionState::Reserved, at(1))), 0, Reserved),
            (Some((RedemptionState::Reserved, at(0))), 1, Issued),
            (Some((RedemptionState::Reserved, at(0))), 0, Expired),
            (Some((RedemptionState::Pinned, at(-1))), 0, Reserved),
            (Some((RedemptionState::Confirmed, at(-1))), 0, Redeemed),
        ] {
            assert_eq!(IssueStatus::at(NOW, redemption, at(expires)), status, "{redemption:?} {expires}");
        }
    }
}
