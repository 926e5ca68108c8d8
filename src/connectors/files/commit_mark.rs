//! Marks of complete partitions (`sink.partition-commit.policy.kind` = `success-file`).
//!
//! A partition is complete when it is older than `sink.partition-commit.delay` (by the epochs' time, since its first
//! row), and no file of it is open. Rows that come later make it incomplete, and it is marked again.

use std::time::Duration;

use indexmap::IndexMap;

use crate::connectors::options::Options;
use crate::contracts::{Error, Result, TableSpec};

use super::durable::Noted;

/// The name of a table's marks; `None` when its partitions are not marked.
pub(super) fn file_name(spec: &TableSpec) -> Option<&str> {
    spec.option("sink.partition-commit.policy.kind")?;
    Some(spec.option("sink.partition-commit.success-file.name").unwrap_or("_SUCCESS"))
}

/// When partitions are marked, and which of them wait for it.
#[derive(Debug)]
pub(super) struct Marks {
    file_name: String,
    delay_ms: i64,
    /// Partitions with rows since they were last marked, and the time of the epoch of the first of these.
    waiting: IndexMap<String, Option<i64>>,
}

impl Marks {
    /// As the table's options say; `None` when partitions are not marked.
    pub(super) fn of(spec: &TableSpec) -> Result<Option<Self>> {
        let (Some(kinds), Some(file_name)) = (spec.option("sink.partition-commit.policy.kind"), file_name(spec)) else {
            return Ok(None);
        };
        for kind in kinds.split(',').map(str::trim) {
            if kind != "success-file" {
                let error = Error::config(format!("table '{}': partitions cannot be committed by '{kind}'", spec.name));
                return Err(match kind {
                    "metastore" | "glue" => error.hint(
                        "no catalog is written to; `tidemill athena` prints a table whose partitions need no commit, or use 'success-file'",
                    ),
                    _ => error.hint("there is 'success-file'"),
                });
            }
        }
        if spec.option("sink.partition-commit.trigger").is_some_and(|t| t.eq_ignore_ascii_case("partition-time")) {
            return Err(Error::config(format!(
                "table '{}': partitions cannot be committed by their own time",
                spec.name
            ))
            .hint("set 'sink.partition-commit.trigger' = 'process-time' and a 'sink.partition-commit.delay'"));
        }
        let delay = Options(spec).duration("sink.partition-commit.delay", Duration::ZERO)?;
        Ok(Some(Self {
            file_name: file_name.to_owned(),
            delay_ms: i64::try_from(delay.as_millis()).unwrap_or(i64::MAX),
            waiting: IndexMap::new(),
        }))
    }

    /// Rows have come for `folder`.
    pub(super) fn touch(&mut self, folder: &str) {
        if !self.waiting.contains_key(folder) {
            self.waiting.insert(folder.to_owned(), None);
        }
    }

    /// What a run before has committed: a file, whose partition waits since then, or a mark.
    pub(super) fn note(&mut self, file: &Noted) {
        if file.is_mark() {
            self.waiting.shift_remove(file.folder());
        } else if self.since(file.folder()).is_none() {
            self.waiting.insert(file.folder().to_owned(), file.waits_since_ms());
        }
    }

    /// Since when a partition waits.
    pub(super) fn since(&self, folder: &str) -> Option<i64> {
        self.waiting.get(folder).copied().flatten()
    }

    /// Partitions that wait, for a later run; `None` when there are none.
    pub(super) fn snapshot(&self) -> Option<String> {
        if self.waiting.is_empty() { None } else { serde_json::to_string(&Vec::from_iter(&self.waiting)).ok() }
    }

    /// Takes what [`Self::snapshot`] gave.
    pub(super) fn restore(&mut self, snapshot: &str) -> Result<()> {
        let unreadable = |e| Error::corrupt("the partitions that wait for their marks cannot be read").caused_by(e);
        let waiting: Vec<(String, Option<i64>)> = serde_json::from_str(snapshot).map_err(unreadable)?;
        self.waiting = waiting.into_iter().collect();
        Ok(())
    }

    /// When the next partition is old enough.
    pub(super) fn next_due(&self) -> Option<i64> {
        self.waiting.values().filter_map(|since| Some(since.as_ref()?.saturating_add(self.delay_ms))).min()
    }

    /// An epoch has ended.
    pub(super) fn tick(&mut self, now_ms: i64) {
        for since in self.waiting.values_mut() {
            since.get_or_insert(now_ms);
        }
    }

    /// Partitions that are complete now, and the paths of their marks below the table's. `now_ms` of `None` is the end of input.
    pub(super) fn due(&mut self, now_ms: Option<i64>, is_open: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let mut due = Vec::new();
        self.waiting.retain(|folder, since| {
            let old = match (now_ms, *since) {
                (None, _) => true,
                (Some(now_ms), Some(since)) => now_ms.saturating_sub(since) >= self.delay_ms,
                (Some(_), None) => false,
            };
            let complete = old && !is_open(folder);
            if complete {
                let separator = if folder.is_empty() { "" } else { "/" };
                due.push((folder.clone(), format!("{folder}{separator}{}", self.file_name)));
            }
            !complete
        });
        due
    }
}
