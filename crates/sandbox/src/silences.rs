//! Silences of the fakes: each ends after its time, or when a test ends all of them.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// How often [`Silences::end`] was called.
    round: u64,
    /// How many are silent in this round.
    silent: usize,
}

/// Requests without an answer, and webhooks that wait for their next attempt.
#[derive(Default)]
pub(crate) struct Silences(watch::Sender<State>);

impl Silences {
    /// Returns after `limit`, or when somebody ends all silences.
    pub(crate) async fn keep(&self, limit: Duration) {
        let mut state = self.0.subscribe();
        let silence = Silence::begin(self);
        // The sender is ours, so waiting cannot fail.
        let _ = timeout(limit, state.wait_for(|state| state.round > silence.round)).await;
    }

    /// Waits until exactly `count` are silent.
    pub(crate) async fn until(&self, count: usize) {
        let _ = self.0.subscribe().wait_for(|state| state.silent == count).await;
    }

    pub(crate) fn end(&self) {
        self.0.send_modify(|state| *state = State { round: state.round + 1, silent: 0 });
    }
}

/// Is counted while it lives: a silence also ends when its client goes.
struct Silence<'a> {
    silences: &'a Silences,
    round: u64,
}

impl Silence<'_> {
    fn begin(silences: &Silences) -> Silence<'_> {
        let mut round = 0;
        silences.0.send_modify(|state| {
            state.silent += 1;
            round = state.round;
        });
        Silence { silences, round }
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.silences.0.send_if_modified(|state| {
            let is_counted = state.round == self.round;
            state.silent -= usize::from(is_counted);
            is_counted
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_silence_is_counted_until_it_is_ended_or_given_up() {
        let silences = Arc::new(Silences::default());
        let keep = || {
            let silences = Arc::clone(&silences);
            tokio::spawn(async move { silences.keep(LONG).await })
        };
        let (first, second) = (keep(), keep());
        silences.until(2).await;
        first.abort();
        silences.until(1).await;
        silences.end();
        silences.until(0).await;
        second.await.unwrap();
        let third = keep();
        silences.until(1).await;
        silences.end();
        third.await.unwrap();
    }
}
