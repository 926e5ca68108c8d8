//! What a run repeats of one that was killed: the logged epochs since the saved state, and what was about to appear.

use std::collections::{BTreeMap, VecDeque};

use super::feed::feed_name;
use super::worker::{Job, QuerySpec};
use super::writer::SharedLog;
use crate::contracts::{Committable, EpochCut, EpochLog, Error, LogEntry, Result};
use crate::state::hex_digest;

/// The epoch log as a run finds it.
pub struct JobLog {
    /// The log.
    pub log: Box<dyn EpochLog>,
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
    let mut of = None;
    for entry in job.log.iter().flat_map(|log| &log.entries) {
        if entry.epoch().is_some_and(|epoch| epoch <= job.saved.epoch) {
            continue;
        }
        match entry {
            LogEntry::Started { job, .. } => of = Some(job),
            LogEntry::Cut(cut) => repeated.cuts.push_back(cut.clone()),
            LogEntry::Committed { query, payloads, .. } => {
                let committable = |payload: &String| Committable { payload: payload.clone() };
                repeated.committed.entry(query.clone()).or_default().extend(payloads.iter().map(committable));
            }
        }
    }
    let (expected, mut next) = (identity(job), job.saved.epoch);
    if !repeated.cuts.is_empty() && of.is_some_and(|of| *of != expected) {
        let error =
            "the run before did not end in order, and the job has changed since: its last epochs cannot be repeated";
        return Err(Error::config(error).hint("undo the change to go on, or start anew with --fresh"));
    }
    for cut in &repeated.cuts {
        next += 1;
        if cut.epoch != next {
            return Err(Error::corrupt(format!("the epoch log has epoch {} where {next} is due", cut.epoch))
                .hint("state and log are not of one job: start anew with --fresh"));
        }
    }
    Ok(repeated)
}

/// What the epochs of a job mean something for: its feeds, its queries and their state.
pub(super) fn identity(job: &Job) -> String {
    let feeds = job.feeds.iter().map(feed_name);
    let query = |query: &QuerySpec| {
        let operators: Vec<&str> = query.graph.operators.iter().map(|o| o.fingerprint.as_str()).collect();
        format!("{} {}", query.name, operators.join(" "))
    };
    let parts: Vec<String> = feeds.chain(job.queries.iter().map(query)).collect();
    hex_digest(parts.join("; ").as_bytes())
}

pub(super) async fn append(log: Option<&SharedLog>, entry: Option<&LogEntry>) -> Result<()> {
    match (log, entry) {
        (Some(log), Some(entry)) => log.lock().await.append(entry).await,
        _ => Ok(()),
    }
}
