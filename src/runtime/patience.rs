//! How long a run that is asked to stop waits for what does not answer.
//!
//! A sink that cannot write goes on trying for as long as the run does: that is back-pressure. When somebody ends the run it is
//! in the way: the process would stay, and keep its lease, for as long as the service is away. So from then on each call
//! of a sink has a bound; and so has computing an epoch, which may wait for a table that is looked up.
//!
//! Invariant: a call that is given up ends the run as a kill would: no checkpoint says that it was done.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::contracts::{Clock, Error, Result};

/// For the rows of an epoch: 30 s of 1,000 write units a second (what one partition of DynamoDB takes) are 30,000 items.
pub(super) const FLUSH_PATIENCE: Duration = Duration::from_secs(30);
/// For files that are closed and uploaded: 128 MB at 4 Mbit/s take 256 s. And for queries.
pub(super) const FINISH_PATIENCE: Duration = Duration::from_secs(300);

/// See the module's description.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    clock: Arc<dyn Clock>,
    stop: watch::Receiver<bool>,
    /// Whether there is a log, from which the next run repeats what is given up.
    logged: bool,
}

impl Patience {
    pub(super) fn new(clock: Arc<dyn Clock>, stop: watch::Receiver<bool>, logged: bool) -> Self {
        Self { clock, stop, logged }
    }

    /// Does some work; once the run is asked to stop, for `most` longer. `who` does it, for the error.
    ///
    /// # Errors
    /// The work's own; `unavailable` when it was given up.
    pub(super) async fn within<T>(
        &self,
        who: &str,
        most: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let over = async {
            asked(self.stop.clone()).await;
            self.clock.sleep(most).await;
        };
        tokio::select! {
            biased;
            done = work => done,
            () = over => Err(self.given_up(who, most)),
        }
    }

    fn given_up(&self, who: &str, most: Duration) -> Error {
        let what = format!("{who} was not done within {} s of the stop", most.as_secs());
        Error::unavailable(match self.logged {
            true => format!(
                "{what}: the run ends as if it had been killed, and the next run repeats from its log what is missing"
            ),
            false => format!("{what}: the run ends without it, and nothing is kept for the next run"),
        })
    }
}

/// Waits until the run is asked to stop; for ever where nobody can ask it any more.
pub(super) async fn asked(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
