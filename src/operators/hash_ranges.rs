//! Ranges of hashes, in which runs of state rows are merged and read out part by part (`hash_run.rs`).

use std::ops::RangeInclusive;

use super::hash_run::HashRun;

/// Rows that a merge has in memory at a time.
const ROWS_AT_ONCE: usize = 128 << 10;

/// All hashes, in ranges that are equally long.
#[derive(Debug, Default)]
pub(super) struct HashRanges {
    count: u128,
    next: u128,
}

impl HashRanges {
    /// One range.
    pub(super) fn whole() -> Self {
        Self { count: 1, next: 0 }
    }

    /// Ranges that have about `at_once` of `rows` each.
    pub(super) fn of(rows: usize, at_once: usize) -> Self {
        Self { count: rows.div_ceil(at_once.max(1)).max(1) as u128, next: 0 }
    }

    /// Ranges of two runs that are read in order to be merged, with no more than about `at_once` bytes each.
    pub(super) fn of_runs(runs: [&HashRun; 2], at_once: usize) -> Self {
        let rows: usize = runs.iter().map(|run| run.live_rows()).sum();
        let bytes: usize = runs.iter().map(|run| run.on_disk().0).sum();
        let parts = bytes.div_ceil(at_once.max(1)).max(1);
        Self::of(rows, ROWS_AT_ONCE.min(rows.div_ceil(parts)))
    }
}

impl Iterator for HashRanges {
    type Item = RangeInclusive<u64>;

    fn next(&mut self) -> Option<Self::Item> {
        let number = self.next;
        if number == self.count {
            return None;
        }
        self.next += 1;
        let start = |number: u128| ((number << 64) / self.count) as u64;
        let end = if self.next == self.count { u64::MAX } else { start(self.next) - 1 };
        Some(start(number)..=end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_all_hashes_and_each_once() {
        for rows in [0, 1, 699, 700, 701, 12_345] {
            let ranges: Vec<_> = HashRanges::of(rows, 700).collect();
            assert_eq!(ranges.len(), rows.div_ceil(700).max(1));
            assert_eq!((*ranges[0].start(), *ranges[ranges.len() - 1].end()), (0, u64::MAX));
            assert!(ranges.windows(2).all(|two| two[0].end() + 1 == *two[1].start()));
        }
    }
}
