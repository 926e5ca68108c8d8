//! The epoch log: what an epoch was cut of, written before any of its effects leaves the process.
//!
//! ```text
//!  run 1   cut 7 │ append ─► effects of 7 │ cut 8 │ append ─► effects … killed
//!  run 2   state of 6 │ cut 7 again, as logged │ cut 8 again │ cut 9, its own │ …
//! ```
//!
//! A later run cuts the logged epochs as they were: the same records, watermarks, time and number, so the same lateness,
//! `now()`, values and message ids. Results that had left already are written again with the same content, or left out
//! where their sink knows them ([`LogEntry::Committed`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};

/// Everything that an epoch depends on beside the records and the rows of its reference tables, which lie beside the checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochCut {
    /// Its number.
    pub epoch: u64,
    /// The run that cut it.
    pub generation: u64,
    /// What `now()` answered, milliseconds since 1970.
    pub now_ms: i64,
    /// Records that arrived before this time, milliseconds since 1970, were too old for the queries; `None` when any age will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<i64>,
    /// The input ended here: every window closed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub closes: bool,
    /// Its records had been given to all but the queries that catch up with the others after a job has gone back: only those get it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub catches_up: bool,
    /// Splits that gave records, that the run has come to know since the epoch before, or that have ended.
    pub splits: Vec<SplitCut>,
    /// Event time of the tables that have one.
    pub tables: Vec<TableCut>,
    /// Digest of each reference table as the queries had it, by name. One that is not named (by a program that kept none, or since the
    /// job did not have it) is read as it is when the epoch is repeated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub references: BTreeMap<String, String>,
}

/// A split in an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitCut {
    /// Name of what reads it: the tables that share the reader.
    pub feed: String,
    /// Its name.
    pub split: String,
    /// How it is opened, in the first epoch after the run has come to know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<Opened>,
    /// Records that the epoch took from it.
    pub records: u64,
    /// Position of the last of them: proves that a replay reads the same ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// What they were of, where the source can tell: a replay reads no other version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its reader has found its end. Said of sources that have few splits open at a time ([`Source::most_open`]), so that a
    /// replay need not keep more of them open either.
    ///
    /// [`Source::most_open`]: super::Source::most_open
    #[serde(default, skip_serializing_if = "is_false")]
    pub ended: bool,
}

/// How reading of a split began in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Where.
    pub at: OpenedAt,
    /// Watermark of the split for each table of the feed, in milliseconds.
    pub watermarks: Vec<i64>,
    /// It had been read to its end before.
    #[serde(default, skip_serializing_if = "is_false")]
    pub finished: bool,
}

/// Where reading of a split began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenedAt {
    /// Behind this position.
    After(String),
    /// At the oldest record.
    TrimHorizon,
    /// At the first record that arrived at or after this time, milliseconds since 1970.
    AtTimestamp(i64),
    /// At what was the newest record then; the source could not say which.
    Latest,
}

/// Event time of a table in an epoch, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCut {
    /// Name in SQL.
    pub table: String,
    /// Windows up to here had fired, whatever the splits said, when the epoch's rows came.
    pub floor: i64,
    /// The same after the epoch.
    pub floor_after: i64,
    /// What the queries were told.
    pub watermark: i64,
    /// It had ended, or all of its splits were idle: it did not hold those back that a query reads beside it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub quiet: bool,
    /// Where a table was quiet: this one's watermark at the moment up to which that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<i64>,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogEntry {
    /// A run has begun.
    Started {
        /// Its number.
        generation: u64,
        /// A hash of what each query computes: another query cannot repeat its epochs.
        #[serde(default)]
        queries: BTreeMap<String, String>,
        /// It begins anew: nothing before this entry counts, and what earlier runs have written is being set aside. When that is done, it
        /// says once more that it has begun, without this.
        #[serde(default, skip_serializing_if = "is_false")]
        anew: bool,
        /// The epoch of the checkpoint that it goes on from; `None` where it has none (and in logs of earlier versions of the program).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        behind: Option<u64>,
        /// The source tables that each query reads, by the names under which their positions are saved (not in logs of earlier versions).
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        reads: BTreeMap<String, Vec<String>>,
    },
    /// An epoch has been cut.
    Cut(EpochCut),
    /// A sink is about to let staged effects appear. It is the next thing that the sink does, so a later entry of the same query says
    /// that it is done; one without payloads says nothing else.
    Committed {
        /// `file:sink`.
        query: String,
        /// The last epoch in them.
        epoch: u64,
        /// Payloads of the committables.
        payloads: Vec<String>,
    },
    /// An epoch has made a query fail, and the run with it.
    Failed {
        /// `file:sink`.
        query: String,
        /// The epoch.
        epoch: u64,
        /// What went wrong.
        error: String,
    },
}

impl LogEntry {
    /// The beginning of a run that has no queries, and no checkpoint.
    pub fn started(generation: u64, anew: bool) -> Self {
        Self::Started { generation, queries: BTreeMap::new(), anew, behind: None, reads: BTreeMap::new() }
    }

    /// The epoch it belongs to; `None` for the beginning of a run.
    pub fn epoch(&self) -> Option<u64> {
        match self {
            Self::Started { .. } => None,
            Self::Cut(cut) => Some(cut.epoch),
            Self::Committed { epoch, .. } | Self::Failed { epoch, .. } => Some(*epoch),
        }
    }

    /// Number of the run that it begins; `None` for anything else.
    pub fn begun(&self) -> Option<u64> {
        match self {
            Self::Started { generation, .. } => Some(*generation),
            _ => None,
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Where cuts are kept.
///
/// # Contract
/// - When `append` has returned, the entry survives a crash of process and machine.
/// - An entry is whole or not there; entries keep their order, also those of calls at the same time.
/// - At most one run appends: one that another has taken over from gets [`ErrorKind::Fenced`](super::ErrorKind::Fenced).
/// - What is damaged stays, so that it can be restored, until nothing of it is needed: until an entry is appended that a run begins
///   [`anew`](LogEntry::Started), or something is forgotten.
#[async_trait]
pub trait EpochLog: Send + Sync {
    /// Adds an entry.
    async fn append(&self, entry: &LogEntry) -> Result<()>;

    /// Removes entries of epochs up to `epoch`: a checkpoint has what they did. A crash in the midst may leave some.
    async fn forget(&self, epoch: u64) -> Result<()>;
}

/// A log that has been opened.
pub struct OpenedLog {
    /// The log.
    pub log: Arc<dyn EpochLog>,
    /// What can be read of it.
    pub entries: Vec<LogEntry>,
    /// The first damage, if there is any. Whoever needs the entries must not go on.
    pub damage: Option<Error>,
}

/// A log as it is found by who only looks.
#[derive(Debug, Default)]
pub struct SeenLog {
    /// What can be read of it.
    pub entries: Vec<LogEntry>,
    /// There is more.
    pub damaged: bool,
}
