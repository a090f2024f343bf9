//! Rules: what a buyer was told, as the buyer remembers it. The verdict believes this and not the database.

use std::time::Duration;

use client::code_of;
use serde::Deserialize;
use uuid::Uuid;

/// A definite answer to one request for an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 201: this order is theirs, in exactly these words.
    Placed { order_id: Uuid, body: Vec<u8> },
    /// 409 `OUT_OF_STOCK`.
    OutOfStock,
    /// Any other definite answer. No buyer of a rush should get one.
    Other { status: u16, code: String },
}

/// One request for an order, repeated with the same key until it was answered.
#[derive(Debug, Clone)]
pub struct Call {
    /// First sent, measured from the start of the rush.
    pub sent_at: Duration,
    /// Answered, or given up.
    pub ended_at: Duration,
    /// None: no definite answer before the time was up.
    pub answer: Option<Answer>,
    /// Attempts whose outcome is unknown: no answer, a broken connection, 5xx.
    pub unknown_attempts: u32,
}

/// Every call of one buyer, in the order of the answers. All of them carried one Idempotency-Key.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub calls: Vec<Call>,
}

impl Answer {
    pub fn of(status: u16, body: &[u8]) -> Answer {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Placed {
            order_id: Uuid,
        }
        if status == 201
            && let Ok(Placed { order_id }) = serde_json::from_slice(body)
        {
            return Answer::Placed { order_id, body: body.to_vec() };
        }
        let code = code_of(body);
        if status == 409 && code == "OUT_OF_STOCK" { Answer::OutOfStock } else { Answer::Other { status, code } }
    }
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
        self.calls.iter().filter_map(|call| match &call.answer {
            Some(Answer::Placed { order_id, body }) => Some((*order_id, body.as_slice())),
            _ => None,
        })
    }

    /// Whether every attempt was answered: then nothing of this buyer's can still be under way.
    pub fn is_certain(&self) -> bool {
        self.calls.iter().all(|call| call.answer.is_some() && call.unknown_attempts == 0)
    }

    /// Whether two 201 differ, or a call that was sent after a 201 was refused.
    pub fn contradicts_itself(&self) -> bool {
        let mut bodies = self.placed().map(|(_, body)| body);
        let first = bodies.next();
        if bodies.any(|body| Some(body) != first) {
            return true;
        }
        let is_placed = |call: &Call| matches!(call.answer, Some(Answer::Placed { .. }));
        let placed_at = self.calls.iter().filter(|call| is_placed(call)).map(|call| call.ended_at).min();
        let refused = self.calls.iter().filter(|call| call.answer.is_some() && !is_placed(call));
        let refused_call_sent_at = refused.map(|call| call.sent_at).max();
        placed_at.zip(refused_call_sent_at).is_some_and(|(placed, refused)| refused >= placed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(sent_at: u64, ended_at: u64, answer: Option<Answer>) -> Call {
        let (sent_at, ended_at) = (Duration::from_millis(sent_at), Duration::from_millis(ended_at));
        Call { sent_at, ended_at, answer, unknown_attempts: 0 }
    }

    fn placed(body: &str) -> Option<Answer> {
        Some(Answer::Placed { order_id: Uuid::from_u128(1), body: body.as_bytes().to_vec() })
    }

    #[test]
    fn equal_answers_do_not_contradict() {
        let record = Record { calls: vec![call(0, 5, placed("a")), call(1, 6, placed("a")), call(9, 12, placed("a"))] };
        assert!(!record.contradicts_itself());
        assert_eq!(record.orders(), [Uuid::from_u128(1)]);
    }

    #[test]
    fn a_replay_with_another_body_contradicts() {
        assert!(Record { calls: vec![call(0, 5, placed("a")), call(6, 9, placed("b"))] }.contradicts_itself());
    }

    #[test]
    fn only_a_refusal_of_a_call_sent_after_the_201_contradicts() {
        let after = Record { calls: vec![call(0, 5, placed("a")), call(6, 9, Some(Answer::OutOfStock))] };
        assert!(after.contradicts_itself());
        // Asked at the same time, it may have been decided before.
        let beside = Record { calls: vec![call(0, 5, placed("a")), call(4, 9, Some(Answer::OutOfStock))] };
        assert!(!beside.contradicts_itself());
        let before = Record { calls: vec![call(0, 5, Some(Answer::OutOfStock)), call(6, 9, placed("a"))] };
        assert!(!before.contradicts_itself());
    }

    #[test]
    fn an_answer_is_an_order_a_refusal_or_something_else() {
        let order = Uuid::from_u128(7);
        let body = format!("{{\"orderId\":\"{order}\",\"status\":\"CREATED\"}}");
        let placed = Answer::Placed { order_id: order, body: body.clone().into_bytes() };
        assert_eq!(Answer::of(201, body.as_bytes()), placed);
        assert_eq!(Answer::of(409, br#"{"code":"OUT_OF_STOCK","message":"x"}"#), Answer::OutOfStock);
        let other = |status, code: &str| Answer::Other { status, code: code.to_owned() };
        assert_eq!(Answer::of(409, br#"{"code":"HOLD_ALREADY_RELEASED"}"#), other(409, "HOLD_ALREADY_RELEASED"));
        assert_eq!(Answer::of(201, b"{}"), other(201, "without a code"));
        assert_eq!(Answer::of(404, b"<html>"), other(404, "without a code"));
    }
}
