//! The rules of an order: `CREATED → PENDING_PAYMENT → PAID → REFUND_PENDING → REFUNDED`, or `CANCELLED`, or `EXPIRED`.
//!
//! While an order is reserved for a payment attempt, it cannot be cancelled, cannot expire, and no other payment can pay it.

use chrono::{DateTime, Utc};
use common::{Code, Refusal};
use contract::codes;
use contract::ids::{AccountId, CouponIssueId, OrderId, PaymentAttemptId, PaymentId, ProductId};
use serde_json::{Value, json};

use crate::status::Status;

/// A stored order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub id: OrderId,
    pub user_id: AccountId,
    pub status: Status,
    /// Goes up by one with every change of the row, whether an event announces the change or not.
    pub version: i64,
    /// What is to be paid: the items less their discounts. In minor units of `currency`.
    pub amount: i64,
    pub currency: String,
    /// The issued coupon that the order uses.
    pub coupon_issue_id: Option<CouponIssueId>,
    /// Of the request that placed the order; see [`common::idempotency`].
    pub fingerprint: Vec<u8>,
    /// Moves forward when a payment attempt fails, so that the buyer has time for another one.
    pub hold_expires_at: DateTime<Utc>,
    /// The first value of `hold_expires_at`; never changes.
    pub first_hold_expires_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub cancel_reason: Option<String>,
    pub reservation: Option<Reservation>,
    /// Attempts that have ended. They cannot begin again: a BeginApproval that arrives after its EndApproval is refused.
    pub ended_attempt_ids: Vec<PaymentAttemptId>,
    /// The payment that paid the order. It never changes once it is set.
    pub paid_payment_id: Option<PaymentId>,
    /// Payments that were refunded before they paid the order. They can no longer pay it.
    pub returned_payment_ids: Vec<PaymentId>,
    /// In the order of the request.
    pub items: Vec<Item>,
    pub shipping: Option<Shipping>,
}

/// A line of an order, with the price at which its units are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub product_id: ProductId,
    pub sku: String,
    pub name: String,
    pub quantity: i32,
    pub unit_price: i64,
    /// What the coupon takes off all units of this line together.
    pub discount: i64,
    /// The labels of its seats, if it is sold by the seat.
    pub seats: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipping {
    pub recipient: String,
    pub phone: String,
    pub postal_code: String,
    pub address: String,
    pub memo: Option<String>,
}

/// The payment attempt that an order is reserved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    pub payment: PaymentId,
    pub attempt: PaymentAttemptId,
}

/// A payment and its money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    pub payment: PaymentId,
    /// In minor units of `currency`.
    pub amount: i64,
    pub currency: String,
}

/// What others may ask of a stored order. Nobody asks for expiry: it depends on the clock alone, see [`Order::status_at`].
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
        /// The order's time was up, and payment has taken its units out of sale again.
        late: bool,
    },
    /// The whole amount of this payment has been refunded.
    RecordRefund {
        payment: PaymentId,
    },
    Cancel {
        reason: String,
    },
}

/// One change of an order's row. Each makes a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The first payment has been prepared. No event.
    AwaitPayment,
    /// Reserves the order for an attempt. No event.
    Reserve,
    /// Ends the attempt that the order is reserved for. No event.
    ReleaseReservation,
    /// Ends an attempt that the order is not reserved for, so that it can never reserve it. No event.
    BlockAttempt,
    /// Blocks a payment that was refunded before it paid the order. No event.
    BlockPayment,
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
    /// What the coupon takes off the whole order.
    pub fn discount(&self) -> i64 {
        self.items.iter().map(|item| item.discount).sum()
    }

    /// The status at `now`. An open order past its time is `EXPIRED` before the sweep has stored that, unless it is reserved.
    pub fn status_at(&self, now: DateTime<Utc>) -> Status {
        let is_open = matches!(self.status, Status::Created | Status::PendingPayment);
        let is_due = self.reservation.is_none() && self.hold_expires_at <= now;
        if is_open && is_due { Status::Expired } else { self.status }
    }

    /// The order as it was placed: a replay must be equal to the first answer.
    pub fn into_placed(self) -> Order {
        let hold_expires_at = self.first_hold_expires_at;
        Order { status: Status::Created, version: 1, hold_expires_at, paid_payment_id: None, ..self }
    }

    /// The changes that `action` makes at `now`. Empty if it was done before, or if there is nothing to do.
    pub fn decide(&self, action: &Action, now: DateTime<Utc>) -> Result<&'static [Change], OrderRefusal> {
        let status = self.status_at(now);
        match action {
            Action::BeginPayment(bill) => self.begin_payment(bill, status),
            Action::BeginApproval { bill, attempt } => self.begin_approval(bill, *attempt, status),
            Action::EndApproval { attempt, .. } => Ok(self.end_approval(*attempt, status)),
            Action::MarkPaid { bill, late } => self.mark_paid(bill, *late, status),
            Action::RecordRefund { payment } => Ok(self.record_refund(*payment, status)),
            Action::Cancel { .. } => self.cancel(status),
        }
    }

    fn begin_payment(&self, bill: &Bill, status: Status) -> Result<&'static [Change], OrderRefusal> {
        match status {
            Status::Created => self.check(bill).map(|()| &[Change::AwaitPayment][..]),
            Status::PendingPayment => self.check(bill).map(|()| &[][..]),
            Status::Expired => Err(OrderRefusal::HoldExpired),
            Status::Paid | Status::RefundPending | Status::Refunded | Status::Cancelled => {
                Err(OrderRefusal::NotPayable(status))
            }
        }
    }

    fn begin_approval(
        &self,
        bill: &Bill,
        attempt: PaymentAttemptId,
        status: Status,
    ) -> Result<&'static [Change], OrderRefusal> {
        let asking = Reservation { payment: bill.payment, attempt };
        match (status, self.reservation) {
            (Status::Created | Status::PendingPayment, _) if self.returned_payment_ids.contains(&bill.payment) => {
                Err(OrderRefusal::NotPayableBy("it has been refunded"))
            }
            (Status::Created | Status::PendingPayment, _) if self.ended_attempt_ids.contains(&attempt) => {
                Err(OrderRefusal::AttemptEnded)
            }
            (Status::Created | Status::PendingPayment, None) => self.check(bill).map(|()| &[Change::Reserve][..]),
            (Status::Created | Status::PendingPayment, Some(reserved)) if reserved == asking => {
                self.check(bill).map(|()| &[][..])
            }
            (Status::Created | Status::PendingPayment, Some(_)) => Err(OrderRefusal::PaymentInProgress),
            (Status::Expired, _) => Err(OrderRefusal::HoldExpired),
            (Status::Paid | Status::RefundPending | Status::Refunded | Status::Cancelled, _) => {
                Err(OrderRefusal::NotPayable(status))
            }
        }
    }

    fn end_approval(&self, attempt: PaymentAttemptId, status: Status) -> &'static [Change] {
        match status {
            Status::Created | Status::PendingPayment => match self.reservation {
                Some(reserved) if reserved.attempt == attempt => &[Change::ReleaseReservation],
                _ if self.ended_attempt_ids.contains(&attempt) => &[],
                _ => &[Change::BlockAttempt],
            },
            // No attempt can reserve the order any more.
            Status::Paid | Status::RefundPending | Status::Refunded | Status::Cancelled | Status::Expired => &[],
        }
    }

    fn mark_paid(&self, bill: &Bill, late: bool, status: Status) -> Result<&'static [Change], OrderRefusal> {
        match status {
            Status::Paid | Status::RefundPending | Status::Refunded if self.paid_payment_id == Some(bill.payment) => {
                Ok(&[])
            }
            Status::Expired if !late => Err(OrderRefusal::NotPayable(status)),
            _ if self.returned_payment_ids.contains(&bill.payment) => {
                Err(OrderRefusal::NotPayableBy("it has been refunded"))
            }
            Status::Created | Status::PendingPayment | Status::Expired => {
                match self.reservation {
                    Some(reserved) if reserved.payment != bill.payment => {
                        return Err(OrderRefusal::NotPayableBy("another payment is being approved"));
                    }
                    // The hold may expire at any moment: payment must take the units again first, and then say `late`.
                    None if !late => return Err(OrderRefusal::NotPayableBy("the order is not reserved for it")),
                    Some(_) | None => {}
                }
                // Another code than for BeginPayment: this money is captured already, and payment refunds it.
                self.check(bill)
                    .map_err(|_| OrderRefusal::NotPayableBy("its amount is not the amount of the order"))?;
                Ok(&[Change::Pay])
            }
            Status::Paid | Status::RefundPending | Status::Refunded | Status::Cancelled => {
                Err(OrderRefusal::NotPayable(status))
            }
        }
    }

    fn record_refund(&self, payment: PaymentId, status: Status) -> &'static [Change] {
        match status {
            _ if self.returned_payment_ids.contains(&payment) => &[],
            Status::Paid | Status::RefundPending if self.paid_payment_id == Some(payment) => &[Change::Refund],
            // PAYMENT_REFUNDED may arrive before the MarkPaid of the same payment. Announce both changes.
            Status::Created | Status::PendingPayment
                if self.reservation.is_some_and(|reserved| reserved.payment == payment) =>
            {
                &[Change::Pay, Change::Refund]
            }
            // This payment has not paid the order. Its MarkPaid may still arrive, and must be refused then.
            Status::Created | Status::PendingPayment | Status::Expired => &[Change::BlockPayment],
            Status::Paid | Status::RefundPending | Status::Refunded | Status::Cancelled => &[],
        }
    }

    fn cancel(&self, status: Status) -> Result<&'static [Change], OrderRefusal> {
        match status {
            Status::Created | Status::PendingPayment if self.reservation.is_some() => {
                Err(OrderRefusal::PaymentInProgress)
            }
            Status::Created | Status::PendingPayment => Ok(&[Change::Cancel]),
            Status::Paid => Ok(&[Change::RequestRefund]),
            Status::Cancelled | Status::RefundPending | Status::Refunded => Ok(&[]),
            Status::Expired => Err(OrderRefusal::NotCancellable(status)),
        }
    }

    fn check(&self, bill: &Bill) -> Result<(), OrderRefusal> {
        let is_same = bill.amount == self.amount && bill.currency == self.currency;
        let differs = || OrderRefusal::AmountMismatch { amount: self.amount, currency: self.currency.clone() };
        is_same.then_some(()).ok_or_else(differs)
    }

    /// Makes one of the changes that [`Order::decide`] returned for `action`.
    pub fn apply(&mut self, change: Change, action: &Action) {
        self.version += 1;
        match change {
            Change::AwaitPayment => self.status = Status::PendingPayment,
            Change::Reserve => self.reservation = action.reservation(),
            Change::ReleaseReservation | Change::BlockAttempt => self.end_attempt(change, action),
            Change::BlockPayment => self.returned_payment_ids.extend(action.payment()),
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

    fn end_attempt(&mut self, change: Change, action: &Action) {
        let Action::EndApproval { attempt, hold_expires_at } = action else { return };
        self.ended_attempt_ids.push(*attempt);
        if change == Change::ReleaseReservation {
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
            Action::RecordRefund { payment } => Some(*payment),
            Action::EndApproval { .. } | Action::Cancel { .. } => None,
        }
    }

    fn reservation(&self) -> Option<Reservation> {
        let Action::BeginApproval { bill, attempt } = self else { return None };
        Some(Reservation { payment: bill.payment, attempt: *attempt })
    }
}

/// Why an order cannot be changed as somebody asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefusal {
    #[error("There is no such order.")]
    NotFound,
    #[error("An order that is {} cannot be cancelled.", .0.as_str())]
    NotCancellable(Status),
    #[error("An order that is {} cannot be paid.", .0.as_str())]
    NotPayable(Status),
    #[error("This payment cannot pay the order: {0}.")]
    NotPayableBy(&'static str),
    #[error("The time to pay the order is over.")]
    HoldExpired,
    #[error("The order costs {amount} {currency}.")]
    AmountMismatch { amount: i64, currency: String },
    #[error("A payment of this order is being approved; wait for its outcome.")]
    PaymentInProgress,
    #[error("This attempt to pay the order has ended; another may begin.")]
    AttemptEnded,
}

impl Refusal for OrderRefusal {
    fn code(&self) -> Code {
        match self {
            OrderRefusal::NotFound => codes::ORDER_NOT_FOUND,
            OrderRefusal::NotCancellable(_) => codes::ORDER_NOT_CANCELLABLE,
            OrderRefusal::NotPayable(_) | OrderRefusal::NotPayableBy(_) => codes::ORDER_NOT_PAYABLE,
            OrderRefusal::HoldExpired => codes::HOLD_EXPIRED,
            OrderRefusal::AmountMismatch { .. } => codes::AMOUNT_MISMATCH,
            OrderRefusal::PaymentInProgress | OrderRefusal::AttemptEnded => codes::PAYMENT_IN_PROGRESS,
        }
    }

    fn details(&self) -> Vec<Value> {
        let OrderRefusal::AmountMismatch { amount, currency } = self else { return Vec::new() };
        vec![json!({ "amount": amount, "currency": currency })]
    }
}

#[cfg(test)]
mod tests;
