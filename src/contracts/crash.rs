//! Places where a test lets the program die.
//!
//! What a crash leaves depends on where it falls. Tests name the place in `TIDEMILL_CRASH_AT` (`manifest.before:2`: when it is
//! reached for the second time) and start the program again. Builds for production do not look at it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The places, each before or after something becomes durable or visible.
pub const CRASH_POINTS: [&str; 13] = [
    "cut.before",
    "cut.after",
    "sink.flushed",
    "committable.logged",
    "committed",
    "state_file.before",
    "state_file.after",
    "manifest.before",
    "manifest.after",
    "sweep.midst",
    "sweep.after",
    "forget.before",
    "forget.after",
];

/// Dies here, at once and without a word, if a test has asked for it.
pub fn crash_point(point: &'static str) {
    if !cfg!(debug_assertions) {
        return;
    }
    static ASKED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static REACHED: AtomicU64 = AtomicU64::new(0);
    debug_assert!(CRASH_POINTS.contains(&point), "'{point}' is not in the list that tests go through");
    let asked = ASKED.get_or_init(|| {
        let text = std::env::var("TIDEMILL_CRASH_AT").ok()?;
        let (point, time) = text.split_once(':')?;
        Some((point.to_owned(), time.parse().ok()?))
    });
    if let Some((at, time)) = asked
        && at == point
        && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == *time
    {
        std::process::abort();
    }
}
