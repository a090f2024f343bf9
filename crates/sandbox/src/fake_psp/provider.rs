//! What the provider's requests share: the book, the faults, the webhooks, and which payments are worked on now.

use std::collections::HashSet;
use std::sync::Arc;

use actix_web::http::header::HeaderMap;
use parking_lot::{Mutex, MutexGuard};

use super::answers::Answer;
use super::book::{Book, Code, Entry, Kind};
use super::faults::Faults;
use super::journal::Journal;
use super::webhooks::{Webhook, Webhooks};
use crate::silences::Silences;

const KEY_BYTES_MAX: usize = 64;

/// What the handlers share.
pub(super) struct Provider {
    book: Mutex<Book>,
    journal: Option<Journal>,
    pub(super) faults: Arc<Faults>,
    webhooks: Arc<Webhooks>,
    pub(super) silences: Arc<Silences>,
    /// Payments and idempotency keys whose requests are worked on now.
    busy: Mutex<HashSet<String>>,
}

impl Provider {
    pub(super) fn new(
        book: Book,
        journal: Option<Journal>,
        faults: Arc<Faults>,
        webhooks: Arc<Webhooks>,
        silences: Arc<Silences>,
    ) -> Provider {
        Provider { book: Mutex::new(book), journal, faults, webhooks, silences, busy: Mutex::default() }
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock()
    }

    /// Writes an entry to disk, and then to the book.
    pub(super) async fn record(&self, entry: Entry) -> anyhow::Result<Option<usize>> {
        if let Some(journal) = &self.journal {
            journal.append(&entry).await?;
        }
        self.book().apply(entry)
    }

    /// Sends the merchant a webhook about a row of the book, if money has moved.
    pub(super) fn notify(&self, row: usize) {
        let book = self.book();
        let row = &book.rows[row];
        let kind = match row.kind {
            Kind::Captured => "payment.approved",
            Kind::Cancelled => "payment.cancelled",
            Kind::Refused(_) => return,
        };
        let merchant_pay_key = book.payment(&row.payment_id).map(|payment| payment.merchant_pay_key.clone());
        self.webhooks.send(Webhook {
            id: format!("msg_{}", row.pay_hist_id),
            kind,
            at: row.at,
            payment_id: row.payment_id.clone(),
            merchant_pay_key: merchant_pay_key.unwrap_or_default(),
            amount: row.amount,
        });
    }
}

/// The exclusive work on a payment under an idempotency key. Ends when dropped.
pub(super) struct Work {
    provider: Arc<Provider>,
    names: [String; 2],
}

impl Work {
    pub(super) fn begin(provider: &Arc<Provider>, payment_id: &str, key: &str) -> Option<Work> {
        let names = [format!("payment {payment_id}"), format!("key {key}")];
        let mut busy = provider.busy.lock();
        if names.iter().any(|name| busy.contains(name)) {
            return None;
        }
        busy.extend(names.clone());
        drop(busy);
        Some(Work { provider: Arc::clone(provider), names })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut busy = self.provider.busy.lock();
        for name in &self.names {
            busy.remove(name);
        }
    }
}

/// Any merchant is accepted that names itself.
pub(super) fn merchant(headers: &HeaderMap) -> Result<(), Answer> {
    let named = |name: &str| headers.get(name).is_some_and(|value| !value.is_empty());
    if ["x-naver-client-id", "x-naver-client-secret", "x-naverpay-chain-id"].into_iter().all(named) {
        return Ok(());
    }
    Err(Answer::new(
        Code::InvalidMerchant,
        "X-Naver-Client-Id, X-Naver-Client-Secret or X-NaverPay-Chain-Id is missing",
    ))
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<String, Answer> {
    merchant(headers)?;
    let key = headers.get("x-naverpay-idempotency-key").and_then(|value| value.to_str().ok());
    match key.filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX) {
        Some(key) => Ok(key.to_owned()),
        None => Err(Answer::new(Code::Fail, "X-NaverPay-Idempotency-Key has 1 to 64 visible characters")),
    }
}
