//! The fakes as the product meets them: over HTTP, with every way to misbehave.

#![expect(clippy::unwrap_used, reason = "clippy knows helpers of tests only inside `mod tests`")]

mod faults;
mod payments;
mod sandbox_fakes;
mod slack;
mod support;
mod webhooks;
