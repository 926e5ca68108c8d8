//! The splits of a source: which are known, read, waiting or gone, and where each stands.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::idleness::Idleness;
use super::quotas::Quota;
use super::reader::Brake;
use super::table_time::TableTime;
use crate::contracts::{Opened, Position, Source, Split, SplitId, StartPosition};
use crate::state::{SavedSplit, SavedTable};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It waits for its turn, read in part or not at all. It holds time back, so that nothing in it will be late.
    Waiting,
    Reading,
    CaughtUp,
    /// Read up to now, and not read further in this run; a later one goes on. It still holds time back.
    Paused,
    Finished,
}

#[derive(Debug)]
pub(crate) struct SplitState {
    pub(crate) id: SplitId,
    pub(crate) status: Status,
    pub(crate) position: Option<Position>,
    /// Where it begins, as long as there is no position.
    pub(crate) start: StartPosition,
    /// Since when it has brought nothing.
    pub(crate) idleness: Idleness,
    pub(crate) brake: Arc<Brake>,
    /// How far behind the newest record it was when it was last read, where the source says so.
    pub(crate) behind_ms: Option<u64>,
    /// The source says that it has ended, not only the run.
    pub(crate) really_finished: bool,
    /// How this run has begun it.
    pub(crate) opened: Opened,
    /// What the epoch log does not know yet.
    pub(crate) unlogged: Unlogged,
    /// While logged epochs are cut again: how many records the reader may give.
    pub(super) quota: Option<mpsc::Sender<Quota>>,
    /// What the source needs to open it.
    pub(crate) split: Split,
    /// Its place among those that wait.
    pub(crate) turn: Option<Turn>,
    /// Its reader, while there is one.
    pub(crate) reader: Option<AbortHandle>,
}

/// When it is a split's turn: those that nothing is known of first, as they were listed; then the slowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    Unknown,
    /// Its least watermark.
    Known(i64),
}

/// What a split did since the last logged epoch.
#[derive(Debug, Default)]
pub(crate) struct Unlogged {
    pub(crate) opened: Option<Opened>,
    pub(crate) records: u64,
    pub(crate) after: Option<Position>,
    pub(crate) ended: bool,
}

/// Listings in a row without a split, each of which names others, after which the source counts as having it no more.
pub(crate) const MISSED_LISTINGS: u32 = 3;

/// How long what was read of a split is kept that the source does not name any more, milliseconds: a disk may not be mounted for some hours,
/// and what comes back was read already.
const GONE_KEPT_MS: i64 = 24 * 3_600_000;
/// And of how many splits of a table at most: each is about 100 bytes of a manifest.
const MOST_GONE_KEPT: usize = 10_000;

/// What waits in the order in which it came, each key once. Asked for one it does not go through all: a folder may have 100,000 files.
#[derive(Debug)]
pub(crate) struct Queue<K, T> {
    order: VecDeque<(K, T)>,
    keys: BTreeSet<K>,
}

impl<K, T> Default for Queue<K, T> {
    fn default() -> Self {
        Self { order: VecDeque::new(), keys: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, T> Queue<K, T> {
    /// Adds it to the end, unless one of its key waits.
    pub(crate) fn push(&mut self, key: K, item: T) {
        if self.keys.insert(key.clone()) {
            self.order.push_back((key, item));
        }
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let (key, item) = self.order.pop_front()?;
        self.keys.remove(&key);
        Some(item)
    }

    pub(crate) fn has(&self, key: &K) -> bool {
        self.keys.contains(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// The splits of a source.
///
/// What was read of a split is forgotten when the source has had it no more for a day. A folder, or a part of it, may be away (nothing is mounted
/// there, or a program replaces it), and what was forgotten would be read twice: so a listing that names nothing says nothing, and one is not
/// enough.
#[derive(Debug, Default)]
pub(crate) struct FeedSplits {
    pub(crate) list: Vec<SplitState>,
    pub(crate) by_id: BTreeMap<SplitId, usize>,
    /// Splits that were read, and that the last listing lacks.
    missed: BTreeMap<SplitId, Missed>,
    /// How long they are known, milliseconds; those of a stream do not come back.
    gone_kept_ms: i64,
    /// The listing that was looked at last.
    listing: Option<u64>,
    /// Splits that have a reader.
    pub(crate) open: BTreeSet<usize>,
    /// Logged epochs are being cut again: who gives how much is said by the log, and nobody is held back.
    pub(crate) replaying: bool,
    /// Splits that wait for one, the next first.
    pub(crate) turns: BTreeSet<(Turn, usize)>,
}

/// A split that is not named any more.
#[derive(Debug)]
struct Missed {
    /// How many of the last listings lack it.
    listings: u32,
    /// When it was first missed, milliseconds since 1970.
    since_ms: i64,
}

impl FeedSplits {
    /// Those of a source, of which none is known yet.
    pub(crate) fn of(source: &dyn Source) -> Self {
        let gone_kept_ms = if source.most_open().is_some() { GONE_KEPT_MS } else { 0 };
        Self { gone_kept_ms, ..Self::default() }
    }

    pub(crate) fn all_finished(&self) -> bool {
        self.open.is_empty() && self.turns.is_empty()
    }

    /// Takes note of what the source names now, of the splits that are known and those that earlier runs have `saved`. `listing` is
    /// [`Source::listing`](crate::contracts::Source::listing).
    pub(crate) fn listed<'a>(
        &mut self,
        splits: &[Split],
        saved: impl IntoIterator<Item = &'a SavedTable>,
        listing: Option<u64>,
        now_ms: i64,
    ) {
        if splits.is_empty() || (listing.is_some() && listing == self.listing) {
            return;
        }
        self.listing = listing;
        let named: BTreeSet<&SplitId> = splits.iter().map(|split| &split.id).collect();
        let saved = saved.into_iter().flat_map(|table| &table.splits);
        let saved = saved.map(|(id, split)| (SplitId(id.as_str().into()), split.gone_ms));
        // What this run has seen was there since.
        let known = saved.chain(self.by_id.keys().map(|id| (id.clone(), None)));
        let missing: BTreeMap<SplitId, Option<i64>> = known.filter(|(id, _)| !named.contains(id)).collect();
        self.missed.retain(|id, _| missing.contains_key(id));
        for (id, gone_ms) in missing {
            let since_ms = gone_ms.unwrap_or(now_ms);
            self.missed.entry(id).or_insert(Missed { listings: 0, since_ms }).listings += 1;
        }
    }

    /// Whether the last `listings` lack a split.
    pub(crate) fn is_gone(&self, id: &SplitId, listings: u32) -> bool {
        self.missed.get(id).is_some_and(|missed| missed.listings >= listings)
    }

    /// Whether the last `listings` lack a split, and have for so long that it is not expected back.
    pub(crate) fn is_forgotten(&self, id: &SplitId, listings: u32, now_ms: i64) -> bool {
        let since = |missed: &Missed| now_ms.saturating_sub(missed.since_ms);
        self.is_gone(id, listings) && self.missed.get(id).is_some_and(|missed| since(missed) >= self.gone_kept_ms)
    }

    /// Notes of splits that are saved, and that the last `listings` lack, since when that is so; but for those that the table `is_left_out`
    /// by the table itself. Where they are very many, those that went first are forgotten.
    pub(crate) fn note_gone(
        &self,
        splits: &mut BTreeMap<String, SavedSplit>,
        listings: u32,
        is_left_out: impl Fn(&SplitId) -> bool,
    ) {
        if self.gone_kept_ms == 0 {
            return;
        }
        let mut gone = Vec::new();
        for (id, missed) in self.missed.iter().filter(|(id, _)| self.is_gone(id, listings) && !is_left_out(id)) {
            if let Some(split) = splits.get_mut(&*id.0) {
                split.gone_ms = Some(missed.since_ms);
                gone.push((missed.since_ms, &id.0));
            }
        }
        gone.sort_unstable();
        let too_many = gone.len().saturating_sub(MOST_GONE_KEPT);
        for (_, name) in &gone[..too_many] {
            splits.remove(&***name);
        }
    }

    /// What an earlier run has read of splits that this one does not know yet, because it still repeats epochs, or their parents have
    /// not ended again: it must not be forgotten. Of what the last `listings` lack it is in time, but not of what the table has left out
    /// ([`Source::is_left_out`](crate::contracts::Source::is_left_out)).
    pub(crate) fn not_yet_read(
        &self,
        saved: &SavedTable,
        (listings, now_ms): (u32, i64),
        is_left_out: impl Fn(&SplitId) -> bool,
    ) -> impl Iterator<Item = (String, SavedSplit)> {
        let is_forgotten = move |id: &SplitId| self.is_forgotten(id, listings, now_ms) && !is_left_out(id);
        let is_left = move |id: &SplitId| !self.by_id.contains_key(id) && !is_forgotten(id);
        saved
            .splits
            .iter()
            .filter(move |(id, _)| is_left(&SplitId(id.as_str().into())))
            .map(|(id, s)| (id.clone(), SavedSplit { gone_ms: None, ..s.clone() }))
    }

    /// Puts a split among those that wait.
    pub(crate) fn wait(&mut self, number: usize, watermark: i64) {
        let state = &mut self.list[number];
        let turn = if state.position.is_some() { Turn::Known(watermark) } else { Turn::Unknown };
        (state.status, state.turn, state.quota, state.reader) = (Status::Waiting, Some(turn), None, None);
        // Brakes are those of readers: the next one begins without.
        state.brake.hold(false);
        self.open.remove(&number);
        self.turns.insert((turn, number));
    }

    pub(crate) fn all_caught_up(&self) -> bool {
        self.turns.is_empty() && self.list.iter().all(|s| s.status != Status::Reading)
    }

    /// Splits that are read, and not read to their ends. Those that have a reader are few, whatever there was and will be.
    fn reading(&self) -> impl Iterator<Item = usize> + Clone {
        self.open.iter().copied().filter(|number| self.list[*number].status == Status::Reading)
    }

    /// Holds back splits that are too far ahead for every table that has a bound. One table alone must not: two could
    /// hold each other's slowest split for ever. Called for each piece.
    pub(crate) fn apply_brakes(&self, times: &[TableTime]) {
        let bounds: Vec<_> = times.iter().filter_map(|time| time.too_far_ahead(self.reading())).collect();
        if bounds.is_empty() {
            return;
        }
        for number in &self.open {
            let split = &self.list[*number];
            let held = bounds.iter().all(|is_ahead| is_ahead(*number));
            split.brake.hold(!self.replaying && split.status == Status::Reading && held);
        }
    }
}

#[cfg(test)]
#[path = "splits_tests.rs"]
pub(crate) mod tests;
