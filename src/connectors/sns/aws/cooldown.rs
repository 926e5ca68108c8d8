//! No more than one alert of a key in a time.
//!
//! ```text
//!  cooldown 5 min   10:00 published   10:02 suppressed   10:04 suppressed   10:05 published
//!  with a summary                                                 10:05 "2 alerts were suppressed"
//! ```
//!
//! Time is that of a column or of the epoch, never the machine's: a replay from the same state suppresses the same ones.
//! The state lives in this process: after a restart, a key's first alert is published.

use std::collections::HashMap;

use super::options::CooldownOptions;

/// Keys that are remembered, some 150 bytes each. Beyond, the older half is forgotten, by their last alerts and among those of one time by their
/// names, and may alert early.
const KEYS: usize = 100_000;
/// Alerts of a key that are remembered: one of an earlier time than all of them is suppressed.
const ALERTS: usize = 8;

/// What a key has had.
#[derive(Debug, Default)]
struct Had {
    /// Times of alerts that were published, in order, never none.
    at_ms: Vec<i64>,
    suppressed: u64,
}

impl Had {
    fn last_ms(&self) -> i64 {
        self.at_ms.last().copied().unwrap_or(i64::MIN)
    }
}

/// Alerts of a key that were suppressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suppressed {
    pub(super) key: String,
    /// Time of the alert that was published.
    pub(super) since_ms: i64,
    pub(super) count: u64,
}

/// What was published when.
#[derive(Debug)]
pub(super) struct Cooldown {
    every_ms: i64,
    summary: bool,
    keys: HashMap<String, Had>,
    /// Summaries of cooldowns that a later alert has ended.
    ended: Vec<Suppressed>,
    /// The largest time seen.
    now_ms: i64,
}

impl Cooldown {
    pub(super) fn new(options: &CooldownOptions) -> Self {
        let every_ms = i64::try_from(options.every.as_millis()).unwrap_or(i64::MAX);
        Self { every_ms, summary: options.summary, keys: HashMap::new(), ended: Vec::new(), now_ms: i64::MIN }
    }

    /// Whether the alert is to be published.
    pub(super) fn admits(&mut self, key: &str, at_ms: i64) -> bool {
        self.now_ms = self.now_ms.max(at_ms);
        if let Some(had) = self.keys.get_mut(key) {
            // Events come out of order: an alert of an earlier time counts too.
            let near = had.at_ms.iter().any(|had| at_ms.abs_diff(*had) < self.every_ms.unsigned_abs());
            let forgotten = had.at_ms.len() >= ALERTS && had.at_ms.first().is_some_and(|first| at_ms < *first);
            if near || forgotten {
                had.suppressed += 1;
                return false;
            }
            if at_ms > had.last_ms() && had.suppressed > 0 {
                let count = std::mem::take(&mut had.suppressed);
                if self.summary {
                    self.ended.push(Suppressed { key: key.to_owned(), since_ms: had.last_ms(), count });
                }
            }
            let place = had.at_ms.partition_point(|had| *had < at_ms);
            had.at_ms.insert(place, at_ms);
            if had.at_ms.len() > ALERTS {
                had.at_ms.remove(0);
            }
            return true;
        }
        if self.keys.len() >= KEYS {
            self.forget();
        }
        self.keys.insert(key.to_owned(), Had { at_ms: vec![at_ms], suppressed: 0 });
        true
    }

    /// Forgets half of the keys. What was suppressed of them is told.
    fn forget(&mut self) {
        let mut keys: Vec<(i64, String)> = self.keys.iter().map(|(key, had)| (had.last_ms(), key.clone())).collect();
        let half = keys.len() / 2;
        keys.select_nth_unstable(half);
        keys.truncate(half);
        keys.sort_unstable();
        for (since_ms, key) in keys {
            let count = self.keys.remove(&key).map_or(0, |had| had.suppressed);
            if count > 0 && self.summary {
                self.ended.push(Suppressed { key, since_ms, count });
            }
        }
    }

    /// Summaries of the cooldowns that are over at `now_ms` (or at the largest time seen), or of all.
    pub(super) fn summaries(&mut self, now_ms: Option<i64>, all: bool) -> Vec<Suppressed> {
        if !self.summary {
            return Vec::new();
        }
        let now_ms = now_ms.unwrap_or(self.now_ms);
        let mut summaries = std::mem::take(&mut self.ended);
        let over = |had: &Had| all || now_ms.saturating_sub(had.last_ms()) >= self.every_ms;
        for (key, had) in self.keys.iter_mut().filter(|(_, had)| had.suppressed > 0 && over(had)) {
            let count = std::mem::take(&mut had.suppressed);
            summaries.push(Suppressed { key: key.clone(), since_ms: had.last_ms(), count });
        }
        summaries.sort_by(|a, b| (a.since_ms, &a.key).cmp(&(b.since_ms, &b.key)));
        summaries
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cooldown(summary: bool) -> Cooldown {
        let options = CooldownOptions { every: Duration::from_millis(100), key: Vec::new(), time: None, summary };
        Cooldown::new(&options)
    }

    #[test]
    fn one_alert_of_a_key_in_a_time() {
        let mut cooldown = cooldown(true);
        let admitted: Vec<bool> =
            [("a", 0), ("b", 50), ("a", 99), ("a", 20), ("a", 100), ("a", 30), ("b", 149), ("a", 200)]
                .iter()
                .map(|(key, at)| cooldown.admits(key, *at))
                .collect();
        assert_eq!(admitted, [true, true, false, false, true, false, false, true]);
        let of = |key: &str, since_ms, count| Suppressed { key: key.to_owned(), since_ms, count };
        assert_eq!(cooldown.summaries(Some(149), false), [of("a", 0, 2), of("a", 100, 1)]);
        assert_eq!(cooldown.summaries(None, false), [of("b", 50, 1)]);
        assert_eq!(cooldown.summaries(None, true), []);
    }

    /// Alerts of one time: half of the keys are forgotten, always the same ones, and what was suppressed of them is told.
    #[test]
    fn of_keys_of_one_time_half_are_remembered() {
        let mut cooldown = cooldown(true);
        let key = |i: usize| format!("{i:06}");
        for i in 0..KEYS {
            assert!(cooldown.admits(&key(i), 0));
        }
        for i in [7, KEYS / 2 - 1, KEYS / 2, KEYS - 1] {
            assert!(!cooldown.admits(&key(i), 0));
        }
        assert!(cooldown.admits("one more", 0));
        assert_eq!(cooldown.keys.len(), KEYS / 2 + 1);
        assert!(!cooldown.admits(&key(KEYS / 2), 50) && !cooldown.admits(&key(KEYS - 1), 50), "the later half");
        let told = cooldown.summaries(Some(50), false);
        let of = |i: usize| Suppressed { key: key(i), since_ms: 0, count: 1 };
        assert_eq!(told, [of(7), of(KEYS / 2 - 1)]);
        assert!(cooldown.admits(&key(7), 50), "it is forgotten");
    }

    #[test]
    fn memory_has_a_bound() {
        let mut cooldown = cooldown(false);
        for i in 0..KEYS as i64 + 10 {
            assert!(cooldown.admits(&i.to_string(), i));
        }
        assert!(cooldown.keys.len() <= KEYS);
        assert!(!cooldown.admits(&(KEYS as i64 + 9).to_string(), KEYS as i64 + 20), "the newest is remembered");
    }
}
