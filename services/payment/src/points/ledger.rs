//! Rules of points. Nothing here does anything.
//!
//! Points are charged (`ISSUED → USER`), held for a payment (`USER → ESCROW`), and then sold for (`ESCROW → SALES`) or
//! given back (`ESCROW → USER` before the sale, `SALES → USER` after it). Every movement has two sides, so what all
//! accounts have together is always nothing.

use common::error::{FORBIDDEN, VALIDATION_ERROR};
use common::{Code, Refusal};
use contract::ids::AccountId;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

#[cfg(test)]
mod tests;

/// No balance is higher, so that every one is exact in JSON; far above all that anybody could pay with.
pub const BALANCE_MAX: i64 = 1_000_000_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// One for each user; never below zero.
    User,
    /// The shop's: where points come from. Below zero by all points there are.
    Issued,
    /// The shop's: held for payments whose orders are not placed yet.
    Escrow,
    /// The shop's: what was sold for, less what was given back since.
    Sales,
}

impl Account {
    pub const fn name(self) -> &'static str {
        match self {
            Account::User => "USER",
            Account::Issued => "ISSUED",
            Account::Escrow => "ESCROW",
            Account::Sales => "SALES",
        }
    }
}

/// Why points moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
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
    pub const ALL: [Kind; 4] = [Kind::Charge, Kind::Hold, Kind::Confirm, Kind::Return];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::Charge => "CHARGE",
            Kind::Hold => "HOLD",
            Kind::Confirm => "CONFIRM",
            Kind::Return => "RETURN",
        }
    }

    pub fn parse(name: &str) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldStatus {
    /// In escrow.
    Held,
    /// Sold for.
    Confirmed,
    /// Given back in full before it was sold for.
    Released,
}

impl HoldStatus {
    pub const ALL: [HoldStatus; 3] = [HoldStatus::Held, HoldStatus::Confirmed, HoldStatus::Released];

    pub const fn name(self) -> &'static str {
        match self {
            HoldStatus::Held => "HELD",
            HoldStatus::Confirmed => "CONFIRMED",
            HoldStatus::Released => "RELEASED",
        }
    }

    pub fn parse(name: &str) -> Option<HoldStatus> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// The points of one payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    pub user: AccountId,
    pub status: HoldStatus,
    /// What was taken for the payment, and what of it is back.
    pub amount: i64,
    pub given_back: i64,
}

impl Hold {
    /// What of it the shop has.
    pub fn left(&self) -> i64 {
        self.amount - self.given_back
    }

    /// Whether it is what `user` pays with `amount`. Payments do not change their payer or amount, so anything else is
    /// a mistake that must not move points.
    pub fn is_of(&self, user: AccountId, amount: i64) -> bool {
        self.user == user && self.amount == amount
    }
}

/// Points for an account that has `balance`. `max`: the most in one charge; 0 when nobody can charge.
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

/// What a request to pay with points comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// They are there to be taken.
    Fresh(Hold, Movement),
    /// They were taken before.
    Taken,
    /// They were taken before, and given back in full since.
    GivenBack,
    /// There are not enough.
    Insufficient,
    /// It was said of this attempt that it has taken nothing.
    Ended,
    /// The payment has the points of somebody else, or another amount.
    Mismatch,
}

/// `amount` of `user`, who has `balance`, for a payment of which `hold` is known, by an attempt that may have ended.
pub fn take(user: AccountId, balance: i64, amount: i64, hold: Option<&Hold>, is_ended: bool) -> Take {
    match hold {
        Some(hold) if !hold.is_of(user, amount) => Take::Mismatch,
        Some(hold) if hold.left() == 0 => Take::GivenBack,
        Some(_) => Take::Taken,
        None if amount <= 0 => Take::Mismatch,
        None if is_ended => Take::Ended,
        None if amount > balance => Take::Insufficient,
        None => {
            let hold = Hold { user, status: HoldStatus::Held, amount, given_back: 0 };
            let movement = Movement { kind: Kind::Hold, from: Account::User, to: Account::Escrow, amount };
            Take::Fresh(hold, movement)
        }
    }
}

/// The order is placed: what is left of its payment is sold for. None when that is so already, or nothing is left: a
/// refund may have come first.
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

/// Gives `amount` back, from wherever the points are. None when there is not so much left.
pub fn give_back(hold: &Hold, amount: i64) -> Option<(Hold, Movement)> {
    if amount <= 0 || amount > hold.left() {
        return None;
    }
    let from = match hold.status {
        HoldStatus::Held => Account::Escrow,
        HoldStatus::Confirmed => Account::Sales,
        HoldStatus::Released => return None,
    };
    let given_back = hold.given_back + amount;
    let status = match hold.status {
        HoldStatus::Held if given_back == hold.amount => HoldStatus::Released,
        status => status,
    };
    let movement = Movement { kind: Kind::Return, from, to: Account::User, amount };
    Some((Hold { status, given_back, ..*hold }, movement))
}

/// Why points cannot be charged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("Points cannot be charged here.")]
    ChargingOff,
    #[error("The amount must be 1 to {max}.")]
    ChargeOutOfRange { max: i64 },
    #[error("The balance would be too high: {left} more would fit.")]
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
