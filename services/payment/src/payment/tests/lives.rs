//! Long random lives of a payment beside a provider that works late, answers or does not, and keeps a book: the book never
//! contradicts what the rules conclude from the answers.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::resolving::TIMEOUTS;
use super::*;
use crate::provider::ProviderStatus;

const AMOUNT: i64 = 100;
const WRONG: i64 = 30;
/// After a decline there are so many seconds to try again.
const RETRY_SECONDS: i64 = 60;
/// What the provider has done shows in its history so much later: one "never heard of it" proves nothing.
const HISTORY_LAG: i64 = 20;

/// What the buyer authorised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Authorised {
    Right,
    AnotherAmount,
    ForSomebodyElse,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Approve(Authorised),
    /// The provider gets to what it was asked for.
    Work,
    /// The approver hears what was done.
    Answer,
    Decline,
    /// The client has waited long enough.
    Silence,
    Resolve {
        is_clear: bool,
        is_reservable: bool,
        undo_arrives: bool,
    },
    /// The order hears that it is paid.
    TellOrder,
    Cancel,
    GiveBack,
    Wait(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let authorised = prop_oneof![6 => Just(Authorised::Right), 1 => Just(Authorised::AnotherAmount), 1 => Just(Authorised::ForSomebodyElse)];
    let chances = (any::<bool>(), any::<bool>(), any::<bool>());
    prop_oneof![
        4 => authorised.prop_map(Step::Approve),
        2 => Just(Step::Work),
        2 => Just(Step::Answer),
        1 => Just(Step::Decline),
        2 => Just(Step::Silence),
        6 => chances.prop_map(|(is_clear, is_reservable, undo_arrives)| Step::Resolve { is_clear, is_reservable, undo_arrives }),
        2 => Just(Step::TellOrder),
        2 => Just(Step::Cancel),
        2 => Just(Step::GiveBack),
        4 => (1..40i64).prop_map(Step::Wait),
        1 => (40..700i64).prop_map(Step::Wait),
        1 => (80_000..90_000i64).prop_map(Step::Wait),
    ]
}

/// The provider's side of the authorisation under way.
#[derive(Debug)]
struct Book {
    authorised: Authorised,
    /// Until when it may begin what it was asked for.
    asked_until: Option<i64>,
    captured: i64,
    shown_from: i64,
    back: i64,
}

impl Book {
    fn new(authorised: Authorised) -> Book {
        Book { authorised, asked_until: None, captured: 0, shown_from: 0, back: 0 }
    }

    fn work(&mut self, now: i64) {
        if self.asked_until.take().is_some_and(|until| now < until) && self.captured == 0 {
            self.captured = match self.authorised {
                Authorised::Right => AMOUNT,
                Authorised::AnotherAmount => WRONG,
                Authorised::ForSomebodyElse => 0,
            };
            self.shown_from = now + HISTORY_LAG;
        }
    }

    fn kept(&self) -> i64 {
        self.captured - self.back
    }

    /// Whether it will never have more of the buyer's money than it has now.
    fn is_final(&self, now: i64) -> bool {
        self.authorised == Authorised::ForSomebodyElse
            || self.captured > 0
            || self.asked_until.is_none_or(|until| until <= now)
    }

    fn has_captured(&self) -> bool {
        self.authorised == Authorised::Right && self.captured > 0
    }

    fn status(&self, now: i64) -> ProviderStatus {
        match self.authorised {
            Authorised::ForSomebodyElse => ProviderStatus::Foreign,
            _ if self.captured == 0 || now < self.shown_from => ProviderStatus::Absent,
            _ if self.kept() == 0 => ProviderStatus::Cancelled,
            Authorised::Right => ProviderStatus::Captured,
            Authorised::AnotherAmount => ProviderStatus::WrongAmount { left: self.kept() },
        }
    }
}

/// A payment with the clock that decides about it, and the book of its provider.
#[derive(Debug)]
struct Life {
    now: DateTime<Utc>,
    payment: Payment,
    owes_order: bool,
    has_steps: bool,
    promised: i64,
    book: Book,
}

const LIMITS: Limits = Limits {
    attempts_per_order_max: i64::MAX,
    head_start: TimeDelta::seconds(11),
    retry_time: TimeDelta::seconds(RETRY_SECONDS),
};

impl Life {
    fn new(expires: i64) -> Life {
        let now = DateTime::UNIX_EPOCH;
        let payment = Payment { expires_at: now + TimeDelta::seconds(expires), ..prepared(AMOUNT, now) };
        let book = Book::new(Authorised::Right);
        Life { now, payment, owes_order: false, has_steps: false, promised: 0, book }
    }

    fn seconds(&self) -> i64 {
        (self.now - DateTime::UNIX_EPOCH).num_seconds()
    }

    fn captured(&self) -> i64 {
        self.payment.captured
    }

    fn request(&mut self) {
        self.book.asked_until = Some(self.seconds() + TIMEOUTS.provider_seconds);
    }

    /// Decides and applies; what is to be done elsewhere is done at once, unless it is telling the order.
    fn act(&mut self, action: Action) -> Vec<Change> {
        let facts = Facts { has_steps: self.has_steps, ..Facts::default() };
        let changes = self.payment.decide(&action, facts, LIMITS, self.now).unwrap_or_default();
        for change in &changes {
            self.payment.apply(change, self.now);
            if let Change::Follow { steps, .. } = change {
                self.owes_order = steps.contains(&crate::payment::Step::PayOrder);
            }
        }
        changes
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Approve(authorised) => {
                let before = (self.book.is_final(self.seconds()), self.book.kept());
                let pg_payment_id = Some(format!("pg-{}", self.payment.version));
                let approval = Approval { user: self.payment.user_id, amount: AMOUNT, pg_payment_id };
                if !self.act(Action::Approve(approval)).is_empty() {
                    assert_eq!(before, (true, 0), "asked again for what may be there");
                    self.book = Book::new(authorised);
                    self.request();
                }
            }
            Step::Work => self.book.work(self.seconds()),
            Step::Answer if self.book.has_captured() => self.report(AttemptOutcome::Captured, false, false),
            Step::Answer => self.report(AttemptOutcome::Unknown, false, false),
            Step::Decline if self.book.captured == 0 && self.book.asked_until.is_some() => {
                self.book.asked_until = None;
                self.report(AttemptOutcome::NotCaptured, true, false);
            }
            Step::Decline => {}
            Step::Silence => self.report(AttemptOutcome::Unknown, false, false),
            Step::Resolve { is_clear, is_reservable, undo_arrives } if self.payment.status.is_open() => {
                self.resolve(is_clear, is_reservable, undo_arrives);
            }
            Step::Resolve { .. } => {}
            Step::TellOrder => self.owes_order = false,
            Step::Cancel => self.cancel(),
            Step::GiveBack => {
                if self.promised > self.payment.refunded {
                    self.book.back += self.promised - self.payment.refunded;
                    self.payment.refunded = self.promised;
                    self.payment.status = after_refund(AMOUNT, self.promised);
                }
            }
            Step::Wait(seconds) => self.now += TimeDelta::seconds(seconds),
        }
    }

    fn report(&mut self, outcome: AttemptOutcome, is_declined: bool, is_proof: bool) {
        let Some(attempt) = self.payment.attempt() else { return };
        let report = AttemptReport { outcome, is_declined, is_proof, ..AttemptReport::unknown("?", "") };
        let undone = self.payment.undo_at.is_some();
        for change in self.act(Action::Report { attempt, report }) {
            let Change::Move { status, .. } = change else { continue };
            match status {
                Status::Paid => {
                    assert_eq!((self.book.captured, self.book.back), (AMOUNT, 0), "paid with what is not there");
                    assert!(!undone, "paid with what is being undone");
                }
                Status::Pending | Status::Failed => assert!(
                    self.book.is_final(self.seconds()) && self.book.kept() == 0,
                    "ended with money on its way: {self:?}"
                ),
                _ => assert!(status.is_open()),
            }
        }
    }

    /// As `resolve_payments.rs` does it.
    fn resolve(&mut self, is_clear: bool, is_reservable: bool, undo_arrives: bool) {
        let Some(attempt) = self.payment.attempt() else { return };
        self.payment.asked += 1;
        let silence = ProviderStatus::Unclear("silence".to_owned());
        let status = if is_clear { self.book.status(self.seconds()) } else { silence };
        let facts = self.payment.attempt_facts(self.now);
        let mut step = resolve(&status, facts, TIMEOUTS);
        if step == ResolverStep::Retry && !is_reservable {
            step = resolve(&status, AttemptFacts { payable: false, ..facts }, TIMEOUTS);
        }
        match step {
            ResolverStep::Record(outcome) => self.report(outcome, false, true),
            ResolverStep::Retry => {
                assert!(facts.payable, "charged after the time was up");
                if !self.act(Action::RequestAgain { attempt }).is_empty() {
                    self.request();
                }
            }
            ResolverStep::Wait { absent } => {
                self.payment.absent_since = absent.then(|| self.payment.absent_since.unwrap_or(self.now));
            }
            ResolverStep::Undo { amount } => {
                assert!(status != ProviderStatus::Foreign, "not ours to undo");
                assert!(!facts.payable || amount == Some(self.book.kept()), "it may be asked for under the same key");
                let is_begun = !self.act(Action::BeginUndo { attempt }).is_empty();
                self.payment.absent_since = None;
                if is_begun && undo_arrives {
                    self.book.back = self.book.captured;
                }
            }
        }
    }

    fn cancel(&mut self) {
        let Ok(outcome) = cancel(self.payment.status, self.owes_order) else { return };
        match outcome {
            CancelDecision::End => {
                assert!(self.book.is_final(self.seconds()) && self.book.kept() == 0, "ended with money on its way");
                self.payment.status = Status::Cancelled;
            }
            CancelDecision::Refund => {
                assert!(!self.owes_order, "back before its order has heard of it");
                self.promised += refund_amount(self.payment.status, AMOUNT, self.promised, Wanted::All).unwrap_or(0);
            }
        }
    }

    /// Everybody answers from now on, and whoever has to look does.
    fn rest(&mut self) {
        for _ in 0..8 {
            self.step(Step::Work);
            self.step(Step::Resolve { is_clear: true, is_reservable: false, undo_arrives: true });
            self.step(Step::Wait(TIMEOUTS.provider_seconds.max(TIMEOUTS.absence_seconds)));
            if self.payment.status == Status::NeedsReview {
                self.book.back = self.book.captured;
            }
        }
        self.step(Step::TellOrder);
        self.step(Step::GiveBack);
    }
}

fn walk(config: ProptestConfig) {
    let seen = RefCell::new(BTreeSet::new());
    let lives = (60..2_000i64, proptest::collection::vec(step(), 1..60));
    let outcome = TestRunner::new(config).run(&lives, |(expires, steps)| {
        let mut life = Life::new(expires);
        for step in steps {
            life.step(step);
            prop_assert!(life.payment.refunded <= life.promised && life.promised <= life.captured());
            prop_assert!(life.book.back <= life.book.captured);
            if life.payment.status.is_captured() {
                prop_assert_eq!(life.book.kept(), AMOUNT - life.payment.refunded);
            }
            seen.borrow_mut().insert((life.payment.status.name(), life.payment.undo_at.is_some()));
        }
        life.rest();
        prop_assert!(!life.payment.status.is_open(), "nobody knows: {:?}", life);
        prop_assert_eq!(life.book.kept(), life.captured() - life.payment.refunded, "{:?}", life);
        Ok(())
    });
    outcome.unwrap_or_else(|failed| panic!("{failed}"));
    let seen = seen.into_inner();
    for status in Status::VARIANTS {
        let is_reached = !matches!(status, Status::Expired | Status::PartiallyRefunded);
        assert!(!is_reached || seen.contains(&(status.name(), false)), "no life came to {status:?}");
    }
    for status in [Status::Unknown, Status::NeedsReview, Status::Pending, Status::Failed] {
        assert!(seen.contains(&(status.name(), true)), "none was undone and came to {status:?}");
    }
}

#[test]
fn the_providers_book_never_contradicts_what_was_concluded() {
    walk(quick(1_500));
}

#[test]
#[ignore = "soak: many random lives"]
fn the_providers_book_never_contradicts_what_was_concluded_in_many_lives() {
    walk(soak(20_000));
}
