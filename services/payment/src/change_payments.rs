//! Changes of stored payments: one transaction for all the actions that are waiting.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::batch::{Batch, BatchSettings};
use common::db::{Db, Prepared, Tx};
use common::telemetry::Context;
use common::{Error, Result};
use contract::ids::{OrderId, PaymentAttemptId, PaymentId};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Bool, Double, Integer, Nullable, Text, Timestamptz, Uuid};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::events::PendingEvents;
use crate::payment::{Action, AttemptOutcome, AttemptReport, Change, Facts, Limits, Method, Payment, Refused, Step};
use crate::pending_steps::RETRY_SECONDS;
use crate::points::payments_with_points;
use crate::provider::Attempt;
use crate::refunds::refund_duplicate_capture;
use crate::rows;

/// Longer texts of a provider are cut.
const MESSAGE_CHARS_MAX: usize = 300;

/// An action on a payment.
#[derive(Debug, Clone)]
pub struct Command {
    payment: PaymentId,
    action: Action,
    /// The request that leads to it.
    context: Context,
}

/// A payment as it is after an action, and what the action has changed.
#[derive(Debug, Clone)]
pub struct Changed {
    pub payment: Payment,
    changes: Vec<Change>,
}

impl Changed {
    /// The attempt that the action has begun.
    pub fn begun(&self) -> Option<&Attempt> {
        self.changes.iter().find_map(|change| match change {
            Change::Begin { attempt, .. } => Some(attempt),
            _ => None,
        })
    }

    /// What is to be done elsewhere now, and for which attempt.
    pub fn steps(&self) -> Option<(PaymentAttemptId, &'static [Step])> {
        self.changes.iter().find_map(|change| match change {
            Change::Follow { attempt, steps } => Some((*attempt, *steps)),
            _ => None,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Changes a payment and publishes the event of the change. Idempotent, as [`Payment::decide`] is.
pub async fn change_payment(app: &App, payment: PaymentId, action: Action) -> Result<Changed> {
    app.changes.submit(Command { payment, action, context: Context::outgoing() }).await
}

/// Starts the queue of [`change_payment`].
pub fn start_batch(db: &Db, settings: &BatchSettings, limits: Limits) -> Batch<Command, Changed> {
    let db = db.clone();
    Batch::start("payment_changes", settings, move |commands: Arc<[Command]>| {
        let db = db.clone();
        async move {
            let outcomes = db.tx("change_payments", async |tx| change_all(tx, &commands, limits).await).await?;
            Ok(outcomes.into_iter().map(|outcome| outcome.map_err(Error::from)).collect())
        }
    })
}

/// Does all commands in their order, in the caller's transaction. One outcome for each.
async fn change_all(tx: &mut Tx, commands: &[Command], limits: Limits) -> Result<Vec<Result<Changed, Refused>>> {
    let mut ids: Vec<PaymentId> = commands.iter().map(|command| command.payment).collect();
    ids.sort();
    ids.dedup();
    let Some((now, mut locked)) = rows::lock_all(tx, &ids).await? else {
        return Ok(commands.iter().map(|_| Err(Refused::NotFound)).collect());
    };
    let mut facts = read_facts(tx, commands, &locked).await?;
    let mut written = Written::default();
    let mut events = PendingEvents::default();
    let mut outcomes = Vec::with_capacity(commands.len());
    for command in commands {
        let Some(payment) = locked.get_mut(&command.payment) else {
            outcomes.push(Err(Refused::NotFound));
            continue;
        };
        let outcome = payment.decide(&command.action, facts.of(payment), limits, now).map(|changes| {
            for change in &changes {
                written.add(change, payment);
                payment.apply(change, now);
                events.add(change, payment, now, &command.context);
                if let Change::Begin { .. } = change {
                    facts.note_attempt(payment);
                }
            }
            Changed { payment: payment.clone(), changes }
        });
        outcomes.push(outcome);
    }
    written.save(tx, &locked, now).await?;
    for (payment, attempt) in &written.duplicates {
        refund_duplicate_capture(tx, (&locked[payment], now), attempt).await?;
    }
    events.publish(tx).await?;
    if !written.begun.is_empty() {
        tx.point("payment.before_attempt").await;
    }
    if !written.noted.is_empty() {
        tx.point("payment.before_record").await;
    }
    Ok(outcomes)
}

/// [`Facts`] of the payments of a batch.
#[derive(Default)]
struct BatchFacts {
    of_payments: HashMap<PaymentId, Facts>,
    /// Attempts that began in this batch, and the payment that is open since.
    begun: HashMap<OrderId, (PaymentId, i64)>,
}

impl BatchFacts {
    fn of(&self, payment: &Payment) -> Facts {
        let facts = self.of_payments.get(&payment.id).copied().unwrap_or_default();
        match self.begun.get(&payment.order_id) {
            Some((open, attempts)) => Facts {
                attempts: facts.attempts + attempts,
                is_other_open: facts.is_other_open || *open != payment.id,
                ..facts
            },
            None => facts,
        }
    }

    fn note_attempt(&mut self, payment: &Payment) {
        let (open, attempts) = self.begun.entry(payment.order_id).or_insert((payment.id, 0));
        *open = payment.id;
        *attempts += 1;
    }
}

/// Reads what the actions of this batch depend on. The payments are locked already.
async fn read_facts(tx: &mut Tx, commands: &[Command], locked: &HashMap<PaymentId, Payment>) -> Result<BatchFacts> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Uuid)]
        payment_id: PaymentId,
        #[diesel(sql_type = BigInt)]
        attempts: i64,
        #[diesel(sql_type = Bool)]
        is_other_open: bool,
        #[diesel(sql_type = Bool)]
        has_steps: bool,
    }
    let mut of_payments: HashMap<PaymentId, Facts> = HashMap::new();
    let is_approval = |command: &&Command| matches!(command.action, Action::Approve(_));
    let approved: Vec<PaymentId> = commands.iter().filter(is_approval).map(|command| command.payment).collect();
    if !approved.is_empty() {
        let query = sql_query(include_str!("change_payments_facts.sql")).bind::<Array<Uuid>, _>(approved);
        for row in Prepared(query).load::<Row>(tx).await? {
            let Row { payment_id, attempts, is_other_open, has_steps } = row;
            of_payments.insert(payment_id, Facts { attempts, is_other_open, has_steps, are_points_held: false });
        }
    }
    let by_points = |id: &PaymentId| locked.get(id).is_some_and(|payment| payment.method == Method::Points);
    let failure = |command: &Command| match &command.action {
        Action::Report { attempt, report } if report.outcome == AttemptOutcome::NotCaptured => {
            Some((command.payment, attempt.id))
        }
        _ => None,
    };
    let failed = commands.iter().filter_map(failure).filter(|(payment, _)| by_points(payment)).collect::<Vec<_>>();
    if !failed.is_empty() {
        for payment in payments_with_points(tx, &failed).await? {
            of_payments.entry(payment).or_default().are_points_held = true;
        }
    }
    Ok(BatchFacts { of_payments, begun: HashMap::new() })
}

/// What a batch writes.
#[derive(Default)]
struct Written {
    /// The version of each changed payment under its lock.
    versions_before: BTreeMap<PaymentId, i64>,
    begun: Vec<Attempt>,
    noted: Vec<(PaymentAttemptId, AttemptReport)>,
    /// What follows last from each payment.
    steps: BTreeMap<PaymentId, (PaymentAttemptId, &'static [Step])>,
    duplicates: Vec<(PaymentId, Attempt)>,
}

impl Written {
    /// `payment` is as it is before `change`.
    fn add(&mut self, change: &Change, payment: &Payment) {
        match change {
            Change::Begin { attempt, .. } => self.begun.push(attempt.clone()),
            Change::Note { attempt, report } => {
                // A statement writes a row once: what is learnt last counts, unless the money was captured.
                let earlier = self.noted.iter_mut().find(|(noted, _)| noted == attempt);
                match earlier {
                    Some((_, known)) if known.outcome == AttemptOutcome::Captured => {}
                    Some((_, known)) => *known = report.clone(),
                    None => self.noted.push((*attempt, report.clone())),
                }
                return;
            }
            Change::Follow { attempt, steps } => {
                self.steps.insert(payment.id, (*attempt, steps));
                return;
            }
            Change::ReturnDuplicate { attempt } => return self.duplicates.push((payment.id, attempt.clone())),
            Change::Announce { .. } => return,
            Change::Move { .. } | Change::AskNow | Change::Request | Change::Undo => {}
        }
        self.versions_before.entry(payment.id).or_insert(payment.version);
    }

    async fn save(&self, tx: &mut Tx, locked: &HashMap<PaymentId, Payment>, now: DateTime<Utc>) -> Result<()> {
        if self.versions_before.is_empty() && self.noted.is_empty() {
            return Ok(());
        }
        let changed: Vec<&Payment> = self.versions_before.keys().filter_map(|id| locked.get(id)).collect();
        let noted = || self.noted.iter().map(|(_, report)| report);
        let message = |report: &AttemptReport| report.message.chars().take(MESSAGE_CHARS_MAX).collect::<String>();
        let steps: Vec<(PaymentId, Step, PaymentAttemptId)> = self
            .steps
            .iter()
            .flat_map(|(payment, (attempt, steps))| steps.iter().map(|step| (*payment, *step, *attempt)))
            .collect();
        let save = sql_query(include_str!("change_payments.sql"))
            .bind::<Timestamptz, _>(now)
            .bind::<Array<Uuid>, _>(changed.iter().map(|payment| payment.id).collect::<Vec<_>>())
            .bind::<Array<BigInt>, _>(self.versions_before.values().copied().collect::<Vec<_>>())
            .bind::<Array<Text>, _>(changed.iter().map(|payment| payment.status).collect::<Vec<_>>())
            .bind::<Array<BigInt>, _>(changed.iter().map(|payment| payment.version).collect::<Vec<_>>())
            .bind::<Array<Nullable<Uuid>>, _>(changed.iter().map(|payment| payment.attempt_id).collect::<Vec<_>>())
            .bind::<Array<Nullable<Text>>, _>(
                changed.iter().map(|payment| payment.pg_payment_id.as_deref()).collect::<Vec<_>>(),
            )
            .bind::<Array<BigInt>, _>(changed.iter().map(|payment| payment.captured).collect::<Vec<_>>())
            .bind::<Array<Timestamptz>, _>(changed.iter().map(|payment| payment.expires_at).collect::<Vec<_>>())
            .bind::<Array<Nullable<Timestamptz>>, _>(
                changed.iter().map(|payment| payment.approving_since).collect::<Vec<_>>(),
            )
            .bind::<Array<Nullable<Timestamptz>>, _>(
                changed.iter().map(|payment| payment.requested_at).collect::<Vec<_>>(),
            )
            .bind::<Array<Nullable<Timestamptz>>, _>(changed.iter().map(|payment| payment.ask_at).collect::<Vec<_>>())
            .bind::<Array<Integer>, _>(changed.iter().map(|payment| payment.asked).collect::<Vec<_>>())
            .bind::<Array<Nullable<Timestamptz>>, _>(
                changed.iter().map(|payment| payment.absent_since).collect::<Vec<_>>(),
            )
            .bind::<Array<Nullable<Timestamptz>>, _>(changed.iter().map(|payment| payment.undo_at).collect::<Vec<_>>())
            .bind::<Array<Uuid>, _>(self.begun.iter().map(|attempt| attempt.payment).collect::<Vec<_>>())
            .bind::<Array<Uuid>, _>(self.begun.iter().map(|attempt| attempt.id).collect::<Vec<_>>())
            .bind::<Array<Text>, _>(self.begun.iter().map(|attempt| &attempt.pg_payment_id).collect::<Vec<_>>())
            .bind::<Array<Text>, _>(self.begun.iter().map(|attempt| &attempt.key).collect::<Vec<_>>())
            .bind::<Array<BigInt>, _>(self.begun.iter().map(|attempt| attempt.amount).collect::<Vec<_>>())
            .bind::<Array<Uuid>, _>(self.noted.iter().map(|(attempt, _)| *attempt).collect::<Vec<_>>())
            .bind::<Array<Text>, _>(noted().map(AttemptReport::status).collect::<Vec<_>>())
            .bind::<Array<Text>, _>(noted().map(|report| &report.code).collect::<Vec<_>>())
            .bind::<Array<Text>, _>(noted().map(message).collect::<Vec<_>>())
            .bind::<Array<Uuid>, _>(steps.iter().map(|(payment, ..)| *payment).collect::<Vec<_>>())
            .bind::<Array<Text>, _>(steps.iter().map(|(_, step, _)| step.name()).collect::<Vec<_>>())
            .bind::<Array<Uuid>, _>(steps.iter().map(|(.., attempt)| *attempt).collect::<Vec<_>>())
            .bind::<Double, _>(f64::from(RETRY_SECONDS));
        let saved = Prepared(save).execute(tx).await?;
        if saved != changed.len() {
            let changed: Vec<PaymentId> = changed.iter().map(|payment| payment.id).collect();
            return Err(Error::fault(anyhow::anyhow!(
                "payments changed while they were locked: {saved} saved of {changed:?}"
            )));
        }
        Ok(())
    }
}
