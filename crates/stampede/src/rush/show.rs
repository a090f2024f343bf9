//! Progress on standard error while the rush is on: bars on a terminal, a line each second elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::counters::{Counters, Recent};
use crate::latency::Latencies;

const BARS_PERIOD: Duration = Duration::from_millis(200);
const BARS_PER_LATENCY: u32 = 5;
const LINES_PERIOD: Duration = Duration::from_secs(1);

/// Shows how `counters` grows, for as long as it is polled.
pub async fn run(counters: &Counters) {
    if std::io::stderr().is_terminal() { bars(counters).await } else { lines(counters).await }
}

async fn bars(counters: &Counters) {
    let all = MultiProgress::new();
    let style =
        |template: &str| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let answers = all.add(ProgressBar::new(counters.requests()));
    answers.set_style(style("answers {bar:40.cyan} {pos}/{len}  {per_sec}  {elapsed}"));
    let stock = all.add(ProgressBar::new(counters.orders_expected()));
    stock.set_style(style("stock   {bar:40.yellow} {pos} left of {len}"));
    let line = all.add(ProgressBar::new_spinner());
    line.set_style(style("{msg}"));
    let _cleared = Cleared(all);
    let mut recent = String::new();
    for tick in 0_u32.. {
        // Latencies of less than a second would flicker.
        if tick.is_multiple_of(BARS_PER_LATENCY) {
            recent = latencies(&counters.take_recent());
        }
        answers.set_position(counters.answered.load(Ordering::Relaxed));
        stock.set_position(left(counters));
        line.set_message(summary(counters) + &recent);
        tokio::time::sleep(BARS_PERIOD).await;
    }
}

/// Removes the bars when it is dropped: the result is printed in their place.
struct Cleared(MultiProgress);

impl Drop for Cleared {
    fn drop(&mut self) {
        // Fails when the terminal is gone, which needs no clearing.
        drop(self.0.clear());
    }
}

async fn lines(counters: &Counters) {
    loop {
        tokio::time::sleep(LINES_PERIOD).await;
        let left = left(counters);
        let (answered, of) = (counters.answered.load(Ordering::Relaxed), counters.requests());
        eprintln!(
            "{:>5.1} s  {answered}/{of} answers  {left} orders left  {}{}",
            counters.elapsed().as_secs_f64(),
            summary(counters),
            latencies(&counters.take_recent())
        );
    }
}

/// Orders that can still be placed.
fn left(counters: &Counters) -> u64 {
    counters.orders_expected().saturating_sub(counters.placed.load(Ordering::Relaxed))
}

fn summary(counters: &Counters) -> String {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let paid = if counters.pays() { format!("  paid: {}", count(&counters.paid)) } else { String::new() };
    format!(
        "201: {}{paid}  409: {}  replays: {}  retries: {}",
        count(&counters.placed),
        count(&counters.refused),
        count(&counters.replayed),
        count(&counters.retried),
    )
}

/// Those of the phases in which somebody was answered.
fn latencies(recent: &Recent) -> String {
    let of = |phase: &str, latencies: &Latencies| match latencies.count() {
        0 => String::new(),
        _ => format!("  {phase} p50 {:.1} ms p99 {:.1} ms", latencies.ms(0.50), latencies.ms(0.99)),
    };
    of("ordering", &recent.ordering) + &of("paying", &recent.paying)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_shows_its_own_latencies() {
        let counters = Counters::new(2, 2, 2, true);
        let shown = || latencies(&counters.take_recent());
        assert_eq!(shown(), "", "nobody was answered");
        counters.record_placed(0, Duration::from_millis(10));
        let ordering = shown();
        assert!(ordering.contains("ordering p50 10.0 ms") && !ordering.contains("paying"), "{ordering}");
        counters.record_payer_done(true, Duration::from_millis(400));
        let paying = shown();
        assert!(paying.contains("paying p50 400.") && !paying.contains("ordering"), "{paying}");
    }
}
