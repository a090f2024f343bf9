//! The sandbox and its servers: who owns a folder, and what survives a kill, a restart, a wipe and a lost owner.

#![expect(clippy::unwrap_used, reason = "clippy knows helpers of tests only inside `mod tests`")]

mod embedded;
mod gateway;
mod ownership;
mod restarts;
mod support;
