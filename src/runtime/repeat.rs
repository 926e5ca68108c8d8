//! What a run repeats of one that was killed: the logged epochs since the saved state, and what was about to appear.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::worker::Job;
use crate::contracts::{Committable, EpochCut, EpochLog, Error, LogEntry, Result, crash_point};
use crate::state::hex_digest;

/// The epoch log as a run finds it.
pub struct JobLog {
    /// The log.
    pub log: Arc<dyn EpochLog>,
    /// What is in it.
    pub entries: Vec<LogEntry>,
    /// Number of this run, higher than any before.
    pub generation: u64,
}

/// What a run that did not end in order had written to the log since the saved state.
pub(super) struct Repeated {
    pub(super) cuts: VecDeque<EpochCut>,
    /// Staged effects by query.
    pub(super) committed: BTreeMap<String, Vec<Committable>>,
}

pub(super) fn repeated(job: &Job) -> Result<Repeated> {
    let mut repeated = Repeated { cuts: VecDeque::new(), committed: BTreeMap::new() };
    let after = job.saved.repeats_after();
    let mut next = after;
    for entry in job.log.iter().flat_map(|log| &log.entries) {
        match entry {
            LogEntry::Started { .. } | LogEntry::Failed { .. } => {}
            LogEntry::Cut(cut) if cut.epoch <= after => {}
            LogEntry::Cut(cut) => {
                next += 1;
                if cut.epoch != next {
                    return Err(Error::corrupt(format!("the epoch log has epoch {} where {next} is due", cut.epoch))
                        .hint("state and log are not of one job: start anew with --fresh"));
                }
                repeated.cuts.push_back(cut.clone());
            }
            // Sinks know by them what they have of the epochs that are written again.
            LogEntry::Committed { query, payloads, .. } => {
                let committable = |payload: &String| Committable { payload: payload.clone() };
                repeated.committed.entry(query.clone()).or_default().extend(payloads.iter().map(committable));
            }
        }
    }
    if next < job.saved.epoch {
        let error =
            format!("the epoch log ends with epoch {next}, and the checkpoint needs it up to {}", job.saved.epoch);
        return Err(Error::corrupt(error).hint("the log was lost or cut: `tidemill state rewind` goes on from a checkpoint without it, and writes again what came since; or start anew with --fresh"));
    }
    Ok(repeated)
}

/// A hash of what a query computes.
pub fn identity(plan: &str) -> String {
    hex_digest(plan.as_bytes())
}

pub(super) async fn append(log: Option<&Arc<dyn EpochLog>>, entry: Option<&LogEntry>) -> Result<()> {
    match (log, entry) {
        (Some(log), Some(entry)) => {
            crash_point("cut.before");
            log.append(entry).await?;
            crash_point("cut.after");
            Ok(())
        }
        _ => Ok(()),
    }
}
