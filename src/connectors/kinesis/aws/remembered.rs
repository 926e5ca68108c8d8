//! What a later run must know of a table beside positions: of which streams they are, and how its splits are named.
//!
//! | the table reads | name of a split |
//! |---|---|
//! | one stream | `shardId-000000000000` |
//! | several, or those of a pattern | `stream/shardId-000000000000` |
//! | one, and since then others beside it | that one's as before, the others' with their stream |
//!
//! Shards of different streams have the same ids, so a position says nothing without its stream. Invariant: a split never changes
//! its name, and a position is never taken up in another stream than the one that it was saved for.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::contracts::{Error, Result, SourceProgress, SplitId};

use super::client::StreamName;
use super::lineage::ShardId;
use super::position::ShardPosition;

/// The streams of a run, as they are kept with its positions.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) streams: BTreeMap<String, RememberedStream>,
    /// See [`SplitNames`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) plain: Option<String>,
}

/// What is kept of a stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RememberedStream {
    /// A stream that was made at another time is another stream.
    pub(super) created_ms: i64,
    /// The job registered the consumer, and removes it.
    #[serde(default)]
    pub(super) registered_consumer: bool,
    /// The table names it no more. Its positions are kept: where it is named again, reading goes on there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) left_out: bool,
}

impl Remembered {
    /// What an earlier run has left; nothing where it says nothing of streams.
    pub(super) fn of(progress: &SourceProgress) -> Result<Self> {
        let Some(state) = &progress.state else { return Ok(Self::default()) };
        let mut this: Self = serde_json::from_str(state)
            .map_err(|e| Error::corrupt("the saved state of a Kinesis source").caused_by(e))?;
        if this.plain.is_none() && progress.splits.keys().any(|split| !split.0.contains('/')) {
            // Earlier versions did not say it: with them, such splits are of the only stream.
            this.plain = this.streams.keys().next().cloned();
        }
        Ok(this)
    }

    /// Those that a table leaves out which reads `now`, but for what `is_gone` from the service and so will never be named again.
    pub(super) fn left_out(
        self,
        table: &str,
        now: &[&str],
        is_gone: impl Fn(&str) -> bool,
    ) -> BTreeMap<String, RememberedStream> {
        let mut left_out = BTreeMap::new();
        for (stream, before) in self.streams.into_iter().filter(|(name, _)| !now.contains(&name.as_str())) {
            if is_gone(&stream) {
                tracing::warn!(table, stream, "an earlier run has read it, and it is gone");
                continue;
            }
            if !before.left_out {
                tracing::warn!(
                    table,
                    stream,
                    "an earlier run has read it, and the table names it no more: what is left of it is not read, and where that begins is kept"
                );
            }
            left_out.insert(stream, RememberedStream { left_out: true, ..before });
        }
        left_out
    }

    /// Fails when none of the streams that were read is named any more.
    pub(super) fn check(&self, table: &str, now: &[StreamName]) -> Result<()> {
        if self.streams.is_empty() || now.iter().any(|stream| self.streams.contains_key(&*stream.name)) {
            return Ok(());
        }
        let last = self.streams.iter().filter(|(_, stream)| !stream.left_out);
        let before = last.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("; ");
        let now = now.iter().map(|stream| &*stream.name).collect::<Vec<_>>().join("; ");
        Err(Error::config(format!(
            "table '{table}' has read '{before}' so far, and names '{now}' now: positions in one stream mean nothing in another"
        ))
        .hint(format!(
            "to read it beside the other one, write 'stream' = '{before}; {now}', and leave out what is read to its end later; to read it alone, \
             give the table another name, or start with --fresh"
        )))
    }
}

/// How a table's splits are named.
#[derive(Debug, Default)]
pub(super) struct SplitNames {
    /// The stream whose splits are named by their shards alone, if there is one.
    pub(super) plain: Option<Arc<str>>,
}

impl SplitNames {
    /// The split of a shard.
    pub(super) fn split(&self, stream: &str, shard: &ShardId) -> SplitId {
        SplitId(match &self.plain {
            Some(plain) if **plain == *stream => Arc::clone(shard),
            _ => format!("{stream}/{shard}").into(),
        })
    }

    /// Stream and shard of a split.
    pub(super) fn parts<'a>(&'a self, split: &'a SplitId) -> Option<(&'a str, &'a str)> {
        split.0.split_once('/').or_else(|| Some((self.plain.as_deref()?, &*split.0)))
    }

    /// What the split of a stream is called since another one has its name, which was made at another time.
    pub(super) fn of_before(&self, stream: &str, shard: &str, created_ms: i64) -> SplitId {
        SplitId(format!("{stream}@{created_ms}/{shard}").into())
    }

    /// The shards of a stream that an earlier run knew, where it stood in them, and whether it had read them to the end.
    pub(super) fn earlier(
        &self,
        progress: &SourceProgress,
        stream: &str,
    ) -> Result<BTreeMap<ShardId, (Option<ShardPosition>, bool)>> {
        let mut shards = BTreeMap::new();
        for (split, at) in &progress.splits {
            if let Some((_, shard)) = self.parts(split).filter(|(of, _)| *of == stream) {
                let position = at.after_exclusive.as_ref().map(ShardPosition::parse).transpose()?;
                shards.insert(shard.into(), (position, at.finished));
            }
        }
        Ok(shards)
    }
}

#[cfg(test)]
mod tests {
    use crate::contracts::SplitProgress;

    use super::*;

    fn progress(state: &str, splits: &[&str]) -> SourceProgress {
        let split = |id: &&str| (SplitId((*id).into()), SplitProgress::default());
        SourceProgress { splits: splits.iter().map(split).collect(), state: Some(state.to_owned()) }
    }

    #[test]
    fn states_of_earlier_versions_name_the_only_stream() {
        let one = r#"{"streams":{"a":{"created_ms":1}}}"#;
        assert_eq!(Remembered::of(&progress(one, &["shardId-0"])).unwrap().plain.as_deref(), Some("a"));
        // A pattern of which there was one.
        assert_eq!(Remembered::of(&progress(one, &["a/shardId-0"])).unwrap().plain, None);
        let two = r#"{"streams":{"a":{"created_ms":1},"b":{"created_ms":1}}}"#;
        assert_eq!(Remembered::of(&progress(two, &["a/shardId-0", "b/shardId-0"])).unwrap().plain, None);
        let since = r#"{"streams":{"a":{"created_ms":1},"b":{"created_ms":1}},"plain":"b"}"#;
        assert_eq!(
            Remembered::of(&progress(since, &["a/shardId-0", "shardId-0"])).unwrap().plain.as_deref(),
            Some("b")
        );
    }

    #[test]
    fn a_split_keeps_its_name_when_streams_come_and_go() {
        let names = SplitNames { plain: Some("b".into()) };
        for (stream, id) in [("a", "a/shardId-0"), ("b", "shardId-0")] {
            let split = names.split(stream, &"shardId-0".into());
            assert_eq!((&*split.0, names.parts(&split)), (id, Some((stream, "shardId-0"))));
        }
        let saved = progress("", &["a/shardId-1", "shardId-2", "ab/shardId-3"]);
        let shards = |stream| names.earlier(&saved, stream).unwrap().into_keys().collect::<Vec<_>>();
        assert_eq!((shards("a"), shards("b")), (vec!["shardId-1".into()], vec!["shardId-2".into()]));
        assert_eq!(SplitNames::default().parts(&SplitId("shardId-2".into())), None);
    }
}
