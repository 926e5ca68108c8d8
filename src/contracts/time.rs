//! Event time and the numbering of epochs.

use std::fmt;

/// The largest event time up to which a stream is complete, in milliseconds since 1970 (UTC).
///
/// A window `[s, e)` fires when `watermark >= e - 1` (Flink's rule).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watermark(pub i64);

impl Watermark {
    /// Before any event.
    pub const MIN: Self = Self(i64::MIN);
    /// After the last event: every window may close.
    pub const MAX: Self = Self(i64::MAX);

    /// Whether a window that ends at `end_exclusive_ms` is complete.
    pub fn closes(self, end_exclusive_ms: i64) -> bool {
        self.0 >= end_exclusive_ms.saturating_sub(1)
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MIN => f.write_str("none"),
            Self::MAX => f.write_str("end"),
            Self(ms) => match chrono::DateTime::from_timestamp_millis(ms) {
                Some(t) => write!(f, "{}", t.format("%Y-%m-%dT%H:%M:%S%.3fZ")),
                None => write!(f, "{ms} ms"),
            },
        }
    }
}

/// Number of an epoch in a job's life, from 1; it never goes back, also across restarts. 0 is before the first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochNumber(pub u64);

impl EpochNumber {
    /// The number that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for EpochNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
