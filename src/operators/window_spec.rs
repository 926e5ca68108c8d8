//! Window arithmetic: which windows a time belongs to, and the panes that windows share.
//!
//! ```text
//!  HOP(slide 2, size 6)         panes of gcd(2, 6) = 2
//!  ├──────w1──────┤             p1 ├──┤
//!       ├──────w2──────┤        p2      ├──┤        w1 = p1 + p2 + p3
//!            ├──────w3──────┤   p3           ├──┤   w2 = p2 + p3 + p4
//! ```
//!
//! All times are milliseconds since 1970; windows are `[start, end)`; the offset shifts the grid and
//! may be negative (Flink's rule, table documentation, "Windowing TVF").

use crate::contracts::Watermark;

/// The three shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd)]
pub enum WindowKind {
    /// Each time is in one window of `size_ms`.
    Tumble {
        /// Length.
        size_ms: i64,
    },
    /// A window of `size_ms` begins each `slide_ms`.
    Hop {
        /// Distance of starts; divides the size.
        slide_ms: i64,
        /// Length.
        size_ms: i64,
    },
    /// Windows with a common start that grow by `step_ms` up to `max_ms`.
    Cumulate {
        /// Growth; divides the maximum.
        step_ms: i64,
        /// Longest length.
        max_ms: i64,
    },
}

/// A shape and where its grid lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd)]
pub struct WindowSpec {
    /// The shape.
    pub kind: WindowKind,
    /// Shift of the grid.
    pub offset_ms: i64,
}

impl WindowSpec {
    /// Whether no window ends within one of `other`, but where that one ends, too: then those of a row are open when that one closes.
    pub(crate) fn has_whole(&self, other: &Self) -> bool {
        let longest = match other.kind {
            WindowKind::Tumble { size_ms: ms } | WindowKind::Cumulate { max_ms: ms, .. } => ms,
            WindowKind::Hop { slide_ms, size_ms } if slide_ms == size_ms => size_ms,
            // They overlap, so each time is within one.
            WindowKind::Hop { .. } => return false,
        };
        // Windows end where panes do.
        self.pane_ms() % longest == 0 && (self.offset_ms - other.offset_ms) % longest == 0
    }

    /// Length of the pieces that windows share.
    pub fn pane_ms(&self) -> i64 {
        match self.kind {
            WindowKind::Tumble { size_ms } => size_ms,
            // Sizes are multiples of the slide (checked at planning), so the slide is the divisor.
            WindowKind::Hop { slide_ms, .. } => slide_ms,
            WindowKind::Cumulate { step_ms, .. } => step_ms,
        }
    }

    /// Start of the pane that `time` is in.
    pub fn pane_start(&self, time: i64) -> i64 {
        floor_to(time, self.pane_ms(), self.offset_ms)
    }

    /// Whether more than one window holds a time.
    pub fn shares_panes(&self) -> bool {
        !matches!(self.kind, WindowKind::Tumble { .. })
    }

    /// The windows that hold the pane which starts at `pane_start`, by growing end.
    pub fn windows_of_pane(&self, pane_start: i64) -> impl Iterator<Item = (i64, i64)> + use<> {
        let (first_start, first_end, step, count, moves) = match self.kind {
            WindowKind::Tumble { size_ms } => (pane_start, pane_start + size_ms, size_ms, 1, true),
            WindowKind::Hop { slide_ms, size_ms } => {
                let first = pane_start + slide_ms - size_ms;
                (first, first + size_ms, slide_ms, size_ms / slide_ms, true)
            }
            WindowKind::Cumulate { step_ms, max_ms } => {
                let start = floor_to(pane_start, max_ms, self.offset_ms);
                let first_end = pane_start + step_ms;
                (start, first_end, step_ms, (start + max_ms - first_end) / step_ms + 1, false)
            }
        };
        (0..count).map(move |i| (if moves { first_start + i * step } else { first_start }, first_end + i * step))
    }

    /// The first and the last end of those windows of a pane that `watermark` closes and `before` has not closed.
    pub(super) fn closing_ends(&self, pane_start: i64, before: Watermark, watermark: Watermark) -> Option<(i64, i64)> {
        let step = self.pane_ms();
        let (first, last) = (pane_start + step, self.last_end(pane_start));
        // How many of the ends a watermark closes that closes the first, but for the first.
        let more = |watermark: Watermark| (watermark.0.min(last - 1) + 1 - first) / step;
        let from = if before.closes(first) { first + (more(before) + 1) * step } else { first };
        let to = if watermark.closes(first) { first + more(watermark) * step } else { return None };
        (from <= to).then_some((from, to))
    }

    /// The window that has this end. Windows with a common start have different ends, and those with different starts, too.
    pub(super) fn window_of_end(&self, end: i64) -> (i64, i64) {
        let start = match self.kind {
            WindowKind::Tumble { size_ms } | WindowKind::Hop { size_ms, .. } => end - size_ms,
            WindowKind::Cumulate { max_ms, .. } => floor_to(end - 1, max_ms, self.offset_ms),
        };
        (start, end)
    }

    /// End of the first window of `time` that a watermark has not closed; `None` when all are closed.
    pub fn first_open_end(&self, time: i64, watermark: i64) -> Option<i64> {
        let open = self.closing_ends(self.pane_start(time), Watermark(watermark), Watermark::MAX);
        open.map(|(first, _)| first)
    }

    /// End of the last window that holds the pane.
    pub fn last_end(&self, pane_start: i64) -> i64 {
        match self.kind {
            WindowKind::Tumble { size_ms } => pane_start + size_ms,
            WindowKind::Hop { size_ms, .. } => pane_start + size_ms,
            WindowKind::Cumulate { max_ms, .. } => floor_to(pane_start, max_ms, self.offset_ms) + max_ms,
        }
    }
}

/// Largest grid point `offset + n * step` that is not after `time`.
fn floor_to(time: i64, step: i64, offset: i64) -> i64 {
    time - (time - offset).rem_euclid(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tumble_offsets_and_times_before_1970() {
        let spec = |offset_ms| WindowSpec { kind: WindowKind::Tumble { size_ms: 60_000 }, offset_ms };
        assert_eq!(spec(0).pane_start(61_000), 60_000);
        assert_eq!(spec(0).pane_start(-1), -60_000);
        assert_eq!(spec(10_000).pane_start(5_000), -50_000);
        assert_eq!(spec(-10_000).pane_start(55_000), 50_000);
    }

    #[test]
    fn cumulate_grows_to_its_maximum() {
        let spec = WindowSpec { kind: WindowKind::Cumulate { step_ms: 10, max_ms: 40 }, offset_ms: 0 };
        let windows: Vec<_> = spec.windows_of_pane(spec.pane_start(57)).collect();
        assert_eq!(windows, [(40, 60), (40, 70), (40, 80)]);
        assert_eq!(spec.last_end(50), 80);
    }

    proptest! {
        #[test]
        fn ends_that_close_are_computed(time in -1_000i64..1_000, slide in 1i64..50, times in 1i64..9, offset in -60i64..60, before in -1_500i64..1_500, more in 0i64..500) {
            for kind in [
                WindowKind::Hop { slide_ms: slide, size_ms: slide * times },
                WindowKind::Cumulate { step_ms: slide, max_ms: slide * times },
            ] {
                let spec = WindowSpec { kind, offset_ms: offset };
                let pane = spec.pane_start(time);
                for (before, watermark) in [(before, before + more), (i64::MIN, before), (before, i64::MAX), (i64::MIN, i64::MAX)] {
                    let (before, watermark) = (Watermark(before), Watermark(watermark));
                    let close = spec.windows_of_pane(pane).filter(|(_, end)| watermark.closes(*end) && !before.closes(*end));
                    let close: Vec<_> = close.collect();
                    let ends = close.first().map(|window| (window.1, close[close.len() - 1].1));
                    prop_assert_eq!(spec.closing_ends(pane, before, watermark), ends);
                    prop_assert!(close.iter().all(|window| spec.window_of_end(window.1) == *window));
                }
            }
        }

        #[test]
        fn windows_that_have_others_as_a_whole_end_with_or_after_them(
            time in -1_000i64..1_000, step in 1i64..9, more in 1i64..4, size in 1i64..13, times in 1i64..4, offset in -9i64..9, other_offset in -9i64..9
        ) {
            let shapes = |step: i64, times: i64| [
                WindowKind::Tumble { size_ms: step * times },
                WindowKind::Hop { slide_ms: step, size_ms: step * times },
                WindowKind::Cumulate { step_ms: step, max_ms: step * times },
            ];
            let windows = |spec: WindowSpec, time: i64| spec.windows_of_pane(spec.pane_start(time)).map(|window| window.1).collect::<Vec<_>>();
            for kind in shapes(size, times) {
                for other in shapes(step, more) {
                    let spec = WindowSpec { kind, offset_ms: offset };
                    let other = WindowSpec { kind: other, offset_ms: other_offset };
                    let ends_later = |time: i64| windows(spec, time)[0] >= *windows(other, time).last().expect("each time has windows");
                    // Together, both repeat after this.
                    let all = size * times * step * more;
                    prop_assert_eq!(spec.has_whole(&other), (time..time + all).all(ends_later), "{:?} {:?}", spec, other);
                }
            }
        }

        #[test]
        fn panes_and_windows_agree(time in -1_000_000i64..1_000_000, slide in 1i64..500, times in 1i64..9, offset in -600i64..600) {
            for kind in [
                WindowKind::Hop { slide_ms: slide, size_ms: slide * times },
                WindowKind::Cumulate { step_ms: slide, max_ms: slide * times },
                WindowKind::Tumble { size_ms: slide },
            ] {
                let spec = WindowSpec { kind, offset_ms: offset };
                let pane = spec.pane_start(time);
                prop_assert!(pane <= time && time < pane + spec.pane_ms());
                let windows: Vec<_> = spec.windows_of_pane(pane).collect();
                prop_assert!(!windows.is_empty());
                prop_assert!(windows.windows(2).all(|w| w[0].1 < w[1].1));
                prop_assert!(windows.iter().all(|(s, e)| *s <= time && time < *e));
                prop_assert_eq!(windows.last().map(|w| w.1), Some(spec.last_end(pane)));
                if let WindowKind::Hop { .. } = kind {
                    prop_assert_eq!(windows.len() as i64, times);
                }
                prop_assert_eq!(spec.first_open_end(time, i64::MIN), Some(windows[0].1));
                prop_assert_eq!(spec.first_open_end(time, windows[windows.len() - 1].1), None);
            }
        }
    }
}
