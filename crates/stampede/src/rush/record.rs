//! Rules: what a buyer was told, as the buyer remembers it. The verdict believes this and not the database.

use std::time::Duration;

use uuid::Uuid;

/// A definite answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// 201: this order is theirs, in exactly these words.
    Placed { order_id: Uuid, body: Vec<u8> },
    /// 409 `OUT_OF_STOCK`.
    OutOfStock,
    /// Any other definite answer; nobody in a rush deserves one.
    Other { status: u16, code: String },
}

/// One request for an order, repeated with the same key until it was answered.
#[derive(Debug, Clone)]
pub struct Asked {
    /// First sent, measured from the start of the rush.
    pub at: Duration,
    /// Answered, or given up.
    pub until: Duration,
    /// None: no definite answer before the time was up.
    pub told: Option<Told>,
    /// Attempts on the way whose outcome nobody knows: no answer, a broken connection, 5xx.
    pub unknown: u32,
}

/// Everything one buyer asked, in the order of the answers. All of it carried one Idempotency-Key.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub asked: Vec<Asked>,
}

impl Record {
    /// The orders this buyer was told of, each once. More than one is a violation.
    pub fn orders(&self) -> Vec<Uuid> {
        let mut orders: Vec<Uuid> = self.placed().map(|(order_id, _)| order_id).collect();
        orders.sort_unstable();
        orders.dedup();
        orders
    }

    /// Every 201.
    pub fn placed(&self) -> impl Iterator<Item = (Uuid, &[u8])> {
        self.asked.iter().filter_map(|asked| match &asked.told {
            Some(Told::Placed { order_id, body }) => Some((*order_id, body.as_slice())),
            _ => None,
        })
    }

    /// Whether every attempt was answered: then nothing of this buyer's can still be under way.
    pub fn is_certain(&self) -> bool {
        self.asked.iter().all(|asked| asked.told.is_some() && asked.unknown == 0)
    }

    /// Whether a promise was taken back or reworded: two 201 that differ, or a refusal of what was asked after a 201.
    pub fn contradicts_itself(&self) -> bool {
        let mut bodies = self.placed().map(|(_, body)| body);
        let first = bodies.next();
        if bodies.any(|body| Some(body) != first) {
            return true;
        }
        let is_placed = |asked: &Asked| matches!(asked.told, Some(Told::Placed { .. }));
        let promised_at = self.asked.iter().filter(|asked| is_placed(asked)).map(|asked| asked.until).min();
        let refused_at =
            self.asked.iter().filter(|asked| asked.told.is_some() && !is_placed(asked)).map(|asked| asked.at).max();
        promised_at.zip(refused_at).is_some_and(|(promised, refused)| refused >= promised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(at: u64, until: u64, told: Option<Told>) -> Asked {
        Asked { at: Duration::from_millis(at), until: Duration::from_millis(until), told, unknown: 0 }
    }

    fn placed(body: &str) -> Option<Told> {
        Some(Told::Placed { order_id: Uuid::from_u128(1), body: body.as_bytes().to_vec() })
    }

    #[test]
    fn equal_answers_are_one_promise() {
        let record =
            Record { asked: vec![asked(0, 5, placed("a")), asked(1, 6, placed("a")), asked(9, 12, placed("a"))] };
        assert!(!record.contradicts_itself());
        assert_eq!(record.orders(), [Uuid::from_u128(1)]);
    }

    #[test]
    fn a_replay_in_other_words_contradicts() {
        assert!(Record { asked: vec![asked(0, 5, placed("a")), asked(6, 9, placed("b"))] }.contradicts_itself());
    }

    #[test]
    fn only_a_refusal_of_what_was_asked_after_the_promise_contradicts() {
        let after = Record { asked: vec![asked(0, 5, placed("a")), asked(6, 9, Some(Told::OutOfStock))] };
        assert!(after.contradicts_itself());
        // Asked at the same time, it may have been decided before.
        let beside = Record { asked: vec![asked(0, 5, placed("a")), asked(4, 9, Some(Told::OutOfStock))] };
        assert!(!beside.contradicts_itself());
        let before = Record { asked: vec![asked(0, 5, Some(Told::OutOfStock)), asked(6, 9, placed("a"))] };
        assert!(!before.contradicts_itself());
    }
}
