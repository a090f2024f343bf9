//! The outside world: a payment provider that can misbehave, its webhooks, and a Slack that keeps what it is told.
//!
//! One HTTP server on loopback. It never calls anything beyond loopback.
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
//! | `POST /slack/services/{team}/{bot}/{token}` | an incoming webhook of Slack |
//! | `GET /slack/messages`, `GET /slack/faults`, `PUT /slack/faults` | what came in; how Slack misbehaves |
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

mod book;
mod checkout;
mod connection;
mod faults;
mod history;
mod journal;
mod provider;
mod slack;
mod webhooks;

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::{App, HttpServer, web};
use anyhow::{Context, Result};
use tokio::sync::oneshot;

use crate::ports::free_port;
use book::Book;
use journal::Journal;
use provider::Provider;
use slack::Slack;
use webhooks::Webhooks;

/// Slack takes texts of 40,000 characters; everything else is smaller.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Longer than clients keep a connection that they do not use, so that it is they who close it.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// A running outside world. Dropping it ends it.
///
/// It lives in threads of its own, so that it does not end with the runtime that started it.
pub struct Outside {
    url: String,
    /// Dropped to say that nobody needs it any more.
    wanted: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Outside {
    /// Starts one that remembers nothing beyond its life, on a free port.
    pub async fn start() -> Result<Outside> {
        Outside::launch(free_port()?, Book::new(), None).await
    }

    /// Starts one whose book of money is kept in `folder` (created if missing), with what is there already.
    ///
    /// Nobody else may use the folder meanwhile. A port of `None` is a free one.
    pub async fn open(folder: &Path, port: Option<u16>) -> Result<Outside> {
        let (journal, entries) = Journal::open(folder)?;
        let mut book = Book::new();
        for entry in entries {
            book.apply(entry)?;
        }
        let port = match port {
            Some(port) => port,
            None => free_port()?,
        };
        Outside::launch(port, book, Some(journal)).await
    }

    /// `http://127.0.0.1:port`, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends it, cutting open connections. What it has answered is on disk.
    pub async fn stop(mut self) -> Result<()> {
        self.wanted = None;
        match self.thread.take() {
            Some(thread) => Ok(tokio::task::spawn_blocking(move || drop(thread.join())).await?),
            None => Ok(()),
        }
    }

    async fn launch(port: u16, book: Book, journal: Option<Journal>) -> Result<Outside> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("cannot listen on 127.0.0.1:{port} for the payment provider and Slack"))?;
        let (wanted, unwanted) = oneshot::channel();
        let (started, on_started) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new()
            .name("outside".to_owned())
            .spawn(move || runtime.block_on(live(listener, book, journal, started, unwanted)))
            .context("cannot start the outside world's thread")?;
        on_started.await.context("the outside world's thread has panicked")??;
        Ok(Outside { url: format!("http://127.0.0.1:{port}"), wanted: Some(wanted), thread: Some(thread) })
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed.
            drop(thread.join());
        }
    }
}

async fn live(
    listener: TcpListener,
    book: Book,
    journal: Option<Journal>,
    started: oneshot::Sender<Result<()>>,
    unwanted: oneshot::Receiver<()>,
) {
    let (server, handle) = match serve(listener, book, journal.clone()) {
        Ok(serving) => serving,
        Err(error) => return drop(started.send(Err(error))),
    };
    let mut server = tokio::spawn(server);
    // If nobody waits any more, `unwanted` says so too.
    let _ = started.send(Ok(()));
    tokio::select! {
        // The sender is only ever dropped.
        _ = unwanted => handle.stop(false).await,
        ended = &mut server => tracing::error!(?ended, "The payment provider and Slack have ended"),
    }
    if let Some(journal) = journal {
        journal.close().await;
    }
}

fn serve(listener: TcpListener, book: Book, journal: Option<Journal>) -> Result<(Server, ServerHandle)> {
    let faults = Arc::default();
    let webhooks = Arc::new(Webhooks::start(Arc::clone(&faults))?);
    let provider = Arc::new(Provider::new(book, journal, faults, Arc::clone(&webhooks)));
    let slack = Arc::new(Slack::default());
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::from(Arc::clone(&provider)))
            .app_data(web::Data::from(Arc::clone(&webhooks)))
            .app_data(web::Data::from(Arc::clone(&slack)))
            .app_data(web::JsonConfig::default().limit(BODY_BYTES_MAX))
            .app_data(web::FormConfig::default().limit(BODY_BYTES_MAX))
            .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
            .configure(checkout::routes)
            .configure(provider::routes)
            .configure(history::routes)
            .configure(faults::routes)
            .configure(webhooks::routes)
            .configure(slack::routes)
    })
    .on_connect(connection::remember)
    // A client that closes its end has gone: what is silent for it need not stay so.
    .h1_allow_half_closed(false)
    // Clients open connections ahead of time. A 408 on one that waits for its first request would meet that request on
    // the way, and break it.
    .client_request_timeout(Duration::ZERO)
    .keep_alive(IDLE_MAX)
    .workers(1)
    .disable_signals()
    .listen(listener)?
    .run();
    let handle = server.handle();
    Ok((server, handle))
}
