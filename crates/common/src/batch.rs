//! `Batch`: one transaction for everyone who is waiting.
//!
//! A row lock is held until its commit is on disk, so one commit per request caps a hot row at one request per
//! fsync. Here callers queue, a lane takes whoever is waiting, runs one transaction for all of them and answers each
//! after the commit; the next batch fills meanwhile. A lone caller does not wait for company: only while a transaction
//! is under way do later callers gather, until it ends or some milliseconds are over. What is not urgent is gathered a little
//! longer.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::error::{Error, Result};

/// How one kind of request is batched.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchSettings {
    /// Requests that one transaction serves at most.
    pub requests_max: usize,
    /// Requests that may wait; one more is refused at once with 503, which beats a time-out.
    pub queue_max: usize,
    /// Transactions under way at the same time. A second one begins when a batch is full, or when the first one takes long.
    pub lanes: usize,
}

/// How long a batch that is not full stays open for more requests.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// While a transaction is under way: until that ends, or at most so long. Each transaction costs its statements and a commit
    /// however few requests it serves, so fewer and fuller ones cost less. A transaction that takes longer, perhaps because it
    /// waits for a lock, does not hold the others up.
    under_way: Duration,
    /// While none of the requests that are there is urgent.
    not_urgent: Duration,
}

const PATIENCE: Patience = Patience { under_way: Duration::from_millis(5), not_urgent: Duration::from_millis(50) };

struct Pending<Q, A> {
    request: Q,
    /// It does not wait for company.
    is_urgent: bool,
    /// None: nobody waits.
    answer: Option<oneshot::Sender<Result<A>>>,
}

impl<Q, A> Pending<Q, A> {
    /// A caller that has gone away keeps its effect: it will ask again with the same id.
    fn answer(self, outcome: Result<A>) {
        if let Some(answer) = self.answer {
            drop(answer.send(outcome));
        }
    }
}

/// A queue in front of one batched transaction. Cheap to clone.
pub struct Batch<Q, A> {
    name: &'static str,
    queue: mpsc::Sender<Pending<Q, A>>,
}

impl<Q, A> Clone for Batch<Q, A> {
    fn clone(&self) -> Self {
        Self { name: self.name, queue: self.queue.clone() }
    }
}

impl<Q: Clone + Send + Sync + 'static, A: Send + 'static> Batch<Q, A> {
    /// Starts the lanes on the current runtime. They end when the last clone is dropped.
    ///
    /// `run` gets requests in arrival order and must return exactly one outcome for each, in the same order, and only
    /// after its transaction has committed. If `run` fails as a whole for a reason that is not transient, each request
    /// is run once more alone, so that one bad request cannot fail its neighbours; `run` must therefore be idempotent.
    pub fn start<F, Fut>(name: &'static str, settings: &BatchSettings, run: F) -> Self
    where
        F: Fn(Arc<[Q]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<A>>>> + Send,
    {
        Self::start_with(name, settings, PATIENCE, run)
    }

    /// As [`Batch::start`], for requests about different things: `run` gets those about one thing, which `about` names, in their
    /// order, and returns one outcome for each. Those about different things run at the same time.
    pub fn start_by<K, F, Fut>(name: &'static str, settings: &BatchSettings, about: fn(&Q) -> K, run: F) -> Self
    where
        K: Ord + Send + 'static,
        F: Fn(K, Vec<Q>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<Result<A>>> + Send,
    {
        Self::start(name, settings, move |requests: Arc<[Q]>| {
            let mut things: BTreeMap<K, Vec<usize>> = BTreeMap::new();
            for (place, request) in requests.iter().enumerate() {
                things.entry(about(request)).or_default().push(place);
            }
            let runs = things.into_iter().map(|(thing, places)| {
                let outcomes = run(thing, places.iter().map(|place| requests[*place].clone()).collect());
                async move { places.into_iter().zip(outcomes.await).collect::<Vec<_>>() }
            });
            let runs = join_all(runs);
            async move {
                let mut outcomes: Vec<(usize, Result<A>)> = runs.await.into_iter().flatten().collect();
                outcomes.sort_by_key(|(place, _)| *place);
                Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
            }
        })
    }

    fn start_with<F, Fut>(name: &'static str, settings: &BatchSettings, patience: Patience, run: F) -> Self
    where
        F: Fn(Arc<[Q]>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<A>>>> + Send,
    {
        let (queue, waiting) = mpsc::channel::<Pending<Q, A>>(settings.queue_max);
        let waiting = Arc::new(Mutex::new(waiting));
        let under_way = Arc::new(UnderWay::default());
        let run = Arc::new(run);
        for _ in 0..settings.lanes.max(1) {
            let (waiting, under_way, run, max) =
                (waiting.clone(), under_way.clone(), run.clone(), settings.requests_max);
            tokio::spawn(async move {
                loop {
                    // One lane gathers, the others are under way or wait for their turn to gather.
                    let mut queue = waiting.lock().await;
                    let Some(batch) = gather(&mut queue, &under_way, max, patience).await else { return };
                    let running = under_way.begin();
                    drop(queue);
                    metrics::histogram!("stampede_batch_size", "batch" => name).record(batch.len() as f64);
                    serve(run.as_ref(), batch).await;
                    drop(running);
                }
            });
        }
        Self { name, queue }
    }

    /// Waits for the batch that carries `request` to commit. Full queue: a transient fault, at once.
    pub async fn submit(&self, request: Q) -> Result<A> {
        self.enqueue(request, true).await
    }

    /// As [`Batch::submit`], for callers who do not mind some milliseconds: the request waits a little for company.
    pub async fn submit_without_haste(&self, request: Q) -> Result<A> {
        self.enqueue(request, false).await
    }

    async fn enqueue(&self, request: Q, is_urgent: bool) -> Result<A> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Pending { request, is_urgent, answer: Some(answer) }).map_err(|_| {
            metrics::counter!("stampede_batch_refused_total", "batch" => self.name).increment(1);
            Error::transient(anyhow::anyhow!("the {} queue is full", self.name))
        })?;
        answered.await.map_err(|_| Error::transient(anyhow::anyhow!("the {} batch ended unanswered", self.name)))?
    }

    /// Has `request` served with the next batch, and nobody waits for it, so it waits a little for company. A full queue drops
    /// it: for requests that somebody makes again when they are lost.
    pub fn post(&self, request: Q) {
        if self.queue.try_send(Pending { request, is_urgent: false, answer: None }).is_err() {
            metrics::counter!("stampede_batch_refused_total", "batch" => self.name).increment(1);
        }
    }
}

/// The transactions of one batch that are under way.
#[derive(Default)]
struct UnderWay {
    count: AtomicUsize,
    /// One of them has ended.
    ended: Notify,
}

impl UnderWay {
    fn begin(&self) -> Running<'_> {
        self.count.fetch_add(1, Ordering::SeqCst);
        Running(self)
    }
}

/// Ends with the transaction, also if that panics.
struct Running<'a>(&'a UnderWay);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
        self.0.ended.notify_one();
    }
}

/// Waits for a first request and takes what is there. More may come while a transaction is under way, or while none of those
/// that are there is urgent. None: all callers are gone.
async fn gather<Q, A>(
    queue: &mut mpsc::Receiver<Pending<Q, A>>,
    under_way: &UnderWay,
    max: usize,
    patience: Patience,
) -> Option<Vec<Pending<Q, A>>> {
    let mut batch = Vec::new();
    if queue.recv_many(&mut batch, max).await == 0 {
        return None;
    }
    let begun = Instant::now();
    while batch.len() < max {
        let is_urgent = batch.iter().any(|pending| pending.is_urgent);
        if is_urgent && under_way.count.load(Ordering::SeqCst) == 0 {
            break;
        }
        let end = begun + if is_urgent { patience.under_way } else { patience.not_urgent };
        let room = max - batch.len();
        tokio::select! {
            // An end that nobody waited for is noted too: then the count is looked at once more.
            () = under_way.ended.notified() => {}
            () = sleep_until(end) => break,
            more = queue.recv_many(&mut batch, room) => if more == 0 { break },
        }
    }
    Some(batch)
}

async fn serve<Q: Clone, A, F, Fut>(run: &F, pending: Vec<Pending<Q, A>>)
where
    F: Fn(Arc<[Q]>) -> Fut,
    Fut: Future<Output = Result<Vec<Result<A>>>>,
{
    let requests: Arc<[Q]> = pending.iter().map(|waiter| waiter.request.clone()).collect();
    match run(requests).await {
        Ok(outcomes) => {
            debug_assert_eq!(outcomes.len(), pending.len(), "one outcome for each request");
            for (waiter, outcome) in pending.into_iter().zip(outcomes) {
                crate::crash::point("batch.half_answered");
                waiter.answer(outcome);
            }
        }
        Err(error) if pending.len() == 1 || error.is_transient() => {
            for waiter in pending {
                waiter.answer(Err(error.clone()));
            }
        }
        Err(_) => {
            for waiter in pending {
                let alone = run(Arc::from([waiter.request.clone()])).await;
                waiter.answer(alone.and_then(only_outcome));
            }
        }
    }
}

fn only_outcome<A>(mut outcomes: Vec<Result<A>>) -> Result<A> {
    outcomes.pop().unwrap_or_else(|| Err(Error::fault(anyhow::anyhow!("a batch of one had no outcome"))))
}

#[cfg(test)]
mod tests;
