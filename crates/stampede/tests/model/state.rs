//! What the model remembers: the rows as they are committed, what is on its way, and what a crash takes along.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::mem::discriminant;

use coupon::redemption::RedemptionState;
use inventory::hold::HoldState;
use order::status::Status as OrderStatus;
use payment::payment::{Status as PaymentStatus, Step};

/// A status of the real rules, which need no hash themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag<T>(pub T);

impl<T> Hash for Tag<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        discriminant(&self.0).hash(state);
    }
}

impl<T: fmt::Debug> fmt::Debug for Tag<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The n-th attempt at a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt {
    pub payment: u8,
    pub number: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OrderRow {
    pub status: Tag<OrderStatus>,
    pub version: u8,
    pub reserved: Option<Attempt>,
    /// Attempts that cannot reserve it any more: the last that ended, or all of them, see [`crate::rules::Memory`].
    pub ended: Vec<Attempt>,
    pub paid_by: Option<u8>,
    /// Payments whose money went back before they had paid it.
    pub returned: Vec<u8>,
    pub expires: u8,
    /// Not in the database: how often it was announced as placed.
    pub placed: u8,
    /// Not in the database: whether it was paid after its time.
    pub paid_late: bool,
    /// Not in the database: whether its buyer wanted the money back.
    pub refund_wanted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HoldRow {
    pub state: Tag<HoldState>,
    pub expires: u8,
    pub pin: Option<Pin>,
    pub ended: Vec<Attempt>,
    pub order_version: Option<u8>,
}

/// Of the one coupon that all orders want to use, where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RedemptionRow {
    pub state: Tag<RedemptionState>,
    pub expires: u8,
    pub pin: Option<Pin>,
    pub ended: Vec<Attempt>,
    pub order_version: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin {
    pub attempt: Attempt,
    pub late: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PaymentRow {
    pub status: Tag<PaymentStatus>,
    /// How many there have been: what its version is to the id of the next one.
    pub attempts: u8,
    /// The attempt under way or the last one, and what it wants to capture.
    pub attempt: Option<u8>,
    pub authorisation: u8,
    /// The resolver has taken it up, so somebody else may be asking for the same attempt.
    pub is_asked: bool,
    /// The provider has said once that it knows nothing.
    pub absent: bool,
    /// The provider is told to undo the attempt.
    pub undone: bool,
    /// Until when it can be approved.
    pub expires: u8,
    /// What is still to be done elsewhere because of the attempt.
    pub steps: &'static [Step],
    pub refund: Refund,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refund {
    None,
    Owed,
    Done,
}

/// What a buyer has authorised in the provider's window, in the provider's book.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Authorisation {
    pub captures: u8,
    pub refunds: u8,
    pub declined: bool,
    /// In payment's database: a capture beside the payment's own, to be given back.
    pub is_duplicate_capture: bool,
    /// Not in the book: captured although order, hold and coupon were not reserved for the attempt.
    pub unreserved: bool,
}

/// A call to another service. Each of them is one transaction there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    BeginApproval(Attempt),
    EndApproval {
        attempt: Attempt,
        hold_expires: Option<u8>,
    },
    MarkPaid {
        payment: u8,
        late: bool,
    },
    PinHold {
        attempt: Attempt,
        retake: bool,
    },
    UnpinHold(Attempt),
    PinCoupon {
        attempt: Attempt,
        retake: bool,
    },
    UnpinCoupon(Attempt),
    /// The hint that follows a cancellation; the event does the same.
    ReleaseHold {
        order: u8,
    },
    Approve {
        attempt: Attempt,
        authorisation: u8,
    },
    /// All that there is of an authorisation's money goes back.
    Undo {
        authorisation: u8,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Order,
    /// Of stock or of coupons.
    Inventory,
    Provider,
}

/// A fact in somebody's outbox that its consumer has not taken in yet. Inboxes drop repeats; topics keep no order
/// among each other, so any of these may be next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    PaymentRefunded { payment: u8 },
    OrderPlaced { order: u8, version: u8 },
    OrderCancelled { order: u8, version: u8 },
    OrderExpired { order: u8, version: u8 },
    OrderRefundRequested { payment: u8 },
    OrderRefunded { order: u8, version: u8 },
    // The same three as the coupon service hears them, at a moment of its own.
    CouponOfPlaced { order: u8, version: u8 },
    CouponOfEnded { order: u8, version: u8 },
    CouponOfRefunded { order: u8, version: u8 },
}

/// A flow of the payment service between two of its steps; a crash forgets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Task {
    pub attempt: Attempt,
    pub authorisation: u8,
    /// The resolver's, for an attempt that somebody else began.
    pub is_retry: bool,
    pub at: At,
}

/// What a task does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    // approve_payment.rs, after the attempt has been committed
    /// Order and inventory are asked at once, so either may be the first. `pinned`: what inventory has said.
    Begin {
        pinned: Option<Reserved>,
    },
    /// `begun`: what order has said.
    Pin {
        begun: Option<Reserved>,
    },
    /// The coupon is asked for last here, and with the others in the service. `reserved`: what those have said.
    PinCoupon {
        reserved: Reserved,
    },
    Ask,
    Record(Heard),
    Withdraw(Why),
    // resolve_payments.rs
    /// It is written down that the provider is asked again.
    Request,
    /// Order or stock could not be reserved for a retry.
    NoteAbsence,
    /// It is written down that the attempt is undone.
    Undo,
    // pending_steps.rs: an attempt came to nothing
    Unpin,
    End {
        hold_expires: Option<u8>,
    },
    UnpinCoupon,
    ClearRelease,
    // pending_steps.rs: the money is there
    MarkPaid,
    Retake,
    RetakeCoupon,
    /// The units are taken again, and the coupon is not.
    MarkPaidWithoutCoupon,
    /// Somebody else may have honoured it a moment ago.
    MarkPaidAgain,
    MarkPaidLate,
    UnpinAgain,
    UnpinCouponAgain,
    EndAgain {
        hold_expires: Option<u8>,
    },
    OweRefund,
    ClearOrder,
}

/// What became of the requests that reserve order, hold and coupon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reserved {
    Done,
    Refused(Why),
    /// No answer.
    Unknown,
}

impl Reserved {
    /// Both have been asked, and what the first says is said first.
    pub fn and(self, then: Reserved) -> Reserved {
        if self == Reserved::Done { then } else { self }
    }
}

/// What the approver knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Heard {
    Captured,
    NotCaptured,
    /// Not even connected.
    NotSent,
    Nothing,
}

/// Why an attempt ends before the provider was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    HoldExpired,
    RedemptionEnded,
    NotPayable,
    Other,
}

/// What may still go wrong, and what people may still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// Calls to order, inventory and provider that are lost, before or after the commit there: the network fails, or
    /// the other side is killed.
    pub lost_calls: [u8; 3],
    /// Requests that are carried out although their caller has stopped waiting, or once more.
    pub late_copies: u8,
    /// Of the payment service, with everything it was doing.
    pub crashes: u8,
    /// How often the resolver repeats an attempt although somebody is still at it, who is only slow.
    pub overlaps: u8,
    /// How often the resolver gives an attempt up although somebody is still at it, who is slower than a provider may be.
    pub zombies: u8,
    /// How often a client is told to come back while its attempt goes on.
    pub waits: u8,
    /// Of orders, by their buyers.
    pub cancellations: u8,
    /// Of payments, by their buyers.
    pub regrets: u8,
    pub declines: u8,
    /// The provider gives no usable answer for so long that the resolver has the attempt undone.
    pub unclear: u8,
    /// Nobody could find out for so long that a person has to look.
    pub reviews: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// For each order: how many of its deadlines have passed.
    pub now: [u8; 2],
    pub on_hand: i8,
    pub held: i8,
    pub orders: [Option<OrderRow>; 2],
    pub holds: [Option<HoldRow>; 2],
    pub redemptions: [Option<RedemptionRow>; 2],
    pub payments: Vec<PaymentRow>,
    pub authorisations: Vec<Authorisation>,
    /// Bit n: the n-th click has been made.
    pub clicked: u8,
    /// Sorted, like the two after it: the order in which they came about does not matter.
    pub tasks: Vec<Task>,
    pub events: Vec<Event>,
    pub copies: Vec<Request>,
    pub left: Budget,
    /// An event that its consumer cannot take in, or an answer that a flow does not expect: only people can go on.
    pub stuck: bool,
}

impl Attempt {
    /// The name in which stock is taken again for money that came too late.
    pub fn late(self) -> Attempt {
        const LATE: u8 = 0x40;
        Attempt { number: self.number | LATE, ..self }
    }
}

impl State {
    pub fn add_task(&mut self, task: Task) {
        insert(&mut self.tasks, task);
    }

    pub fn publish(&mut self, event: Event) {
        insert(&mut self.events, event);
    }

    pub fn leave_copy(&mut self, request: Request) {
        insert(&mut self.copies, request);
    }
}

fn insert<T: Ord>(sorted: &mut Vec<T>, item: T) {
    let place = sorted.partition_point(|other| *other < item);
    sorted.insert(place, item);
}

/// The buyer comes back from the provider's window with an authorisation and wants to pay.
#[derive(Debug, Clone, Copy)]
pub struct Click {
    pub payment: u8,
    pub authorisation: u8,
}
