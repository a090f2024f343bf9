//! Rules of points: a double-entry ledger in which every movement has two sides, so that all accounts add up to zero.
//!
//! Points are charged (`ISSUED → USER`) and held for a payment (`USER → ESCROW`). When the order is placed they are sold
//! for (`ESCROW → SALES`). A refund returns them (`ESCROW → USER` before the sale, `SALES → USER` after it).

use common::error::{FORBIDDEN, VALIDATION_ERROR};
use common::{Code, Refusal};
use contract::ids::AccountId;
use diesel::deserialize::FromSqlRow;
use diesel::expression::AsExpression;
use diesel::sql_types::Text;
use serde::Serialize;
use serde_json::{Value, json};
use strum::{EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

#[cfg(test)]
mod tests;

/// The highest balance: exact in JSON, and far above what anybody can pay with.
pub const BALANCE_MAX: i64 = 1_000_000_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "UPPERCASE")]
pub enum Account {
    /// One for each user; never below zero.
    User,
    /// The shop's: where points come from. Minus all points that there are.
    Issued,
    /// The shop's: held for payments whose orders are not placed yet.
    Escrow,
    /// The shop's: what was sold for, less what was refunded since.
    Sales,
}

impl Account {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Why points moved.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    VariantArray,
    IntoStaticStr,
    EnumString,
    AsExpression,
    FromSqlRow,
    Serialize,
    ToSchema,
)]
#[diesel(sql_type = Text)]
#[strum(serialize_all = "UPPERCASE")]
#[serde(rename_all = "UPPERCASE")]
#[schema(as = PointsKind)]
pub enum Kind {
    Charge,
    /// For a payment.
    Hold,
    /// What was held has been sold for.
    Confirm,
    /// A refund.
    Return,
}

impl Kind {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Points on their way from one account to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Movement {
    pub kind: Kind,
    pub from: Account,
    pub to: Account,
    /// More than zero.
    pub amount: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, VariantArray, IntoStaticStr, EnumString, AsExpression, FromSqlRow)]
#[diesel(sql_type = Text)]
#[strum(serialize_all = "UPPERCASE")]
pub enum HoldStatus {
    /// In escrow.
    Held,
    /// Sold for.
    Confirmed,
    /// Refunded in full before it was sold for.
    Released,
}

impl HoldStatus {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// The points of one payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    pub user: AccountId,
    pub status: HoldStatus,
    /// What was taken for the payment, and what of it was refunded.
    pub amount: i64,
    pub refunded: i64,
}

impl Hold {
    /// What of it is not refunded.
    pub fn left(&self) -> i64 {
        self.amount - self.refunded
    }

    /// Whether it is of `user` and `amount`. A payment never changes these, so anything else is a mistake that must not move
    /// points.
    pub fn is_of(&self, user: AccountId, amount: i64) -> bool {
        self.user == user && self.amount == amount
    }
}

/// Charges an account that has `balance`. `max`: the most in one charge; 0 when nobody can charge.
pub fn charge(balance: i64, amount: i64, max: i64) -> Result<Movement, Refused> {
    if max == 0 {
        return Err(Refused::ChargingOff);
    }
    if !(1..=max).contains(&amount) {
        return Err(Refused::ChargeOutOfRange { max });
    }
    if amount > BALANCE_MAX - balance {
        return Err(Refused::BalanceTooHigh { left: BALANCE_MAX - balance });
    }
    Ok(Movement { kind: Kind::Charge, from: Account::Issued, to: Account::User, amount })
}

/// What to do about a request to pay with points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldDecision {
    /// Take them from the user.
    Take(Hold, Movement),
    /// They were taken before.
    AlreadyHeld,
    /// They were taken before, and refunded in full since.
    Refunded,
    /// There are not enough.
    Insufficient,
    /// It is recorded that this attempt has taken nothing.
    AttemptEnded,
    /// The payment has the points of another user, or another amount.
    Mismatch,
}

/// Holds `amount` of `user`, who has `balance`, for a payment whose hold is `hold`. `is_ended`: the attempt that asks has ended.
pub fn hold_points(user: AccountId, balance: i64, amount: i64, hold: Option<&Hold>, is_ended: bool) -> HoldDecision {
    match hold {
        Some(hold) if !hold.is_of(user, amount) => HoldDecision::Mismatch,
        Some(hold) if hold.left() == 0 => HoldDecision::Refunded,
        Some(_) => HoldDecision::AlreadyHeld,
        None if amount <= 0 => HoldDecision::Mismatch,
        None if is_ended => HoldDecision::AttemptEnded,
        None if amount > balance => HoldDecision::Insufficient,
        None => {
            let hold = Hold { user, status: HoldStatus::Held, amount, refunded: 0 };
            let movement = Movement { kind: Kind::Hold, from: Account::User, to: Account::Escrow, amount };
            HoldDecision::Take(hold, movement)
        }
    }
}

/// The order is placed: what is left of its payment is sold for. None when that is so already, or when nothing is left
/// because a refund came first.
pub fn confirm(hold: &Hold) -> Option<(Hold, Movement)> {
    match hold.status {
        HoldStatus::Confirmed | HoldStatus::Released => None,
        HoldStatus::Held => {
            let movement =
                Movement { kind: Kind::Confirm, from: Account::Escrow, to: Account::Sales, amount: hold.left() };
            Some((Hold { status: HoldStatus::Confirmed, ..*hold }, movement))
        }
    }
}

/// Refunds `amount`, from wherever the points are. None when less is left.
pub fn refund(hold: &Hold, amount: i64) -> Option<(Hold, Movement)> {
    if amount <= 0 || amount > hold.left() {
        return None;
    }
    let from = match hold.status {
        HoldStatus::Held => Account::Escrow,
        HoldStatus::Confirmed => Account::Sales,
        HoldStatus::Released => return None,
    };
    let refunded = hold.refunded + amount;
    let status = match hold.status {
        HoldStatus::Held if refunded == hold.amount => HoldStatus::Released,
        status => status,
    };
    let movement = Movement { kind: Kind::Return, from, to: Account::User, amount };
    Some((Hold { status, refunded, ..*hold }, movement))
}

/// Why points cannot be charged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("Points cannot be charged here.")]
    ChargingOff,
    #[error("The amount must be 1 to {max}.")]
    ChargeOutOfRange { max: i64 },
    #[error("The balance would be too high: at most {left} may be charged.")]
    BalanceTooHigh { left: i64 },
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Refused::ChargingOff => FORBIDDEN,
            Refused::ChargeOutOfRange { .. } | Refused::BalanceTooHigh { .. } => VALIDATION_ERROR,
        }
    }

    fn details(&self) -> Vec<Value> {
        match self {
            Refused::ChargingOff => Vec::new(),
            Refused::ChargeOutOfRange { .. } | Refused::BalanceTooHigh { .. } => {
                vec![json!({ "field": "amount", "message": self.to_string() })]
            }
        }
    }
}
