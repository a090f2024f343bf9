//! What the resolver does with each answer of a provider, by the clock.

use super::*;
use crate::provider::ProviderStatus;

pub const TIMEOUTS: Timeouts =
    Timeouts { provider_seconds: 60, absence_seconds: 30, undo_after_seconds: 600, review_after_seconds: 86_400 };

#[test]
fn absence_is_proved_by_two_answers_after_the_providers_own_limit() {
    let facts = |requested_ago, absent_for| AttemptFacts {
        payable: false,
        age: requested_ago + 1_000,
        requested_ago,
        absent_for,
        undone: false,
    };
    let next = |requested_ago, absent_for| resolve(&ProviderStatus::Absent, facts(requested_ago, absent_for), TIMEOUTS);
    assert_eq!(next(59, None), ResolverStep::Wait { absent: false });
    assert_eq!(next(60, None), ResolverStep::Wait { absent: true });
    assert_eq!(next(80, Some(20)), ResolverStep::Wait { absent: true });
    assert_eq!(next(90, Some(30)), ResolverStep::Record(AttemptOutcome::NotCaptured));
    let waiting = AttemptFacts { payable: true, ..facts(90, Some(30)) };
    assert_eq!(resolve(&ProviderStatus::Absent, waiting, TIMEOUTS), ResolverStep::Retry, "the buyer still wants it");
}

#[test]
fn an_attempt_without_a_clear_answer_is_undone_and_then_reviewed() {
    let facts = |age| AttemptFacts { payable: false, age, requested_ago: age, absent_for: None, undone: false };
    let next = |age| resolve(&ProviderStatus::Unclear("?".into()), facts(age), TIMEOUTS);
    assert_eq!(next(599), ResolverStep::Wait { absent: false });
    assert_eq!(next(600), ResolverStep::Undo { amount: None });
    assert_eq!(next(86_399), ResolverStep::Undo { amount: None });
    assert_eq!(next(86_400), ResolverStep::Record(AttemptOutcome::Overdue));
}

#[test]
fn a_wrong_amount_is_never_kept_and_the_money_of_others_never_touched() {
    for payable in [false, true] {
        let facts = |age, undone| AttemptFacts { payable, age, requested_ago: age, absent_for: None, undone };
        let next = |status: ProviderStatus, age, undone| resolve(&status, facts(age, undone), TIMEOUTS);
        for undone in [false, true] {
            assert_eq!(next(ProviderStatus::Foreign, 0, undone), ResolverStep::Record(AttemptOutcome::NotCaptured));
            assert_eq!(
                next(ProviderStatus::WrongAmount { left: 1 }, 0, undone),
                ResolverStep::Undo { amount: Some(1) }
            );
            assert_eq!(
                next(ProviderStatus::WrongAmount { left: 1 }, 86_400, undone),
                ResolverStep::Record(AttemptOutcome::Overdue)
            );
        }
        assert_eq!(next(ProviderStatus::Captured, 0, false), ResolverStep::Record(AttemptOutcome::Captured));
        assert_eq!(
            next(ProviderStatus::Captured, 0, true),
            ResolverStep::Undo { amount: None },
            "it comes back although it was undone"
        );
        assert_eq!(next(ProviderStatus::Captured, 86_400, true), ResolverStep::Record(AttemptOutcome::Overdue));
    }
}

#[test]
fn the_resolver_asks_ever_more_rarely() {
    let pauses: Vec<i32> = (0..9).map(retry_delay_seconds).collect();
    assert_eq!(pauses, [1, 1, 2, 5, 15, 60, 60, 60, 60]);
}
