//! Failures at a position: who failed, at which records, and how often before.
//!
//! A run that fails because of its data fails again at the same records, in whatever process. So an epoch that makes a
//! query fail is noted in the epoch log, where the runs after find it: they try it again, and when it has failed too often
//! they stop, or let the query go on without its records. Where it fails at that epoch without them too, they were not to blame: a window that
//! closes there fails, or the sink by what it has of before. Then to leave out more records would lose them for nothing, so the job stops.
//!
//! What this machine lacks, memory or disk, is not noted, though it may be lacking each time: it is no fault of the records, and a process that
//! is given more can take the same epoch. Who tries again counts it, so that it ends.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::Arc;

use super::error_orders::is_gone;
use crate::contracts::{EpochCut, EpochLog, Error, ErrorKind, LogEntry, Result, SplitCut};

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
const EXHAUSTED: &str = "mend the query, and start it once with --keep-state QUERY; or, if it fails by these records and not by a window \
                         that closes there, write them to the error output and let the query go on without them: \
                         SET 'tidemill.on-exhausted-retries' = 'skip'";
/// The same where it has no records.
const EXHAUSTED_EMPTY: &str = "mend the query, and start it once with --keep-state QUERY";
/// What to do about one that has failed without its records.
const BY_RESULTS: &str = "no record of the epoch is to blame: what fails is a window that closes there, or the sink by what it has of \
                          before. Mend the query, and start it once with --keep-state QUERY";

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
        Err(Error::new(ErrorKind::Poison, text).hint(self.exhausted(epoch)))
    }

    /// Queries that go on without an epoch.
    pub(super) fn skipping(&self, epoch: u64) -> u64 {
        let skips =
            |((_, at), (count, _)): &(&(String, u64), &(u32, String))| *at == epoch && *count > self.retries.most;
        if self.retries.skips { self.before.iter().filter(skips).count() as u64 } else { 0 }
    }

    /// A query, or its sink, has failed at an epoch.
    pub(super) fn failed(&mut self, query: &str, epoch: u64) {
        self.failed = Some((query.to_owned(), epoch));
    }

    /// What came of something that a query, or its writer, was to do at an epoch: a failure is its own, unless the error output has gone.
    pub(super) fn of<T>(&mut self, query: &str, epoch: u64, outcome: Result<T>) -> Result<T> {
        if outcome.as_ref().is_err_and(|error| !is_gone(error)) {
            self.failed(query, epoch);
        }
        outcome
    }

    /// Notes a failure in the log, if trying it again may end alike. Answers it with its place; as `poison` if that was tried without records.
    pub(super) async fn note(self, log: Option<&Arc<dyn EpochLog>>, error: Error) -> Error {
        let by_data = matches!(error.kind(), ErrorKind::Data | ErrorKind::Internal);
        let Some((query, epoch)) = self.failed.clone().filter(|_| by_data) else { return error };
        let mut error = error;
        let before = self.before.get(&(query.clone(), epoch)).map_or(0, |(count, _)| *count);
        if before > self.retries.most {
            let (place, why) = (self.place(epoch), error.again());
            let text = format!("query '{query}' fails at {place} without its records too: {}", why.message());
            // (What the failure itself advises has been shown with each retry. Without another query the records would stay left out.)
            return Error::new(ErrorKind::Poison, text).hint(BY_RESULTS);
        }
        if let Some(log) = log {
            if before >= self.retries.most && !self.retries.skips {
                // Whoever sees this error last should not have to start the job once more to learn what can be done.
                let exhausted = self.exhausted(epoch);
                error = match error.hint_text().map(|own| format!("{own}; or {exhausted}")) {
                    Some(both) => error.hint(both),
                    None => error.hint(exhausted),
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

    fn cut(&self, epoch: u64) -> Option<&EpochCut> {
        self.recent.iter().find_map(|entry| match &**entry {
            LogEntry::Cut(cut) if cut.epoch == epoch => Some(cut),
            _ => None,
        })
    }

    /// What to do about an epoch that has failed as often as it may.
    fn exhausted(&self, epoch: u64) -> &'static str {
        let is_empty = |cut: &EpochCut| cut.splits.iter().all(|split| split.records == 0);
        if self.cut(epoch).is_some_and(is_empty) { EXHAUSTED_EMPTY } else { EXHAUSTED }
    }

    /// The records of an epoch, for people.
    fn place(&self, epoch: u64) -> String {
        let mut text = format!("epoch {epoch}");
        let Some(cut) = self.cut(epoch) else { return text };
        let read: Vec<&SplitCut> = cut.splits.iter().filter(|split| split.records > 0).collect();
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

#[cfg(test)]
mod tests {
    use super::super::error_orders::gone;
    use super::super::test_log::Entries;
    use super::*;

    const QUERY: &str = "job:q";

    /// A run that is at epoch 7, of so many records, at which the query has failed so often.
    fn run(failed: usize, records: u64, skips: bool) -> Failures {
        let failure = LogEntry::Failed { query: QUERY.to_owned(), epoch: 7, error: "why".to_owned() };
        let entries = vec![failure; failed];
        let retries = Retries { most: 2, delay_ms: 0, skips };
        let mut failures = Failures::new(&entries, std::iter::once((QUERY, "its plan".to_owned())), retries);
        let (feed, split) = ("events".to_owned(), "a".to_owned());
        let split = SplitCut { feed, split, opened: None, records, after: None, version: None, ended: false };
        failures.begin(Arc::new(LogEntry::Cut(EpochCut { epoch: 7, splits: vec![split], ..EpochCut::default() })));
        failures
    }

    /// What such a run answers to this failure of the query, and how many entries its log has then.
    async fn noted(mut failures: Failures, error: Error) -> (Error, usize) {
        let entries = Arc::new(Entries::default());
        let log: Arc<dyn EpochLog> = entries.clone();
        let outcome: Result<()> = failures.of(QUERY, 7, Err(error));
        let error = failures.note(Some(&log), outcome.expect_err("it has failed")).await;
        let count = entries.0.lock().expect("unpoisoned").len();
        (error, count)
    }

    /// Else each epoch behind it would be tried as often, and left out for nothing.
    #[tokio::test]
    async fn what_fails_without_the_records_of_an_epoch_too_ends_the_job_and_is_not_counted() {
        let failure = || Error::data("a window is wrong").context("query 'job:q'").hint("allow more");
        let failures = run(2, 5, true);
        assert!(failures.skips(QUERY, 7).expect("it is tried once more").is_none());
        let (error, entries) = noted(failures, failure()).await;
        assert_eq!((error.kind(), entries), (ErrorKind::Data, 1), "{error}");
        let failures = run(3, 5, true);
        assert_eq!(failures.skips(QUERY, 7).expect("it is skipped"), Some("why"));
        let (error, entries) = noted(failures, failure()).await;
        assert_eq!((error.kind(), entries), (ErrorKind::Poison, 0), "{error}");
        let place = "epoch 7 (5 record(s) of events/a, the last is its beginning)";
        assert_eq!(
            error.message(),
            format!("query 'job:q' fails at {place} without its records too: a window is wrong")
        );
        assert_eq!(error.hint_text(), Some(BY_RESULTS));
        // What this machine lacks, or a service that is away, may pass.
        let (error, entries) = noted(run(3, 5, true), Error::unavailable("no memory")).await;
        assert_eq!((error.kind(), entries), (ErrorKind::Unavailable, 0), "{error}");
    }

    #[tokio::test]
    async fn to_leave_records_out_is_offered_where_there_are_some() {
        for (records, is_offered) in [(0, false), (5, true)] {
            let (last, _) = noted(run(2, records, false), Error::data("a window is wrong")).await;
            let refused = run(3, records, false).skips(QUERY, 7).expect_err("it has failed too often");
            assert_eq!((last.kind(), refused.kind()), (ErrorKind::Data, ErrorKind::Poison));
            for error in [last, refused] {
                let hint = error.hint_text().expect("it says what to do");
                assert!(hint.starts_with("mend the query, "), "{error}");
                assert_eq!(hint.contains("on-exhausted-retries"), is_offered, "{error}");
            }
        }
    }

    #[tokio::test]
    async fn an_error_output_that_has_gone_is_nobody_s_failure() {
        let (error, entries) = noted(run(3, 5, true), gone().context("query 'job:q'")).await;
        assert!(is_gone(&error) && entries == 0, "{error}");
    }
}
