//! Beginning anew (`--fresh`): where it cannot be done, since rows are written again and objects of earlier runs would stay beside
//! them; and what becomes of a run that is killed on the way.
//!
//! ```text
//! log      started, anew │ ……………………… │ started │ cut …
//! and        checkpoints go,   files go aside
//! ```
//!
//! From the first entry on it has begun: a run that finds it without the second one begins anew itself.

use std::sync::Arc;

use super::run::JobOptions;
use crate::connectors::{Connectors, JobContext};
use crate::contracts::{Clock, Error, LogEntry, Result};
use crate::sql::JobPlan;

/// A run that is about to begin.
#[derive(Clone, Copy)]
pub(super) struct Start<'a> {
    pub(super) options: &'a JobOptions,
    pub(super) plan: &'a JobPlan,
    pub(super) job: &'a str,
    pub(super) clock: &'a Arc<dyn Clock>,
}

impl Start<'_> {
    /// Connectors of any run of the job: the number does not matter.
    pub(super) fn connectors(&self) -> Connectors {
        let context = JobContext { job: self.job.to_owned(), generation: 0 };
        Connectors::new(self.options.local.clone(), Arc::clone(self.clock), context)
    }
}

/// Refuses a run that begins anew and would write rows a second time into buckets. Files are moved aside; objects
/// can only be copied, at a price and with other rights, so a person must say what is to be done with them.
pub(super) async fn refuse_beside_objects(start: Start<'_>) -> Result<()> {
    let Some((object, table)) = own_object(start).await? else { return Ok(()) };
    let error = format!(
        "--fresh would write everything again beside '{object}', which an earlier run of this job has written into '{table}'"
    );
    Err(Error::config(error).hint(format!("{MOVE_OBJECTS}; {OR_BEGIN}")))
}

/// What can be done about objects of earlier runs, where rows would be written a second time.
pub(super) const MOVE_OBJECTS: &str =
    "move the objects of earlier runs (`aws s3 mv --recursive`), or give the table another path";
/// See [`MOVE_OBJECTS`].
pub(super) const OR_BEGIN: &str = "where nothing is to be written twice, say where to begin: --from latest, or a time";

/// An object that an earlier run of the job has written, and its table, where everything would be written again.
pub(super) async fn own_object(start: Start<'_>) -> Result<Option<(String, String)>> {
    if start.options.from.is_some() {
        return Ok(None);
    }
    let connectors = start.connectors();
    for query in &start.plan.queries {
        if let Some(object) = connectors.own_object(&query.sink.spec, &query.sink.connector).await? {
            return Ok(Some((object, query.sink.name.clone())));
        }
    }
    Ok(None)
}

/// Of the entries of a log, those that count: since a run has begun anew, if one has. And whether that one was killed before it had set
/// aside what earlier runs had written; `newest` is the last run that has made a checkpoint.
pub(super) fn since_anew(mut entries: Vec<LogEntry>, newest: u64) -> (Vec<LogEntry>, bool) {
    let is_anew = |entry: &LogEntry| matches!(entry, LogEntry::Started { anew: true, .. });
    let Some(at) = entries.iter().rposition(is_anew) else { return (entries, false) };
    let entries = entries.split_off(at);
    let [LogEntry::Started { generation: own, .. }, later @ ..] = &entries[..] else { return (entries, false) };
    let is_done = |entry: &LogEntry| match entry {
        LogEntry::Started { generation, .. } => generation == own,
        entry => entry.epoch().is_some(),
    };
    // One with a higher number has gone back to a savepoint, by hand.
    let is_pending = newest <= *own && !later.iter().any(is_done);
    (entries, is_pending)
}

/// Whether the last that a log says is that a run begins anew. Who has come since may have gone back to a savepoint.
pub(super) fn begins_anew(entries: &[LogEntry]) -> bool {
    matches!(entries.last(), Some(LogEntry::Started { anew: true, .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(generation: u64, anew: bool) -> LogEntry {
        LogEntry::started(generation, anew)
    }

    fn failed(epoch: u64) -> LogEntry {
        LogEntry::Failed { query: "q".to_owned(), epoch, error: "e".to_owned() }
    }

    #[test]
    fn what_counts_of_a_log_is_what_came_since_a_run_began_anew() {
        let old = [started(3, false), failed(7)];
        let with = |later: &[LogEntry]| [&old, later].concat();
        assert_eq!(since_anew(with(&[]), 2), (old.to_vec(), false));
        let begun = [started(4, true)];
        assert_eq!(since_anew(with(&begun), 3), (begun.to_vec(), true));
        assert_eq!(since_anew(with(&begun), 4), (begun.to_vec(), true), "a bucket has its first, empty checkpoint");
        assert_eq!(since_anew(with(&begun), 5), (begun.to_vec(), false));
        let done = [started(4, true), started(4, false)];
        assert_eq!(since_anew(with(&done), 3), (done.to_vec(), false));
        assert!(!since_anew(with(&[started(4, true), failed(8)]), 3).1, "an earlier program has gone on");
        // Others have taken note of it in between, and were killed.
        let again = [started(4, true), started(5, false), started(6, true)];
        assert_eq!(since_anew(with(&again), 3), (vec![started(6, true)], true));
        let rewound = [started(4, true), started(5, false)];
        assert_eq!(since_anew(with(&rewound), 3), (rewound.to_vec(), true));
        assert_eq!(since_anew(with(&rewound), 5), (rewound.to_vec(), false));
    }
}
