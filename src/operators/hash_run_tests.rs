//! Runs of rows on disk: each row is found once, and blocks have bounds.

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, StringViewArray};
use datafusion::arrow::datatypes::Int64Type;

use super::super::hash_ranges::HashRanges;
use super::*;

fn batch(keys: impl Iterator<Item = i64>) -> RecordBatch {
    let keys: Int64Array = keys.collect();
    let values: Int64Array = keys.iter().flatten().map(|key| Some(key * 10)).collect();
    RecordBatch::try_from_iter([("k", Arc::new(keys) as ArrayRef), ("v", Arc::new(values))]).expect("a batch")
}

fn keys_of(batches: &[RecordBatch]) -> Vec<i64> {
    let keys = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    let mut keys: Vec<i64> = batches.iter().flat_map(keys).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn every_row_is_found_once_and_in_one_range() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = SpillFolder::create(parent.path(), 1 << 20).expect("created");
    let all = batch(0..10_000);
    let hashes = KeyHashes::try_new(&all.schema(), vec![0]).expect("keys");
    let mut ids = PieceIds::default();
    let mut writer = RunWriter::new(&folder, &mut ids, &hashes, None, 10_000);
    writer.add(&[all.slice(0, 4_000), all.slice(4_000, 6_000)]).expect("added");
    let mut run = writer.finish().expect("finished");
    assert_eq!(run.live_rows(), 10_000);

    let asked = batch((0..200).map(|n| n * 97));
    let (keys, own) = hashes.hashed(&asked).expect("hashed");
    let mut wanted: Vec<(u64, u32)> = own.iter().zip(0..).map(|(hash, row)| (*hash, row)).collect();
    wanted.sort_unstable();
    let lookup = Lookup { hashes: &hashes, keys: &keys, takes: true, expired: None };
    let mut found = Found::default();
    run.find(&lookup, &mut wanted, &mut found).expect("found");
    let there: Vec<i64> = (0..200).map(|n| n * 97).filter(|key| *key < 10_000).collect();
    let rows = found.into_rows().expect("rows");
    assert_eq!(keys_of(&rows), there);
    assert_eq!(wanted.len(), 200 - there.len());
    assert_eq!(run.live_rows(), 10_000 - there.len());

    let parts: Vec<RecordBatch> =
        HashRanges::of(10_000, 700).flat_map(|range| run.rows_in(&hashes, &range).expect("rows")).collect();
    let left: Vec<i64> = (0..10_000).filter(|key| key % 97 != 0).collect();
    assert_eq!(keys_of(&parts), left);
    let whole = run.rows_in(&hashes, &(0..=u64::MAX)).expect("rows");
    assert_eq!(keys_of(&whole), left);
}

/// Some sets are much wider than others: by the mean, a block might have many of these.
#[test]
fn blocks_have_a_bound_in_bytes_too() {
    const WIDE: usize = 40_000;
    let parent = tempfile::tempdir().expect("a folder");
    let folder = SpillFolder::create(parent.path(), 32 << 20).expect("created");
    let wide = "x".repeat(WIDE);
    for every in [1, 40] {
        let numbers = 0..200 * every;
        let texts = numbers.clone().map(|n| if n % every == 0 { wide.as_str() } else { "short" });
        let texts = StringViewArray::from_iter_values(texts);
        let keys = Int64Array::from_iter_values(numbers.clone());
        let columns: [(&str, ArrayRef); 2] = [("k", Arc::new(keys)), ("t", Arc::new(texts))];
        let all = RecordBatch::try_from_iter(columns).expect("a batch");
        let hashes = KeyHashes::try_new(&all.schema(), vec![0]).expect("keys");
        let mut ids = PieceIds::default();
        let mut writer = RunWriter::new(&folder, &mut ids, &hashes, None, all.num_rows());
        let half = all.num_rows() / 2;
        writer.add(&[all.slice(0, half), all.slice(half, half)]).expect("added");
        let mut run = writer.finish().expect("finished");
        let sizes: Vec<(u64, usize, usize)> = run.sizes().collect();
        assert!(sizes.iter().all(|(_, _, bytes)| *bytes <= BLOCK_BYTES + WIDE), "{sizes:?}");
        // 200 wide rows are 8 MB.
        assert!((8..=20).contains(&sizes.len()), "they have that many: {sizes:?}");
        assert!(run.places().eq(sizes.iter().map(|(hash, rows, _)| (*hash, *rows))));

        // A search for all of them has some of the blocks in memory at a time.
        let (keys, own) = hashes.hashed(&all).expect("hashed");
        let mut wanted: Vec<(u64, u32)> = own.iter().zip(0..).map(|(hash, row)| (*hash, row)).collect();
        wanted.sort_unstable();
        let lookup = Lookup { hashes: &hashes, keys: &keys, takes: true, expired: None };
        let mut found = Found::default();
        run.find(&lookup, &mut wanted, &mut found).expect("found");
        assert!(!found.rows.is_empty() && found.bytes < BYTES_AT_ONCE, "{} gathered", found.rows.len());
        let rows = found.into_rows().expect("rows");
        assert!(rows.iter().all(|rows| batch_bytes(rows) <= BYTES_AT_ONCE + BLOCK_BYTES + WIDE));
        assert_eq!((keys_of(&rows), run.live_rows()), (numbers.collect::<Vec<_>>(), 0));
    }
}

/// Rows of one hash are looked up in one block, however wide they are; and what is wider than a block is one by itself.
#[test]
fn rows_of_one_hash_are_one_block_and_so_is_a_row_that_is_wider() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = SpillFolder::create(parent.path(), 8 << 20).expect("created");
    let texts = [1 << 19, 1 << 19, 1 << 19, 1 << 21, 1 << 21].map(|length| "x".repeat(length));
    let (keys, texts) = (Int64Array::from(vec![1, 1, 1, 2, 3]), StringViewArray::from_iter_values(texts));
    let columns: [(&str, ArrayRef); 2] = [("k", Arc::new(keys)), ("t", Arc::new(texts))];
    let all = RecordBatch::try_from_iter(columns).expect("a batch");
    let hashes = KeyHashes::try_new(&all.schema(), vec![0]).expect("keys");
    let mut ids = PieceIds::default();
    let mut writer = RunWriter::new(&folder, &mut ids, &hashes, None, 5);
    writer.add(std::slice::from_ref(&all)).expect("added");
    let run = writer.finish().expect("finished");
    let mut rows: Vec<usize> = run.places().map(|(_, rows)| rows).collect();
    rows.sort_unstable();
    assert_eq!(rows, [1, 1, 3]);
}
