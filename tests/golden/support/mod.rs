//! Running a golden in process.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemill::contracts::{Clock, SystemClock};
use tidemill::job::{JobOptions, prepare};
use tidemill::runtime::{Ending, Progress, Worker};
use tidemill::sql::JobPlan;
use tokio::sync::watch;

pub(crate) mod compare;
pub(crate) mod inputs;

/// How a golden is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variant {
    /// Rows of an epoch.
    pub(crate) rows: usize,
    /// Tasks of a stage.
    pub(crate) threads: usize,
    /// Files of each input.
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

/// Goldens that run at the same time, and how long one may take.
const AT_ONCE: usize = 4;
const LONGEST: Duration = Duration::from_secs(60);

pub(crate) fn golden_folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"))
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
        threads: variant.threads,
        // Epochs close by their rows alone.
        epoch_interval: Some(Duration::from_secs(3_600)),
        epoch_rows: Some(variant.rows),
    }
}

/// The planned job, or the texts of all errors.
pub(crate) async fn plan(_name: &str, options: &JobOptions) -> Result<JobPlan, Vec<String>> {
    let texts = |errors: Vec<tidemill::contracts::Error>| errors.iter().map(ToString::to_string).collect();
    tidemill::job::plan(options, &Arc::default()).await.map_err(texts)
}

/// Runs a job to its end and saves its state.
pub(crate) async fn run(options: &JobOptions) -> Result<(), String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let prepared = prepare(options, clock).await;
    let prepared = prepared.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let (_stop, stopped) = watch::channel(false);
    let worker = tokio::spawn(Worker::run(prepared.job, stopped, Arc::new(Progress::default())));
    let outcome = tokio::time::timeout(LONGEST, worker).await.map_err(|_| "hangs".to_owned())?;
    let (_, saved) = outcome.map_err(|e| format!("panicked: {e}"))?.map_err(|e| format!("failed: {e}"))?;
    match &prepared.store {
        Some(store) => store.save(&saved).map(|_| ()).map_err(|e| format!("not saved: {e}")),
        None => Ok(()),
    }
}

/// Runs all, a few at a time, and answers in their order.
pub(crate) fn block_on_all<F>(tasks: impl Iterator<Item = F>) -> Vec<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let permits = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let mut running = Vec::new();
        for task in tasks {
            let permits = Arc::clone(&permits);
            running.push(tokio::spawn(async move {
                let _permit = permits.acquire_owned().await.expect("the semaphore is never closed");
                task.await
            }));
        }
        let mut outputs = Vec::new();
        for task in running {
            outputs.push(task.await.expect("a golden's task does not panic"));
        }
        outputs
    })
}
