//! Running a job in process, as the command line does.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemill::contracts::{Clock, SystemClock};
use tidemill::job::{JobOptions, prepare};
use tidemill::runtime::{Ending, Progress, Summary, Worker};
use tokio::sync::watch;

/// How long a run may take before it counts as hanging.
const LONGEST: Duration = Duration::from_secs(180);

/// How a job is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variant {
    /// Rows of an epoch.
    pub(crate) rows: usize,
    /// Tasks of a stage.
    pub(crate) threads: usize,
    /// Files of each input, where the test splits them.
    pub(crate) splits: usize,
}

impl Default for Variant {
    fn default() -> Self {
        Self { rows: usize::MAX, threads: 1, splits: 1 }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = if self.rows == usize::MAX { "all".to_owned() } else { self.rows.to_string() };
        write!(f, "epoch {rows}, {} threads, {} splits", self.threads, self.splits)
    }
}

/// Options of a run over `path`, with everything that it keeps under `local`.
pub(crate) fn options(
    path: PathBuf,
    local: PathBuf,
    parameters: BTreeMap<String, String>,
    variant: Variant,
    ending: Ending,
) -> JobOptions {
    JobOptions {
        paths: vec![path],
        local: Some(local),
        ending,
        from: None,
        parameters,
        fresh: false,
        state: Default::default(),
        threads: variant.threads,
        // Epochs close by their rows alone.
        epoch_interval: Some(Duration::from_secs(3_600)),
        epoch_rows: Some(variant.rows),
        memory: None,
    }
}

/// Runs a job to its end and saves its state.
pub(crate) async fn run(options: &JobOptions) -> Result<Summary, String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let prepared = prepare(options, clock).await;
    let prepared = prepared.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let (_stop, stopped) = watch::channel(false);
    let worker = tokio::spawn(Worker::run(prepared.job, stopped, Arc::new(Progress::default())));
    let outcome = tokio::time::timeout(LONGEST, worker).await.map_err(|_| "hangs".to_owned())?;
    outcome.map_err(|e| format!("panicked: {e}"))?.map_err(|e| format!("failed: {e}"))
}
