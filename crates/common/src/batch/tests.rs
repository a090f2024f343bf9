//! Who shares a transaction with whom, and for how long a request waits for company.

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
const LONG: Duration = Duration::from_secs(3600);
const FOR_EVER: Patience = Patience { under_way: LONG, not_urgent: LONG };

/// Batches of three at the most. Runs report their sizes as they begin, and end when they are told.
struct Controlled {
    batch: Batch<u32, ()>,
    began: mpsc::UnboundedReceiver<usize>,
    may_end: Arc<tokio::sync::Semaphore>,
}

impl Controlled {
    fn start(patience: Patience) -> Controlled {
        let (sizes, began) = mpsc::unbounded_channel();
        let may_end = Arc::new(tokio::sync::Semaphore::new(0));
        let permits = may_end.clone();
        let settings = BatchSettings { requests_max: 3, queue_max: 64, lanes: 2 };
        let batch = Batch::start_with("test", &settings, patience, move |requests: Arc<[u32]>| {
            let (sizes, permits) = (sizes.clone(), permits.clone());
            async move {
                sizes.send(requests.len()).unwrap();
                permits.acquire().await.unwrap().forget();
                Ok(requests.iter().map(|_| Ok(())).collect())
            }
        });
        Controlled { batch, began, may_end }
    }

    /// Has the lanes take each request before the next one comes. Somebody waits for each.
    async fn submit(&self, requests: impl IntoIterator<Item = u32>) {
        for request in requests {
            let batch = self.batch.clone();
            tokio::spawn(async move { batch.submit(request).await });
            settle().await;
        }
    }
}

/// Lets the lanes go on as far as they can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_second_lane_gathers_until_the_first_transaction_ends() {
    let mut runs = Controlled::start(FOR_EVER);
    runs.submit([1]).await;
    assert_eq!(runs.began.try_recv(), Ok(1), "a lone request does not wait");
    runs.submit([2, 3]).await;
    assert!(runs.began.try_recv().is_err(), "the second lane waits for company");
    runs.may_end.add_permits(1);
    assert_eq!(runs.began.recv().await, Some(2));
}

#[tokio::test]
async fn a_full_batch_does_not_wait_for_the_transaction_under_way() {
    let mut runs = Controlled::start(FOR_EVER);
    runs.submit([1, 2, 3, 4]).await;
    assert_eq!((runs.began.try_recv(), runs.began.try_recv()), (Ok(1), Ok(3)));
}

#[tokio::test]
async fn a_transaction_that_takes_long_does_not_hold_the_others_up() {
    let mut runs = Controlled::start(Patience { under_way: Duration::from_millis(1), ..FOR_EVER });
    runs.submit([1, 2]).await;
    assert_eq!((runs.began.recv().await, runs.began.recv().await), (Some(1), Some(1)), "neither may end");
}

#[tokio::test]
async fn a_run_that_panics_is_not_under_way_any_more() {
    let settings = BatchSettings { requests_max: 3, queue_max: 64, lanes: 2 };
    let batch = Batch::start_with("test", &settings, FOR_EVER, |requests: Arc<[u32]>| async move {
        assert!(!requests.contains(&13), "unlucky");
        Ok(requests.iter().map(|_| Ok(())).collect())
    });
    assert!(batch.submit(13).await.unwrap_err().is_transient());
    batch.submit(1).await.expect("it waits for nobody");
}

#[tokio::test]
async fn what_nobody_waits_for_waits_a_little_for_company() {
    let mut runs = Controlled::start(FOR_EVER);
    runs.batch.post(1);
    settle().await;
    assert!(runs.began.try_recv().is_err());
    runs.batch.post(2);
    runs.batch.post(3);
    assert_eq!(runs.began.recv().await, Some(3), "the batch is full");

    let mut runs = Controlled::start(Patience { not_urgent: Duration::from_millis(1), ..FOR_EVER });
    runs.batch.post(1);
    assert_eq!(runs.began.recv().await, Some(1), "nobody has come");
}

#[tokio::test]
async fn what_nobody_waits_for_goes_along_with_what_somebody_waits_for() {
    let mut runs = Controlled::start(FOR_EVER);
    runs.batch.post(1);
    settle().await;
    assert!(runs.began.try_recv().is_err());
    runs.submit([2]).await;
    assert_eq!(runs.began.try_recv(), Ok(2), "nothing is under way, so they do not wait");
}

#[tokio::test]
async fn who_is_not_in_a_hurry_waits_a_little_for_company_and_gets_an_answer() {
    let mut runs = Controlled::start(FOR_EVER);
    let batch = runs.batch.clone();
    let answered = tokio::spawn(async move { batch.submit_without_haste(1).await });
    settle().await;
    assert!(runs.began.try_recv().is_err());
    runs.submit([2]).await;
    assert_eq!(runs.began.try_recv(), Ok(2));
    runs.may_end.add_permits(1);
    answered.await.unwrap().unwrap();
}
