//! The list of invariants, and the statements that look for violations of each.

use common::manifest::Invariant;

use crate::services::SERVICES;

/// Number and title of each.
pub const INVARIANTS: [(&str, &str); 19] = [
    ("I1", "stock is conserved: neither negative nor held beyond what is there"),
    ("I2", "counters equal their rows: held and on_hand"),
    ("I3", "what was sold is in the stock's audit, once per line"),
    ("I4", "no half order: items, amount and hold belong together"),
    ("I5", "paid is sold is announced, once each"),
    ("I6", "money adds up: items, order, payment, what was captured and given back"),
    ("I7", "points balance: transfers, accounts and holds"),
    ("I8", "one effect per Idempotency-Key, under the id it leads to"),
    ("I9", "what was acknowledged exists"),
    ("I10", "coupons: as many issued as stored and offered, one for each account, each in one order"),
    ("I11", "outboxes are empty and Kafka has every event in order"),
    ("I12", "every consumer applied every event exactly once"),
    ("I13", "everybody was notified exactly once"),
    ("I14", "no seat is had twice, and every unit of a concert is a seat"),
    ("I16", "lines are in order: numbers, draws and passes"),
    ("I17", "nothing is orphaned: holds, attempts, debts, reservations and pins"),
    ("I18", "a sale was opened once, not before its time, and said so"),
    ("I19", "restock rounds told every subscriber once, in order, in time and not too fast"),
    ("I20", "every order is in one place, live or archived, with its items and its address"),
];

/// What is true between services. What is true within one is in its `spec().invariants`.
const BETWEEN_SERVICES: &[Invariant] = &[
    Invariant { id: "I4", sql: include_str!("no_half_order.sql") },
    Invariant { id: "I5", sql: include_str!("paid_is_sold.sql") },
    Invariant { id: "I6", sql: include_str!("money_adds_up.sql") },
    Invariant { id: "I10", sql: include_str!("coupons_of_orders.sql") },
    Invariant { id: "I11", sql: include_str!("outbox_empty.sql") },
    Invariant { id: "I12", sql: include_str!("applied_once.sql") },
    Invariant { id: "I13", sql: include_str!("notified_once.sql") },
    Invariant { id: "I17", sql: include_str!("no_orphan.sql") },
];

/// Each statement returns one line per offender.
pub fn statements(id: &str) -> impl Iterator<Item = &'static str> {
    let all = SERVICES.iter().flat_map(|service| service.invariants).chain(BETWEEN_SERVICES);
    all.filter(move |invariant| invariant.id == id).map(|invariant| invariant.sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_invariant_of_a_service_has_a_title() {
        for service in SERVICES {
            for Invariant { id, .. } in service.invariants {
                assert!(INVARIANTS.iter().any(|(known, _)| known == id), "{}: {id} has no title", service.name);
            }
        }
    }

    #[test]
    fn every_invariant_is_looked_for() {
        for (id, title) in INVARIANTS {
            assert!(statements(id).next().is_some(), "{id} ({title}) has no statement");
        }
    }
}
