//! What fails for a while, and is told of now and then.

use std::time::Duration;

/// Time between two tellings.
const TOLD_EACH: Duration = Duration::from_secs(30);

/// A failure that lasts. Times are of the steady clock.
#[derive(Debug, Clone, Copy)]
pub struct Outage {
    since: Duration,
    /// When it is told next, if it goes on.
    next: Duration,
}

impl Outage {
    /// It begins, and is told of when it has lasted for `first`.
    pub fn new(now: Duration, first: Duration) -> Self {
        Self { since: now, next: now + first }
    }

    /// For how long it has lasted.
    pub fn lasted(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }

    /// The same, when it is time to tell somebody.
    pub fn to_tell(&mut self, now: Duration) -> Option<Duration> {
        if now < self.next {
            return None;
        }
        self.next = now + TOLD_EACH;
        Some(self.lasted(now))
    }
}
