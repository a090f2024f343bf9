//! How the workers of this replica learn of deliveries: some are handed over already claimed, of others they are told
//! that they may be due.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::channel::Channel;
use crate::claims::Claim;

/// E-mails that a transaction claimed as it wrote them, on their way to the worker that sends them.
///
/// Room is reserved before they are written and is free again when the worker takes them. So no more wait here than one
/// claim may have, and a worker that stops knows when nothing can come any more.
pub struct Handoff {
    claims: Mutex<VecDeque<(Claim, Reservation)>>,
    pub arrived: Arc<Notify>,
    room: Arc<Semaphore>,
    room_max: u32,
}

/// Room in a [`Handoff`]. Dropping it gives it back.
pub struct Reservation(Option<OwnedSemaphorePermit>);

impl Reservation {
    /// Deliveries that it is for.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

impl Handoff {
    pub fn new(room_max: u32) -> Handoff {
        let room = Arc::new(Semaphore::new(room_max as usize));
        Handoff { claims: Mutex::default(), arrived: Arc::default(), room, room_max }
    }

    /// Room for up to `wanted` deliveries; for none once [`Handoff::close`] waits.
    pub fn reserve(&self, wanted: usize) -> Reservation {
        let count = wanted.min(self.room.available_permits()) as u32;
        Reservation(self.room.clone().try_acquire_many_owned(count).ok())
    }

    pub fn add(&self, claim: Claim, reservation: Reservation) {
        if !claim.deliveries.is_empty() {
            self.claims.lock().push_back((claim, reservation));
            self.arrived.notify_one();
        }
    }

    pub fn take(&self) -> Option<Claim> {
        self.claims.lock().pop_front().map(|(claim, _)| claim)
    }

    /// Admits nothing new. Returns when all that was reserved has been taken or given up.
    pub async fn close(&self) {
        // It is never closed as a semaphore, so this cannot fail. Waiting for all of it keeps newcomers out.
        if let Ok(everything) = self.room.acquire_many(self.room_max).await {
            everything.forget();
        }
    }
}

/// Signalled, for each channel, when a delivery that nobody has claimed may have become due.
#[derive(Default)]
pub struct DueSignals {
    email: Arc<Notify>,
    slack: Arc<Notify>,
    webhook: Arc<Notify>,
    inapp: Arc<Notify>,
}

impl DueSignals {
    pub fn of(&self, channel: Channel) -> &Arc<Notify> {
        match channel {
            Channel::Email => &self.email,
            Channel::Slack => &self.slack,
            Channel::Webhook => &self.webhook,
            Channel::Inapp => &self.inapp,
        }
    }

    pub fn wake(&self, channel: Channel) {
        self.of(channel).notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn no_more_is_reserved_than_there_is_room_for() {
        let handoff = Handoff::new(3);
        let first = handoff.reserve(2);
        assert_eq!((first.count(), handoff.reserve(2).count()), (2, 1));
        drop(first);
        assert_eq!(handoff.reserve(9).count(), 3);
    }

    #[tokio::test]
    async fn closing_waits_for_what_is_reserved_and_admits_nothing_new() {
        let handoff = Handoff::new(3);
        let (used, given_up) = (handoff.reserve(1), handoff.reserve(1));
        let mut closing = Box::pin(handoff.close());
        assert!((&mut closing).now_or_never().is_none(), "two transactions may still claim");
        assert_eq!(handoff.reserve(1).count(), 0, "there is room, but nobody would take it");
        drop(given_up);
        assert!((&mut closing).now_or_never().is_none());
        drop(used);
        assert!((&mut closing).now_or_never().is_some());
        assert_eq!(handoff.reserve(1).count(), 0, "it stays closed");
    }

    #[tokio::test]
    async fn an_empty_claim_gives_its_room_back() {
        let handoff = Handoff::new(1);
        handoff.add(Claim { deliveries: Vec::new(), lease_end: Instant::now() }, handoff.reserve(1));
        assert!(handoff.take().is_none());
        assert_eq!(handoff.reserve(1).count(), 1);
    }
}
