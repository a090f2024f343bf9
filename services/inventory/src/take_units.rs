//! Takes at the gates: one call of the script for all lines that want the same product meanwhile.

use common::batch::{Batch, BatchSettings};
use contract::ids::HoldId;

use crate::gate::{Gate, Take};
use crate::refused::Shortage;
use crate::wanted::WantedLine;

/// A line of a hold.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub hold: HoldId,
    pub line: WantedLine,
}

/// Starts the queue in front of the gates.
pub fn start_batch(settings: &BatchSettings, gate: &Gate) -> Batch<Asked, Result<Take, Shortage>> {
    let gate = gate.clone();
    Batch::start_by(
        "stock_takes",
        settings,
        |asked: &Asked| asked.line.product,
        move |product, asked| {
            let gate = gate.clone();
            async move {
                let lines: Vec<_> = asked.iter().map(|asked| (asked.hold, asked.line.quantity)).collect();
                gate.take(product, &lines).await.into_iter().map(Ok).collect()
            }
        },
    )
}
