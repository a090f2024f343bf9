//! Rules of the waiting room in the buying path: whether somebody may have the products of a sale event.
//!
//! The table is the founding document's. What the queue service says is only believed if this service has asked it: a client's
//! word that the queue did not answer is no evidence, and neither is a single question without an answer.

use std::collections::VecDeque;
use std::time::Duration;

/// What the queue service answered about a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    Valid,
    /// Forged, of another event or account, used, or its time is up.
    Invalid,
    /// No answer. Whether the signature is good and the time is not up, by the public key of the event.
    NoAnswer {
        signature_is_good: bool,
    },
}

/// What a request shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Pass(Verification),
    /// No pass. Whether the queue service lives, by this service's own evidence.
    Nothing {
        queue: Queue,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    Alive,
    /// It has not answered, but not for long enough to be sure.
    Doubtful,
    Dead,
}

/// What was agreed for a sale event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// `queue_manage_required`.
    pub required: bool,
    /// While the queue does not answer, a pass with a good signature is let through. Else: 503.
    pub verify_offline: bool,
    /// While the queue is dead, nobody is let through without a pass.
    pub closed_on_outage: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Proceed,
    /// Without a pass, because the queue is dead: within the rate of the room, marked and told.
    Bypass,
    /// 403 `QUEUE_TOKEN_INVALID`.
    TokenInvalid,
    /// 403 `QUEUE_TOKEN_REQUIRED`.
    TokenRequired,
    /// 503 `QUEUE_UNAVAILABLE`.
    Unavailable,
}

/// The table.
pub fn decide(policy: Policy, shown: Shown) -> Decision {
    if !policy.required {
        return Decision::Proceed;
    }
    match shown {
        Shown::Pass(Verification::Valid) => Decision::Proceed,
        Shown::Pass(Verification::Invalid) => Decision::TokenInvalid,
        Shown::Pass(Verification::NoAnswer { signature_is_good: true }) if policy.verify_offline => Decision::Proceed,
        // A forged pass is never better than none.
        Shown::Pass(Verification::NoAnswer { signature_is_good: false }) if policy.verify_offline => {
            Decision::TokenInvalid
        }
        Shown::Pass(Verification::NoAnswer { .. }) => Decision::Unavailable,
        Shown::Nothing { queue: Queue::Alive } => Decision::TokenRequired,
        Shown::Nothing { queue: Queue::Dead } if !policy.closed_on_outage => Decision::Bypass,
        Shown::Nothing { queue: Queue::Doubtful | Queue::Dead } => Decision::Unavailable,
    }
}

/// This service's own questions to the queue service, the newest last, each with the time since the process began.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    failures: VecDeque<Duration>,
}

/// Failures without a success between them that make a queue dead.
const FAILURES: usize = 3;
impl Evidence {
    pub fn answered(&mut self) {
        self.failures.clear();
    }

    pub fn failed(&mut self, at: Duration) {
        self.failures.push_back(at);
        // The first one stays: it says since when.
        if self.failures.len() > FAILURES {
            self.failures.remove(1);
        }
    }

    /// `lasting` from the first failure to the last: a burst of lost packets is no outage.
    pub fn queue(&self, lasting: Duration) -> Queue {
        match (self.failures.front(), self.failures.back()) {
            (Some(first), Some(last)) if self.failures.len() >= FAILURES && *last - *first >= lasting => Queue::Dead,
            (Some(_), _) => Queue::Doubtful,
            (None, _) => Queue::Alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LASTING: Duration = Duration::from_secs(2);
    const SEED: Policy = Policy { required: true, verify_offline: false, closed_on_outage: false };

    fn no_answer(signature_is_good: bool) -> Shown {
        Shown::Pass(Verification::NoAnswer { signature_is_good })
    }

    fn without(queue: Queue) -> Shown {
        Shown::Nothing { queue }
    }

    // One test for each line of the founding document's table.

    #[test]
    fn a_valid_pass_proceeds() {
        assert_eq!(decide(SEED, Shown::Pass(Verification::Valid)), Decision::Proceed);
    }

    #[test]
    fn an_invalid_pass_is_403() {
        assert_eq!(decide(SEED, Shown::Pass(Verification::Invalid)), Decision::TokenInvalid);
    }

    #[test]
    fn a_pass_that_the_queue_does_not_answer_for_is_503() {
        assert_eq!(decide(SEED, no_answer(true)), Decision::Unavailable);
        assert_eq!(decide(SEED, no_answer(false)), Decision::Unavailable);
    }

    #[test]
    fn without_a_pass_while_the_queue_lives_is_403() {
        assert_eq!(decide(SEED, without(Queue::Alive)), Decision::TokenRequired);
    }

    #[test]
    fn without_a_pass_while_the_queue_is_dead_is_let_through() {
        assert_eq!(decide(SEED, without(Queue::Dead)), Decision::Bypass);
    }

    #[test]
    fn an_event_without_a_queue_asks_nothing() {
        let open = Policy { required: false, ..SEED };
        for shown in [Shown::Pass(Verification::Invalid), no_answer(false), without(Queue::Alive), without(Queue::Dead)]
        {
            assert_eq!(decide(open, shown), Decision::Proceed);
        }
    }

    // What we add to it.

    #[test]
    fn one_question_without_an_answer_opens_no_door() {
        assert_eq!(decide(SEED, without(Queue::Doubtful)), Decision::Unavailable);
    }

    #[test]
    fn whoever_has_waited_is_no_worse_off_than_whoever_has_not_where_passes_are_checked_offline() {
        let offline = Policy { verify_offline: true, ..SEED };
        assert_eq!(decide(offline, no_answer(true)), Decision::Proceed);
        assert_eq!(decide(offline, no_answer(false)), Decision::TokenInvalid);
    }

    #[test]
    fn a_closed_event_lets_nobody_through_without_a_pass() {
        let closed = Policy { closed_on_outage: true, ..SEED };
        assert_eq!(decide(closed, without(Queue::Dead)), Decision::Unavailable);
        assert_eq!(decide(closed, without(Queue::Alive)), Decision::TokenRequired);
    }

    #[test]
    fn a_queue_is_dead_after_three_failures_over_two_seconds() {
        let mut evidence = Evidence::default();
        assert_eq!(evidence.queue(LASTING), Queue::Alive);
        for at_ms in [0, 100, 200] {
            evidence.failed(Duration::from_millis(at_ms));
            assert_eq!(evidence.queue(LASTING), Queue::Doubtful, "a burst");
        }
        evidence.failed(Duration::from_millis(2_000));
        assert_eq!(evidence.queue(LASTING), Queue::Dead);
        evidence.answered();
        assert_eq!(evidence.queue(LASTING), Queue::Alive);
        evidence.failed(Duration::from_secs(9));
        assert_eq!(evidence.queue(LASTING), Queue::Doubtful);
    }

    fn shown() -> impl Strategy<Value = Shown> {
        prop_oneof![
            Just(Shown::Pass(Verification::Valid)),
            Just(Shown::Pass(Verification::Invalid)),
            any::<bool>().prop_map(no_answer),
            prop_oneof![Just(Queue::Alive), Just(Queue::Doubtful), Just(Queue::Dead)].prop_map(without),
        ]
    }

    proptest! {
        #![proptest_config(testkit::properties::quick(256))]

        /// Nobody passes without a good pass unless the queue is dead and the event is not closed.
        #[test]
        fn only_a_dead_queue_lets_anybody_in_without_a_pass(
            shown in shown(), verify_offline in any::<bool>(), closed_on_outage in any::<bool>(),
        ) {
            let policy = Policy { required: true, verify_offline, closed_on_outage };
            match decide(policy, shown) {
                Decision::Bypass => prop_assert_eq!((shown, closed_on_outage), (without(Queue::Dead), false)),
                Decision::Proceed => prop_assert!(
                    shown == Shown::Pass(Verification::Valid) || (verify_offline && shown == no_answer(true))
                ),
                _ => {}
            }
        }

        /// However often it fails, few failures are kept, and an answer makes it alive.
        #[test]
        fn the_evidence_is_bounded(failures in proptest::collection::vec(0..10_000_u64, 0..50)) {
            let mut evidence = Evidence::default();
            let mut sorted = failures;
            sorted.sort_unstable();
            for at_ms in &sorted {
                evidence.failed(Duration::from_millis(*at_ms));
            }
            prop_assert!(evidence.failures.len() <= FAILURES);
            let span = sorted.last().zip(sorted.first()).map_or(0, |(last, first)| last - first);
            let is_dead = sorted.len() >= FAILURES && span >= 2_000;
            prop_assert_eq!(evidence.queue(LASTING) == Queue::Dead, is_dead);
            evidence.answered();
            prop_assert_eq!(evidence.queue(LASTING), Queue::Alive);
        }
    }
}
