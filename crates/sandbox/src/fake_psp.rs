//! A fake payment provider that can misbehave: checkout, capture, cancel, history, webhooks, and its accounts for audits.
//!
//! | request | is |
//! |---|---|
//! | `POST /checkout` | the buyer agrees in the provider's window: `{merchantPayKey, amount, productName?, validSeconds?}` |
//! | `GET /checkout?merchantPayKey=…&amount=…` | that window, for a browser |
//! | `POST /naverpay-partner/naverpay/payments/v2.2/apply/payment` | capture what the buyer authorised |
//! | `POST /naverpay-partner/naverpay/payments/v2.2/list/history` | what has happened to the money |
//! | `POST /naverpay-partner/naverpay/payments/v1/cancel` | give money back, in parts if wanted |
//! | `GET /book/totals`, `GET /book/payments` | the provider's own accounts, for audits |
//! | `GET /faults`, `PUT /faults` | how often it misbehaves, by chance |
//! | `GET /webhooks`, `PUT /webhooks`, `DELETE /webhooks` | whom it tells: `{url, secret}`, and how that went |
//!
//! The last four digits of an amount make one request misbehave without any setting; for a cancel, those of the amount
//! to cancel. Those marked "once" do so at the first such request for a payment, so that trying again helps.
//!
//! | amount | capture | cancel |
//! |---|---|---|
//! | …0002 | declined: `NotEnoughAccountBalance` | `CancelNotComplete`, nothing done |
//! | …0003 | declined: `OwnerAuthFail` | `CancelNotComplete`, nothing done |
//! | …0004 | once `MaintenanceOngoing`, nothing done | the same |
//! | …0341 | once the answer is lost after the work | the same |
//! | …0342 | once the connection is lost before the work | the same |
//! | …0343 | once late: 12 s of silence, then the work, then the answer | the same |
//! | …0344 | once the answer, after the work, is about another payment | the same |
//! | …0345 | once 500, nothing done | the same |
//! | …0346 | once 500 after the work | the same |
//! | …0347 | late as above, then declined: `NotEnoughAccountBalance` | late, then `CancelNotComplete` |
//! | …9995 | once no answer for 90 s or until the client goes, nothing done | the same |
//!
//! While a request for a payment is worked on, silent ones included, another one for it, or with its idempotency key,
//! is told `AlreadyOnGoing` (a cancel: `CancelNotComplete`). Work that has begun is finished, whether or not the
//! client is still there.

mod answers;
mod book;
mod checkout;
mod faults;
mod history;
mod journal;
mod operations;
mod provider;
mod webhooks;

use std::path::Path;
use std::sync::Arc;

use actix_web::web::{Data, ServiceConfig};
use anyhow::Result;

use crate::silences::Silences;
use book::Book;
use faults::Faults;
use journal::Journal;
use provider::Provider;
use webhooks::Webhooks;

/// What every worker of the HTTP server shares.
#[derive(Clone)]
pub(crate) struct FakePsp {
    provider: Data<Provider>,
    webhooks: Data<Webhooks>,
    faults: Data<Faults>,
    journal: Option<Journal>,
}

impl FakePsp {
    /// Its book of money is kept in `folder` (created if missing), with what is there already; without a folder it is
    /// kept in memory only. Webhooks are delivered on the runtime that this is called on.
    pub(crate) fn open(folder: Option<&Path>, silences: &Arc<Silences>) -> Result<FakePsp> {
        let mut book = Book::new();
        let mut journal = None;
        if let Some(folder) = folder {
            let (opened, entries) = Journal::open(folder)?;
            for entry in entries {
                book.apply(entry)?;
            }
            journal = Some(opened);
        }
        let faults = Arc::<Faults>::default();
        let webhooks = Arc::new(Webhooks::start(Arc::clone(&faults), Arc::clone(silences))?);
        let provider =
            Provider::new(book, journal.clone(), Arc::clone(&faults), Arc::clone(&webhooks), Arc::clone(silences));
        Ok(FakePsp { provider: Data::new(provider), webhooks: webhooks.into(), faults: faults.into(), journal })
    }

    /// Returns when everything that was answered is on disk.
    pub(crate) async fn close(self) {
        if let Some(journal) = self.journal {
            journal.close().await;
        }
    }

    pub(crate) fn routes(&self, routes: &mut ServiceConfig) {
        routes
            .app_data(self.provider.clone())
            .app_data(self.webhooks.clone())
            .app_data(self.faults.clone())
            .configure(checkout::routes)
            .configure(operations::routes)
            .configure(history::routes)
            .configure(faults::routes)
            .configure(webhooks::routes);
    }
}
