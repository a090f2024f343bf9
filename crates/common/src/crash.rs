//! Crash points: named places where a test makes the process die as if by `kill -9`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

struct Plan {
    point: String,
    passes_left: AtomicU64,
}

static PLAN: OnceLock<Plan> = OnceLock::new();

/// Arms `name:nth` (setting `host.crash_point`): the process aborts when it passes point `name` for the nth time.
pub fn arm(plan: &str) -> anyhow::Result<()> {
    let (point, nth) = plan.split_once(':').unwrap_or((plan, "1"));
    let nth = nth.parse().map_err(|_| anyhow::anyhow!("host.crash_point must be name:nth, not {plan:?}"))?;
    tracing::warn!(point, nth, "A crash point is armed: this process is going to die");
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
