//! The HTTP server of the fakes: a payment provider that can misbehave ([`crate::fake_psp`]) and a Slack that keeps what it
//! is sent ([`crate::fake_slack`]).
//!
//! They share one address on loopback, and never call anything beyond loopback.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::{App, HttpServer, web};
use anyhow::{Context, Result};
use tokio::sync::oneshot;

use crate::connection;
use crate::fake_psp::FakePsp;
use crate::fake_slack::{self, FakeSlack};
use crate::ports::free_port;
use crate::silences::Silences;

/// Slack takes texts of 40,000 characters; everything else is smaller.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Longer than clients keep a connection that they do not use, so that it is they who close it.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// The running fakes. Dropping them ends them.
///
/// They live in threads of their own, so that they do not end with the runtime that started them.
pub struct Fakes {
    url: String,
    slack: Arc<FakeSlack>,
    silences: Arc<Silences>,
    /// Dropped to say that nobody needs it any more.
    wanted: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fakes {
    /// Starts fakes that remember nothing beyond their life, on a free port.
    pub async fn start() -> Result<Fakes> {
        Fakes::launch(free_port()?, None).await
    }

    /// Starts fakes whose book of money is kept in `folder` (created if missing), with what is there already.
    ///
    /// Nobody else may use the folder meanwhile. A port of `None` is a free one.
    pub async fn open(folder: &Path, port: Option<u16>) -> Result<Fakes> {
        let port = match port {
            Some(port) => port,
            None => free_port()?,
        };
        Fakes::launch(port, Some(folder.to_owned())).await
    }

    /// `http://127.0.0.1:port`, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// An incoming webhook of the fake Slack: any path of this form is one.
    pub fn slack_webhook(&self) -> String {
        format!("{}/slack/services/T000/B000/secret", self.url)
    }

    pub fn slack(&self) -> &FakeSlack {
        &self.slack
    }

    /// Waits until exactly `count` requests are silent (hanging or late) or webhooks wait for their next attempt.
    pub async fn until_silent(&self, count: usize) {
        self.silences.until(count).await;
    }

    /// Ends these silences now: what hangs loses its connection, what is late is done, what waits is sent.
    pub fn end_silences(&self) {
        self.silences.end();
    }

    /// Ends them, cutting open connections. What they have answered is on disk.
    pub async fn stop(mut self) -> Result<()> {
        self.wanted = None;
        match self.thread.take() {
            Some(thread) => Ok(tokio::task::spawn_blocking(move || drop(thread.join())).await?),
            None => Ok(()),
        }
    }

    async fn launch(port: u16, folder: Option<PathBuf>) -> Result<Fakes> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("cannot listen on 127.0.0.1:{port} for the fake payment provider and Slack"))?;
        let silences = Arc::<Silences>::default();
        let slack = Arc::new(FakeSlack::new(Arc::clone(&silences)));
        let (wanted, unwanted) = oneshot::channel();
        let (started, on_started) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (shared_slack, shared_silences) = (Arc::clone(&slack), Arc::clone(&silences));
        let thread = std::thread::Builder::new()
            .name("fakes".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let served = FakePsp::open(folder.as_deref(), &shared_silences)
                        .and_then(|psp| Ok((serve(listener, &psp, shared_slack)?, psp)));
                    match served {
                        Ok((serving, psp)) => live(serving, psp, started, unwanted).await,
                        // If nobody waits for the error any more, nobody misses it.
                        Err(error) => drop(started.send(Err(error))),
                    }
                });
            })
            .context("cannot start the thread of the fakes")?;
        on_started.await.context("the thread of the fakes has panicked")??;
        let url = format!("http://127.0.0.1:{port}");
        Ok(Fakes { url, slack, silences, wanted: Some(wanted), thread: Some(thread) })
    }
}

impl Drop for Fakes {
    fn drop(&mut self) {
        self.wanted = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed.
            drop(thread.join());
        }
    }
}

async fn live(
    (server, handle): (Server, ServerHandle),
    psp: FakePsp,
    started: oneshot::Sender<Result<()>>,
    unwanted: oneshot::Receiver<()>,
) {
    let mut server = tokio::spawn(server);
    // If nobody waits any more, `unwanted` says so too.
    let _ = started.send(Ok(()));
    tokio::select! {
        // The sender is only ever dropped.
        _ = unwanted => handle.stop(false).await,
        ended = &mut server => tracing::error!(
            ?ended,
            "The HTTP server of the fake payment provider and Slack has ended; nothing starts it again"
        ),
    }
    psp.close().await;
}

fn serve(listener: TcpListener, psp: &FakePsp, slack: Arc<FakeSlack>) -> Result<(Server, ServerHandle)> {
    let psp = psp.clone();
    let slack = web::Data::from(slack);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(slack.clone())
            .app_data(web::JsonConfig::default().limit(BODY_BYTES_MAX))
            .app_data(web::FormConfig::default().limit(BODY_BYTES_MAX))
            .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
            .configure(|routes| psp.routes(routes))
            .configure(fake_slack::routes)
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
