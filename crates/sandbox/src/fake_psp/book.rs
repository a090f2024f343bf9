//! The provider's accounts: what buyers authorised, what was captured, what was given back, and what may follow.

use std::collections::HashMap;

use anyhow::{Context, Result};
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// More than any sale of ours; what is over it is refused.
const PAYMENTS_MAX: usize = 1_000_000;

/// Attempts and partial cancels of one payment.
const ROWS_PER_PAYMENT_MAX: usize = 100;

/// Ahead of UTC, in summer too.
const IN_KOREA: TimeDelta = TimeDelta::hours(9);

const TIME: &str = "%Y%m%d%H%M%S";

/// What the provider answers, in its own spelling.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum Code {
    Success,
    AlreadyOnGoing,
    AlreadyComplete,
    TimeExpired,
    OwnerAuthFail,
    NotEnoughAccountBalance,
    MaintenanceOngoing,
    InvalidMerchant,
    InvalidPaymentId,
    AlreadyCanceled,
    OverRemainAmount,
    CancelNotComplete,
    Fail,
}

/// A line of the book. Amounts are won.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(super) enum Entry {
    /// The buyer agreed; no money has moved.
    Authorised {
        payment_id: String,
        merchant_pay_key: String,
        product_name: Option<String>,
        amount: i64,
        at: DateTime<Utc>,
        lapses_at: DateTime<Utc>,
    },
    Captured {
        payment_id: String,
        pay_hist_id: String,
        key: String,
        at: DateTime<Utc>,
    },
    /// A capture was declined.
    Refused {
        payment_id: String,
        pay_hist_id: String,
        key: String,
        code: Code,
        at: DateTime<Utc>,
    },
    Cancelled {
        payment_id: String,
        pay_hist_id: String,
        key: String,
        amount: i64,
        transaction_key: Option<String>,
        reason: Option<String>,
        at: DateTime<Utc>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Payment {
    pub(super) payment_id: String,
    pub(super) merchant_pay_key: String,
    pub(super) product_name: Option<String>,
    pub(super) amount: i64,
    lapses_at: DateTime<Utc>,
    pub(super) captured_at: Option<DateTime<Utc>>,
    /// What is captured and not given back.
    pub(super) rest: i64,
    /// Into the book's rows.
    pub(super) rows: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Captured,
    Refused(Code),
    Cancelled,
}

/// Something that happened to a payment after it was authorised.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) payment_id: String,
    pub(super) pay_hist_id: String,
    pub(super) kind: Kind,
    pub(super) amount: i64,
    /// What was left of the payment afterwards.
    pub(super) rest: i64,
    pub(super) transaction_key: Option<String>,
    pub(super) at: DateTime<Utc>,
}

/// A request to capture.
pub(super) struct Capture<'a> {
    pub(super) payment_id: &'a str,
    pub(super) key: &'a str,
    /// Declined with this code, unless something else is to be said.
    pub(super) declined: Option<Code>,
}

/// A request to give money back.
pub(super) struct Cancel<'a> {
    pub(super) payment_id: &'a str,
    pub(super) key: &'a str,
    pub(super) amount: i64,
    pub(super) transaction_key: Option<String>,
    pub(super) reason: Option<String>,
    /// Not done, unless something else is to be said.
    pub(super) refused: bool,
}

/// What is to be done about a request.
#[derive(Debug)]
pub(super) enum Decision {
    /// Write this down, then answer with the row that it makes.
    Write(Entry),
    /// Answer with this row again: the key has been used for this very request.
    Replay(usize),
    Refuse(Code, &'static str),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Totals {
    captured: i64,
    cancelled: i64,
    /// What the merchant has now.
    net: i64,
    authorisations: usize,
    captures: usize,
    declines: usize,
    cancels: usize,
    /// Captures for a merchantPayKey that had one already, given back or not.
    double_captures: usize,
    /// merchantPayKeys that more than one payment has been kept for.
    double_charges: usize,
}

pub(super) struct Book {
    payments: HashMap<String, Payment>,
    /// Ids of captured payments, in order.
    captured: Vec<String>,
    by_merchant_pay_key: HashMap<String, Vec<String>>,
    pub(super) rows: Vec<Row>,
    /// The row that each idempotency key made.
    keys: HashMap<String, usize>,
    next_number: u64,
}

const REUSED_KEY: Decision = Decision::Refuse(Code::Fail, "the idempotency key belongs to another request");

impl Book {
    /// An empty one. Its numbers begin anywhere, so that two books do not name different payments alike.
    pub(super) fn new() -> Book {
        Book {
            payments: HashMap::new(),
            captured: Vec::new(),
            by_merchant_pay_key: HashMap::new(),
            rows: Vec::new(),
            keys: HashMap::new(),
            next_number: rand::random_range(0..5_000_000_000),
        }
    }

    /// The new payment's id, and what is to be written down. None if the book is full.
    pub(super) fn authorise(
        &mut self,
        merchant_pay_key: String,
        product_name: Option<String>,
        amount: i64,
        at: DateTime<Utc>,
        lapses_at: DateTime<Utc>,
    ) -> Option<(String, Entry)> {
        if self.payments.len() >= PAYMENTS_MAX {
            return None;
        }
        let payment_id = self.next_id(at);
        let entry =
            Entry::Authorised { payment_id: payment_id.clone(), merchant_pay_key, product_name, amount, at, lapses_at };
        Some((payment_id, entry))
    }

    pub(super) fn capture(&mut self, request: Capture, at: DateTime<Utc>) -> Decision {
        let Capture { payment_id, key, declined } = request;
        if let Some(&index) = self.keys.get(key) {
            let row = &self.rows[index];
            return match row.kind {
                Kind::Captured | Kind::Refused(_) if row.payment_id == payment_id => Decision::Replay(index),
                _ => REUSED_KEY,
            };
        }
        let Some(payment) = self.payments.get(payment_id) else {
            return Decision::Refuse(Code::InvalidPaymentId, "no buyer has authorised this");
        };
        if payment.captured_at.is_some() {
            return Decision::Refuse(Code::AlreadyComplete, "captured already");
        }
        if at >= payment.lapses_at {
            return Decision::Refuse(Code::TimeExpired, "the authorisation has lapsed");
        }
        if payment.rows.len() >= ROWS_PER_PAYMENT_MAX {
            return Decision::Refuse(Code::Fail, "too many attempts");
        }
        let (payment_id, key, pay_hist_id) = (payment_id.to_owned(), key.to_owned(), self.next_id(at));
        Decision::Write(match declined {
            None => Entry::Captured { payment_id, pay_hist_id, key, at },
            Some(code) => Entry::Refused { payment_id, pay_hist_id, key, code, at },
        })
    }

    pub(super) fn cancel(&mut self, request: Cancel, at: DateTime<Utc>) -> Decision {
        let Cancel { payment_id, key, amount, transaction_key, reason, refused } = request;
        if let Some(&index) = self.keys.get(key) {
            let row = &self.rows[index];
            let same = row.kind == Kind::Cancelled && row.payment_id == payment_id && row.amount == amount;
            return if same { Decision::Replay(index) } else { REUSED_KEY };
        }
        let Some(payment) = self.payments.get(payment_id).filter(|payment| payment.captured_at.is_some()) else {
            return Decision::Refuse(Code::InvalidPaymentId, "nothing was captured by this name");
        };
        if payment.rest == 0 {
            return Decision::Refuse(Code::AlreadyCanceled, "nothing is left");
        }
        if amount <= 0 {
            return Decision::Refuse(Code::Fail, "cancelAmount is not positive");
        }
        if amount > payment.rest {
            return Decision::Refuse(Code::OverRemainAmount, "less than that is left");
        }
        if refused {
            return Decision::Refuse(Code::CancelNotComplete, "not done, ask again");
        }
        if payment.rows.len() >= ROWS_PER_PAYMENT_MAX {
            return Decision::Refuse(Code::Fail, "too many cancels");
        }
        let (payment_id, key, pay_hist_id) = (payment_id.to_owned(), key.to_owned(), self.next_id(at));
        Decision::Write(Entry::Cancelled { payment_id, pay_hist_id, key, amount, transaction_key, reason, at })
    }

    /// Makes an entry that is on disk part of the book. The row that it is, if any.
    pub(super) fn apply(&mut self, entry: Entry) -> Result<Option<usize>> {
        let (payment_id, pay_hist_id, key, kind, cancelled, transaction_key, at) = match entry {
            Entry::Authorised { payment_id, merchant_pay_key, product_name, amount, lapses_at, .. } => {
                self.count(&payment_id);
                self.by_merchant_pay_key.entry(merchant_pay_key.clone()).or_default().push(payment_id.clone());
                let payment = Payment {
                    payment_id: payment_id.clone(),
                    merchant_pay_key,
                    product_name,
                    amount,
                    lapses_at,
                    captured_at: None,
                    rest: 0,
                    rows: Vec::new(),
                };
                self.payments.insert(payment_id, payment);
                return Ok(None);
            }
            Entry::Captured { payment_id, pay_hist_id, key, at } => {
                (payment_id, pay_hist_id, key, Kind::Captured, 0, None, at)
            }
            Entry::Refused { payment_id, pay_hist_id, key, code, at } => {
                (payment_id, pay_hist_id, key, Kind::Refused(code), 0, None, at)
            }
            Entry::Cancelled { payment_id, pay_hist_id, key, amount, transaction_key, at, .. } => {
                (payment_id, pay_hist_id, key, Kind::Cancelled, amount, transaction_key, at)
            }
        };
        self.count(&pay_hist_id);
        let payment = self.payments.get_mut(&payment_id).with_context(|| format!("{payment_id} is unknown"))?;
        if kind == Kind::Captured {
            payment.captured_at = Some(at);
            payment.rest = payment.amount;
            self.captured.push(payment_id.clone());
        }
        payment.rest -= cancelled;
        let index = self.rows.len();
        payment.rows.push(index);
        let amount = if kind == Kind::Cancelled { cancelled } else { payment.amount };
        let rest = payment.rest;
        self.rows.push(Row { payment_id, pay_hist_id, kind, amount, rest, transaction_key, at });
        self.keys.insert(key, index);
        Ok(Some(index))
    }

    pub(super) fn payment(&self, payment_id: &str) -> Option<&Payment> {
        self.payments.get(payment_id)
    }

    /// The ids of all payments that were authorised for a merchantPayKey.
    pub(super) fn payments_for(&self, merchant_pay_key: &str) -> &[String] {
        self.by_merchant_pay_key.get(merchant_pay_key).map_or(&[], Vec::as_slice)
    }

    /// Captured payments in order.
    pub(super) fn captured(&self) -> impl DoubleEndedIterator<Item = &Payment> {
        self.captured.iter().filter_map(|payment_id| self.payments.get(payment_id))
    }

    pub(super) fn totals(&self) -> Totals {
        let of = |kind: Kind| self.rows.iter().filter(move |row| row.kind == kind);
        let sum = |kind: Kind| of(kind).map(|row| row.amount).sum::<i64>();
        let (captures, cancels) = (of(Kind::Captured).count(), of(Kind::Cancelled).count());
        // Of each merchantPayKey: how many payments were captured, and how many of these are kept.
        let taken = self.by_merchant_pay_key.values().map(|payment_ids| {
            let captured = payment_ids.iter().filter_map(|payment_id| self.payments.get(payment_id));
            let captured: Vec<&Payment> = captured.filter(|payment| payment.captured_at.is_some()).collect();
            (captured.len(), captured.iter().filter(|payment| payment.rest > 0).count())
        });
        let (double_captures, double_charges) = taken.fold((0, 0), |(captures, charges), (captured, kept)| {
            (captures + captured.saturating_sub(1), charges + usize::from(kept > 1))
        });
        Totals {
            captured: sum(Kind::Captured),
            cancelled: sum(Kind::Cancelled),
            net: sum(Kind::Captured) - sum(Kind::Cancelled),
            authorisations: self.payments.len(),
            captures,
            declines: self.rows.len() - captures - cancels,
            cancels,
            double_captures,
            double_charges,
        }
    }

    /// As the provider writes them: the day in Korea, `NP`, ten digits.
    fn next_id(&mut self, at: DateTime<Utc>) -> String {
        let number = self.next_number;
        self.next_number += 1;
        format!("{}NP{number:010}", &in_korea(at)[..8])
    }

    fn count(&mut self, id: &str) {
        let number = id.rsplit("NP").next().and_then(|digits| digits.parse::<u64>().ok());
        self.next_number = self.next_number.max(number.unwrap_or_default() + 1);
    }
}

/// `yyyyMMddHHmmss` in Korea, as the provider writes times.
pub(super) fn in_korea(at: DateTime<Utc>) -> String {
    (at.naive_utc() + IN_KOREA).format(TIME).to_string()
}

/// The beginning of the second that [`in_korea`] writes so.
pub(super) fn from_korea(time: &str) -> Option<DateTime<Utc>> {
    Some((NaiveDateTime::parse_from_str(time, TIME).ok()?.checked_sub_signed(IN_KOREA)?).and_utc())
}

#[cfg(test)]
mod tests;
