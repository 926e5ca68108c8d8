//! Places where a test lets the program die.
//!
//! What a crash leaves depends on where it falls. Tests name the place in `TIDEMILL_CRASH_AT` (`manifest.before:2`: when it is
//! reached for the second time) and start the program again. Builds for production do not look at it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The places, each before or after something becomes durable or visible.
pub const CRASH_POINTS: [&str; 16] = [
    "cut.before",
    "cut.after",
    "sink.flushed",
    "staged",
    "committable.logged",
    "committed",
    "settle.before",
    "errors.flushed",
    "state_file.before",
    "state_file.after",
    "manifest.before",
    "manifest.after",
    "sweep.midst",
    "sweep.after",
    "forget.before",
    "forget.after",
];

/// More of them, on the way of a run that begins anew (`--fresh`) only.
pub const FRESH_CRASH_POINTS: [&str; 3] = ["fresh.cleared", "fresh.midst", "fresh.aside"];

/// Dies here, at once and without a word, if a test has asked for it.
pub fn crash_point(point: &'static str) {
    if !cfg!(debug_assertions) {
        return;
    }
    static ASKED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static REACHED: AtomicU64 = AtomicU64::new(0);
    let known = CRASH_POINTS.contains(&point) || FRESH_CRASH_POINTS.contains(&point);
    debug_assert!(known, "'{point}' is not in the lists that tests go through");
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
