//! Long random histories of orders, compared with a model that is written in another way.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use testkit::properties::{quick, soak};

use super::*;

/// What an order must be, without the rules that decide it.
#[derive(Debug, Default)]
struct Model {
    second: i64,
    /// The second at which its time is up.
    ends: i64,
    /// A payment has been prepared.
    prepared: bool,
    /// An attempt.
    reserved: Option<u8>,
    /// Attempts that have ended.
    blocked: BTreeSet<u8>,
    /// Payments that were refunded before they paid.
    returned: BTreeSet<u8>,
    /// A payment.
    payer: Option<u8>,
    cancelled: bool,
    swept: bool,
    refund_requested: bool,
    refunded: bool,
}

impl Model {
    fn over(&self) -> bool {
        self.swept || (self.reserved.is_none() && self.ends <= self.second)
    }

    fn status(&self) -> Status {
        match () {
            () if self.refunded => Status::Refunded,
            () if self.refund_requested => Status::RefundPending,
            () if self.payer.is_some() => Status::Paid,
            () if self.cancelled => Status::Cancelled,
            () if self.over() => Status::Expired,
            () if self.prepared => Status::PendingPayment,
            () => Status::Created,
        }
    }

    /// Whether it succeeds; how many versions it makes; what is announced.
    fn act(&mut self, step: Step) -> (bool, i64, Vec<Change>) {
        let ended = self.payer.is_some() || self.cancelled;
        let open = !ended && !self.over();
        match step {
            Step::BeginPayment if open => {
                let first = !std::mem::replace(&mut self.prepared, true);
                (true, i64::from(first), vec![])
            }
            Step::BeginApproval(by) if self.returned.contains(&(by % 10)) => (false, 0, vec![]),
            Step::BeginApproval(by)
                if open && !self.blocked.contains(&by) && self.reserved.is_none_or(|other| other == by) =>
            {
                let first = self.reserved.replace(by).is_none();
                (true, i64::from(first), vec![])
            }
            Step::EndApproval(by, ends) if open => {
                if self.reserved == Some(by) {
                    (self.reserved, self.ends) = (None, self.ends.max(ends));
                }
                let first = self.blocked.insert(by);
                (true, i64::from(first), vec![])
            }
            Step::EndApproval(..) => (true, 0, vec![]),
            Step::MarkPaid(by, _) if self.payer == Some(by) => (true, 0, vec![]),
            Step::MarkPaid(by, _) if self.returned.contains(&by) => (false, 0, vec![]),
            Step::MarkPaid(by, late) if !ended && self.reserved.map_or(late, |attempt| attempt % 10 == by) => {
                (self.payer, self.reserved) = (Some(by), None);
                (true, 1, vec![Change::Pay])
            }
            Step::RecordRefund(by) if self.payer == Some(by) && !self.refunded => {
                self.refunded = true;
                (true, 1, vec![Change::Refund])
            }
            Step::RecordRefund(by) if self.reserved.is_some_and(|attempt| attempt % 10 == by) => {
                (self.payer, self.reserved, self.refunded) = (Some(by), None, true);
                (true, 2, vec![Change::Pay, Change::Refund])
            }
            Step::RecordRefund(by) if !ended => {
                let first = self.returned.insert(by);
                (true, i64::from(first), vec![])
            }
            Step::RecordRefund(_) => (true, 0, vec![]),
            Step::Cancel if self.cancelled || self.refund_requested || self.refunded => (true, 0, vec![]),
            Step::Cancel if self.payer.is_some() => {
                self.refund_requested = true;
                (true, 1, vec![Change::RequestRefund])
            }
            Step::Cancel if open && self.reserved.is_none() => {
                self.cancelled = true;
                (true, 1, vec![Change::Cancel])
            }
            Step::BeginPayment | Step::BeginApproval(_) | Step::MarkPaid(..) | Step::Cancel => (false, 0, vec![]),
            Step::Wait(_) | Step::Sweep => (true, 0, vec![]),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    BeginPayment,
    BeginApproval(u8),
    EndApproval(u8, i64),
    MarkPaid(u8, bool),
    RecordRefund(u8),
    Cancel,
    Wait(i64),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let by = 0_u8..3;
    let attempt = (by.clone(), 0_u8..2).prop_map(|(by, nth)| nth * 10 + by);
    prop_oneof![
        Just(Step::BeginPayment),
        attempt.clone().prop_map(Step::BeginApproval),
        attempt.clone().prop_map(Step::BeginApproval),
        (attempt, 0_i64..40).prop_map(|(by, ends)| Step::EndApproval(by, ends)),
        (by.clone(), any::<bool>()).prop_map(|(by, late)| Step::MarkPaid(by, late)),
        by.prop_map(Step::RecordRefund),
        Just(Step::Cancel),
        (0_i64..8).prop_map(Step::Wait),
        Just(Step::Sweep),
    ]
}

fn action(step: Step) -> Option<Action> {
    Some(match step {
        Step::BeginPayment => Action::BeginPayment(bill(0)),
        Step::BeginApproval(by) => begin(by),
        Step::EndApproval(by, ends) => end(by, Some(at(ends))),
        Step::MarkPaid(by, late) => Action::MarkPaid { bill: bill(by), late },
        Step::RecordRefund(by) => Action::RecordRefund { payment: payment(by) },
        Step::Cancel => Action::Cancel { reason: "mind".to_owned() },
        Step::Wait(_) | Step::Sweep => return None,
    })
}

fn is_announced(change: &Change) -> bool {
    match change {
        Change::Pay | Change::Cancel | Change::RequestRefund | Change::Refund => true,
        Change::AwaitPayment
        | Change::Reserve
        | Change::ReleaseReservation
        | Change::BlockAttempt
        | Change::BlockPayment => false,
    }
}

/// Takes the steps one by one and compares the order with the model after each.
fn keeps_every_promise(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut order = order(Status::Created, None, None);
    let mut model = Model { ends: 10, ..Model::default() };
    let mut announced = Vec::new();
    for &step in steps {
        match step {
            Step::Wait(seconds) => model.second += seconds,
            // As expire_orders.sql does it.
            Step::Sweep if order.status_at(at(model.second)) == Status::Expired => {
                order.version += i64::from(order.status != Status::Expired);
                order.status = Status::Expired;
                model.swept = true;
            }
            _ => {}
        }
        let (version, now) = (order.version, at(model.second));
        let (succeeds, versions, expected) = model.act(step);
        if let Some(action) = action(step) {
            let outcome = act(&mut order, &action, now);
            prop_assert_eq!(outcome.is_ok(), succeeds, "{:?} {:?}", step, outcome);
            let events: Vec<Change> = outcome.unwrap_or_default().iter().copied().filter(is_announced).collect();
            prop_assert_eq!(&events, &expected, "{:?}", step);
            announced.extend(events);
        }
        prop_assert_eq!(order.version, version + versions, "{:?}", step);
        prop_assert_eq!(order.status_at(now), model.status(), "{:?}", step);
        prop_assert_eq!(order.reservation, model.reserved.map(reservation));
        prop_assert_eq!(order.paid_payment_id, model.payer.map(payment));
    }
    let times = |change| announced.iter().filter(|announced| **announced == change).count();
    prop_assert!(times(Change::Pay) <= 1 && times(Change::Refund) <= times(Change::Pay));
    prop_assert!(times(Change::Pay) + times(Change::Cancel) <= 1);
    prop_assert!(times(Change::RequestRefund) <= times(Change::Pay));
    Ok(())
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..40)
}

proptest! {
    #![proptest_config(quick(1_000))]

    #[test]
    fn an_order_keeps_every_promise_through_any_history(steps in history()) {
        keeps_every_promise(&steps)?;
    }
}

proptest! {
    #![proptest_config(soak(20_000))]

    #[test]
    #[ignore = "soak: half a minute of random histories"]
    fn an_order_keeps_every_promise_through_very_many_histories(steps in history()) {
        keeps_every_promise(&steps)?;
    }
}
