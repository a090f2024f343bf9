//! A bounded number of requests to a provider under way, of which one that hangs does not hold up the next.

use std::future::Future;
use std::sync::Arc;

use common::{Error, Result};
use tokio::sync::{Notify, Semaphore};
use tracing::Instrument;

/// Room for a number of tasks.
#[derive(Clone)]
pub struct InFlight {
    room: Arc<Semaphore>,
    /// Signalled when there is room again after there was none.
    freed: Arc<Notify>,
}

impl InFlight {
    pub fn new(tasks_max: usize, freed: &Arc<Notify>) -> InFlight {
        InFlight { room: Arc::new(Semaphore::new(tasks_max)), freed: freed.clone() }
    }

    /// How many more tasks can begin now. A caller that claims no more than that begins all of them at once, so that a claim
    /// need not last longer than the work.
    pub fn room(&self) -> usize {
        self.room.available_permits()
    }

    /// Begins `work` in a task of its own; waits while there is no room for it.
    pub async fn begin(&self, work: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let place = self.room.clone().acquire_owned().await.map_err(Error::fault)?;
        let (room, freed) = (self.room.clone(), self.freed.clone());
        tokio::spawn(
            async move {
                work.await;
                let was_full = room.available_permits() == 0;
                drop(place);
                if was_full {
                    freed.notify_one();
                }
            }
            .in_current_span(),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_hanging_task_holds_up_no_other_and_the_bound_is_kept() {
        let freed = Arc::new(Notify::new());
        let flight = InFlight::new(2, &freed);
        flight.begin(pending()).await.unwrap();
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        flight.begin(async { drop(finished.await) }).await.unwrap();
        assert_eq!(flight.room(), 0);
        let third = flight.begin(async {});
        tokio::pin!(third);
        assert!(futures_util::poll!(&mut third).is_pending(), "there is no room for it");
        finish.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), third)
            .await
            .expect("the hanging task is not waited for")
            .unwrap();
        tokio::time::timeout(Duration::from_secs(10), freed.notified())
            .await
            .expect("the loop is woken when there is room");
    }
}
