//! For how long a running aggregate keeps a key. Rows are late after the time-to-live, and keys go later than that.
//!
//! ```text
//!                watermark - kept              watermark - time-to-live              watermark
//!   ────────────────────┼─────────────────────────────────┼──────────────────────────────┼──►  event time
//!    keys whose last    │  rows are late, keys are kept   │  rows are taken
//!    row is here go     │◄─ a day (the TTL, if shorter) ─►│
//! ```
//!
//! So a row that is taken lies more than a day behind the last row of every key that is forgotten: it is of another day, and a key that
//! holds the day never begins anew. Were keys to go where rows become late, one with few rows would go in the middle of its day, while rows for
//! the rest of that day were still taken, and counted from zero.

/// The longest day of a time zone, in milliseconds: that on which clocks go back by an hour.
const LONGEST_DAY_MS: i64 = 25 * 3_600_000;

/// When rows are late, and a key may be forgotten.
#[derive(Debug, Clone, Copy)]
pub struct TimeToLive {
    /// How far behind the watermark a row may be, in milliseconds.
    pub ttl_ms: i64,
    /// Column of the state rows that holds the time of the key's last row.
    pub last_seen: usize,
}

impl TimeToLive {
    /// Event time that a key outlives its last row by, in milliseconds: a day more than the time-to-live, or, where that is shorter than a day,
    /// twice that.
    pub fn kept_ms(&self) -> i64 {
        self.ttl_ms.saturating_add(self.ttl_ms.min(LONGEST_DAY_MS))
    }
}
