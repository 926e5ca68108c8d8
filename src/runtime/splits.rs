//! Event time of a source table: the least of its active splits.
//!
//! A split is *active* until it has ended or is idle. It is idle when it is caught up and has had no
//! data for the idle timeout; one that is behind is never idle, however long a read takes. When all are
//! idle, time goes on at the speed of the clock, so that the last window fires on a quiet stream
//! ("Decisions", 8).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::reader::Brake;
use crate::contracts::{Position, SplitId, Watermark};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
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
    pub(crate) watermark: i64,
    pub(crate) position: Option<Position>,
    /// When data last came, by the clock.
    pub(crate) data_ms: i64,
    pub(crate) brake: Arc<Brake>,
    /// How far behind the newest record it was when it was last read, where the source says so.
    pub(crate) behind_ms: Option<u64>,
    /// The source says that it has ended, not only the run.
    pub(crate) really_finished: bool,
}

/// All splits of a table.
#[derive(Debug)]
pub(crate) struct TableSplits {
    pub(crate) splits: Vec<SplitState>,
    pub(crate) by_id: BTreeMap<SplitId, usize>,
    /// What the source named when it was last asked.
    pub(crate) listed: BTreeSet<SplitId>,
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
}

impl TableSplits {
    pub(crate) fn new(has_watermark: bool, idle_timeout_ms: Option<i64>, max_drift_ms: Option<i64>) -> Self {
        Self {
            splits: Vec::new(),
            by_id: BTreeMap::new(),
            listed: BTreeSet::new(),
            has_watermark,
            idle_timeout_ms,
            max_drift_ms,
            reported: Watermark::MIN,
            floor: i64::MIN,
            idle: None,
        }
    }

    pub(crate) fn all_finished(&self) -> bool {
        self.splits.iter().all(|s| matches!(s.status, Status::Finished | Status::Paused))
    }

    pub(crate) fn all_caught_up(&self) -> bool {
        self.splits.iter().all(|s| s.status != Status::Reading)
    }

    /// Moves event time on and returns it.
    pub(crate) fn advance(&mut self, now_ms: i64) -> Watermark {
        if !self.has_watermark {
            return self.reported;
        }
        let is_idle = |split: &SplitState| {
            split.status == Status::CaughtUp
                && self.idle_timeout_ms.is_some_and(|timeout| now_ms - split.data_ms >= timeout)
        };
        let open: Vec<&SplitState> = self.splits.iter().filter(|s| s.status != Status::Finished).collect();
        let active = open.iter().filter(|s| !is_idle(s)).map(|s| s.watermark).min();
        let largest = self.splits.iter().map(|s| s.watermark).max().unwrap_or(i64::MIN);
        let watermark = match active {
            Some(watermark) => {
                self.idle = None;
                watermark
            }
            None if open.is_empty() => largest,
            None if largest == i64::MIN => i64::MIN,
            None => {
                let (since, base) = *self.idle.get_or_insert((now_ms, largest));
                let moved = base.max(largest).saturating_add(now_ms - since);
                self.floor = self.floor.max(moved);
                moved
            }
        };
        self.reported = self.reported.max(Watermark(watermark));
        self.reported
    }

    /// Holds back splits that are too far ahead of the slowest one that is still behind.
    pub(crate) fn apply_brakes(&self) {
        let Some(drift) = self.max_drift_ms else { return };
        let behind = self.splits.iter().filter(|s| s.status == Status::Reading);
        let slowest = behind.map(|s| s.watermark).min().unwrap_or(i64::MIN);
        for split in &self.splits {
            // A split that has read nothing yet must read to be known.
            let ahead = slowest != i64::MIN && split.watermark.saturating_sub(slowest) > drift;
            let waits_for_first = slowest == i64::MIN && split.watermark != i64::MIN;
            split.brake.hold(split.status == Status::Reading && (ahead || waits_for_first));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(splits: &[(Status, i64, i64)]) -> TableSplits {
        let mut table = TableSplits::new(true, Some(30_000), None);
        for (index, (status, watermark, data_ms)) in splits.iter().enumerate() {
            let (status, watermark, data_ms) = (*status, *watermark, *data_ms);
            let id = SplitId(format!("s{index}").into());
            table.by_id.insert(id.clone(), index);
            table.splits.push(SplitState {
                id,
                status,
                watermark,
                position: None,
                data_ms,
                brake: Arc::default(),
                behind_ms: None,
                really_finished: false,
            });
        }
        table
    }

    #[test]
    fn the_slowest_active_split_holds_time_back() {
        use Status::{CaughtUp, Finished, Reading};
        assert_eq!(table(&[(Reading, 10, 0), (Reading, 7, 0)]).advance(0).0, 7);
        assert_eq!(table(&[(Reading, 10, 0), (Finished, 7, 0)]).advance(0).0, 10);
        // Caught up for less than the timeout: still active. Behind: never idle.
        assert_eq!(table(&[(Reading, 10, 0), (CaughtUp, 7, 0)]).advance(29_999).0, 7);
        assert_eq!(table(&[(Reading, 10, 0), (CaughtUp, 7, 0)]).advance(30_000).0, 10);
        assert_eq!(table(&[(Reading, 10, 0), (Reading, 7, 0)]).advance(90_000).0, 7);
        assert_eq!(table(&[(CaughtUp, i64::MIN, 0), (Reading, 7, 0)]).advance(0), Watermark::MIN);
    }

    #[test]
    fn a_split_that_a_later_run_goes_on_with_holds_time_back() {
        use Status::{Finished, Paused};
        let mut stopped = table(&[(Paused, 10, 0), (Paused, 7, 0), (Finished, 5, 0)]);
        assert_eq!(stopped.advance(90_000).0, 7);
        assert!(stopped.all_finished());
    }

    #[test]
    fn a_quiet_stream_moves_with_the_clock() {
        let mut table = table(&[(Status::CaughtUp, 1_000, 0), (Status::CaughtUp, 5_000, 0)]);
        assert_eq!(table.advance(10_000).0, 1_000);
        assert_eq!(table.advance(30_000).0, 5_000);
        assert_eq!(table.advance(42_000).0, 17_000);
        assert_eq!(table.floor, 17_000);
        // Data for one split: time does not go back.
        table.splits[0].data_ms = 43_000;
        table.splits[0].watermark = 6_000;
        assert_eq!(table.advance(43_000).0, 17_000);
    }
}
