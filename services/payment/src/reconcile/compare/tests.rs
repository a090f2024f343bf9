//! Each kind of finding, and books that are read in parts.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use strum::VariantArray;
use testkit::properties::{quick, soak};

use super::*;

fn ours(status: Status, refunded: i64) -> Ours {
    let captured = if status.is_captured() { 1_000 } else { 0 };
    Ours {
        id: PaymentId::generate(),
        order_id: OrderId::generate(),
        status,
        pg_payment_id: Some("P1".to_owned()),
        amount: 1_000,
        captured,
        refunded,
        is_moving: false,
    }
}

fn entry(name: &str, pg: &str, movement: Movement, amount: i64) -> Entry {
    let at = chrono::DateTime::UNIX_EPOCH;
    Entry { pg_payment_id: pg.to_owned(), merchant_pay_key: name.to_owned(), movement, amount, at }
}

fn capture(ours: &Ours, pg: &str, amount: i64) -> Entry {
    entry(&ours.id.to_string(), pg, Movement::Capture, amount)
}

fn cancel(ours: &Ours, pg: &str, amount: i64) -> Entry {
    entry(&ours.id.to_string(), pg, Movement::Cancel, amount)
}

/// The findings in short: kind, expected, found, remedy.
fn short(book: &[Entry], ours: &Ours) -> Vec<(Kind, i64, i64, Remedy)> {
    let findings = reconcile(book, std::slice::from_ref(ours));
    findings.iter().map(|finding| (finding.kind, finding.expected, finding.found, finding.remedy)).collect()
}

#[test]
fn a_paid_payment_that_was_captured_once_is_no_finding() {
    let paid = ours(Status::Paid, 0);
    assert_eq!(short(&[capture(&paid, "P1", 1_000)], &paid), []);
    let partly = ours(Status::PartiallyRefunded, 400);
    assert_eq!(short(&[capture(&partly, "P1", 1_000), cancel(&partly, "P1", 400)], &partly), []);
    let refunded = ours(Status::Refunded, 1_000);
    assert_eq!(short(&[capture(&refunded, "P1", 1_000), cancel(&refunded, "P1", 1_000)], &refunded), []);
    for status in Status::VARIANTS.iter().copied().filter(|status| !status.is_captured()) {
        assert_eq!(short(&[], &ours(status, 0)), []);
    }
}

#[test]
fn an_unexpected_capture_is_given_to_the_resolver_or_refunded() {
    for status in Status::VARIANTS.iter().copied().filter(|status| !status.is_captured()) {
        let ours = ours(status, 0);
        let current = [capture(&ours, "P1", 1_000)];
        let asked = [(Kind::StrayCapture, 0, 1_000, Remedy::QueryStatus)];
        assert_eq!(short(&current, &ours), if status.is_open() { &[][..] } else { &asked });
        // Under an authorisation that was given up, even while another one is tried.
        let other = [capture(&ours, "P0", 1_000)];
        assert_eq!(short(&other, &ours), [(Kind::StrayCapture, 0, 1_000, Remedy::Cancel(1_000))]);
        // Given back already.
        assert_eq!(short(&[capture(&ours, "P0", 1_000), cancel(&ours, "P0", 1_000)], &ours), []);
    }
    let failed = ours(Status::Failed, 0);
    let wrong = [capture(&failed, "P1", 999)];
    assert_eq!(short(&wrong, &failed), [(Kind::StrayCapture, 0, 999, Remedy::Cancel(999))]);
    let never_tried = Ours { pg_payment_id: None, ..ours(Status::Pending, 0) };
    let taken = [capture(&never_tried, "P1", 1_000)];
    assert_eq!(short(&taken, &never_tried), [(Kind::StrayCapture, 0, 1_000, Remedy::Cancel(1_000))]);
}

#[test]
fn captures_for_an_unknown_payment_are_refunded_for_each_authorisation() {
    let book = [
        entry("order-7", "P1", Movement::Capture, 500),
        entry("order-7", "P2", Movement::Capture, 700),
        entry("order-7", "P2", Movement::Cancel, 300),
        entry("order-7", "P3", Movement::Capture, 100),
        entry("order-7", "P3", Movement::Cancel, 100),
    ];
    let findings = reconcile(&book, &[]);
    let short: Vec<_> =
        findings.iter().map(|finding| (finding.pg_payment_id.as_deref(), finding.kind, finding.remedy)).collect();
    assert_eq!(
        short,
        [(Some("P1"), Kind::StrayCapture, Remedy::Cancel(500)), (Some("P2"), Kind::StrayCapture, Remedy::Cancel(400)),]
    );
    assert!(findings.iter().all(|finding| finding.payment.is_none() && finding.merchant_pay_key == "order-7"));
}

#[test]
fn a_paid_payment_must_be_captured_once_in_its_amount() {
    let paid = ours(Status::Paid, 0);
    assert_eq!(short(&[], &paid), [(Kind::MissingCapture, 1_000, 0, Remedy::Report)]);
    let other = [capture(&paid, "P2", 1_000)];
    assert_eq!(
        short(&other, &paid),
        [(Kind::DoubleCapture, 0, 1_000, Remedy::Cancel(1_000)), (Kind::MissingCapture, 1_000, 0, Remedy::Report),]
    );
    let twice = [capture(&paid, "P1", 1_000), capture(&paid, "P2", 1_000)];
    assert_eq!(short(&twice, &paid), [(Kind::DoubleCapture, 0, 1_000, Remedy::Cancel(1_000))]);
    let settled = [capture(&paid, "P1", 1_000), capture(&paid, "P2", 1_000), cancel(&paid, "P2", 1_000)];
    assert_eq!(short(&settled, &paid), []);
    for amount in [999, 1_001] {
        let book = [capture(&paid, "P1", amount)];
        assert_eq!(short(&book, &paid), [(Kind::AmountMismatch, 1_000, amount, Remedy::Report)]);
    }
}

#[test]
fn refunds_must_be_equal_on_both_sides() {
    let paid = ours(Status::Paid, 0);
    let theirs = [capture(&paid, "P1", 1_000), cancel(&paid, "P1", 400)];
    assert_eq!(short(&theirs, &paid), [(Kind::RefundMismatch, 1_000, 600, Remedy::Report)]);
    let refunded = ours(Status::Refunded, 1_000);
    let kept = [capture(&refunded, "P1", 1_000)];
    assert_eq!(short(&kept, &refunded), [(Kind::RefundMismatch, 0, 1_000, Remedy::Report)]);
}

#[test]
fn a_moving_payment_is_not_compared() {
    let moving = Ours { is_moving: true, ..ours(Status::Paid, 0) };
    assert_eq!(short(&[capture(&moving, "P2", 5)], &moving), []);
    assert_eq!(check_order(&moving, None), None);
}

#[test]
fn a_part_of_the_book_without_the_capture_makes_a_suspect() {
    let refunded = ours(Status::PartiallyRefunded, 500);
    // In its own part the cancel looks right; the same amount was given back before.
    let later = [cancel(&refunded, "P1", 500)];
    assert_eq!(suspects(&later, std::slice::from_ref(&refunded)), [refunded.id.to_string()].into());
    let whole = [capture(&refunded, "P1", 1_000), cancel(&refunded, "P1", 500), later[0].clone()];
    assert_eq!(short(&whole, &refunded), [(Kind::RefundMismatch, 500, 0, Remedy::Report)]);
    let paid = ours(Status::Paid, 0);
    assert_eq!(suspects(&[capture(&paid, "P1", 1_000)], std::slice::from_ref(&paid)), BTreeSet::new());
}

#[test]
fn an_order_must_agree_with_its_payment() {
    let paid = ours(Status::Paid, 0);
    let same = |status, refunded| Ours { id: paid.id, ..ours(status, refunded) };
    let own = paid.id.to_string();
    let order = |status: &str, amount| OrderSeen { status: status.to_owned(), amount, paid_by: own.clone() };
    let of_another = |status: &str| OrderSeen { paid_by: String::new(), ..order(status, 1_000) };
    let agrees = |ours: &Ours, order: Option<&OrderSeen>| check_order(ours, order).is_none();
    let refunded = same(Status::Refunded, 1_000);
    for status in ["PAID", "COMPLETED"] {
        assert!(agrees(&paid, Some(&order(status, 1_000))));
        assert!(!agrees(&paid, Some(&order(status, 999))));
    }
    for status in ["CREATED", "PENDING_PAYMENT", "CANCELLED", "EXPIRED", "REFUND_PENDING", "REFUNDED"] {
        assert!(!agrees(&paid, Some(&order(status, 1_000))), "{status}");
        assert!(agrees(&refunded, Some(&of_another(status))), "{status}");
        assert!(agrees(&same(Status::Failed, 0), Some(&order(status, 1_000))), "{status}");
    }
    assert!(agrees(&same(Status::PartiallyRefunded, 400), Some(&order("PAID", 1_000))));
    assert!(!agrees(&paid, None));
    assert!(!agrees(&paid, Some(&of_another("PAID"))), "paid, but not by this");
    assert!(agrees(&refunded, Some(&order("REFUNDED", 1_000))));
    for status in ["PAID", "REFUND_PENDING"] {
        assert!(!agrees(&refunded, Some(&order(status, 1_000))), "{status} with money that went back");
    }
}

/// A payment on which both sides agree.
fn agreeing() -> impl Strategy<Value = (Ours, Vec<Entry>)> {
    (0..Status::VARIANTS.len(), 1..1_000_000_i64, 0..=100_i64).prop_map(|(status, amount, percent)| {
        let status = Status::VARIANTS[status];
        let captured = if status.is_captured() { amount } else { 0 };
        let refunded = match status {
            Status::Refunded => amount,
            Status::PartiallyRefunded => amount * percent / 100,
            _ => 0,
        };
        let ours = Ours { amount, captured, ..ours(status, refunded) };
        let mut book = Vec::new();
        if captured > 0 {
            book.push(capture(&ours, "P1", amount));
            // In two parts, which must not matter.
            book.extend(
                [refunded / 2, refunded - refunded / 2]
                    .into_iter()
                    .filter(|part| *part > 0)
                    .map(|part| cancel(&ours, "P1", part)),
            );
        }
        (ours, book)
    })
}

fn net(book: &[Entry]) -> i64 {
    book.iter()
        .map(|entry| match entry.movement {
            Movement::Capture => entry.amount,
            Movement::Cancel => -entry.amount,
        })
        .sum()
}

/// Something that went wrong with one payment's money, on either side.
#[derive(Debug, Clone, Copy)]
enum Defect {
    Lost,
    OtherAmount(i64),
    Again(i64),
    Cancelled(i64),
    GivenUp,
}

fn defect() -> impl Strategy<Value = Defect> {
    prop_oneof![
        Just(Defect::Lost),
        (1..1_000i64).prop_map(Defect::OtherAmount),
        (1..1_000i64).prop_map(Defect::Again),
        (1..1_000i64).prop_map(Defect::Cancelled),
        Just(Defect::GivenUp),
    ]
}

fn agree(config: ProptestConfig) {
    let both = proptest::collection::vec(agreeing(), 0..20);
    let outcome = TestRunner::new(config).run(&both, |both| {
        let (ours, book): (Vec<_>, Vec<_>) = both.into_iter().unzip();
        prop_assert_eq!(reconcile(&book.concat(), &ours), vec![]);
        Ok(())
    });
    outcome.unwrap_or_else(|failed| panic!("{failed}"));
}

/// Puts `defect` on one side of one payment. Returns the kind of finding that it must lead to.
fn spoil(one: &mut Ours, book: &mut Vec<Entry>, defect: Defect) -> Option<Kind> {
    match defect {
        Defect::Again(amount) => {
            book.push(capture(one, "P2", amount));
            Some(if one.status.is_captured() { Kind::DoubleCapture } else { Kind::StrayCapture })
        }
        _ if !one.status.is_captured() => None,
        Defect::Lost => {
            book.clear();
            Some(Kind::MissingCapture)
        }
        Defect::OtherAmount(by) => {
            book[0].amount += by;
            Some(Kind::AmountMismatch)
        }
        Defect::Cancelled(amount) => {
            book.push(cancel(one, "P1", amount));
            Some(Kind::RefundMismatch)
        }
        Defect::GivenUp => {
            (one.status, one.captured, one.refunded) = (Status::Failed, 0, 0);
            (net(book) > 0).then_some(Kind::StrayCapture)
        }
    }
}

/// Whether a run that reads the book in two parts reads all of the payment `name`.
fn is_suspected(name: &str, parts: [&[Entry]; 2], ours: &[Ours]) -> bool {
    parts.into_iter().any(|part| {
        let names: BTreeSet<&str> = part.iter().map(|entry| entry.merchant_pay_key.as_str()).collect();
        let is_named = |ours: &&Ours| names.contains(ours.id.to_string().as_str());
        let named: Vec<Ours> = ours.iter().filter(is_named).cloned().collect();
        suspects(part, &named).contains(name)
    })
}

/// Each defect is found, for its payment only, and the findings account for the whole difference of the sides.
fn find(config: ProptestConfig) {
    let both = proptest::collection::vec(agreeing(), 1..20);
    let strategy = (both, any::<prop::sample::Index>(), any::<prop::sample::Index>(), defect());
    let outcome = TestRunner::new(config).run(&strategy, |(both, at, cut, defect)| {
        let (mut ours, mut books): (Vec<Ours>, Vec<_>) = both.into_iter().unzip();
        let at = at.index(ours.len());
        let expected = spoil(&mut ours[at], &mut books[at], defect);
        let name = ours[at].id.to_string();
        let book = books.concat();
        let findings = reconcile(&book, &ours);
        let kinds: Vec<_> = findings.iter().map(|finding| finding.kind).collect();
        prop_assert_eq!(&kinds, &Vec::from_iter(expected));
        prop_assert!(findings.iter().all(|finding| finding.merchant_pay_key == name));
        let difference: i64 = findings.iter().map(|finding| finding.found - finding.expected).sum();
        prop_assert_eq!(difference, net(&book) - ours.iter().map(Ours::net).sum::<i64>());
        // A part of the book does not hide what the whole of it shows. What is in no part is found from our payments.
        let parts = book.split_at(cut.index(book.len() + 1));
        let is_suspected = is_suspected(&name, parts.into(), &ours);
        prop_assert!(is_suspected || findings.is_empty() || kinds == [Kind::MissingCapture]);
        // Money that is refunded as proposed is no finding any more.
        let returned = findings.iter().filter_map(|finding| match finding.remedy {
            Remedy::Cancel(amount) => {
                let pg = finding.pg_payment_id.as_deref().unwrap_or_default();
                Some(entry(&finding.merchant_pay_key, pg, Movement::Cancel, amount))
            }
            Remedy::QueryStatus | Remedy::Report => None,
        });
        let after: Vec<Entry> = book.iter().cloned().chain(returned).collect();
        prop_assert!(reconcile(&after, &ours).iter().all(|finding| !matches!(finding.remedy, Remedy::Cancel(_))));
        Ok(())
    });
    outcome.unwrap_or_else(|failed| panic!("{failed}"));
}

#[test]
fn two_sides_that_agree_have_no_findings() {
    agree(quick(300));
}

#[test]
fn every_defect_is_found_and_accounts_for_the_difference() {
    find(quick(500));
}

#[test]
#[ignore = "soak: many random books"]
fn agreement_and_defects_are_told_apart_in_many_books() {
    agree(soak(5_000));
    find(soak(5_000));
}
