//! Rules of an order's life: `CREATED → PENDING_PAYMENT → PAID → REFUND_PENDING → REFUNDED`, or `CANCELLED`, or `EXPIRED`.
//!
//! While it is reserved for an attempt to pay it, it can neither end nor be paid by another payment.

use chrono::{DateTime, Utc};
use common::{Code, Refusal};
use contract::codes;
use contract::ids::{AccountId, OrderId, PaymentAttemptId, PaymentId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::draft::{Item, Shipping};

/// A stored order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub id: OrderId,
    pub user_id: AccountId,
    pub status: Status,
    /// Raised by one with every change of the row, whether it is announced or not.
    pub version: i64,
    pub amount: i64,
    pub currency: String,
    pub fingerprint: Vec<u8>,
    /// Moves when the approval of a payment comes to nothing, so that there is time for another.
    pub hold_expires_at: DateTime<Utc>,
    /// As the order was placed with it; never moves.
    pub first_hold_expires_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub cancel_reason: Option<String>,
    pub reservation: Option<Reservation>,
    /// All attempts that have ended. None can begin any more: a request that was overtaken by its end changes nothing.
    pub ended_attempt_ids: Vec<PaymentAttemptId>,
    /// The payment that paid it; there is never another.
    pub paid_payment_id: Option<PaymentId>,
    /// Payments whose money went back before they had paid it. They cannot any more.
    pub returned_payment_ids: Vec<PaymentId>,
    pub items: Vec<Item>,
    pub shipping: Option<Shipping>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = OrderStatus)]
pub enum Status {
    /// Stored; its units are held until `holdExpiresAt`.
    Created,
    /// A payment has been prepared; the units are held until `holdExpiresAt`.
    PendingPayment,
    /// The money is there.
    Paid,
    /// Cancelled after it was paid; the money is on its way back.
    RefundPending,
    /// All of the money is back with the buyer.
    Refunded,
    /// Ended by its owner or by an operator before it was paid.
    Cancelled,
    /// Nobody paid in time.
    Expired,
}

impl Status {
    pub const ALL: [Status; 7] = [
        Status::Created,
        Status::PendingPayment,
        Status::Paid,
        Status::RefundPending,
        Status::Refunded,
        Status::Cancelled,
        Status::Expired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Created => "CREATED",
            Status::PendingPayment => "PENDING_PAYMENT",
            Status::Paid => "PAID",
            Status::RefundPending => "REFUND_PENDING",
            Status::Refunded => "REFUNDED",
            Status::Cancelled => "CANCELLED",
            Status::Expired => "EXPIRED",
        }
    }

    pub fn parse(text: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// Whose approval is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    pub payment: PaymentId,
    pub attempt: PaymentAttemptId,
}

/// A payment and the money it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    pub payment: PaymentId,
    pub amount: i64,
    pub currency: String,
}

/// What may be asked of a stored order. Expiry is not asked for: it happens by the clock, see [`Order::status_at`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    BeginPayment(Bill),
    BeginApproval {
        bill: Bill,
        attempt: PaymentAttemptId,
    },
    EndApproval {
        attempt: PaymentAttemptId,
        hold_expires_at: Option<DateTime<Utc>>,
    },
    MarkPaid {
        bill: Bill,
        /// The units were taken again after the order's time was up.
        late: bool,
    },
    /// All that this payment captured has been given back.
    NoteRefund {
        payment: PaymentId,
    },
    Cancel {
        reason: String,
    },
}

/// One step of an order's life: one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A payment has been prepared. Not announced.
    AwaitPayment,
    /// Reserved for an attempt to pay it. Not announced.
    Reserve,
    /// No longer reserved, and not to be reserved for that attempt again. Not announced.
    Free,
    /// Never to be reserved for an attempt that has ended before it began. Not announced.
    Bar,
    /// Never to be paid by a payment whose money has gone back. Not announced.
    BarPayment,
    /// Announced by `ORDER_PLACED`.
    Pay,
    /// Announced by `ORDER_CANCELLED`.
    Cancel,
    /// Announced by `ORDER_REFUND_REQUESTED`.
    RequestRefund,
    /// Announced by `ORDER_REFUNDED`.
    Refund,
}

impl Order {
    /// The status at `now`: an order past its time is expired even before the sweep has come by, unless it is reserved.
    pub fn status_at(&self, now: DateTime<Utc>) -> Status {
        let is_open = matches!(self.status, Status::Created | Status::PendingPayment);
        let is_due = self.reservation.is_none() && self.hold_expires_at <= now;
        if is_open && is_due { Status::Expired } else { self.status }
    }

    /// As its first answer described it, from what never changes.
    pub fn into_placed(self) -> Order {
        let hold_expires_at = self.first_hold_expires_at;
        Order { status: Status::Created, version: 1, hold_expires_at, paid_payment_id: None, ..self }
    }

    /// The steps that `action` takes at `now`. None of them: it had been done before, or there is nothing to do.
    pub fn decide(&self, action: &Action, now: DateTime<Utc>) -> Result<&'static [Change], Refused> {
        let status = self.status_at(now);
        match action {
            Action::BeginPayment(bill) => self.begin_payment(bill, status),
            Action::BeginApproval { bill, attempt } => self.begin_approval(bill, *attempt, status),
            Action::EndApproval { attempt, .. } => Ok(self.end_approval(*attempt, status)),
            Action::MarkPaid { bill, late } => self.mark_paid(bill, *late, status),
            Action::NoteRefund { payment } => Ok(self.note_refund(*payment, status)),
            Action::Cancel { .. } => self.cancel(status),
        }
    }

    fn begin_payment(&self, bill: &Bill, status: Status) -> Result<&'static [Change], Refused> {
        match status {
            Status::Created => self.check(bill).map(|()| &[Change::AwaitPayment][..]),
            Status::PendingPayment => self.check(bill).map(|()| &[][..]),
            Status::Expired => Err(Refused::HoldExpired),
            Status::Paid | Status::RefundPending | Status::Refunded | Status::Cancelled => {
                Err(Refused::NotPayable(status))
            }
        }
    }

    fn begin_approval(
        &self,
        bill: &Bill,
        attempt: PaymentAttemptId,
        status: Status,
    ) -> Result<&'static [Change], Refused> {
        let asking = Reservation { payment: bill.payment, attempt };
        match (status, self.reservation) {
            (Status::Created | Status::PendingPayment, _) if self.returned_payment_ids.contains(&bill.payment) => {
                Err(Refused::NotPayableBy("its money has gone back"))
            }
            (Status::Created | Status::PendingPayment, _) if self.ended_attempt_ids.contains(&attempt) => {
                Err(Refused::AttemptEnded)
            }
            (Status::Created | Status::PendingPayment, None) => self.check(bill).map(|()| &[Change::Reserve][..]),
            (Status::Created | Status::PendingPayment, Some(reserved)) if reserved == asking => {
                self.check(bill).map(|()| &[][..])
            }
            (Status::Created | Status::PendingPayment, Some(_)) => Err(Refused::PaymentInProgress),
            (Status::Expired, _) => Err(Refused::HoldExpired),
            (Status::Paid | Status::RefundPending | Status::Refunded | Status::Cancelled, _) => {
                Err(Refused::NotPayable(status))
            }
        }
    }

    fn end_approval(&self, attempt: PaymentAttemptId, status: Status) -> &'static [Change] {
        match status {
            Status::Created | Status::PendingPayment => match self.reservation {
                Some(reserved) if reserved.attempt == attempt => &[Change::Free],
                _ if self.ended_attempt_ids.contains(&attempt) => &[],
                _ => &[Change::Bar],
            },
            // Nothing reserves it any more.
            Status::Paid | Status::RefundPending | Status::Refunded | Status::Cancelled | Status::Expired => &[],
        }
    }

    fn mark_paid(&self, bill: &Bill, late: bool, status: Status) -> Result<&'static [Change], Refused> {
        match status {
            Status::Paid | Status::RefundPending | Status::Refunded if self.paid_payment_id == Some(bill.payment) => {
                Ok(&[])
            }
            Status::Expired if !late => Err(Refused::NotPayable(status)),
            _ if self.returned_payment_ids.contains(&bill.payment) => {
                Err(Refused::NotPayableBy("its money has gone back"))
            }
            Status::Created | Status::PendingPayment | Status::Expired => {
                match self.reservation {
                    Some(reserved) if reserved.payment != bill.payment => {
                        return Err(Refused::NotPayableBy("another payment is being approved"));
                    }
                    // Nobody keeps its units from lapsing: first they must be taken for the payment again.
                    None if !late => return Err(Refused::NotPayableBy("it is not reserved for it")),
                    Some(_) | None => {}
                }
                // Whoever has captured something else cannot have this order for it: the money goes back.
                self.check(bill).map_err(|_| Refused::NotPayableBy("its amount is not that of the order"))?;
                Ok(&[Change::Pay])
            }
            Status::Paid | Status::RefundPending | Status::Refunded | Status::Cancelled => {
                Err(Refused::NotPayable(status))
            }
        }
    }

    fn note_refund(&self, payment: PaymentId, status: Status) -> &'static [Change] {
        match status {
            _ if self.returned_payment_ids.contains(&payment) => &[],
            Status::Paid | Status::RefundPending if self.paid_payment_id == Some(payment) => &[Change::Refund],
            // Topics overtake each other: money that came back had been there, and the news of that is still to come.
            Status::Created | Status::PendingPayment
                if self.reservation.is_some_and(|reserved| reserved.payment == payment) =>
            {
                &[Change::Pay, Change::Refund]
            }
            // The money of a payment that has not paid this order. Somebody may still be about to have it paid with that.
            Status::Created | Status::PendingPayment | Status::Expired => &[Change::BarPayment],
            Status::Paid | Status::RefundPending | Status::Refunded | Status::Cancelled => &[],
        }
    }

    fn cancel(&self, status: Status) -> Result<&'static [Change], Refused> {
        match status {
            Status::Created | Status::PendingPayment if self.reservation.is_some() => Err(Refused::PaymentInProgress),
            Status::Created | Status::PendingPayment => Ok(&[Change::Cancel]),
            Status::Paid => Ok(&[Change::RequestRefund]),
            Status::Cancelled | Status::RefundPending | Status::Refunded => Ok(&[]),
            Status::Expired => Err(Refused::NotCancellable(status)),
        }
    }

    fn check(&self, bill: &Bill) -> Result<(), Refused> {
        let is_same = bill.amount == self.amount && bill.currency == self.currency;
        let differs = || Refused::AmountMismatch { amount: self.amount, currency: self.currency.clone() };
        is_same.then_some(()).ok_or_else(differs)
    }

    /// Takes one of the steps that [`Order::decide`] decided on for `action`.
    pub fn take(&mut self, change: Change, action: &Action) {
        self.version += 1;
        match change {
            Change::AwaitPayment => self.status = Status::PendingPayment,
            Change::Reserve => self.reservation = action.reservation(),
            Change::Free | Change::Bar => self.end(change, action),
            Change::BarPayment => self.returned_payment_ids.extend(action.payment()),
            Change::Pay => {
                self.status = Status::Paid;
                self.reservation = None;
                self.paid_payment_id = action.payment();
            }
            Change::Cancel => self.status = Status::Cancelled,
            Change::RequestRefund => self.status = Status::RefundPending,
            Change::Refund => self.status = Status::Refunded,
        }
        if let Action::Cancel { reason } = action {
            self.cancel_reason = Some(reason.clone());
        }
    }

    fn end(&mut self, change: Change, action: &Action) {
        let Action::EndApproval { attempt, hold_expires_at } = action else { return };
        self.ended_attempt_ids.push(*attempt);
        if change == Change::Free {
            self.reservation = None;
            self.hold_expires_at = self.hold_expires_at.max(hold_expires_at.unwrap_or(self.hold_expires_at));
        }
    }
}

impl Action {
    fn payment(&self) -> Option<PaymentId> {
        match self {
            Action::BeginPayment(bill) | Action::BeginApproval { bill, .. } | Action::MarkPaid { bill, .. } => {
                Some(bill.payment)
            }
            Action::NoteRefund { payment } => Some(*payment),
            Action::EndApproval { .. } | Action::Cancel { .. } => None,
        }
    }

    fn reservation(&self) -> Option<Reservation> {
        match self {
            Action::BeginApproval { bill, attempt } => Some(Reservation { payment: bill.payment, attempt: *attempt }),
            Action::BeginPayment(_)
            | Action::EndApproval { .. }
            | Action::MarkPaid { .. }
            | Action::NoteRefund { .. }
            | Action::Cancel { .. } => None,
        }
    }
}

/// Why the order service says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("There is no such order.")]
    NotFound,
    #[error("An order that is {} cannot be cancelled.", .0.as_str())]
    NotCancellable(Status),
    #[error("An order that is {} cannot be paid.", .0.as_str())]
    NotPayable(Status),
    #[error("This payment cannot pay the order: {0}.")]
    NotPayableBy(&'static str),
    #[error("The order's time is up.")]
    HoldExpired,
    #[error("The order costs {amount} {currency}.")]
    AmountMismatch { amount: i64, currency: String },
    #[error("A payment of this order is being approved; its outcome decides.")]
    PaymentInProgress,
    #[error("This attempt to pay the order has ended; another may begin.")]
    AttemptEnded,
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Refused::NotFound => codes::ORDER_NOT_FOUND,
            Refused::NotCancellable(_) => codes::ORDER_NOT_CANCELLABLE,
            Refused::NotPayable(_) | Refused::NotPayableBy(_) => codes::ORDER_NOT_PAYABLE,
            Refused::HoldExpired => codes::HOLD_EXPIRED,
            Refused::AmountMismatch { .. } => codes::AMOUNT_MISMATCH,
            Refused::PaymentInProgress | Refused::AttemptEnded => codes::PAYMENT_IN_PROGRESS,
        }
    }

    fn details(&self) -> Vec<Value> {
        match self {
            Refused::AmountMismatch { amount, currency } => vec![json!({ "amount": amount, "currency": currency })],
            Refused::NotFound
            | Refused::NotCancellable(_)
            | Refused::NotPayable(_)
            | Refused::NotPayableBy(_)
            | Refused::HoldExpired
            | Refused::PaymentInProgress
            | Refused::AttemptEnded => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
