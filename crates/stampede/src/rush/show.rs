//! Progress on standard error while the rush is on: bars on a terminal, a line each second elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::tally::Tally;

const BARS_PERIOD: Duration = Duration::from_millis(200);
const LINES_PERIOD: Duration = Duration::from_secs(1);

/// Shows how `tally` grows, for as long as it is polled.
pub async fn run(tally: &Tally) {
    if std::io::stderr().is_terminal() { bars(tally).await } else { lines(tally).await }
}

async fn bars(tally: &Tally) {
    let all = MultiProgress::new();
    let style =
        |template: &str| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let answers = all.add(ProgressBar::new(tally.requests()));
    answers.set_style(style("answers {bar:40.cyan} {pos}/{len}  {per_sec}  {elapsed}"));
    let stock = all.add(ProgressBar::new(tally.orders_expected()));
    stock.set_style(style("stock   {bar:40.yellow} {pos} left of {len}"));
    let line = all.add(ProgressBar::new_spinner());
    line.set_style(style("{msg}"));
    let _cleared = Cleared(all);
    loop {
        answers.set_position(tally.answered.load(Ordering::Relaxed));
        stock.set_position(left(tally));
        line.set_message(summary(tally));
        tokio::time::sleep(BARS_PERIOD).await;
    }
}

/// Removes the bars however the showing ends: the result is printed in their place.
struct Cleared(MultiProgress);

impl Drop for Cleared {
    fn drop(&mut self) {
        // A terminal that went away needs no clearing.
        drop(self.0.clear());
    }
}

async fn lines(tally: &Tally) {
    loop {
        tokio::time::sleep(LINES_PERIOD).await;
        let left = left(tally);
        let (answered, of) = (tally.answered.load(Ordering::Relaxed), tally.requests());
        eprintln!(
            "{:>5.1} s  {answered}/{of} answers  {left} orders left  {}",
            tally.elapsed().as_secs_f64(),
            summary(tally)
        );
    }
}

/// Orders that can still be placed.
fn left(tally: &Tally) -> u64 {
    tally.orders_expected().saturating_sub(tally.placed.load(Ordering::Relaxed))
}

fn summary(tally: &Tally) -> String {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let recent = tally.take_recent();
    let paid = if tally.pays() { format!("  paid: {}", count(&tally.paid)) } else { String::new() };
    format!(
        "201: {}{paid}  409: {}  replays: {}  retries: {}  p50 {:.1} ms  p99 {:.1} ms",
        count(&tally.placed),
        count(&tally.refused),
        count(&tally.replayed),
        count(&tally.retried),
        recent.value_at_quantile(0.50) as f64 / 1e3,
        recent.value_at_quantile(0.99) as f64 / 1e3,
    )
}
