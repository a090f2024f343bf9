//! Long random lives of orders, beside a model that remembers what was promised.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What has been promised of an order, told apart from how it is decided.
#[derive(Debug, Default)]
struct Model {
    second: i64,
    /// When nobody pays.
    ends: i64,
    /// A payment has been prepared.
    prepared: bool,
    /// An attempt.
    reserved: Option<u8>,
    /// The attempts that were ended.
    barred: BTreeSet<u8>,
    /// Payments whose money went back before they had paid.
    returned: BTreeSet<u8>,
    /// A payment.
    payer: Option<u8>,
    cancelled: bool,
    swept: bool,
    asked_back: bool,
    given_back: bool,
}

impl Model {
    fn over(&self) -> bool {
        self.swept || (self.reserved.is_none() && self.ends <= self.second)
    }

    fn status(&self) -> Status {
        match () {
            () if self.given_back => Status::Refunded,
            () if self.asked_back => Status::RefundPending,
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
                if open && !self.barred.contains(&by) && self.reserved.is_none_or(|other| other == by) =>
            {
                let first = self.reserved.replace(by).is_none();
                (true, i64::from(first), vec![])
            }
            Step::EndApproval(by, ends) if open => {
                if self.reserved == Some(by) {
                    (self.reserved, self.ends) = (None, self.ends.max(ends));
                }
                let first = self.barred.insert(by);
                (true, i64::from(first), vec![])
            }
            Step::EndApproval(..) => (true, 0, vec![]),
            Step::MarkPaid(by, _) if self.payer == Some(by) => (true, 0, vec![]),
            Step::MarkPaid(by, _) if self.returned.contains(&by) => (false, 0, vec![]),
            Step::MarkPaid(by, late) if !ended && self.reserved.map_or(late, |attempt| attempt % 10 == by) => {
                (self.payer, self.reserved) = (Some(by), None);
                (true, 1, vec![Change::Pay])
            }
            Step::NoteRefund(by) if self.payer == Some(by) && !self.given_back => {
                self.given_back = true;
                (true, 1, vec![Change::Refund])
            }
            Step::NoteRefund(by) if self.reserved.is_some_and(|attempt| attempt % 10 == by) => {
                (self.payer, self.reserved, self.given_back) = (Some(by), None, true);
                (true, 2, vec![Change::Pay, Change::Refund])
            }
            Step::NoteRefund(by) if !ended => {
                let first = self.returned.insert(by);
                (true, i64::from(first), vec![])
            }
            Step::NoteRefund(_) => (true, 0, vec![]),
            Step::Cancel if self.cancelled || self.asked_back || self.given_back => (true, 0, vec![]),
            Step::Cancel if self.payer.is_some() => {
                self.asked_back = true;
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
    NoteRefund(u8),
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
        by.prop_map(Step::NoteRefund),
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
        Step::NoteRefund(by) => Action::NoteRefund { payment: payment(by) },
        Step::Cancel => Action::Cancel { reason: "mind".to_owned() },
        Step::Wait(_) | Step::Sweep => return None,
    })
}

fn is_announced(change: &Change) -> bool {
    match change {
        Change::Pay | Change::Cancel | Change::RequestRefund | Change::Refund => true,
        Change::AwaitPayment | Change::Reserve | Change::Free | Change::Bar | Change::BarPayment => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_life_keeps_every_promise(steps in proptest::collection::vec(step(), 1..40)) {
        let mut order = order(Status::Created, None, None);
        let mut model = Model { ends: 10, ..Model::default() };
        let mut announced = Vec::new();
        for step in steps {
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
            let (succeeds, versions, told) = model.act(step);
            if let Some(action) = action(step) {
                let outcome = act(&mut order, &action, now);
                prop_assert_eq!(outcome.is_ok(), succeeds, "{:?} {:?}", step, outcome);
                let news: Vec<Change> = outcome.unwrap_or_default().iter().copied().filter(is_announced).collect();
                prop_assert_eq!(&news, &told, "{:?}", step);
                announced.extend(news);
            }
            prop_assert_eq!(order.version, version + versions, "{:?}", step);
            prop_assert_eq!(order.status_at(now), model.status(), "{:?}", step);
            prop_assert_eq!(order.reservation, model.reserved.map(reservation));
            prop_assert_eq!(order.paid_payment_id, model.payer.map(payment));
        }
        let times = |change| announced.iter().filter(|told| **told == change).count();
        prop_assert!(times(Change::Pay) <= 1 && times(Change::Refund) <= times(Change::Pay));
        prop_assert!(times(Change::Pay) + times(Change::Cancel) <= 1);
        prop_assert!(times(Change::RequestRefund) <= times(Change::Pay));
    }
}
