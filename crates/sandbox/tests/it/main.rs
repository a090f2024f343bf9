//! The sandbox under torment: every server is killed, restarted, wiped and orphaned, and what must survive survives.

#![expect(clippy::unwrap_used, reason = "clippy knows helpers of tests only inside `mod tests`")]

mod embedded;
mod gateway;
mod ground;
mod ownership;
mod torment;
