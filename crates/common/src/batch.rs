//! `Batch`: one transaction for everyone who is waiting.
//!
//! A row lock is held until its commit is on disk, so one commit per request caps a hot row at one request per
//! fsync. Here callers queue, a lane takes whoever is waiting, runs one transaction for all of them and answers each
//! after the commit; the next batch fills meanwhile. There is no timer: a lone caller does not wait for company.

use std::future::Future;
use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::error::{Error, Result};

/// How one kind of request is batched.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchSettings {
    /// Requests that one transaction serves at most.
    pub requests_max: usize,
    /// Requests that may wait; one more is refused at once with 503, which beats a time-out.
    pub queue_max: usize,
    /// Transactions under way at the same time. Two keep the disk busy: one commits while the other prepares.
    pub lanes: usize,
}

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
        let (queue, waiting) = mpsc::channel::<Pending<Q, A>>(settings.queue_max);
        let waiting = Arc::new(Mutex::new(waiting));
        let run = Arc::new(run);
        for _ in 0..settings.lanes.max(1) {
            let (waiting, run, max) = (waiting.clone(), run.clone(), settings.requests_max);
            tokio::spawn(async move {
                let mut taken = Vec::with_capacity(max);
                loop {
                    if waiting.lock().await.recv_many(&mut taken, max).await == 0 {
                        return;
                    }
                    metrics::histogram!("stampede_batch_size", "batch" => name).record(taken.len() as f64);
                    serve(run.as_ref(), std::mem::take(&mut taken)).await;
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
        let answers = futures_util::future::join_all((0..100).map(|n| batch.submit(n))).await;
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.unwrap(), n as u32 * 2);
        }
        assert!(runs.load(Ordering::SeqCst) <= 4, "{runs:?} runs for 100 callers");
    }

    #[tokio::test]
    async fn one_bad_request_does_not_fail_its_neighbours() {
        let batch = Batch::start("test", &settings(64, 256), |requests: Arc<[i32]>| async move {
            if requests.contains(&13) {
                return Err(Error::fault(anyhow::anyhow!("unlucky")));
            }
            Ok(requests.iter().map(|n| Ok(*n)).collect())
        });
        let answers = futures_util::future::join_all((0..20).map(|n| batch.submit(n))).await;
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.is_err(), n == 13, "{n}");
        }
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
}
