//! Failures at a position: who failed, at which records, and how often before.
//!
//! A run that fails because of its data fails again at the same records, in whatever process. So an epoch that makes a
//! query fail is noted in the epoch log, where the runs after find it: they try it again, and when it has failed too often
//! they stop, or let the query go on without it.
//!
//! What this machine lacks, memory or disk, is not noted, though it may be lacking each time: it is no fault of the records, and a process that
//! is given more can take the same epoch. Who tries again counts it, so that it ends.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::Arc;

use crate::contracts::{EpochLog, Error, ErrorKind, LogEntry, Result, SplitCut};

/// What is done when a run fails.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    /// Times that the same is tried again: a whole run, or an epoch that makes one query fail. [`Retries::FOR_EVER`] is no end.
    pub most: u32,
    /// Pause before the first of them, in milliseconds; it doubles each time, up to a minute.
    pub delay_ms: i64,
    /// Whether a query then goes on without the epoch that makes it fail, or the job stops.
    pub skips: bool,
}

impl Retries {
    /// As `most`: however often it fails.
    pub const FOR_EVER: u32 = u32::MAX;
}

impl Default for Retries {
    fn default() -> Self {
        Self { most: 3, delay_ms: 1_000, skips: false }
    }
}

/// Epochs that a failure may belong to: the one that is computed, and those that sinks have not written yet.
const REMEMBERED: usize = 8;
/// Splits that an error names.
const NAMED_SPLITS: usize = 4;

/// What to do about an epoch that has failed as often as it may.
const EXHAUSTED: &str = "mend the query, and start it once with --keep-state QUERY; or write these records to the error output and let the \
                         query go on without them: SET 'tidemill.on-exhausted-retries' = 'skip'";

/// Failures of the runs before, and where this one is.
#[derive(Debug, Default)]
pub(super) struct Failures {
    retries: Retries,
    before: BTreeMap<(String, u64), (u32, String)>,
    /// Cuts, as the log has them.
    recent: VecDeque<Arc<LogEntry>>,
    failed: Option<(String, u64)>,
}

impl Failures {
    /// What the log says of the runs before, of the queries as they are now: one that was mended since has not failed.
    pub(super) fn new<'q>(
        entries: &'q [LogEntry],
        queries: impl Iterator<Item = (&'q str, String)>,
        retries: Retries,
    ) -> Self {
        let mut before: BTreeMap<(String, u64), (u32, String)> = BTreeMap::new();
        let mut known: BTreeMap<&str, String> = BTreeMap::new();
        let mut known_as = |before: &mut BTreeMap<(String, u64), _>, query: &'q str, identity: String| {
            if known.insert(query, identity.clone()).is_some_and(|was| was != identity) {
                before.retain(|(name, _), _| name != query);
            }
        };
        for entry in entries {
            match entry {
                LogEntry::Failed { query, epoch, error } => {
                    let (count, last) = before.entry((query.clone(), *epoch)).or_default();
                    *count += 1;
                    last.clone_from(error);
                }
                LogEntry::Started { queries, .. } => {
                    queries.iter().for_each(|(query, identity)| known_as(&mut before, query, identity.clone()));
                }
                _ => {}
            }
        }
        queries.for_each(|(query, identity)| known_as(&mut before, query, identity));
        Self { retries, before, ..Self::default() }
    }

    /// An epoch begins, whose cut this is.
    pub(super) fn begin(&mut self, cut: Arc<LogEntry>) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(cut);
    }

    /// Whether a query is to go on without an epoch, because of this error.
    ///
    /// # Errors
    /// `poison` when it has failed too often and nothing is to be skipped.
    pub(super) fn skips(&self, query: &str, epoch: u64) -> Result<Option<&str>> {
        let Some((count, error)) = self.before.get(&(query.to_owned(), epoch)) else { return Ok(None) };
        if *count <= self.retries.most {
            return Ok(None);
        }
        if self.retries.skips {
            let place = self.place(epoch);
            tracing::warn!("query '{query}' goes on without {place}, at which it has failed {count} times: {error}");
            return Ok(Some(error));
        }
        let text = format!("query '{query}' has failed {count} times at {}: {error}", self.place(epoch));
        Err(Error::new(ErrorKind::Poison, text).hint(EXHAUSTED))
    }

    /// A query, or its sink, has failed at an epoch.
    pub(super) fn failed(&mut self, query: &str, epoch: u64) {
        self.failed = Some((query.to_owned(), epoch));
    }

    /// What came of something that a query, or its writer, was to do at an epoch: a failure is its own.
    pub(super) fn of<T>(&mut self, query: &str, epoch: u64, outcome: Result<T>) -> Result<T> {
        if outcome.is_err() {
            self.failed(query, epoch);
        }
        outcome
    }

    /// Notes a failure in the log, if trying it again may end alike. Answers it with its place.
    pub(super) async fn note(self, log: Option<&Arc<dyn EpochLog>>, error: Error) -> Error {
        let by_data = matches!(error.kind(), ErrorKind::Data | ErrorKind::Internal);
        let Some((query, epoch)) = self.failed.clone().filter(|_| by_data) else { return error };
        let mut error = error;
        if let Some(log) = log {
            let before = self.before.get(&(query.clone(), epoch)).map_or(0, |(count, _)| *count);
            if before >= self.retries.most && !self.retries.skips {
                // Whoever sees this error last should not have to start the job once more to learn what can be done.
                error = match error.hint_text().map(|own| format!("{own}; or {EXHAUSTED}")) {
                    Some(both) => error.hint(both),
                    None => error.hint(EXHAUSTED),
                };
            }
            let entry = LogEntry::Failed { query, epoch, error: error.message().to_owned() };
            if let Err(unlogged) = log.append(&entry).await {
                tracing::warn!("the failure was not noted: {unlogged}");
            }
        }
        let place = self.place(epoch);
        error.context(place)
    }

    /// The records of an epoch, for people.
    fn place(&self, epoch: u64) -> String {
        let mut text = format!("epoch {epoch}");
        let splits = self.recent.iter().find_map(|entry| match &**entry {
            LogEntry::Cut(cut) if cut.epoch == epoch => Some(&cut.splits),
            _ => None,
        });
        let Some(splits) = splits else { return text };
        let read: Vec<&SplitCut> = splits.iter().filter(|split| split.records > 0).collect();
        for (number, split) in read.iter().take(NAMED_SPLITS).enumerate() {
            let before = if number == 0 { " (" } else { "; " };
            let after = split.after.as_deref().unwrap_or("its beginning");
            let _ = write!(
                text,
                "{before}{} record(s) of {}/{}, the last is {after}",
                split.records, split.feed, split.split
            );
        }
        match read.len() {
            0 => {}
            count if count > NAMED_SPLITS => {
                let _ = write!(text, "; and of {} more splits)", count - NAMED_SPLITS);
            }
            _ => text.push(')'),
        }
        text
    }
}
