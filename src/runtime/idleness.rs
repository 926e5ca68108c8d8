//! What is known of a split that brings nothing: since when, up to when, and whether something is on its way after all.
//!
//! A split is idle *up to* the moment when its source last said that there was nothing more. What has come since is not known: the reader
//! of one that is throttled or cut off says nothing for long, and records that wait for the driver have been read and not been seen
//! ("Decisions", 8). So event time goes on without an idle split as far as it had come by that moment, and no further ([`Past`]). All times
//! are of the steady clock, in milliseconds: the wall's may jump.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::contracts::Clock;

/// Moments that [`Past`] keeps. With an epoch a second that is a quarter of an hour; then every second one goes.
const MOMENTS: usize = 1_024;

/// A source that says nothing for so long does not answer: Kinesis is asked each second at least, and its fan-out speaks each five.
const SILENT_MS: u64 = 15_000;

/// The time that never jumps, in milliseconds.
pub(crate) fn steady_ms(clock: &Arc<dyn Clock>) -> i64 {
    i64::try_from(clock.elapsed().as_millis()).unwrap_or(i64::MAX)
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Idleness {
    /// When data last came, or the split was opened.
    data_ms: i64,
    /// When the source was last heard to have nothing more.
    quiet_ms: Option<i64>,
    pending: Pending,
}

/// Chunks and pieces that a reader holds, or has sent and the driver has not taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending(Arc<AtomicU32>);

impl Pending {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn done(&self) {
        // One of a reader that has been closed was not counted here.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |pending| pending.checked_sub(1));
    }
}

impl Idleness {
    /// Of a split that is opened now.
    pub(crate) fn new(now_ms: i64) -> Self {
        Self { data_ms: now_ms, quiet_ms: None, pending: Pending::default() }
    }

    /// For its reader.
    pub(crate) fn pending(&self) -> Pending {
        self.pending.clone()
    }

    /// The driver has taken records.
    pub(crate) fn data(&mut self, now_ms: i64) {
        (self.data_ms, self.quiet_ms) = (now_ms, None);
        self.pending.done();
    }

    /// At that time there was nothing more.
    pub(crate) fn nothing(&mut self, at_ms: i64) {
        self.quiet_ms = Some(at_ms);
    }

    /// For how long nothing has been heard of it, when that is so long that its source does not answer.
    pub(crate) fn silent_ms(&self, now_ms: i64) -> u64 {
        let heard = self.quiet_ms.map_or(self.data_ms, |quiet| quiet.max(self.data_ms));
        u64::try_from(now_ms - heard).ok().filter(|silent| *silent >= SILENT_MS).unwrap_or(0)
    }

    /// Whether records of it have been taken after that time.
    pub(crate) fn had_data_after(&self, ms: i64) -> bool {
        self.data_ms > ms
    }

    /// Up to when it is known to have been idle, if it has been for `timeout_ms`.
    pub(crate) fn idle_until(&self, timeout_ms: i64) -> Option<i64> {
        let quiet = self.quiet_ms.filter(|quiet| quiet - self.data_ms >= timeout_ms)?;
        (self.pending.0.load(Ordering::Acquire) == 0).then_some(quiet)
    }
}

/// The watermark of the active splits as it was at earlier moments.
#[derive(Debug, Default)]
pub(crate) struct Past(VecDeque<(i64, i64)>);

impl Past {
    /// At `now_ms`, not before any earlier moment, it is `watermark`.
    pub(crate) fn note(&mut self, now_ms: i64, watermark: i64) {
        if self.0.len() >= MOMENTS {
            let mut number = 0;
            self.0.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
        self.0.push_back((now_ms, watermark));
    }

    /// What it was at `ms`. Earlier moments are not asked for any more, as long as time goes on.
    pub(crate) fn at(&mut self, ms: i64) -> i64 {
        while self.0.get(1).is_some_and(|(next, _)| *next <= ms) {
            self.0.pop_front();
        }
        self.0.front().filter(|(at, _)| *at <= ms).map_or(i64::MIN, |(_, watermark)| *watermark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_idle_up_to_when_it_said_so() {
        let mut split = Idleness::new(0);
        assert_eq!(split.idle_until(30_000), None, "nobody has said anything");
        split.nothing(1_000);
        assert_eq!(split.idle_until(30_000), None, "it was not idle then; what it is now is not known");
        split.nothing(30_000);
        assert_eq!(split.idle_until(30_000), Some(30_000));
        split.nothing(90_000);
        assert_eq!(split.idle_until(30_000), Some(90_000));
        split.pending().add();
        assert_eq!(split.idle_until(30_000), None, "its records wait for the driver");
        split.data(91_000);
        split.nothing(100_000);
        assert_eq!(split.idle_until(30_000), None);
        split.nothing(121_000);
        assert_eq!(split.idle_until(30_000), Some(121_000));
    }

    #[test]
    fn a_source_that_does_not_answer_may_be_so_far_behind() {
        let mut split = Idleness::new(1_000);
        assert_eq!((split.silent_ms(15_999), split.silent_ms(16_000)), (0, 15_000));
        split.nothing(20_000);
        assert_eq!((split.silent_ms(30_000), split.silent_ms(80_000)), (0, 60_000));
        split.data(80_000);
        assert_eq!(split.silent_ms(81_000), 0);
    }

    #[test]
    fn the_past_is_known_as_exactly_as_there_is_room_and_never_too_late() {
        let mut past = Past::default();
        assert_eq!(past.at(5), i64::MIN);
        (0..10_000).for_each(|n| past.note(10 * n, n));
        assert!(past.0.len() <= MOMENTS);
        assert_eq!(past.at(-1), i64::MIN);
        let mut last = i64::MIN;
        for ms in (0..100_000).step_by(7) {
            let at = past.at(ms);
            assert!((last..=ms / 10).contains(&at), "{at} at {ms}");
            last = at;
        }
        assert_eq!(past.at(99_990), 9_999);
        past.note(100_000, 3);
        assert_eq!((past.at(99_999), past.at(200_000)), (9_999, 3));
    }
}
