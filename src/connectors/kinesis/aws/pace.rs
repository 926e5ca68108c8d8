//! When a shard may be read again.
//!
//! Kinesis allows 5 GetRecords a second and shard, shared by all readers that poll: 1 s / 5 = 200 ms between two. And it gives
//! 2 MB a second and shard: an answer of 10 MB, the largest there is, is paid for with 5 s ("Quotas and limits" of the
//! Kinesis developer guide). A shard that is caught up and gives nothing is asked less and less often, down to once in
//! `idle`, because each empty answer costs one of those five too.

use std::time::Duration;

/// Between two reads of a shard: 1 s / 5 reads.
pub(super) const READ_INTERVAL: Duration = Duration::from_millis(200);
/// Bytes a second that a shard gives to all polling readers together. "MB" is 2^20 in AWS's wording; taken as 10^6 here,
/// which is never too fast.
const SHARD_BYTES_PER_SECOND: u64 = 2_000_000;

/// How often to ask.
#[derive(Debug, Clone, Copy)]
pub(super) struct PaceOptions {
    /// Between two reads while there are records.
    pub(super) interval: Duration,
    /// Longest pause on a quiet shard.
    pub(super) idle: Duration,
}

/// The state of one shard's reader.
#[derive(Debug)]
pub(super) struct Pace {
    options: PaceOptions,
    /// By the clock's `elapsed`.
    next: Duration,
    idle: Duration,
}

impl Pace {
    pub(super) fn new(options: PaceOptions) -> Self {
        Self { options, next: Duration::ZERO, idle: options.interval }
    }

    /// How long to wait before the next read.
    pub(super) fn wait(&self, now: Duration) -> Duration {
        self.next.saturating_sub(now)
    }

    /// A read was answered at `answered` and gave `bytes`.
    pub(super) fn took(&mut self, answered: Duration, bytes: usize) {
        self.idle = self.options.interval;
        // An interval below the quota's is for endpoints that have no quota: emulators.
        let paid = match self.options.interval < READ_INTERVAL {
            true => Duration::ZERO,
            false => Duration::from_micros(bytes as u64 * 1_000_000 / SHARD_BYTES_PER_SECOND),
        };
        self.next = answered + self.options.interval.max(paid);
    }

    /// A read that was answered at `answered` gave nothing, and nothing newer is there.
    pub(super) fn idle(&mut self, answered: Duration) {
        self.idle = (self.idle * 2).min(self.options.idle).max(self.options.interval);
        self.next = answered + self.idle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_kept_and_quiet_shards_asked_less_often() {
        let options = PaceOptions { interval: READ_INTERVAL, idle: Duration::from_secs(1) };
        let mut pace = Pace::new(options);
        let ms = Duration::from_millis;
        assert_eq!(pace.wait(ms(0)), ms(0));
        pace.took(ms(1_000), 1_000);
        assert_eq!(pace.wait(ms(1_050)), ms(150));
        pace.took(ms(1_000), 10_000_000);
        assert_eq!(pace.wait(ms(1_000)), ms(5_000));
        let waits: Vec<_> = (0..4)
            .map(|_| {
                pace.idle(ms(0));
                pace.wait(ms(0))
            })
            .collect();
        assert_eq!(waits, [ms(400), ms(800), ms(1_000), ms(1_000)]);
        pace.took(ms(0), 1);
        pace.idle(ms(0));
        assert_eq!(pace.wait(ms(0)), ms(400));
    }
}
