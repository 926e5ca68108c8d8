//! After a job has gone back: queries whose sinks had open files are given records once more that the others have had.
//!
//! ```text
//!              reread                    where the states stand
//!   ─────────────┼─────────────────────────────┼───────────────────────────►  positions
//!                └── for some queries alone ──►│── for all ──►
//! ```
//!
//! A run that was killed repeats the epochs of its log, and a query with state passes those that its state has. Going back has no log: the
//! records between the two points are cut into new epochs, whose cuts say that they catch up ([`EpochCut::catches_up`]). Each split is read
//! exactly up to where it stood. Then everything is read on from there with new readers, as by a run that had begun there: so positions,
//! event time and lateness of the queries with state have nothing to do with what came before.
//!
//! No checkpoint is made meanwhile. A run that is killed or stopped is followed by one that repeats these epochs from the log, and goes on
//! with the rest of them.
//!
//! [`EpochCut::catches_up`]: crate::contracts::EpochCut::catches_up

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;

use super::driver::{Driver, PIECES_WAITING};
use super::feed::Feed;
use super::splits::{MISSED_LISTINGS, SplitState};
use super::worker::Ending;
use crate::contracts::{OpenedAt, Position, Result, SequenceNumbers, SourceProgress, SplitId, SplitProgress};
use crate::state::{SavedSplit, SavedTable};

/// How long a source may take to name again what is left to be read. A folder may be away for a moment; and where it is empty by now, no
/// listing will ever say more.
const ABSENCE_PATIENCE: Duration = Duration::from_secs(30);

/// Up to where a split is read.
#[derive(Debug, Clone)]
pub(crate) enum Until {
    /// Its end.
    End,
    /// This position; without one, nothing of it had been read.
    Position(Option<Position>),
}

impl Until {
    pub(super) fn of(saved: &SavedSplit) -> Self {
        if saved.finished { Self::End } else { Self::Position(saved.position()) }
    }

    /// Whether nothing is left to read of a split that stands at `position`.
    pub(super) fn is_reached_at(&self, position: Option<&Position>) -> bool {
        match self {
            Self::End => false,
            Self::Position(until) => match until.as_ref().filter(|until| until.names_record()) {
                Some(until) => position.is_some_and(|position| position.has_reached(until)),
                None => true,
            },
        }
    }

    /// Whether a split that gave no more, and stands at `position`, should have given more. Where that is its end, it has.
    fn is_ahead_of(&self, position: Option<&Position>) -> bool {
        matches!(self, Self::Position(_)) && !self.is_reached_at(position)
    }

    /// Of so many records, how many are read, and whether nothing is left then.
    pub(super) fn of_chunk(&self, sequence: &SequenceNumbers, records: usize) -> (usize, bool) {
        match self {
            Self::End => (records, false),
            Self::Position(Some(until)) => sequence.through(records, until),
            Self::Position(None) => (0, true),
        }
    }
}

impl Feed {
    /// Up to where a split is read; `None`: on and on. What was not known where the others stand is not read yet.
    pub(super) fn until(&self, split: &SplitId) -> Option<Until> {
        let tables = self.catch_up.as_ref()?;
        let saved = tables.iter().flatten().find_map(|table| table.splits.get(&*split.0));
        Some(saved.map_or(Until::Position(None), Until::of))
    }

    /// Whether it catches up, and this split is not to be read before that is done.
    pub(super) fn waits_for_others(&self, split: &SplitId) -> bool {
        let has = |table: &SavedTable| table.splits.contains_key(&*split.0);
        self.catch_up.as_ref().is_some_and(|tables| !tables.iter().flatten().any(has))
    }

    /// Where it has been left by earlier runs, for its source: first where it begins to read, then where the others stand. What only
    /// these know has not been read.
    pub(super) fn progress(&self) -> Option<SourceProgress> {
        let saved = self.saved.iter().flatten().next().map(SavedTable::progress);
        let Some(others) = self.catch_up.iter().flatten().flatten().next().map(SavedTable::progress) else {
            return saved;
        };
        let mut progress = saved.unwrap_or_default();
        for (split, SplitProgress { version, .. }) in others.splits {
            let own = progress.splits.entry(split).or_default();
            own.version = own.version.take().or(version);
        }
        progress.state = others.state.or(progress.state);
        Some(progress)
    }

    /// Splits that something is left of up to where the others stand, and that the source has not named yet, though it did then.
    fn not_found(&self) -> impl Iterator<Item = SplitId> {
        let earlier = self.saved.iter().flatten().next().map(|table| &table.splits);
        let others = self.catch_up.iter().flatten().flatten().next();
        others.into_iter().flat_map(|others| &others.splits).filter_map(move |(split, saved)| {
            let had_all = match earlier.and_then(|splits| splits.get(split)) {
                Some(before) if saved.finished => before.finished,
                Some(before) => Until::of(saved).is_reached_at(before.position().as_ref()),
                None => Until::of(saved).is_reached_at(None),
            };
            let id = SplitId(split.as_str().into());
            (!had_all && saved.gone_ms.is_none() && !self.splits.by_id.contains_key(&id)).then_some(id)
        })
    }

    /// Says of which splits nothing, or not everything, could be read any more though there was something left.
    fn warn_of_gone(&self) {
        let Some(others) = self.catch_up.iter().flatten().flatten().next() else { return };
        let earlier = self.saved.iter().flatten().next().map(|table| &table.splits);
        let table = self.name();
        for split in self.not_found() {
            let split = &*split.0;
            tracing::warn!(table, split, "it is gone: queries that write files are not given again what it had");
        }
        for (split, saved) in &others.splits {
            let number = self.splits.by_id.get(&SplitId(split.as_str().into()));
            // Its reader has lost patience.
            if number.is_some_and(|number| Until::of(saved).is_ahead_of(self.splits.list[*number].position.as_ref())) {
                tracing::warn!(
                    table,
                    split,
                    "records of it are gone: queries that write files are not given again all that it had"
                );
            }
        }
        // Those that were named by their source no more when the checkpoint was made; very old ones are not in it.
        let forgotten =
            earlier.into_iter().flat_map(BTreeMap::keys).filter(|split| !others.splits.contains_key(*split));
        let gone = others.splits.iter().filter(|(_, saved)| saved.gone_ms.is_some()).map(|(split, _)| split);
        let had_all =
            |split: &String| earlier.and_then(|splits| splits.get(split)).is_some_and(|before| before.finished);
        for split in forgotten.chain(gone).filter(|split| !had_all(split)) {
            if !self.splits.by_id.contains_key(&SplitId(split.as_str().into())) {
                tracing::warn!(
                    table,
                    split,
                    "it was gone before: queries that write files are not given again what it had"
                );
            }
        }
    }
}

impl Driver {
    /// Whether only queries that catch up are given the epochs that are cut now.
    pub(crate) fn catches_up(&self) -> bool {
        self.feeds.iter().any(|feed| feed.catch_up.is_some())
    }

    /// Whether they have been given everything that the others have had.
    pub(super) fn has_caught_up(&self) -> bool {
        self.catches_up()
            && match self.replay.front() {
                Some(cut) => !cut.catches_up,
                None => self.feeds.iter().all(Feed::is_read) && !self.waits_for_absent(),
            }
    }

    /// Whether a source may still name what is left to be read. As elsewhere, a listing that names nothing says nothing, and one is not enough.
    /// A run that ends by itself asks once.
    fn waits_for_absent(&self) -> bool {
        let is_absent = |feed: &Feed| feed.not_found().any(|split| !feed.splits.is_gone(&split, MISSED_LISTINGS));
        let is_early = |since: Duration| self.clock.elapsed().saturating_sub(since) < ABSENCE_PATIENCE;
        self.ending == Ending::Run && self.listed_since.is_none_or(is_early) && self.feeds.iter().any(is_absent)
    }

    /// Where this run has begun to read tables that no run before has read: a checkpoint that is gone back to must know it, since a start at the
    /// newest record would be another one by then.
    pub(crate) fn begun_tables(&self) -> BTreeMap<String, SavedTable> {
        let mut tables = BTreeMap::new();
        for feed in &self.feeds {
            for (number, table) in
                feed.specification.tables.iter().enumerate().filter(|(n, _)| feed.saved[*n].is_none())
            {
                let split = |split: &SplitState| {
                    let (after_exclusive, from_ms) = match &split.opened.at {
                        OpenedAt::After(position) => (Some(position.clone()), None),
                        OpenedAt::AtTimestamp(ms) => (None, Some(*ms)),
                        OpenedAt::TrimHorizon | OpenedAt::Latest => (None, None),
                    };
                    let watermark_ms = split.opened.watermarks.get(number).copied().unwrap_or(i64::MIN);
                    let finished = split.opened.finished;
                    (
                        split.id.to_string(),
                        SavedSplit { after_exclusive, from_ms, watermark_ms, finished, version: None, gone_ms: None },
                    )
                };
                let splits = feed.splits.list.iter().map(split).collect();
                let source = feed.specification.source.snapshot();
                tables.insert(table.name.clone(), SavedTable { splits, floor: i64::MIN, source });
            }
        }
        tables
    }

    /// Reads on from where the others stand.
    pub(super) async fn read_for_all(&mut self) -> Result<()> {
        self.stop();
        (self.sender, self.events) = mpsc::channel(PIECES_WAITING);
        let replaying = !self.replay.is_empty();
        let restart = |feed: Feed| {
            feed.warn_of_gone();
            let mut next = Feed::new(feed.specification, feed.catch_up.unwrap_or_default());
            next.counts = feed.counts;
            next.begun = feed.begun_before;
            next.splits.replaying = replaying;
            next
        };
        self.feeds = std::mem::take(&mut self.feeds).into_iter().map(restart).collect();
        if replaying { Ok(()) } else { self.discover().await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: &str) -> Until {
        Until::Position(Some(Position(position.into())))
    }

    #[test]
    fn a_split_is_read_up_to_the_record_where_the_others_stand() {
        let dense = SequenceNumbers::Dense { first: 8 };
        for (until, wanted) in
            [("12", (5, true)), ("17", (10, true)), ("18", (10, false)), ("7", (0, true)), ("110", (10, false))]
        {
            assert_eq!(at(until).of_chunk(&dense, 10), wanted, "{until}");
        }
        // Offsets of lines: the one where it stood is gone, and the next one is there.
        let offsets = SequenceNumbers::Numbers([0, 90, 110].into());
        assert_eq!(at("100").of_chunk(&offsets, 3), (2, true));
        // As Kinesis has them: numbers, not text; several records that came as one; and up to when the shard has been read.
        let texts = ["99", "100/0", "100/1", "101"].map(Into::into);
        let numbers = SequenceNumbers::Text(texts.to_vec().into());
        for (until, wanted) in [
            ("99@5", (1, true)),
            ("100/0@5", (2, true)),
            ("100/1@5", (3, true)),
            ("100@5", (3, true)),
            ("101", (4, true)),
            ("1000@5", (4, false)),
            ("at 1700@8", (0, true)),
            ("horizon", (0, true)),
        ] {
            assert_eq!(at(until).of_chunk(&numbers, 4), wanted, "{until}");
        }
        assert_eq!(Until::End.of_chunk(&numbers, 4), (4, false));
        assert_eq!(Until::Position(None).of_chunk(&numbers, 4), (0, true));
    }

    #[test]
    fn what_stands_there_is_not_read() {
        for (own, until, wanted) in [
            (None, "12", false),
            (Some("12@8"), "12@9", true),
            (Some("9"), "12", false),
            (Some("100"), "12", true),
            (Some("12/1"), "12/2", false),
            (Some("12"), "12/2", true),
            (Some("at 1700"), "12", false),
            (None, "at 1700@9", true),
            (Some("horizon"), "horizon@9", true),
        ] {
            let own = own.map(|own| Position(own.into()));
            assert_eq!(at(until).is_reached_at(own.as_ref()), wanted, "{own:?} {until}");
        }
        assert!(Until::Position(None).is_reached_at(None) && !Until::End.is_reached_at(None));
    }

    #[test]
    fn what_has_not_come_again_is_told() {
        let own = |position: &str| Some(Position(position.into()));
        assert!(at("12").is_ahead_of(None) && at("12").is_ahead_of(own("11@9").as_ref()));
        assert!(!at("12").is_ahead_of(own("12").as_ref()) && !at("100/0@5").is_ahead_of(own("100/1").as_ref()));
        assert!(!Until::Position(None).is_ahead_of(None) && !Until::End.is_ahead_of(None));
    }
}
