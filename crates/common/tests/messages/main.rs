//! Outbox and inbox on real servers: what goes in comes out, once, in order, whatever dies on the way.

mod broker;
mod inbox;
mod outbox;
mod shop;
