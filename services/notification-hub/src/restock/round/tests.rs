//! The rules one by one, and a campaign over every order of commits that the generator thinks of.

use std::collections::BTreeSet;

use proptest::prelude::*;
use testkit::properties;

use super::*;

fn key(round: i64) -> RoundKey {
    RoundKey { product: ProductId::derive(&[b"sneaker"]), round }
}

#[test]
fn a_round_begins_once_and_ends_the_one_before_it() {
    use RoundStatus::{CanceledByError, CanceledBySoldOut, Completed, InProgress};
    for (newest, round, expected) in [
        (None, 1, Start::Begin { ends_before: false }),
        (Some((1, Completed)), 2, Start::Begin { ends_before: false }),
        (Some((1, CanceledByError)), 2, Start::Begin { ends_before: false }),
        (Some((1, InProgress)), 2, Start::Begin { ends_before: true }),
        (Some((2, InProgress)), 2, Start::Known),
        (Some((2, CanceledBySoldOut)), 2, Start::Known),
        (Some((3, InProgress)), 2, Start::Late),
    ] {
        assert_eq!(start(newest, round), expected, "{newest:?}, {round}");
    }
}

#[test]
fn only_newer_news_that_nothing_is_left_ends_a_round() {
    for (version, available, expected) in
        [(9, 0, false), (10, 0, false), (11, 1, false), (11, 0, true), (12, -1, true), (i64::MAX, 0, true)]
    {
        assert_eq!(is_sold_out(10, version, available), expected, "{version}, {available}");
    }
}

#[test]
fn only_the_newest_round_that_an_error_ended_goes_on() {
    for status in RoundStatus::VARIANTS {
        let is_error = *status == RoundStatus::CanceledByError;
        assert_eq!(resume(key(2), *status, 2).is_ok(), is_error, "{status:?}");
        assert!(resume(key(2), *status, 3).is_err(), "{status:?}: a later round has begun");
    }
}

#[test]
fn what_passes_is_tried_again_a_few_times_and_what_does_not_is_not() {
    assert_eq!(after_error(true, 4, 5), AfterError::Retry);
    assert_eq!(after_error(true, 5, 5), AfterError::Cancel);
    assert_eq!(after_error(false, 1, 5), AfterError::Cancel);
}

#[test]
fn the_statuses_are_spelt_as_they_are_stored_and_shown() {
    let names: Vec<&str> = RoundStatus::VARIANTS.iter().map(|status| status.name()).collect();
    assert_eq!(names, ["IN_PROGRESS", "CANCELED_BY_SOLD_OUT", "CANCELED_BY_ERROR", "COMPLETED"]);
    for status in RoundStatus::VARIANTS {
        assert_eq!(serde_json::to_value(status).unwrap(), status.name());
        assert_eq!(status.name().parse(), Ok(*status));
    }
}

/// A subscription: its id and its transaction, in the order in which they were taken, and whether that has committed.
#[derive(Debug, Clone, Copy)]
struct Row {
    id: i64,
    tx: i64,
    is_committed: bool,
}

/// What the statements of a campaign see of the table.
#[derive(Debug, Default)]
struct Table {
    rows: Vec<Row>,
    next_tx: i64,
}

impl Table {
    fn insert(&mut self) {
        self.next_tx += 1;
        self.rows.push(Row { id: self.rows.len() as i64 + 1, tx: self.next_tx, is_committed: false });
    }

    fn commit(&mut self, nth: usize) {
        if let Some(row) = self.rows.iter_mut().filter(|row| !row.is_committed).nth(nth) {
            row.is_committed = true;
        }
    }

    /// `pg_snapshot_xmin`: every earlier transaction has ended.
    fn xmin(&self) -> i64 {
        self.rows.iter().filter(|row| !row.is_committed).map(|row| row.tx).min().unwrap_or(self.next_tx + 1)
    }

    fn visible(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.is_committed)
    }

    /// `next_subscriptions.sql`
    fn next(&self, cursor: i64, count: usize) -> Vec<i64> {
        let recent = self.visible().filter(|row| row.id > cursor && row.tx >= self.xmin()).map(|row| row.id).min();
        let is_safe = |row: &&Row| row.id > cursor && recent.is_none_or(|recent| row.id < recent);
        self.visible().filter(is_safe).map(|row| row.id).take(count).collect()
    }

    /// `late_subscriptions.sql`
    fn late(&self, start_tx: i64, told: &[i64], count: usize) -> Vec<i64> {
        let is_late = |row: &&Row| row.tx >= start_tx && !told.contains(&row.id);
        self.visible().filter(is_late).map(|row| row.id).take(count).collect()
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Insert,
    Commit(usize),
    /// The runner's turn. A runner that died before its commit has no turn, and one that died after it has had one.
    Turn,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![Just(Step::Insert), (0_usize..4).prop_map(Step::Commit), Just(Step::Turn)];
    prop::collection::vec(step, 0..120)
}

/// Runs a campaign that begins after `before` steps; returns whom it told in their order, and who had committed by its end.
fn campaign(before: &[Step], during: &[Step]) -> (Vec<i64>, BTreeSet<i64>) {
    let mut table = Table::default();
    let change = |table: &mut Table, step: &Step| match step {
        Step::Insert => table.insert(),
        Step::Commit(nth) => table.commit(*nth),
        Step::Turn => {}
    };
    before.iter().for_each(|step| change(&mut table, step));
    let (start_tx, mut cursor, mut told) = (table.xmin(), 0, Vec::new());
    let mut during = during.iter();
    loop {
        // When the generator has no steps left, only the runner goes on.
        match during.next() {
            Some(Step::Turn) | None => {}
            Some(step) => {
                change(&mut table, step);
                continue;
            }
        }
        let mut batch = table.next(cursor, 3);
        if batch.is_empty() {
            batch = table.late(start_tx, &told, 3);
        }
        if batch.is_empty() {
            return (told, table.visible().map(|row| row.id).collect());
        }
        cursor = cursor_after(cursor, &batch);
        told.extend(batch);
    }
}

fn everybody_is_told_once_and_in_order(before: &[Step], during: &[Step]) -> Result<(), TestCaseError> {
    let (told, committed) = campaign(before, during);
    let distinct: BTreeSet<i64> = told.iter().copied().collect();
    prop_assert_eq!(distinct.len(), told.len(), "nobody twice: {:?}", told);
    prop_assert_eq!(distinct, committed, "nobody is left out");
    // While rows only come in the order of their ids, so do the alerts.
    let overtakes = during.iter().chain(before).any(|step| matches!(step, Step::Commit(nth) if *nth > 0));
    prop_assert!(overtakes || told.is_sorted(), "{:?}", told);
    Ok(())
}

proptest! {
    #![proptest_config(properties::quick(500))]
    #[test]
    fn whoever_has_committed_is_told_once_whatever_the_order_of_commits(before in steps(), during in steps()) {
        everybody_is_told_once_and_in_order(&before, &during)?;
    }
}

proptest! {
    #![proptest_config(properties::soak(20_000))]
    #[test]
    #[ignore = "soak: many random orders of commits"]
    fn whoever_has_committed_is_told_once_in_many_orders_of_commits(before in steps(), during in steps()) {
        everybody_is_told_once_and_in_order(&before, &during)?;
    }
}
