//! What a run repeats of one that was killed: the logged epochs since the saved state, and what was about to appear.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::worker::{Job, QuerySpec};
use crate::contracts::{Committable, EpochCut, EpochLog, Error, LogEntry, Result, crash_point};
use crate::state::{SavedJob, hex_digest};

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
    let cut_by = |entry: &LogEntry| match entry {
        LogEntry::Cut(cut) if !cut.catches_up => Some(cut.generation),
        _ => None,
    };
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
    let nothing = BTreeMap::new();
    let (entries, appeared) = job.log.as_ref().map_or((&[][..], &nothing), |log| (&log.entries[..], &log.appeared));
    behind(&job.saved, entries, appeared, Repeated { cuts, committed: BTreeMap::new() })
}

/// What is wrong where the log is ahead of the checkpoint.
const AHEAD: &str = "the newest checkpoint was removed by hand, or state and log are not of one job: put it back; or go back \
                     to the one before with `tidemill state rewind`; or start anew with --fresh";

/// What a log without a checkpoint must be: that of runs which began without one.
///
/// # Errors
/// The run that has cut the first epoch went on from a checkpoint, or has made one: it is not there any more.
pub fn begins_without_state(entries: &[LogEntry]) -> Result<()> {
    let first = entries.iter().find_map(|entry| match entry {
        LogEntry::Cut(cut) => Some(cut),
        _ => None,
    });
    let Some(first) = first else { return Ok(()) };
    let begun = entries.iter().find_map(|entry| match entry {
        LogEntry::Started { generation, behind, .. } if *generation == first.generation => Some(*behind),
        _ => None,
    });
    // A checkpoint takes the beginning of its run out of a folder's log.
    match begun {
        Some(None) => Ok(()),
        Some(Some(_)) | None => {
            let error =
                format!("there is no checkpoint, and the epoch log goes on from one, with epoch {}", first.epoch);
            Err(Error::corrupt(error).hint(AHEAD))
        }
    }
}

/// Adds what the log has behind the saved state.
fn behind(
    saved: &SavedJob,
    entries: &[LogEntry],
    appeared: &BTreeMap<String, u64>,
    mut repeated: Repeated,
) -> Result<Repeated> {
    let has_appeared = |query: &String, epoch: u64| appeared.get(query).is_some_and(|appeared| epoch <= *appeared);
    let after = saved.repeats_after();
    let mut next = after;
    for entry in entries {
        match entry {
            LogEntry::Started { .. } | LogEntry::Failed { .. } => {}
            LogEntry::Cut(cut) if cut.epoch <= after => {}
            LogEntry::Cut(cut) => {
                next += 1;
                if cut.epoch != next {
                    let error = format!("the epoch log has epoch {} where {next} is due", cut.epoch);
                    return Err(Error::corrupt(error).hint(AHEAD));
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
    if next < saved.epoch {
        let error = format!("the epoch log ends with epoch {next}, and the checkpoint needs it up to {}", saved.epoch);
        return Err(Error::corrupt(error).hint("the log was lost or cut: `tidemill state rewind` goes on from a checkpoint without it, and writes again what came since; or start anew with --fresh"));
    }
    // An epoch is logged before anything of it appears. So one that is not here was in a checkpoint that is not here.
    let known = next.max(saved.epoch);
    if let Some((query, of)) = repeated.committed.iter().find(|(_, of)| of.through > known) {
        let through = of.through;
        let error = format!(
            "the epoch log has what query '{query}' has let appear up to epoch {through}, and goes on from epoch {known} itself"
        );
        return Err(Error::corrupt(error).hint(AHEAD));
    }
    Ok(repeated)
}

/// Stands between a table's name and the number of the hint that was written after it. Not a character that SQL text can hold in a name.
pub const HINT_MARK: char = '\u{1}';

/// A text without the numbers of hints: those depend on what stands before in the job's files.
pub fn without_hint_numbers(text: &str) -> String {
    let mut parts = text.split(HINT_MARK);
    let first = parts.next().unwrap_or_default().to_owned();
    let is_digit = |c: char| c.is_ascii_digit();
    parts.fold(first, |text, part| format!("{text}{HINT_MARK}{}", part.trim_start_matches(is_digit)))
}

/// A hash of what a query computes.
pub fn identity(plan: &str) -> String {
    hex_digest(without_hint_numbers(plan).as_bytes())
}

/// Begins the part of what a query is known by that says which records count, in its tables.
pub const RECORDS: &str = "\nof its tables:";

/// Begins a line that says in full what stands in a text before it.
pub const IN_FULL: &str = "in full: ";

/// Whether a saved identity is that of `plan`. Earlier versions of the program left out which records count, and what is said in full, and
/// had the numbers of hints in what they hashed.
pub fn is_identity_of(saved: &str, plan: &str) -> bool {
    let is = |plan: &str| saved == identity(plan) || saved == hex_digest(plan.as_bytes());
    let is_of = |plan: &str| is(plan) || plan.rfind(RECORDS).is_some_and(|at| is(&plan[..at]));
    is_of(plan) || of_before(plan).is_some_and(|plan| is_of(&plan))
}

/// Whether a saved text of a plan, or of a part of one, is that of `own`. One that is not `in_full` is of an earlier version of the program, and
/// has nothing that is said in full.
pub fn is_text_of(saved: &str, own: &str, in_full: bool) -> bool {
    let (saved, own) = (without_hint_numbers(saved), without_hint_numbers(own));
    saved == own || (!in_full && of_before(&own).is_some_and(|own| saved == own))
}

/// The text that earlier versions had for the same, if it is another.
fn of_before(text: &str) -> Option<String> {
    let is_new = |line: &&str| line.trim_start().starts_with(IN_FULL);
    let lines = || text.lines();
    lines().any(|line| is_new(&line)).then(|| lines().filter(|line| !is_new(line)).collect::<Vec<_>>().join("\n"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::ErrorKind;

    #[test]
    fn numbers_of_hints_tell_no_queries_apart() {
        let plan = |number: u32, table: &str| {
            format!("TableScan: {table}\u{1}{number}\u{2} projection=[n]{RECORDS}\n  {table}")
        };
        let (before, after) = (plan(3, "orders"), plan(12, "orders"));
        let by_an_earlier_version = hex_digest(before.as_bytes());
        assert!(is_text_of(&before, &after, true) && is_identity_of(&identity(&before), &after));
        assert!(is_identity_of(&by_an_earlier_version, &before));
        let without_a_hint = before.replace("\u{1}3", "");
        for other in [plan(3, "carts"), without_a_hint] {
            assert!(!is_text_of(&before, &other, false) && !is_identity_of(&identity(&before), &other), "{other}");
        }
    }

    /// Else a changed query would go on with the state of another one, whose text lacks what the new one says in full.
    #[test]
    fn what_is_not_said_in_full_is_of_an_earlier_version() {
        let left = "sum(a - b - c)";
        let right = format!("{left}\n{IN_FULL}a - (b - c) in 1.0");
        assert!(!is_text_of(left, &right, true) && !is_text_of(&right, left, false));
        assert!(is_text_of(left, &right, false) && is_text_of(&right, &right, true));
    }

    fn cut(epoch: u64) -> LogEntry {
        LogEntry::Cut(EpochCut { epoch, generation: 1, ..EpochCut::default() })
    }

    fn committed(epoch: u64) -> LogEntry {
        LogEntry::Committed { query: "job:files".to_owned(), epoch, payloads: Vec::new() }
    }

    /// Epochs that are repeated behind a checkpoint, or what is wrong.
    fn of(checkpoint: u64, log: &[LogEntry]) -> std::result::Result<Vec<u64>, String> {
        let saved = SavedJob { epoch: checkpoint, ..SavedJob::default() };
        let nothing = Repeated { cuts: Logged::default(), committed: BTreeMap::new() };
        match behind(&saved, log, &BTreeMap::new(), nothing) {
            Ok(repeated) => Ok(repeated.cuts.cuts.iter().map(|cut| cut.epoch).collect()),
            Err(error) => {
                assert!(error.kind() == ErrorKind::Corrupt && error.hint_text() == Some(AHEAD), "{error}");
                Err(error.message().to_owned())
            }
        }
    }

    /// After an end in order, a log in a bucket keeps its newest object: the last cut, or what a sink of files has said last.
    #[test]
    fn a_log_that_is_ahead_of_the_checkpoint_is_told_whatever_is_left_of_it() {
        for (checkpoint, log) in [
            (8, vec![committed(8)]),
            (8, vec![cut(8), committed(8)]),
            (9, vec![committed(8)]),
            // A file that was written before the checkpoint has appeared behind it.
            (5, vec![cut(6), committed(6), cut(7), committed(5)]),
        ] {
            let expected = log.iter().filter_map(LogEntry::epoch).filter(|epoch| *epoch > checkpoint);
            let cuts: BTreeSet<u64> = expected.collect();
            assert_eq!(of(checkpoint, &log), Ok(cuts.into_iter().collect()), "{log:?}");
        }
        // The newest one was removed.
        let error = of(5, &[committed(8)]).expect_err("epoch 8 was done");
        assert!(
            error.contains("'job:files' has let appear up to epoch 8") && error.contains("from epoch 5"),
            "{error}"
        );
        assert!(of(5, &[cut(6), committed(8)]).is_err() && of(0, &[committed(1)]).is_err());
        assert!(of(5, &[cut(8)]).is_err_and(|error| error.contains("epoch 8 where 6 is due")));
    }
}
