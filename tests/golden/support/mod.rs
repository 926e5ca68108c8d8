//! What goldens need besides running a job.

use std::path::PathBuf;
use std::sync::Arc;

use tidemill::job::JobOptions;
use tidemill::sql::JobPlan;

pub(crate) mod compare;
pub(crate) mod inputs;
pub(crate) mod kill;

/// Goldens that run at the same time.
const AT_ONCE: usize = 4;

pub(crate) fn golden_folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"))
}

/// The planned job, or the texts of all errors.
pub(crate) async fn plan(options: &JobOptions) -> Result<JobPlan, Vec<String>> {
    let texts = |errors: Vec<tidemill::contracts::Error>| errors.iter().map(ToString::to_string).collect();
    tidemill::job::plan(options, &Arc::default()).await.map_err(texts)
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
