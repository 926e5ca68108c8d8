//! What a run repeats of one that was killed: the logged epochs since the saved state, and what was about to appear.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::worker::{Job, QuerySpec};
use crate::contracts::{Committable, EpochCut, EpochLog, Error, LogEntry, Result, crash_point};
use crate::state::hex_digest;

/// The epoch log as a run finds it.
pub struct JobLog {
    /// The log.
    pub log: Arc<dyn EpochLog>,
    /// What is in it.
    pub entries: Vec<LogEntry>,
    /// By query: the last epoch up to which all that its sink had promised in the log has appeared. Of others nothing is known to have.
    pub appeared: BTreeMap<String, u64>,
    /// Number of this run, higher than any before.
    pub generation: u64,
}

/// What a run that did not end in order had written to the log since the saved state.
pub(super) struct Repeated {
    pub(super) cuts: Logged,
    /// Staged effects by query.
    pub(super) committed: BTreeMap<String, Committed>,
}

/// What a sink had staged and logged, in order: see [`Sink::recover`](crate::contracts::Sink::recover).
#[derive(Default)]
pub(crate) struct Committed {
    pub(crate) appeared: Vec<Committable>,
    pub(crate) promised: Vec<Committable>,
    /// The last epoch of an entry.
    pub(crate) through: u64,
}

/// Epochs that are to be cut again.
#[derive(Default)]
pub(super) struct Logged {
    pub(super) cuts: VecDeque<EpochCut>,
    /// Tables that the runs which cut them had begun to read; there may have been no split of theirs yet.
    pub(super) tables: BTreeSet<usize>,
}

/// Tables of the queries that a run had which has cut an epoch of its own: only then does it read what is new to it. (One whose beginning is
/// not in the log any more has made a checkpoint since, and that has all its tables.)
fn begun_tables(job: &Job) -> BTreeSet<usize> {
    let entries = || job.log.iter().flat_map(|log| &log.entries);
    let cut_by = |entry: &LogEntry| if let LogEntry::Cut(cut) = entry { Some(cut.generation) } else { None };
    let cutters: BTreeSet<u64> = entries().filter_map(cut_by).collect();
    let mut tables = BTreeSet::new();
    for entry in entries() {
        if let LogEntry::Started { generation, queries, .. } = entry
            && cutters.contains(generation)
        {
            let had = |query: &&QuerySpec| queries.get(&query.name).is_some_and(|of| is_identity_of(of, &query.plan));
            tables.extend(job.queries.iter().filter(had).flat_map(|query| query.tables.iter().copied()));
        }
    }
    tables
}

pub(super) fn repeated(job: &Job) -> Result<Repeated> {
    let cuts = Logged { tables: begun_tables(job), ..Logged::default() };
    let mut repeated = Repeated { cuts, committed: BTreeMap::new() };
    let has_appeared = |query: &String, epoch: u64| {
        job.log.iter().filter_map(|log| log.appeared.get(query)).any(|appeared| epoch <= *appeared)
    };
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
                        .hint(
                            "the newest checkpoint was removed by hand, or state and log are not of one job: put it back; or go back \
                             to the one before with `tidemill state rewind`; or start anew with --fresh",
                        ));
                }
                repeated.cuts.cuts.push_back(cut.clone());
            }
            // Sinks know by them what they have of the epochs that are written again.
            LogEntry::Committed { query, epoch, payloads } => {
                let of = repeated.committed.entry(query.clone()).or_default();
                // Whoever goes on has done what was promised before.
                of.appeared.append(&mut of.promised);
                of.through = of.through.max(*epoch);
                let known = if has_appeared(query, *epoch) { &mut of.appeared } else { &mut of.promised };
                known.extend(payloads.iter().map(|payload| Committable { payload: payload.clone() }));
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

/// Begins the part of what a query is known by that says which records count, in its tables.
pub const RECORDS: &str = "\nof its tables:";

/// Whether a saved identity is that of `plan`. Earlier versions of the program left out which records count.
pub fn is_identity_of(saved: &str, plan: &str) -> bool {
    saved == identity(plan) || plan.rfind(RECORDS).is_some_and(|at| saved == identity(&plan[..at]))
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
