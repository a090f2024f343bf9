//! The provider's book: what has happened to the money, for who is unsure and for reconciliation.

use chrono::{DateTime, FixedOffset, NaiveDateTime, TimeDelta, Utc};
use contract::money::KRW;
use serde::Deserialize;
use serde_json::json;

use super::{Answer, NaverPay, Trouble, answer};
use crate::provider::{Approval, Known};

const HISTORY: &str = "naverpay-partner/naverpay/payments/v2.2/list/history";

/// As many as the provider gives.
const ROWS_ON_PAGE: u32 = 100;

/// Nobody tries to pay one payment more than two thousand times.
const PAGES_OF_PAYMENT_MAX: u32 = 20;

const SECONDS_IN_KOREA: i32 = 9 * 3600;

/// `yyyyMMddHHmmss`, in Korea.
const TIME_FORMAT: &str = "%Y%m%d%H%M%S";
const TIME_CHARS: usize = 14;

/// `admissionTypeCode`
pub(super) const CAPTURE: &str = "01";
pub(super) const FULL_CANCEL: &str = "03";
pub(super) const PARTIAL_CANCEL: &str = "04";

/// Whose rows.
#[derive(Debug, Clone, Copy)]
pub enum Of<'a> {
    /// Of what the buyer authorised, by the provider's name for it.
    Payment(&'a str),
    /// Of all that was authorised under our name for it.
    MerchantPayKey(&'a str),
    /// Of all payments, from one time up to another that is left out. The provider knows whole seconds only.
    Between(DateTime<Utc>, DateTime<Utc>),
}

/// The provider gave no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the provider's book cannot be read: {0}")]
pub struct Unread(pub String);

/// Money that moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The provider's name for what the buyer authorised.
    pub pg_payment_id: String,
    /// Our name for it, as the provider was told it.
    pub merchant_pay_key: String,
    pub movement: Movement,
    /// In won, above 0.
    pub amount: i64,
    pub at: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movement {
    Capture,
    Cancel,
}

/// One page of the book, in the order in which it was written.
#[derive(Debug)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// Rows on this page and on all pages together, those included that tell of failures and are no entries.
    pub rows: u64,
    pub total: u64,
    pub is_last: bool,
}

/// A capture or a cancellation as the provider tells of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) payment_id: String,
    pub(super) merchant_pay_key: String,
    pub(super) admission_type_code: String,
    pub(super) admission_state: String,
    pub(super) total_pay_amount: i64,
    #[serde(default)]
    pub(super) admission_ymdt: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(default)]
    list: Vec<Row>,
    #[serde(default)]
    total_count: u64,
    #[serde(default)]
    total_page_count: u32,
}

impl Row {
    fn is_successful(&self) -> bool {
        self.admission_state == "SUCCESS"
    }

    fn is_cancel(&self) -> bool {
        [FULL_CANCEL, PARTIAL_CANCEL].contains(&self.admission_type_code.as_str())
    }

    /// Whether this is the capture that was asked for: the same payment on both sides, and the same amount.
    pub(super) fn captures(&self, approval: &Approval) -> bool {
        self.admission_type_code == CAPTURE
            && self.is_successful()
            && self.payment_id == approval.pg_payment_id
            && self.is_for(approval)
            && self.total_pay_amount == approval.amount
            && approval.currency == KRW
    }

    /// Whether the provider took it for this payment of ours.
    fn is_for(&self, approval: &Approval) -> bool {
        self.merchant_pay_key == approval.payment.to_string()
    }

    /// None for what moved no money.
    fn entry(self) -> Result<Option<Entry>, Unread> {
        if !self.is_successful() {
            return Ok(None);
        }
        let movement = match self.admission_type_code.as_str() {
            CAPTURE => Movement::Capture,
            FULL_CANCEL | PARTIAL_CANCEL => Movement::Cancel,
            other => return Err(Unread(format!("{} has a row of the unknown type {other}", self.payment_id))),
        };
        if self.total_pay_amount <= 0 {
            return Err(Unread(format!("{} has a row about {}", self.payment_id, self.total_pay_amount)));
        }
        Ok(Some(Entry {
            at: from_korea(&self.admission_ymdt)?,
            pg_payment_id: self.payment_id,
            merchant_pay_key: self.merchant_pay_key,
            movement,
            amount: self.total_pay_amount,
        }))
    }
}

impl NaverPay {
    /// Page `number`, from 1.
    pub async fn book_page(&self, of: &Of<'_>, number: u32) -> Result<Page, Unread> {
        let Listed { list, total_count, total_page_count } = self.list(of, number).await?;
        let rows = list.len() as u64;
        let entries = list.into_iter().filter_map(|row| row.entry().transpose()).collect::<Result<_, _>>()?;
        Ok(Page { entries, rows, total: total_count, is_last: number >= total_page_count })
    }

    /// All entries of one payment.
    pub async fn book_of(&self, of: &Of<'_>) -> Result<Vec<Entry>, Unread> {
        self.rows(of).await?.into_iter().filter_map(|row| row.entry().transpose()).collect()
    }

    /// All rows of one payment: the money may be on the last page.
    pub(super) async fn rows(&self, of: &Of<'_>) -> Result<Vec<Row>, Unread> {
        let mut rows = Vec::new();
        for number in 1..=PAGES_OF_PAYMENT_MAX {
            let page = self.list(of, number).await?;
            rows.extend(page.list);
            if number >= page.total_page_count {
                return Ok(rows);
            }
        }
        Err(Unread("a payment without end".to_owned()))
    }

    async fn list(&self, of: &Of<'_>, number: u32) -> Result<Listed, Unread> {
        let mut body = match of {
            Of::Payment(payment_id) => json!({ "paymentId": payment_id }),
            Of::MerchantPayKey(merchant_pay_key) => json!({ "merchantPayKey": merchant_pay_key }),
            Of::Between(from, to) => {
                let last = *to - TimeDelta::seconds(1);
                json!({ "startTime": in_korea(*from), "endTime": in_korea(last), "approvalType": "ALL" })
            }
        };
        body["pageNumber"] = number.into();
        body["rowsPerPage"] = ROWS_ON_PAGE.into();
        match answer::<Listed>(self.post(HISTORY, "", self.settings.query_timeout_ms).json(&body)).await {
            Ok(Answer { code, body, .. }) if code == "Success" => {
                Ok(body.unwrap_or(Listed { list: Vec::new(), total_count: 0, total_page_count: 0 }))
            }
            Ok(Answer { code, .. }) => Err(Unread(code)),
            Err(Trouble::NotSent(message) | Trouble::Unclear(message)) => Err(Unread(message)),
        }
    }
}

/// What rows of a payment's history mean for an attempt.
pub(super) fn judge(rows: &[Row], approval: &Approval) -> Known {
    let own = || rows.iter().filter(|row| row.is_successful() && row.payment_id == approval.pg_payment_id);
    let sum =
        |rows: &mut dyn Iterator<Item = &Row>| rows.fold(0_i64, |sum, row| sum.saturating_add(row.total_pay_amount));
    let mut captures = own().filter(|row| row.admission_type_code == CAPTURE).peekable();
    if captures.peek().is_none() {
        return Known::Absent;
    }
    if !captures.all(|row| row.is_for(approval)) {
        return Known::Foreign;
    }
    let captured = sum(&mut own().filter(|row| row.admission_type_code == CAPTURE));
    let left = captured - sum(&mut own().filter(|row| row.is_cancel()));
    match own().any(|row| row.captures(approval)) {
        _ if left <= 0 => Known::Cancelled,
        true => Known::Captured,
        false => Known::WrongAmount { left },
    }
}

fn korea() -> FixedOffset {
    FixedOffset::east_opt(SECONDS_IN_KOREA).expect("nine hours are less than a day")
}

fn in_korea(at: DateTime<Utc>) -> String {
    at.with_timezone(&korea()).format(TIME_FORMAT).to_string()
}

fn from_korea(text: &str) -> Result<DateTime<Utc>, Unread> {
    let is_whole = text.len() == TIME_CHARS;
    let local = is_whole.then(|| NaiveDateTime::parse_from_str(text, TIME_FORMAT).ok()).flatten();
    let at = local.and_then(|local| local.and_local_timezone(korea()).single());
    at.map(|at| at.with_timezone(&Utc)).ok_or_else(|| Unread(format!("{text:?} is no time")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_korean_both_ways() {
        let at: DateTime<Utc> = "2026-11-20T15:00:01Z".parse().unwrap();
        assert_eq!(in_korea(at), "20261121000001");
        assert_eq!(from_korea("20261121000001"), Ok(at));
        for text in ["", "2026112100000", "20261321000000", "2026-11-21"] {
            assert!(from_korea(text).is_err(), "{text}");
        }
    }
}
