//! What can happen next.

use crate::flows::Fate;
use crate::state::{Attempt, Event, Request, Task};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Place,
    Click {
        click: u8,
    },
    Cancel {
        order: u8,
    },
    CancelPayment {
        payment: u8,
    },
    /// A deadline of this order, its hold and its payments passes.
    Tick {
        order: u8,
    },
    ExpireOrder {
        order: u8,
    },
    ExpireHold {
        order: u8,
    },
    ExpireCoupon {
        order: u8,
    },
    Advance {
        task: Task,
        fate: Fate,
        declines: bool,
    },
    /// Payment is killed: whatever it was doing is forgotten.
    Crash,
    TakeSteps {
        payment: u8,
    },
    Resolve {
        payment: u8,
        answer: Answer,
    },
    Refund {
        payment: u8,
        is_answered: bool,
    },
    RefundDuplicateCapture {
        authorisation: u8,
    },
    Reconcile {
        authorisation: u8,
    },
    /// The client has waited long enough; its attempt goes on.
    TellToWait(Attempt),
    Deliver(Event),
    /// A request that its caller has given up, or sent twice.
    Arrive {
        request: Request,
        declines: bool,
    },
}

/// What the provider answers to the resolver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// What is in its book.
    Clear,
    /// Nothing of use, for so long that the attempt is undone if it may be.
    Unclear,
    /// Nothing of use for so long that a person has to look.
    NeverClear,
}

impl Action {
    /// Whether it happens only if somebody wants it.
    pub fn is_wish(&self) -> bool {
        matches!(self, Action::Place | Action::Click { .. } | Action::Cancel { .. } | Action::CancelPayment { .. })
    }
}
