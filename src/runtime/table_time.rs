//! Event time of a table: the least of the active splits of its source.
//!
//! A split is *active* until it has ended or is idle. It is idle when it is caught up and has had no
//! data for the idle timeout; one that is behind is never idle, however long a read takes, and without an idle one time goes on only as far as
//! it had come when that one was last heard (`idleness.rs`). When all are idle, time goes on at the speed of the clock, so that the last
//! window fires on a quiet stream ("Decisions", 8).

use super::idleness::Past;
use super::splits::{SplitState, Status};
use crate::contracts::Watermark;

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
    /// Windows up to here have fired because splits were idle, or in an earlier run: rows for them are late whatever their own split
    /// says. (What the end of a drained run has closed is the floor of its query, `inputs.rs`.)
    pub(crate) floor: i64,
    /// How far time had come when this run began to go on by itself.
    resumed: i64,
    /// Since when all splits have been idle, and the watermark then.
    idle: Option<(i64, i64)>,
    /// While all splits are idle: up to when that is known.
    pub(super) idle_until: Option<i64>,
    past: Past,
    /// What the queries have been told before.
    told: Past,
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
            resumed: i64::MIN,
            idle: None,
            idle_until: None,
            past: Past::default(),
            told: Past::default(),
        }
    }

    /// An earlier run, or a repeated epoch, has come so far: where all splits are idle, time goes on from there.
    pub(crate) fn resume(&mut self, floor: i64) {
        self.floor = floor;
        self.resumed = floor.max(self.reported.0);
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
        // By then not all were: one that is idle now, or has ended, has brought something since.
        let some_active = known.is_some_and(|until| splits.iter().any(|split| split.idleness.had_data_after(until)));
        let largest = self.watermarks.iter().copied().max().unwrap_or(i64::MIN);
        let is_active = active.is_some() || some_active;
        self.idle_until = known.filter(|_| !is_active);
        let watermark = match (active, known) {
            (active, known) if is_active => {
                self.idle = None;
                if let Some(watermark) = active {
                    self.past.note(now_ms, watermark);
                }
                // One that was idle then and is active by now has brought something, and holds time back.
                let past = self.past.at(known.unwrap_or(now_ms));
                let watermark = active.map_or(past, |active| past.min(active));
                // Windows fire without an idle split: what it still brings for them is late.
                if open.iter().any(|(idle, own)| idle.is_some() && *own < watermark) {
                    self.floor = self.floor.max(watermark);
                }
                watermark
            }
            (_, None) => largest,
            _ if largest.max(self.resumed) == i64::MIN => i64::MIN,
            (_, Some(until)) => {
                // Data may have come and gone since the last epoch: time goes on from there.
                let (since, base) =
                    self.idle.filter(|(_, base)| largest <= *base).unwrap_or((until, largest.max(self.resumed)));
                self.idle = Some((since, base));
                let moved = base.saturating_add(until - since);
                self.floor = self.floor.max(moved);
                moved
            }
        };
        self.reported = self.reported.max(Watermark(watermark));
        self.told.note(now_ms, self.reported.0);
        self.reported
    }

    /// What the queries knew at `ms` of the steady clock.
    pub(super) fn told_at(&mut self, ms: i64) -> Watermark {
        Watermark(self.told.at(ms))
    }

    /// Whether a split is too far ahead of the slowest of those that are `reading`; `None` when there is no bound.
    pub(super) fn too_far_ahead(&self, reading: impl Iterator<Item = usize>) -> Option<impl Fn(usize) -> bool + '_> {
        let drift = self.max_drift_ms?;
        let slowest = reading.map(|number| self.watermarks[number]).min().unwrap_or(i64::MIN);
        Some(move |number: usize| {
            let watermark = self.watermarks[number];
            // A split that has read nothing yet must read to be known.
            let ahead = slowest != i64::MIN && watermark.saturating_sub(slowest) > drift;
            let waits_for_first = slowest == i64::MIN && watermark != i64::MIN;
            ahead || waits_for_first
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::idleness::Idleness;
    use super::super::splits::FeedSplits;
    use super::super::splits::tests::table;
    use super::*;

    /// All that are caught up say now that there is nothing.
    fn heard(feed: &mut FeedSplits, now_ms: i64) {
        let caught_up = feed.list.iter_mut().filter(|split| split.status == Status::CaughtUp);
        caught_up.for_each(|split| split.idleness.nothing(now_ms));
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

    /// Seed 658 of the simulation, once: both are idle by now, but when the one was last heard, the other one was not, and what that has
    /// brought since was taken for the time then.
    #[test]
    fn time_goes_on_up_to_where_it_was_when_the_first_idle_split_was_last_heard() {
        let (mut time, mut feed) = table(&[(Status::CaughtUp, 28_000, 30_000), (Status::CaughtUp, 5_000, 0)]);
        heard(&mut feed, 30_500);
        assert_eq!((time.advance(&feed.list, 30_500).0, time.floor), (28_000, 28_000));
        // Of the second one nothing is heard any more. The first one has a record, and is idle again.
        feed.list[0].idleness.data(60_000);
        time.watermarks[0] = 58_000;
        feed.list[0].idleness.nothing(95_000);
        assert_eq!((time.advance(&feed.list, 95_000).0, time.floor), (28_000, 28_000));
        feed.list[1].idleness.nothing(95_500);
        assert_eq!((time.advance(&feed.list, 96_000).0, time.floor), (58_000, 58_000));
        heard(&mut feed, 100_000);
        assert_eq!((time.advance(&feed.list, 100_000).0, time.floor), (63_000, 63_000));
    }

    /// The same, seed 2716: the other one has ended meanwhile.
    #[test]
    fn what_a_split_has_brought_that_has_ended_since_does_not_count_either() {
        let (mut time, mut feed) = table(&[(Status::CaughtUp, 28_000, 30_000), (Status::CaughtUp, 5_000, 0)]);
        heard(&mut feed, 30_500);
        assert_eq!(time.advance(&feed.list, 30_500).0, 28_000);
        feed.list[0].idleness.data(60_000);
        time.watermarks[0] = 58_000;
        feed.list[0].status = Status::Finished;
        assert_eq!((time.advance(&feed.list, 61_000).0, time.floor), (28_000, 28_000));
        feed.list[1].idleness.nothing(61_500);
        assert_eq!((time.advance(&feed.list, 62_000).0, time.floor), (58_000, 58_000));
    }

    /// An idle split that has been out of reach is heard again, and has records: it holds time back, though others are idle.
    #[test]
    fn one_that_was_idle_and_is_active_again_is_not_overtaken() {
        use Status::{CaughtUp, Reading};
        let (mut time, mut feed) = table(&[(Reading, 5_000, 0), (CaughtUp, 5_000, 0), (CaughtUp, 5_000, 0)]);
        for second in 30..=91 {
            let now_ms = second * 1_000;
            time.watermarks[0] = now_ms;
            feed.list[0].idleness.data(now_ms);
            // The third one is always heard, the second one only up to here.
            feed.list[2].idleness.nothing(now_ms + 300);
            if second <= 31 {
                feed.list[1].idleness.nothing(now_ms + 300);
            }
            time.advance(&feed.list, now_ms + 500);
        }
        assert_eq!((time.reported.0, time.floor), (30_000, 30_000));
        feed.list[2].idleness.nothing(92_300);
        // Its records have come, and wait.
        feed.list[1].idleness.pending().add();
        assert_eq!((time.advance(&feed.list, 92_500).0, time.floor), (30_000, 30_000));
        feed.list[1].idleness.data(92_600);
        feed.list[1].status = Reading;
        time.watermarks[1] = 32_000;
        assert_eq!((time.advance(&feed.list, 92_700).0, time.floor), (32_000, 32_000));
    }

    /// Also when it is handed over more often than its windows are long: their last one must fire.
    #[test]
    fn a_quiet_stream_goes_on_from_where_the_run_before_has_come() {
        let (mut time, mut feed) = table(&[(Status::CaughtUp, 5_000, 0)]);
        heard(&mut feed, 40_000);
        time.advance(&feed.list, 40_000);
        heard(&mut feed, 3_640_000);
        assert_eq!((time.advance(&feed.list, 3_640_000).0, time.floor), (3_605_000, 3_605_000));
        let (mut next, mut feed) = table(&[(Status::CaughtUp, 5_000, 0)]);
        next.resume(time.floor);
        heard(&mut feed, 30_000);
        assert_eq!(next.advance(&feed.list, 30_000).0, 3_605_000);
        heard(&mut feed, 70_000);
        assert_eq!((next.advance(&feed.list, 70_000).0, next.floor), (3_645_000, 3_645_000));
    }

    /// An epoch may take longer than the idle timeout: data has come, and all are idle again.
    #[test]
    fn a_quiet_stream_begins_anew_behind_what_has_come_within_an_epoch() {
        let (mut time, mut feed) = table(&[(Status::CaughtUp, 5_000, 0)]);
        heard(&mut feed, 40_000);
        assert_eq!(time.advance(&feed.list, 40_000).0, 5_000);
        heard(&mut feed, 50_000);
        assert_eq!(time.advance(&feed.list, 50_000).0, 15_000);
        feed.list[0].idleness.data(60_000);
        time.watermarks[0] = 58_000;
        feed.list[0].idleness.nothing(91_000);
        assert_eq!(time.advance(&feed.list, 91_000).0, 58_000);
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
