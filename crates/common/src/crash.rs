//! Test points: named places where a test makes the process die as if by `kill -9`, or makes one task wait.
//!
//! Code passes a point with [`Db::point`](crate::db::Db::point) or [`Tx::point`](crate::db::Tx::point). A pause belongs to one
//! schema, so that tests in one process do not stop each other.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

struct Plan {
    point: String,
    passes_left: AtomicU64,
}

static PLAN: OnceLock<Plan> = OnceLock::new();

/// Arms `name:nth` (setting `host.crash_point`): the process aborts when it passes point `name` for the nth time.
pub fn arm(plan: &str) -> anyhow::Result<()> {
    let (point, nth) = plan.split_once(':').unwrap_or((plan, "1"));
    let nth = nth.parse().map_err(|_| anyhow::anyhow!("host.crash_point must be name:nth, not {plan:?}"))?;
    tracing::warn!(point, nth, "host.crash_point is set: this process aborts when it passes that point");
    PLAN.get_or_init(|| Plan { point: point.to_owned(), passes_left: AtomicU64::new(nth) });
    Ok(())
}

/// Dies here if this point is armed. Costs one load otherwise.
pub fn point(name: &str) {
    let Some(plan) = PLAN.get() else { return };
    if plan.point == name && plan.passes_left.fetch_sub(1, Ordering::SeqCst) == 1 {
        // No destructor, no flush, no answer: what a power cut or the kernel would leave behind.
        std::process::abort();
    }
}

struct Armed {
    schema: String,
    point: String,
    reached: oneshot::Sender<()>,
    resume: oneshot::Receiver<()>,
}

static PAUSES: Mutex<Vec<Armed>> = Mutex::new(Vec::new());
static PAUSES_ARMED: AtomicUsize = AtomicUsize::new(0);

/// One task that waits, or will wait, at a point. Dropping it lets the task go on.
#[must_use = "dropping a pause ends it"]
pub struct Pause {
    point: String,
    reached: oneshot::Receiver<()>,
    resume: oneshot::Sender<()>,
}

/// The next task that passes `point` in `schema` waits there until [`Pause::resume`].
pub fn pause(schema: &str, point: &str) -> Pause {
    let (tell_reached, reached) = oneshot::channel();
    let (resume, wait) = oneshot::channel();
    let armed = Armed { schema: schema.to_owned(), point: point.to_owned(), reached: tell_reached, resume: wait };
    PAUSES.lock().push(armed);
    PAUSES_ARMED.fetch_add(1, Ordering::SeqCst);
    Pause { point: point.to_owned(), reached, resume }
}

impl Pause {
    /// Returns when a task waits at the point.
    pub async fn reached(&mut self) {
        (&mut self.reached).await.unwrap_or_else(|_| panic!("the pause at {} was already awaited", self.point));
    }

    /// Whether the task still waits at the point: no longer when its request was cut off.
    pub fn is_waiting(&self) -> bool {
        !self.resume.is_closed()
    }

    /// Lets the task go on.
    pub fn resume(self) {
        // The task is gone when its request was cut off; there is nothing to let go then.
        let _ = self.resume.send(());
    }
}

/// Passes point `name` in `schema`: dies, waits, or goes on at once.
pub(crate) async fn pass(schema: &str, name: &str) {
    point(name);
    if PAUSES_ARMED.load(Ordering::SeqCst) == 0 {
        return;
    }
    let armed = {
        let mut pauses = PAUSES.lock();
        let Some(place) = pauses.iter().position(|armed| armed.point == name && armed.schema == schema) else { return };
        pauses.swap_remove(place)
    };
    PAUSES_ARMED.fetch_sub(1, Ordering::SeqCst);
    // A pause that was dropped before it was reached does not stop anybody.
    if armed.reached.send(()).is_ok() {
        drop(armed.resume.await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_task_waits_at_a_paused_point_of_its_schema_until_it_is_resumed() {
        let mut paused = pause("a", "tests.here");
        pass("b", "tests.here").await;
        pass("a", "tests.elsewhere").await;
        let waits = tokio::spawn(pass("a", "tests.here"));
        paused.reached().await;
        pass("a", "tests.here").await;
        assert!(!waits.is_finished() && paused.is_waiting());
        paused.resume();
        waits.await.unwrap();
    }

    #[tokio::test]
    async fn a_task_that_was_cut_off_waits_no_longer() {
        let mut paused = pause("a", "tests.cut_off");
        let waits = tokio::spawn(pass("a", "tests.cut_off"));
        paused.reached().await;
        waits.abort();
        assert!(waits.await.unwrap_err().is_cancelled());
        assert!(!paused.is_waiting());
    }

    #[tokio::test]
    async fn a_dropped_pause_stops_nobody() {
        drop(pause("a", "tests.dropped"));
        pass("a", "tests.dropped").await;
    }
}
