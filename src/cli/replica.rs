//! A replica of a job, and what people are told of it. Where a process runs several jobs, each line names its own.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::attempts::Attempts;
use super::display::{self, Display};
use super::log::tell;
use crate::contracts::{Clock, Error};
use crate::job::{Replica, Stage};
use crate::runtime::{Progress, Summary};

/// How a replica is run, and told of.
pub(super) struct Told {
    /// Stands before each line.
    pub(super) of: String,
    /// How its figures are shown.
    pub(super) display: Display,
    /// Whether a run that has failed is tried again.
    pub(super) retries: bool,
}

impl Told {
    /// Runs the job when it is this replica's turn, again when it has failed and that may help, until the job ends or `stop` turns
    /// true. `None`: stopped while another one led.
    ///
    /// # Errors
    /// The last attempt's.
    pub(super) async fn run(
        &self,
        replica: &mut Replica,
        clock: &Arc<dyn Clock>,
        stop: &watch::Receiver<bool>,
    ) -> Result<Option<Summary>, Vec<Error>> {
        let progress = Arc::new(Progress::default());
        let mut attempts = Attempts::new(&self.of, replica.retries());
        loop {
            match self.attempt(replica, clock, stop, &progress, &mut attempts).await {
                Err(errors) if self.retries && attempts.again(&errors, &progress, clock, stop).await => {}
                outcome => return outcome,
            }
        }
    }

    async fn attempt(
        &self,
        replica: &mut Replica,
        clock: &Arc<dyn Clock>,
        stop: &watch::Receiver<bool>,
        progress: &Arc<Progress>,
        attempts: &mut Attempts,
    ) -> Result<Option<Summary>, Vec<Error>> {
        let of = &self.of;
        let mut shown = Shown(None);
        let mut tell = |stage: Stage<'_>| match stage {
            Stage::Waits { leader } => {
                attempts.stood_by();
                tell!("{of}waits: '{leader}' runs the job");
            }
            Stage::Leads { generation } => tell!("{of}leads: this replica runs the job (generation {generation})"),
            Stage::Begins { prepared } => {
                for warning in &prepared.warnings {
                    tell!("{of}note: {warning}");
                }
                let (progress, clock) = (Arc::clone(progress), Arc::clone(clock));
                shown.0 = Some(display::show(progress, clock, &prepared.name, self.display));
            }
            Stage::Lost { reason } => {
                shown.end();
                tell!("{of}waits: {reason}");
            }
            Stage::Gave { to, summary } => {
                shown.end();
                let (records, epochs) = (summary.records(), summary.epochs);
                tell!("{of}gave: '{to}' has fewer jobs and takes this one ({records} records, {epochs} epochs here)");
            }
        };
        let outcome = replica.run(stop, progress, &mut tell).await;
        shown.end();
        outcome
    }
}

/// Figures that are shown, while there is a run.
struct Shown(Option<JoinHandle<()>>);

impl Shown {
    fn end(&mut self) {
        if let Some(shown) = self.0.take() {
            shown.abort();
            display::clear();
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.end();
    }
}
