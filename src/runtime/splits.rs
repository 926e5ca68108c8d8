//! The splits of a source: which are known, read, waiting or gone, and where each stands.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::idleness::Idleness;
use super::quotas::Quota;
use super::reader::Brake;
use super::table_time::TableTime;
use crate::contracts::{Opened, Position, Split, SplitId, StartPosition};
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
/// What was read of a split is forgotten when the source has it no more. A folder may be away for a moment (nothing is mounted there, or a
/// program replaces it), and what was forgotten would be read twice: so a listing that names nothing says nothing, and one is not enough.
#[derive(Debug, Default)]
pub(crate) struct FeedSplits {
    pub(crate) list: Vec<SplitState>,
    pub(crate) by_id: BTreeMap<SplitId, usize>,
    /// How many of the last listings lack a split that was read, where some do.
    missed: BTreeMap<SplitId, u32>,
    /// The listing that was looked at last.
    listing: Option<u64>,
    /// Splits that have a reader.
    pub(crate) open: BTreeSet<usize>,
    /// Logged epochs are being cut again: who gives how much is said by the log, and nobody is held back.
    pub(crate) replaying: bool,
    /// Splits that wait for one, the next first.
    pub(crate) turns: BTreeSet<(Turn, usize)>,
}

impl FeedSplits {
    pub(crate) fn all_finished(&self) -> bool {
        self.open.is_empty() && self.turns.is_empty()
    }

    /// Takes note of what the source names, of the splits that are known and those that earlier runs have `saved`. `listing` is
    /// [`Source::listing`](crate::contracts::Source::listing).
    pub(crate) fn listed<'a>(
        &mut self,
        splits: &[Split],
        saved: impl IntoIterator<Item = &'a SavedTable>,
        listing: Option<u64>,
    ) {
        if splits.is_empty() || (listing.is_some() && listing == self.listing) {
            return;
        }
        self.listing = listing;
        let named: BTreeSet<&SplitId> = splits.iter().map(|split| &split.id).collect();
        let saved = saved.into_iter().flat_map(|table| table.splits.keys());
        let known = self.by_id.keys().cloned().chain(saved.map(|id| SplitId(id.as_str().into())));
        let missing: BTreeSet<SplitId> = known.filter(|id| !named.contains(id)).collect();
        self.missed.retain(|id, _| missing.contains(id));
        for id in missing {
            *self.missed.entry(id).or_default() += 1;
        }
    }

    /// Whether the last `listings` lack a split.
    pub(crate) fn is_gone(&self, id: &SplitId, listings: u32) -> bool {
        self.missed.get(id).is_some_and(|missed| *missed >= listings)
    }

    /// What an earlier run has read of splits that this one does not know yet, because it still repeats epochs, or their parents have
    /// not ended again: it must not be forgotten. Of what the last `listings` lack it is, but not of what the table has left out
    /// ([`Source::is_left_out`](crate::contracts::Source::is_left_out)).
    pub(crate) fn not_yet_read(
        &self,
        saved: &SavedTable,
        listings: u32,
        is_left_out: impl Fn(&SplitId) -> bool,
    ) -> impl Iterator<Item = (String, SavedSplit)> {
        let is_forgotten = move |id: &SplitId| self.is_gone(id, listings) && !is_left_out(id);
        let is_left = move |id: &SplitId| !self.by_id.contains_key(id) && !is_forgotten(id);
        saved
            .splits
            .iter()
            .filter(move |(id, _)| is_left(&SplitId(id.as_str().into())))
            .map(|(id, s)| (id.clone(), s.clone()))
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
pub(crate) mod tests {
    use super::*;
    use crate::contracts::OpenedAt;

    pub(crate) fn table(splits: &[(Status, i64, i64)]) -> (TableTime, FeedSplits) {
        let mut time = TableTime::new(true, Some(30_000), None);
        let mut feed = FeedSplits::default();
        for (index, (status, watermark, data_ms)) in splits.iter().enumerate() {
            let (status, idleness) = (*status, Idleness::new(*data_ms));
            let id = SplitId(format!("s{index}").into());
            feed.by_id.insert(id.clone(), index);
            time.watermarks.push(*watermark);
            if matches!(status, Status::Reading | Status::CaughtUp) {
                feed.open.insert(index);
            }
            feed.list.push(SplitState {
                id,
                status,
                position: None,
                start: StartPosition::TrimHorizon,
                idleness,
                brake: Arc::default(),
                behind_ms: None,
                really_finished: false,
                opened: Opened { at: OpenedAt::TrimHorizon, watermarks: Vec::new(), finished: false },
                unlogged: Unlogged::default(),
                quota: None,
                split: Split { id: SplitId("".into()), bytes: None, parents: Vec::new() },
                turn: None,
                reader: None,
            });
        }
        (time, feed)
    }

    /// Seed 738 of the simulation, once: a job was handed over before it knew again that the parents had ended, and the next one read
    /// their children from the beginning.
    #[test]
    fn positions_of_splits_that_still_wait_for_their_parents_are_kept() {
        let (_, mut feed) = table(&[(Status::Reading, 0, 0)]);
        let split = |after: &str| SavedSplit {
            after_exclusive: Some(after.to_owned()),
            from_ms: None,
            watermark_ms: 7,
            finished: false,
            version: None,
        };
        let splits = [("s0", "1"), ("child", "26"), ("gone", "3")].map(|(id, after)| (id.to_owned(), split(after)));
        let saved = SavedTable { splits: splits.into(), floor: 0, source: None };
        let kept = |feed: &FeedSplits| feed.not_yet_read(&saved, 1, |_| false).map(|(id, _)| id).collect::<Vec<_>>();
        // While epochs are repeated the source has not been asked.
        assert_eq!(kept(&feed), ["child", "gone"]);
        feed.listed(&named(&["s0", "child"]), [&saved], None);
        assert_eq!(kept(&feed), ["child"]);
        assert_eq!(feed.not_yet_read(&saved, 1, |_| false).next(), Some(("child".to_owned(), split("26"))));
        // What the table names no more may be named again.
        let left_out = feed.not_yet_read(&saved, 1, |id| &*id.0 == "gone").map(|(id, _)| id);
        assert_eq!(left_out.collect::<Vec<_>>(), ["child", "gone"]);
    }

    fn named(ids: &[&str]) -> Vec<Split> {
        ids.iter().map(|id| Split { id: SplitId((*id).into()), bytes: None, parents: Vec::new() }).collect()
    }

    #[test]
    fn a_split_is_gone_when_several_listings_that_name_others_lack_it() {
        let (_, mut feed) = table(&[(Status::Finished, 0, 0), (Status::Finished, 0, 0)]);
        let (one, other) = (named(&["s0"]), named(&["s0", "s1"]));
        let mut gone_after = |listings: &[&[Split]]| {
            listings.iter().for_each(|listing| feed.listed(listing, [], None));
            [0, 1].map(|split| feed.is_gone(&feed.list[split].id, MISSED_LISTINGS))
        };
        assert_eq!(gone_after(&[&[], &[], &[], &[]]), [false, false], "nothing says nothing");
        assert_eq!(gone_after(&[&one, &one, &[]]), [false, false]);
        assert_eq!(gone_after(&[&other, &one, &one]), [false, false], "not in a row");
        assert_eq!(gone_after(&[&[], &one]), [false, true]);
        assert_eq!(gone_after(&[&[]]), [false, true]);
        assert_eq!(gone_after(&[&other]), [false, false], "it is back");
    }
    #[test]
    fn a_listing_counts_once_however_often_it_is_answered() {
        let (_, mut feed) = table(&[(Status::Finished, 0, 0), (Status::Finished, 0, 0)]);
        let one = named(&["s0"]);
        for (listing, is_gone) in [(1, false), (1, false), (1, false), (2, false), (2, false), (3, true)] {
            feed.listed(&one, [], Some(listing));
            assert_eq!(feed.is_gone(&feed.list[1].id, MISSED_LISTINGS), is_gone, "{listing}");
        }
    }

    /// Of a folder with very many files: what a piece costs, and what finding one more costs, does not grow with their number.
    #[test]
    fn many_splits_that_are_not_read_cost_nothing() {
        use std::cell::Cell;

        const MANY: usize = 100_000;
        let ended = |number: usize| (Status::Finished, number as i64, 0);
        let mut splits: Vec<_> = (0..MANY).map(ended).collect();
        let open = [MANY / 2, MANY - 1];
        (splits[open[0]], splits[open[1]]) = ((Status::Reading, 0, 0), (Status::Reading, 100, 0));
        let (mut time, feed) = table(&splits);
        time.max_drift_ms = Some(10);
        // Whoever looks at one of those that have ended lets it go.
        feed.list.iter().filter(|split| split.status == Status::Finished).for_each(|split| split.brake.hold(true));
        let looked_at = Cell::new(0);
        let reading = feed.reading().inspect(|_| looked_at.set(looked_at.get() + 1));
        assert!(time.too_far_ahead(reading).is_some_and(|is_ahead| is_ahead(open[1]) && !is_ahead(open[0])));
        assert_eq!(looked_at.get(), 2);
        feed.apply_brakes(&[time]);
        assert_eq!(open.map(|number| feed.list[number].brake.is_held()), [false, true]);
        assert_eq!(feed.list.iter().filter(|split| split.brake.is_held()).count(), MANY - 1);

        thread_local!(static COMPARED: Cell<usize> = const { Cell::new(0) });
        #[derive(Clone, PartialEq, Eq)]
        struct Counted(usize);
        impl PartialOrd for Counted {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }
        impl Ord for Counted {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                COMPARED.set(COMPARED.get() + 1);
                self.0.cmp(&other.0)
            }
        }
        let mut queue = Queue::default();
        for _ in 0..2 {
            (0..MANY).for_each(|number| queue.push(Counted(number), number));
        }
        assert!(queue.has(&Counted(7)) && !queue.has(&Counted(MANY)));
        let popped: Vec<usize> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(popped, (0..MANY).collect::<Vec<_>>(), "each once, in order");
        assert!(queue.is_empty() && !queue.has(&Counted(7)));
        assert!(COMPARED.get() < MANY * 200, "{} comparisons", COMPARED.get());
    }
}
