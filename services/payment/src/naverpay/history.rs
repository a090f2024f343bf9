//! The provider's history of captures and cancellations: for the resolver and for reconciliation, which calls it the book.

use chrono::{DateTime, FixedOffset, NaiveDateTime, TimeDelta, Utc};
use contract::money::KRW;
use serde::Deserialize;
use serde_json::json;

use super::client::{Answer, NaverPay, NoAnswer, answer};
use crate::provider::{Attempt, ProviderStatus};

const HISTORY: &str = "naverpay-partner/naverpay/payments/v2.2/list/history";

/// The most that the provider gives.
const ROWS_ON_PAGE: u32 = 100;

/// Two thousand rows: far more than one payment can have.
const PAGES_OF_PAYMENT_MAX: u32 = 20;

const SECONDS_IN_KOREA: i32 = 9 * 3600;

/// `yyyyMMddHHmmss`, in Korea.
const TIME_FORMAT: &str = "%Y%m%d%H%M%S";
const TIME_CHARS: usize = 14;

/// `admissionTypeCode`
pub(super) const CAPTURE: &str = "01";
pub(super) const FULL_CANCEL: &str = "03";
pub(super) const PARTIAL_CANCEL: &str = "04";

/// Which rows are asked for.
#[derive(Debug, Clone, Copy)]
pub enum Of<'a> {
    /// Those of one authorisation, by the provider's id.
    Payment(&'a str),
    /// Those of all authorisations of one payment, by our id of it.
    MerchantPayKey(&'a str),
    /// Those of all payments, from one time up to another, which is excluded. The provider knows whole seconds only.
    Between(DateTime<Utc>, DateTime<Utc>),
}

/// The provider gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the provider's history cannot be read: {0}")]
pub struct HistoryUnreadable(pub String);

/// Money that moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The provider's id of what the buyer authorised.
    pub pg_payment_id: String,
    /// Our id of the payment, as the provider was told it.
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

/// One page of the history, oldest rows first.
#[derive(Debug)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// Rows on this page and on all pages together, including those of failures, which are no entries.
    pub rows: u64,
    pub total: u64,
    pub is_last: bool,
}

/// A capture or a cancellation as the provider describes it.
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

    /// Whether this is the capture that was asked for: the same authorisation, payment, amount and currency.
    pub(super) fn captures(&self, attempt: &Attempt) -> bool {
        self.admission_type_code == CAPTURE
            && self.is_successful()
            && self.payment_id == attempt.pg_payment_id
            && self.is_for(attempt)
            && self.total_pay_amount == attempt.amount
            && attempt.currency == KRW
    }

    /// Whether it belongs to this payment of ours.
    fn is_for(&self, attempt: &Attempt) -> bool {
        self.merchant_pay_key == attempt.payment.to_string()
    }

    /// None when no money was moved.
    fn entry(self) -> Result<Option<Entry>, HistoryUnreadable> {
        if !self.is_successful() {
            return Ok(None);
        }
        let movement = match self.admission_type_code.as_str() {
            CAPTURE => Movement::Capture,
            FULL_CANCEL | PARTIAL_CANCEL => Movement::Cancel,
            other => {
                return Err(HistoryUnreadable(format!("{} has a row of the unknown type {other}", self.payment_id)));
            }
        };
        if self.total_pay_amount <= 0 {
            return Err(HistoryUnreadable(format!("{} has a row about {}", self.payment_id, self.total_pay_amount)));
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
    pub async fn book_page(&self, of: &Of<'_>, number: u32) -> Result<Page, HistoryUnreadable> {
        let Listed { list, total_count, total_page_count } = self.list(of, number).await?;
        let rows = list.len() as u64;
        let entries = list.into_iter().filter_map(|row| row.entry().transpose()).collect::<Result<_, _>>()?;
        Ok(Page { entries, rows, total: total_count, is_last: number >= total_page_count })
    }

    /// All entries of one payment.
    pub async fn book_of(&self, of: &Of<'_>) -> Result<Vec<Entry>, HistoryUnreadable> {
        self.rows(of).await?.into_iter().filter_map(|row| row.entry().transpose()).collect()
    }

    /// All rows of one payment, from all pages.
    pub(super) async fn rows(&self, of: &Of<'_>) -> Result<Vec<Row>, HistoryUnreadable> {
        let mut rows = Vec::new();
        for number in 1..=PAGES_OF_PAYMENT_MAX {
            let page = self.list(of, number).await?;
            rows.extend(page.list);
            if number >= page.total_page_count {
                return Ok(rows);
            }
        }
        Err(HistoryUnreadable("more pages than one payment can have".to_owned()))
    }

    async fn list(&self, of: &Of<'_>, number: u32) -> Result<Listed, HistoryUnreadable> {
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
        match answer::<Listed>(self.query(HISTORY).json(&body)).await {
            Ok(Answer { code, body, .. }) if code == "Success" => {
                Ok(body.unwrap_or(Listed { list: Vec::new(), total_count: 0, total_page_count: 0 }))
            }
            Ok(Answer { code, .. }) => Err(HistoryUnreadable(code)),
            Err(NoAnswer::NotSent(message) | NoAnswer::Unclear(message)) => Err(HistoryUnreadable(message)),
        }
    }
}

/// What the rows of an authorisation say about an attempt.
pub(super) fn status(rows: &[Row], attempt: &Attempt) -> ProviderStatus {
    let own = || rows.iter().filter(|row| row.is_successful() && row.payment_id == attempt.pg_payment_id);
    let sum =
        |rows: &mut dyn Iterator<Item = &Row>| rows.fold(0_i64, |sum, row| sum.saturating_add(row.total_pay_amount));
    let mut captures = own().filter(|row| row.admission_type_code == CAPTURE).peekable();
    if captures.peek().is_none() {
        return ProviderStatus::Absent;
    }
    if !captures.all(|row| row.is_for(attempt)) {
        return ProviderStatus::Foreign;
    }
    let captured = sum(&mut own().filter(|row| row.admission_type_code == CAPTURE));
    let left = captured - sum(&mut own().filter(|row| row.is_cancel()));
    match own().any(|row| row.captures(attempt)) {
        _ if left <= 0 => ProviderStatus::Cancelled,
        true => ProviderStatus::Captured,
        false => ProviderStatus::WrongAmount { left },
    }
}

fn korea() -> FixedOffset {
    FixedOffset::east_opt(SECONDS_IN_KOREA).expect("nine hours are less than a day")
}

fn in_korea(at: DateTime<Utc>) -> String {
    at.with_timezone(&korea()).format(TIME_FORMAT).to_string()
}

fn from_korea(text: &str) -> Result<DateTime<Utc>, HistoryUnreadable> {
    let is_whole = text.len() == TIME_CHARS;
    let local = is_whole.then(|| NaiveDateTime::parse_from_str(text, TIME_FORMAT).ok()).flatten();
    let at = local.and_then(|local| local.and_local_timezone(korea()).single());
    at.map(|at| at.with_timezone(&Utc)).ok_or_else(|| HistoryUnreadable(format!("{text:?} is no time")))
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
