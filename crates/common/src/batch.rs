//! `Batch`: one transaction for everyone who is waiting.
//!
//! A row lock is held until its commit is on disk, so one commit per request caps a hot row at one request per
//! fsync. Here callers queue, a lane takes whoever is waiting, runs one transaction for all of them and answers each
//! after the commit; the next batch fills meanwhile. A lone caller does not wait for company: only while a transaction
//! is under way do later callers gather, until it ends or some milliseconds are over.

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

/// How long a batch waits for the end of a transaction under way at most. Each transaction costs its statements and a
/// commit however few requests it serves, so fewer and fuller ones cost less. A transaction that takes longer, perhaps
/// because it waits for a lock, does not hold the others up.
const GATHER_MAX: Duration = Duration::from_millis(5);

struct Pending<Q, A> {
    request: Q,
    answer: oneshot::Sender<Result<A>>,
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
        Self::start_gathering(name, settings, GATHER_MAX, run)
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

    fn start_gathering<F, Fut>(name: &'static str, settings: &BatchSettings, gather_max: Duration, run: F) -> Self
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
                    let Some(batch) = gather(&mut queue, &under_way, max, gather_max).await else { return };
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
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Pending { request, answer }).map_err(|_| {
            metrics::counter!("stampede_batch_refused_total", "batch" => self.name).increment(1);
            Error::transient(anyhow::anyhow!("the {} queue is full", self.name))
        })?;
        answered.await.map_err(|_| Error::transient(anyhow::anyhow!("the {} batch ended unanswered", self.name)))?
    }

    /// Has `request` served with the next batch, and nobody waits for it. A full queue drops it: for requests that somebody
    /// makes again when they are lost.
    pub fn post(&self, request: Q) {
        let (answer, _) = oneshot::channel();
        if self.queue.try_send(Pending { request, answer }).is_err() {
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

/// Waits for a first request and takes what is there. While a transaction is under way, more may come. None: all callers
/// are gone.
async fn gather<T>(
    queue: &mut mpsc::Receiver<T>,
    under_way: &UnderWay,
    max: usize,
    gather_max: Duration,
) -> Option<Vec<T>> {
    let mut batch = Vec::new();
    if queue.recv_many(&mut batch, max).await == 0 {
        return None;
    }
    let end = Instant::now() + gather_max;
    while batch.len() < max && under_way.count.load(Ordering::SeqCst) > 0 {
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
                // A caller that has gone away keeps its effect: it will ask again with the same id.
                drop(waiter.answer.send(outcome));
            }
        }
        Err(error) if pending.len() == 1 || error.is_transient() => {
            for waiter in pending {
                drop(waiter.answer.send(Err(error.clone())));
            }
        }
        Err(_) => {
            for waiter in pending {
                let alone = run(Arc::from([waiter.request])).await;
                drop(waiter.answer.send(alone.and_then(only_outcome)));
            }
        }
    }
}

fn only_outcome<A>(mut outcomes: Vec<Result<A>>) -> Result<A> {
    outcomes.pop().unwrap_or_else(|| Err(Error::fault(anyhow::anyhow!("a batch of one had no outcome"))))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn settings(requests_max: usize, queue_max: usize) -> BatchSettings {
        BatchSettings { requests_max, queue_max, lanes: 1 }
    }

    #[tokio::test]
    async fn everyone_waiting_shares_a_run_and_gets_their_own_answer() {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let batch = Batch::start("test", &settings(64, 256), move |requests: Arc<[u32]>| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                Ok(requests.iter().map(|n| Ok(n * 2)).collect())
            }
        });
        let answers = join_all((0..100).map(|n| batch.submit(n))).await;
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.unwrap(), n as u32 * 2);
        }
        assert!(runs.load(Ordering::SeqCst) <= 4, "{runs:?} runs for 100 callers");
    }

    fn unlucky() -> Error {
        Error::fault(anyhow::anyhow!("unlucky"))
    }

    #[tokio::test]
    async fn one_bad_request_does_not_fail_its_neighbours() {
        let batch = Batch::start("test", &settings(64, 256), |requests: Arc<[i32]>| async move {
            if requests.contains(&13) {
                return Err(unlucky());
            }
            Ok(requests.iter().map(|n| Ok(*n)).collect())
        });
        let answers = join_all((0..20).map(|n| batch.submit(n))).await;
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.is_err(), n == 13, "{n}");
        }
    }

    #[tokio::test]
    async fn what_is_about_one_thing_runs_together_and_everyone_gets_their_own_answer() {
        let (sizes, mut ran) = mpsc::unbounded_channel();
        let batch = Batch::start_by(
            "test",
            &settings(64, 256),
            |n: &u32| n % 2,
            move |thing, numbers: Vec<u32>| {
                sizes.send((thing, numbers.clone())).unwrap();
                async move { numbers.into_iter().map(|n| if n == 3 { Err(unlucky()) } else { Ok(10 * n) }).collect() }
            },
        );
        // The first one alone; the others meanwhile.
        let answers = join_all((0..6).map(|n| batch.submit(n))).await;
        let told: Vec<Option<u32>> = answers.into_iter().map(Result::ok).collect();
        assert_eq!(told, [Some(0), Some(10), Some(20), None, Some(40), Some(50)]);
        drop(batch);
        let mut runs = Vec::new();
        while let Some(run) = ran.recv().await {
            runs.push(run);
        }
        assert!(runs.iter().all(|(thing, numbers)| numbers.iter().all(|n| n % 2 == *thing)), "{runs:?}");
        assert!(runs.len() < 6, "{runs:?}");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let started = Arc::new(tokio::sync::Notify::new());
        let signal = started.clone();
        let batch = Batch::<u32, ()>::start("test", &settings(1, 1), move |_| {
            signal.notify_one();
            std::future::pending()
        });
        let submit = |n| {
            let batch = batch.clone();
            tokio::spawn(async move { batch.submit(n).await })
        };
        // One is being served for ever, one waits, and then there is no more room.
        let served = submit(1);
        started.notified().await;
        let waiting = submit(2);
        while batch.queue.capacity() == 1 {
            tokio::task::yield_now().await;
        }
        assert!(batch.submit(3).await.unwrap_err().is_transient());
        assert!(!served.is_finished() && !waiting.is_finished());
    }

    /// Longer than any test runs.
    const FOR_EVER: Duration = Duration::from_secs(3600);

    /// Batches of three at the most. Runs report their sizes as they begin, and end when they are told.
    struct Controlled {
        batch: Batch<u32, ()>,
        began: mpsc::UnboundedReceiver<usize>,
        may_end: Arc<tokio::sync::Semaphore>,
    }

    impl Controlled {
        fn start(gather_max: Duration) -> Controlled {
            let (sizes, began) = mpsc::unbounded_channel();
            let may_end = Arc::new(tokio::sync::Semaphore::new(0));
            let permits = may_end.clone();
            let settings = BatchSettings { requests_max: 3, queue_max: 64, lanes: 2 };
            let batch = Batch::start_gathering("test", &settings, gather_max, move |requests: Arc<[u32]>| {
                let (sizes, permits) = (sizes.clone(), permits.clone());
                async move {
                    sizes.send(requests.len()).unwrap();
                    permits.acquire().await.unwrap().forget();
                    Ok(requests.iter().map(|_| Ok(())).collect())
                }
            });
            Controlled { batch, began, may_end }
        }

        /// Has the lanes take each request before the next one comes.
        async fn post(&self, requests: impl IntoIterator<Item = u32>) {
            for request in requests {
                self.batch.post(request);
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    #[tokio::test]
    async fn a_second_lane_gathers_until_the_first_transaction_ends() {
        let mut runs = Controlled::start(FOR_EVER);
        runs.post([1]).await;
        assert_eq!(runs.began.try_recv(), Ok(1), "a lone request does not wait");
        runs.post([2, 3]).await;
        assert!(runs.began.try_recv().is_err(), "the second lane waits for company");
        runs.may_end.add_permits(1);
        assert_eq!(runs.began.recv().await, Some(2));
    }

    #[tokio::test]
    async fn a_full_batch_does_not_wait_for_the_transaction_under_way() {
        let mut runs = Controlled::start(FOR_EVER);
        runs.post([1, 2, 3, 4]).await;
        assert_eq!((runs.began.try_recv(), runs.began.try_recv()), (Ok(1), Ok(3)));
    }

    #[tokio::test]
    async fn a_transaction_that_takes_long_does_not_hold_the_others_up() {
        let mut runs = Controlled::start(Duration::from_millis(1));
        runs.post([1, 2]).await;
        assert_eq!((runs.began.recv().await, runs.began.recv().await), (Some(1), Some(1)), "neither may end");
    }

    #[tokio::test]
    async fn a_run_that_panics_is_not_under_way_any_more() {
        let settings = BatchSettings { requests_max: 3, queue_max: 64, lanes: 2 };
        let batch = Batch::start_gathering("test", &settings, FOR_EVER, |requests: Arc<[u32]>| async move {
            assert!(!requests.contains(&13), "unlucky");
            Ok(requests.iter().map(|_| Ok(())).collect())
        });
        assert!(batch.submit(13).await.unwrap_err().is_transient());
        batch.submit(1).await.expect("it waits for nobody");
    }
}
