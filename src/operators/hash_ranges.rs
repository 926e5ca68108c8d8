//! Ranges of hashes, in which runs of state rows are merged and read out part by part (`hash_run.rs`).

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::hash_run::HashRun;
use super::key_hashes::GROUP;

/// Rows that a merge has in memory at a time.
const ROWS_AT_ONCE: usize = 128 << 10;

/// All hashes, in ranges.
#[derive(Debug, Default)]
pub(super) struct HashRanges {
    /// Where those begin that are left.
    starts: VecDeque<u64>,
    /// About how many rows the largest has, where that is known.
    largest: usize,
}

impl HashRanges {
    /// One range.
    pub(super) fn whole() -> Self {
        Self { starts: [0].into(), largest: 0 }
    }

    /// Ranges that are equally long, and have about `at_once` of `all` rows (or bytes) each where hashes are spread evenly.
    pub(super) fn of(all: usize, at_once: usize) -> Self {
        let count = all.div_ceil(at_once.max(1)).max(1) as u128;
        Self { starts: (0..count).map(|number| ((number << 64) / count) as u64).collect(), largest: 0 }
    }

    /// Ranges by where rows lie: `places` are hashes, and about how many rows (or bytes) lie from there on. No range has many more than `at_once`, but
    /// for one that would divide a group, where groups are to be `whole`.
    pub(super) fn by(mut places: Vec<(u64, usize)>, at_once: usize, whole: bool) -> Self {
        places.sort_unstable();
        let mut ranges = Self::whole();
        // Rows of the range that begins at `start`, and those of them before the group (or the hash) that is being looked at.
        let (mut start, mut rows, mut before, mut group) = (0, 0, 0, 0);
        for (hash, own) in places {
            let from = if whole { hash & !(GROUP - 1) } else { hash };
            if from > group {
                (group, before) = (from, rows);
            }
            if rows >= at_once && from > start {
                ranges.starts.push_back(from);
                ranges.largest = ranges.largest.max(before);
                (start, rows, before) = (from, rows - before, 0);
            }
            rows += own;
        }
        ranges.largest = ranges.largest.max(rows);
        ranges
    }

    /// Ranges of two runs that are read in order to be merged, with no more than about `at_once` bytes each.
    pub(super) fn of_runs(runs: [&HashRun; 2], at_once: usize) -> Self {
        // Of narrow rows there would be too many: so each counts for so much at least.
        let least = at_once / ROWS_AT_ONCE;
        let blocks = runs.iter().flat_map(|run| run.sizes());
        Self::by(blocks.map(|(hash, rows, bytes)| (hash, bytes.max(rows * least))).collect(), at_once, false)
    }

    /// Whether none are left.
    pub(super) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// About how many rows the largest has, where they were made by where rows lie.
    pub(super) fn largest(&self) -> usize {
        self.largest
    }
}

impl Iterator for HashRanges {
    type Item = RangeInclusive<u64>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.starts.pop_front()?;
        Some(start..=self.starts.front().map_or(u64::MAX, |next| next - 1))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
    use datafusion::arrow::datatypes::Int64Type;

    use super::super::hash_run::{BLOCK_ROWS, RunWriter};
    use super::super::key_hashes::KeyHashes;
    use super::*;
    use crate::state::{PieceIds, SpillFolder};

    fn are_all_hashes_and_each_once(ranges: &[RangeInclusive<u64>]) {
        assert_eq!((*ranges[0].start(), *ranges[ranges.len() - 1].end()), (0, u64::MAX));
        assert!(ranges.windows(2).all(|two| two[0].end() + 1 == *two[1].start()), "{ranges:?}");
    }

    #[test]
    fn ranges_are_all_hashes_and_each_once() {
        for rows in [0, 1, 699, 700, 701, 12_345] {
            let ranges: Vec<_> = HashRanges::of(rows, 700).collect();
            assert_eq!(ranges.len(), rows.div_ceil(700).max(1));
            are_all_hashes_and_each_once(&ranges);
        }
    }

    #[test]
    fn ranges_follow_the_rows_and_divide_no_group_that_is_to_be_whole() {
        // Three groups of 1,000 rows and 500 of 2, in places of 10 and of 2 rows.
        let large = [5, 6, 900].into_iter().flat_map(|group| (0..100).map(move |n| (group * GROUP + n * 7, 10)));
        let places: Vec<_> = large.chain((1_000..1_500).map(|group| (group * GROUP + 3, 2))).collect();
        let rows_in = |range: &RangeInclusive<u64>| {
            places.iter().filter(|place| range.contains(&place.0)).map(|place| place.1).sum::<usize>()
        };
        for at_once in [1, 50, 300, 1_200, 4_000, 9_000] {
            for whole in [false, true] {
                let ranges = HashRanges::by(places.clone(), at_once, whole);
                let largest = ranges.largest();
                let ranges: Vec<_> = ranges.collect();
                are_all_hashes_and_each_once(&ranges);
                assert_eq!(ranges.iter().map(rows_in).max(), Some(largest));
                let most = if whole { at_once + 1_000 } else { at_once + 10 };
                assert!(largest <= most, "{largest} of {at_once}");
                assert!(!whole || ranges.iter().all(|range| range.start() % GROUP == 0), "{ranges:?}");
                assert!(at_once > 50 || ranges.len() >= if whole { 20 } else { 80 }, "{ranges:?}");
            }
        }
        are_all_hashes_and_each_once(&HashRanges::by(Vec::new(), 5, true).collect::<Vec<_>>());
    }

    /// Ten pages, and a user for each row: what must come together is large, and is read a few blocks at a time all the same.
    #[test]
    fn rows_of_one_group_lie_in_blocks_of_few_rows() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 1 << 20).expect("created");
        let pages: ArrayRef = Arc::new((0..50_000).map(|n| n % 10).collect::<Int64Array>());
        let users: ArrayRef = Arc::new((0..50_000).collect::<Int64Array>());
        let all = RecordBatch::try_from_iter([("page", pages), ("user", users)]).expect("a batch");
        let hashes = KeyHashes::grouped(&all.schema(), vec![0, 1], vec![0]).expect("keys");
        let mut ids = PieceIds::default();
        let runs = [(0, 20_000), (20_000, 30_000)].map(|(from, rows)| {
            let mut writer = RunWriter::new(&folder, &mut ids, &hashes, None, rows);
            writer.add(&[all.slice(from, rows)]).expect("added");
            writer.finish().expect("finished")
        });
        let most = |run: &HashRun| run.places().map(|(_, rows)| rows).max();
        assert!(runs.iter().all(|run| most(run) <= Some(BLOCK_ROWS)), "{runs:?}");
        // They are merged a few blocks at a time.
        let mut writer = RunWriter::new(&folder, &mut ids, &hashes, None, 50_000);
        let on_disk = runs.each_ref().map(|run| run.on_disk().0).iter().sum::<usize>();
        for range in HashRanges::of_runs(runs.each_ref(), on_disk / 20) {
            let rows = runs.iter().flat_map(|run| run.rows_in(&hashes, &range).expect("rows")).collect::<Vec<_>>();
            let count = rows.iter().map(RecordBatch::num_rows).sum::<usize>();
            assert!(count <= 2_500 + 2 * BLOCK_ROWS, "a range has {count} rows");
            writer.add(&rows).expect("added");
        }
        let merged = writer.finish().expect("finished");
        assert_eq!(merged.live_rows(), 50_000);
        assert!(most(&merged) <= Some(BLOCK_ROWS), "{merged:?}");
        // Read out by groups, each of them whole.
        let mut pages: Vec<i64> = Vec::new();
        for range in HashRanges::by(merged.places().collect(), 700, true) {
            let rows = merged.rows_in(&hashes, &range).expect("rows");
            let pages_of = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
            let found = rows.iter().flat_map(pages_of).collect::<BTreeSet<i64>>();
            assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), found.len() * 5_000);
            pages.extend(found);
        }
        pages.sort_unstable();
        assert_eq!(pages, (0..10).collect::<Vec<_>>());
    }
}
