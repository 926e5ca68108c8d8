//! The splits of a source, and event time of each table that reads it: the least of its active splits.
//!
//! A split is *active* until it has ended or is idle. It is idle when it is caught up and has had no
//! data for the idle timeout; one that is behind is never idle, however long a read takes, and without an idle one time goes on only as far as
//! it had come when that one was last heard (`idleness.rs`). When all are idle, time goes on at the speed of the clock, so that the last
//! window fires on a quiet stream ("Decisions", 8).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::idleness::{Idleness, Past};
use super::quotas::Quota;
use super::reader::Brake;
use crate::contracts::{Opened, Position, Split, SplitId, StartPosition, Watermark};
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

    /// Takes note of what the source names, of the splits that are known and those that earlier runs have `saved`.
    pub(crate) fn listed(&mut self, splits: &[Split], saved: &[Option<SavedTable>]) {
        if splits.is_empty() {
            return;
        }
        let named: BTreeSet<&SplitId> = splits.iter().map(|split| &split.id).collect();
        let saved = saved.iter().flatten().flat_map(|table| table.splits.keys());
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
    /// not ended again: it must not be forgotten. Of what the last `listings` lack it is.
    pub(crate) fn not_yet_read(&self, saved: &SavedTable, listings: u32) -> impl Iterator<Item = (String, SavedSplit)> {
        let is_left = move |id: &SplitId| !self.is_gone(id, listings) && !self.by_id.contains_key(id);
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
        self.open.remove(&number);
        self.turns.insert((turn, number));
    }

    pub(crate) fn all_caught_up(&self) -> bool {
        self.turns.is_empty() && self.list.iter().all(|s| s.status != Status::Reading)
    }

    /// Holds back splits that are too far ahead for every table that has a bound. One table alone must not: two could
    /// hold each other's slowest split for ever.
    pub(crate) fn apply_brakes(&self, times: &[TableTime]) {
        let holds: Vec<Vec<bool>> = times.iter().filter_map(|time| time.too_far_ahead(&self.list)).collect();
        if holds.is_empty() {
            return;
        }
        for (number, split) in self.list.iter().enumerate() {
            let held = holds.iter().all(|table| table[number]);
            split.brake.hold(!self.replaying && split.status == Status::Reading && held);
        }
    }
}

/// Event time of a table.
#[derive(Debug)]
pub(crate) struct TableTime {
    /// Of each split, in milliseconds.
    pub(crate) watermarks: Vec<i64>,
    pub(crate) has_watermark: bool,
    pub(crate) idle_timeout_ms: Option<i64>,
    pub(crate) max_drift_ms: Option<i64>,
    /// What the queries have been told; it never goes back.
    pub(crate) reported: Watermark,
    /// Windows up to here have fired because all splits were idle (or an earlier run was drained):
    /// rows for them are late whatever their own split says.
    pub(crate) floor: i64,
    /// Since when all splits have been idle, and the watermark then.
    idle: Option<(i64, i64)>,
    past: Past,
}

impl TableTime {
    pub(crate) fn new(has_watermark: bool, idle_timeout_ms: Option<i64>, max_drift_ms: Option<i64>) -> Self {
        Self {
            watermarks: Vec::new(),
            has_watermark,
            idle_timeout_ms,
            max_drift_ms,
            reported: Watermark::MIN,
            floor: i64::MIN,
            idle: None,
            past: Past::default(),
        }
    }

    /// Moves event time on and returns it. `now_ms` is of the steady clock.
    pub(crate) fn advance(&mut self, splits: &[SplitState], now_ms: i64) -> Watermark {
        if !self.has_watermark {
            return self.reported;
        }
        let idle_until = |split: &SplitState| {
            let timeout = self.idle_timeout_ms.filter(|_| split.status == Status::CaughtUp)?;
            split.idleness.idle_until(timeout)
        };
        let with_time = splits.iter().zip(&self.watermarks);
        let open = with_time.filter(|(split, _)| split.status != Status::Finished);
        let open: Vec<(Option<i64>, i64)> = open.map(|(split, own)| (idle_until(split), *own)).collect();
        let active = open.iter().filter(|(idle, _)| idle.is_none()).map(|(_, own)| *own).min();
        // Up to when all idle splits are known to be so.
        let known = open.iter().filter_map(|(idle, _)| *idle).min();
        let largest = self.watermarks.iter().copied().max().unwrap_or(i64::MIN);
        let watermark = match (active, known) {
            (Some(watermark), known) => {
                self.idle = None;
                self.past.note(now_ms, watermark);
                let watermark = self.past.at(known.unwrap_or(now_ms));
                // Windows fire without an idle split: what it still brings for them is late.
                if open.iter().any(|(idle, own)| idle.is_some() && *own < watermark) {
                    self.floor = self.floor.max(watermark);
                }
                watermark
            }
            (None, None) => largest,
            (None, _) if largest == i64::MIN => i64::MIN,
            (None, Some(until)) => {
                let (since, base) = *self.idle.get_or_insert((until, largest));
                let moved = base.max(largest).saturating_add(until - since);
                self.floor = self.floor.max(moved);
                moved
            }
        };
        self.reported = self.reported.max(Watermark(watermark));
        self.reported
    }

    /// Splits that are too far ahead of the slowest one that is still behind; `None` when there is no bound.
    fn too_far_ahead(&self, splits: &[SplitState]) -> Option<Vec<bool>> {
        let drift = self.max_drift_ms?;
        let behind = splits.iter().zip(&self.watermarks).filter(|(split, _)| split.status == Status::Reading);
        let slowest = behind.map(|(_, watermark)| *watermark).min().unwrap_or(i64::MIN);
        let is_ahead = |watermark: &i64| {
            // A split that has read nothing yet must read to be known.
            let ahead = slowest != i64::MIN && watermark.saturating_sub(slowest) > drift;
            let waits_for_first = slowest == i64::MIN && *watermark != i64::MIN;
            ahead || waits_for_first
        };
        Some(self.watermarks.iter().map(is_ahead).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that are caught up say now that there is nothing.
    fn heard(feed: &mut FeedSplits, now_ms: i64) {
        let caught_up = feed.list.iter_mut().filter(|split| split.status == Status::CaughtUp);
        caught_up.for_each(|split| split.idleness.nothing(now_ms));
    }

    fn table(splits: &[(Status, i64, i64)]) -> (TableTime, FeedSplits) {
        let mut time = TableTime::new(true, Some(30_000), None);
        let mut feed = FeedSplits::default();
        for (index, (status, watermark, data_ms)) in splits.iter().enumerate() {
            let (status, idleness) = (*status, Idleness::new(*data_ms));
            let id = SplitId(format!("s{index}").into());
            feed.by_id.insert(id.clone(), index);
            time.watermarks.push(*watermark);
            feed.list.push(SplitState {
                id,
                status,
                position: None,
                start: StartPosition::TrimHorizon,
                idleness,
                brake: Arc::default(),
                behind_ms: None,
                really_finished: false,
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
        };
        let splits = [("s0", "1"), ("child", "26"), ("gone", "3")].map(|(id, after)| (id.to_owned(), split(after)));
        let saved = SavedTable { splits: splits.into(), floor: 0, source: None };
        let kept = |feed: &FeedSplits| feed.not_yet_read(&saved, 1).map(|(id, _)| id).collect::<Vec<_>>();
        // While epochs are repeated the source has not been asked.
        assert_eq!(kept(&feed), ["child", "gone"]);
        feed.listed(&named(&["s0", "child"]), &[Some(saved.clone())]);
        assert_eq!(kept(&feed), ["child"]);
        assert_eq!(feed.not_yet_read(&saved, 1).next(), Some(("child".to_owned(), split("26"))));
    }

    fn named(ids: &[&str]) -> Vec<Split> {
        ids.iter().map(|id| Split { id: SplitId((*id).into()), bytes: None, parents: Vec::new() }).collect()
    }

    #[test]
    fn a_split_is_gone_when_several_listings_that_name_others_lack_it() {
        let (_, mut feed) = table(&[(Status::Finished, 0, 0), (Status::Finished, 0, 0)]);
        let (one, other) = (named(&["s0"]), named(&["s0", "s1"]));
        let mut gone_after = |listings: &[&[Split]]| {
            listings.iter().for_each(|listing| feed.listed(listing, &[]));
            [0, 1].map(|split| feed.is_gone(&feed.list[split].id, MISSED_LISTINGS))
        };
        assert_eq!(gone_after(&[&[], &[], &[], &[]]), [false, false], "nothing says nothing");
        assert_eq!(gone_after(&[&one, &one, &[]]), [false, false]);
        assert_eq!(gone_after(&[&other, &one, &one]), [false, false], "not in a row");
        assert_eq!(gone_after(&[&[], &one]), [false, true]);
        assert_eq!(gone_after(&[&[]]), [false, true]);
        assert_eq!(gone_after(&[&other]), [false, false], "it is back");
    }

    fn advanced(splits: &[(Status, i64, i64)], now_ms: i64) -> i64 {
        let (mut time, mut feed) = table(splits);
        heard(&mut feed, now_ms);
        time.advance(&feed.list, now_ms).0
    }

    #[test]
    fn the_slowest_active_split_holds_time_back() {
        use Status::{CaughtUp, Finished, Reading};
        assert_eq!(advanced(&[(Reading, 10, 0), (Reading, 7, 0)], 0), 7);
        assert_eq!(advanced(&[(Reading, 10, 0), (Finished, 7, 0)], 0), 10);
        // Caught up for less than the timeout: still active. Behind: never idle.
        assert_eq!(advanced(&[(Reading, 10, 0), (CaughtUp, 7, 0)], 29_999), 7);
        assert_eq!(advanced(&[(Reading, 10, 0), (CaughtUp, 7, 0)], 30_000), 10);
        assert_eq!(advanced(&[(Reading, 10, 0), (Reading, 7, 0)], 90_000), 7);
        assert_eq!(advanced(&[(CaughtUp, i64::MIN, 0), (Reading, 7, 0)], 0), i64::MIN);
    }

    #[test]
    fn what_waits_for_its_turn_holds_time_back_but_no_reader() {
        use Status::{Finished, Reading, Waiting};
        assert_eq!(advanced(&[(Finished, 10, 0), (Waiting, i64::MIN, 0), (Reading, 7, 0)], 90_000), i64::MIN);
        assert_eq!(advanced(&[(Finished, 10, 0), (Waiting, 5, 0)], 90_000), 5);
        // The one that waits cannot be waited for: it is opened when one of these has ended.
        let (mut time, feed) = table(&[(Reading, 100, 0), (Reading, 0, 0), (Waiting, i64::MIN, 0)]);
        time.max_drift_ms = Some(10);
        feed.apply_brakes(&[time]);
        assert_eq!(feed.list.iter().map(|split| split.brake.is_held()).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn what_an_idle_split_brings_for_windows_that_have_fired_is_late() {
        use Status::{CaughtUp, Reading};
        let (mut time, mut feed) = table(&[(Reading, 10, 0), (CaughtUp, 7, 0)]);
        heard(&mut feed, 29_999);
        assert_eq!((time.advance(&feed.list, 29_999).0, time.floor), (7, i64::MIN));
        heard(&mut feed, 30_000);
        assert_eq!((time.advance(&feed.list, 30_000).0, time.floor), (10, 10));
        feed.list[1].idleness = Idleness::new(31_000);
        assert_eq!((time.advance(&feed.list, 31_000).0, time.floor), (10, 10));
    }

    #[test]
    fn a_split_that_a_later_run_goes_on_with_holds_time_back() {
        use Status::{Finished, Paused};
        let (mut time, feed) = table(&[(Paused, 10, 0), (Paused, 7, 0), (Finished, 5, 0)]);
        assert_eq!(time.advance(&feed.list, 90_000).0, 7);
        assert!(feed.all_finished());
    }

    #[test]
    fn a_quiet_stream_moves_with_the_clock() {
        let (mut time, mut feed) = table(&[(Status::CaughtUp, 1_000, 0), (Status::CaughtUp, 5_000, 0)]);
        let at = |time: &mut TableTime, feed: &mut FeedSplits, now_ms| {
            heard(feed, now_ms);
            time.advance(&feed.list, now_ms).0
        };
        assert_eq!(at(&mut time, &mut feed, 10_000), 1_000);
        assert_eq!(at(&mut time, &mut feed, 30_000), 5_000);
        assert_eq!(at(&mut time, &mut feed, 42_000), 17_000);
        assert_eq!(time.floor, 17_000);
        // Data for one split: time does not go back.
        feed.list[0].idleness = Idleness::new(43_000);
        time.watermarks[0] = 6_000;
        assert_eq!(time.advance(&feed.list, 43_000).0, 17_000);
    }

    /// An outage: the program goes on cutting epochs, and cannot ask. What comes afterwards is not late.
    #[test]
    fn time_does_not_go_on_while_nobody_can_be_asked() {
        let (mut time, mut feed) = table(&[(Status::CaughtUp, 1_000, 0), (Status::CaughtUp, 5_000, 0)]);
        heard(&mut feed, 2_000);
        assert_eq!((time.advance(&feed.list, 600_000).0, time.floor), (1_000, i64::MIN));
        // It went on as long as something was heard of both.
        heard(&mut feed, 30_000);
        assert_eq!(time.advance(&feed.list, 30_000).0, 5_000);
        heard(&mut feed, 35_000);
        assert_eq!(time.advance(&feed.list, 35_000).0, 10_000);
        feed.list[1].idleness.nothing(600_000);
        assert_eq!((time.advance(&feed.list, 600_000).0, time.floor), (10_000, 10_000));
        // And goes on from there.
        heard(&mut feed, 600_000);
        assert_eq!(time.advance(&feed.list, 600_000).0, 575_000);
    }

    /// One is read, and the other one cannot be: time goes on as far as it had come when the other one was last heard.
    #[test]
    fn time_goes_on_without_an_idle_split_as_far_as_that_is_known() {
        let (mut time, mut feed) = table(&[(Status::Reading, 6_000, 0), (Status::CaughtUp, 5_000, 0)]);
        let at = |time: &mut TableTime, feed: &FeedSplits, now_ms, own: i64| {
            time.watermarks[0] = own;
            time.advance(&feed.list, now_ms).0
        };
        heard(&mut feed, 29_000);
        assert_eq!(at(&mut time, &feed, 29_500, 29_000), 5_000);
        heard(&mut feed, 30_200);
        // By then, the other one was not known to be idle.
        assert_eq!((at(&mut time, &feed, 30_500, 30_000), time.floor), (5_000, i64::MIN));
        heard(&mut feed, 31_200);
        assert_eq!((at(&mut time, &feed, 31_500, 31_000), time.floor), (30_000, 30_000));
        // Throttled, or cut off, for a minute.
        assert_eq!((at(&mut time, &feed, 91_500, 91_000), time.floor), (30_000, 30_000));
        // What it brings then is not late.
        time.watermarks[1] = 32_000;
        feed.list[1].idleness.data(92_000);
        assert_eq!((at(&mut time, &feed, 92_500, 92_000), time.floor), (32_000, 30_000));
    }

    #[test]
    fn tables_of_one_stream_cannot_hold_all_its_splits() {
        use Status::Reading;
        let (mut by_one, mut feed) = table(&[(Reading, 100, 0), (Reading, 0, 0)]);
        let (mut by_other, _) = table(&[(Reading, 0, 0), (Reading, 100, 0)]);
        (by_one.max_drift_ms, by_other.max_drift_ms) = (Some(10), Some(10));
        let held = |times: &[TableTime]| {
            feed.apply_brakes(times);
            feed.list.iter().map(|split| split.brake.is_held()).collect::<Vec<_>>()
        };
        let both = [by_one, by_other];
        assert_eq!(held(&both[..1]), [true, false]);
        assert_eq!(held(&both[1..]), [false, true]);
        assert_eq!(held(&both), [false, false]);
        feed.replaying = true;
        feed.apply_brakes(&both[..1]);
        assert!(!feed.list[0].brake.is_held(), "one that looks for its end in a replay is not held");
    }
}
