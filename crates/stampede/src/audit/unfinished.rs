//! What is still to be done. A system that has nothing to do is at rest, and only then is an audit final.

use common::manifest::Unfinished;
use diesel::QueryableByName;
use diesel::sql_types;

use super::ledger::Ledger;
use crate::services::SERVICES;

/// A kind of work, and how much of it there is.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Undone {
    #[diesel(sql_type = sql_types::Text)]
    pub what: String,
    #[diesel(sql_type = sql_types::BigInt)]
    pub count: i64,
}

pub const UNPUBLISHED: &str = "events to be published";
/// Nothing happens to these by itself: an operator has to look.
pub const DEAD: &str = "events that the broker refused";
/// The same.
pub const PARKED: &str = "parked events";
pub const UNAPPLIED: &str = "events to be applied";

impl Undone {
    /// Whether it stays until an operator does something.
    pub fn is_stuck(&self) -> bool {
        [DEAD, PARKED].contains(&self.what.as_str())
    }
}

impl Ledger {
    /// What is still to be done at this moment; empty at rest.
    pub async fn unfinished(&mut self) -> anyhow::Result<Vec<Undone>> {
        self.rows(self.statement(&statement())).await
    }
}

/// One statement, so that work which turns into other work is seen as one of the two.
fn statement() -> String {
    let messages = [
        (UNPUBLISHED, "select count(*) as count from {outbox_events} as event where status = 'NEW'"),
        (DEAD, "select count(*) as count from {outbox_events} as event where status = 'DEAD'"),
        (PARKED, "select count(*) as count from {parked} as event"),
        (
            UNAPPLIED,
            "select count(*) as count from {subscribed} as event
             where status <> 'DEAD' and not is_applied
               and (consumer, event_id) not in (select consumer, event_id from {parked} as event)",
        ),
    ];
    let begun = SERVICES.iter().flat_map(|service| service.unfinished).map(|Unfinished { what, sql }| (*what, *sql));
    let kinds: Vec<String> = messages
        .into_iter()
        .chain(begun)
        .map(|(what, sql)| format!("select '{what}' as what, count from ({sql}) as counted"))
        .collect();
    format!("select what, count from ({}) as work where count > 0", kinds.join(" union all "))
}
