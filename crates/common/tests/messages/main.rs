//! Outbox and inbox on real servers: what goes in comes out, once, in order, whatever dies on the way.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod begin;
mod broker;
mod cut_wire;
mod inbox;
mod migrate;
mod outbox;
mod scenario;
mod topics;
