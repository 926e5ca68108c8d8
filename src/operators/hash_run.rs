//! State rows on disk, in the order of the hashes of their keys.
//!
//! ```text
//!   run:    file 0                        file 1
//!           block 0 │ block 1 │ block 2   block 3 │ …      2,048 rows and 1 MiB at most, read one by one
//!   hash    0…      │ 17…     │ 38…       52…             in memory: the first hash of each block,
//!   filter  ▒▒▒░▒▒░░▒▒                                      a Bloom filter of all keys, a bit for each dead row
//! ```
//!
//! So a key is looked up by reading one block, and a range of hashes by reading the blocks of that range: a run of any
//! size is merged, or read out, a range at a time. Rows with one hash lie in one block. (Of keys that are grouped, hashes differ within a
//! group, so a group may be of any size, too.) Like the levels of a
//! log-structured store, but that there is at most one live row of a key: who takes a row says that it is dead.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch, TimestampMillisecondArray, UInt32Array};
use datafusion::arrow::compute::{filter_record_batch, interleave_record_batch, take_record_batch};
use datafusion::arrow::row::Rows;

use super::dead_rows::DeadRows;
use super::key_filter::Filter;
use super::key_hashes::KeyHashes;
use super::output::BLOCK_BYTES;
use super::running_aggregate::is_before;
use super::window_aggregate::millis;
use crate::contracts::{Result, RowBytes, batch_bytes, without_garbage};
use crate::state::{BlockReader, PieceIds, PieceRows, SpillFolder, SpillWriter, SpilledFile, StatePiece};

/// Rows of a block: few, so that looking up one key reads little; enough to make an Arrow batch worth its header. Where they are wide, a block
/// has [`BLOCK_BYTES`], but for rows of one hash, and for a single one that has more.
pub(super) const BLOCK_ROWS: usize = 2_048;
/// Bytes of the blocks that a search has in memory at a time.
const BYTES_AT_ONCE: usize = 4 << 20;

#[derive(Debug)]
struct Block {
    first_hash: u64,
    first_row: usize,
    rows: usize,
    /// The latest time at which one of its keys was seen, where there is a time-to-live and it is known of all of them.
    last_seen: i64,
}

/// A file of a run: a piece of state.
#[derive(Debug)]
struct RunFile {
    id: u64,
    file: Arc<SpilledFile>,
    blocks: Vec<Block>,
    dead: DeadRows,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct HashRun {
    files: Vec<RunFile>,
    filter: Filter,
}

/// Rows that were found. Keys of an epoch lie all over a run: so blocks are let go before the next ones are read, or the whole run
/// would be in memory.
#[derive(Debug, Default)]
pub(super) struct Found {
    rows: Vec<RecordBatch>,
    /// Blocks whose rows are not among `rows` yet, and where these lie.
    blocks: Vec<RecordBatch>,
    /// Bytes of these blocks.
    bytes: usize,
    places: Vec<(usize, usize)>,
}

impl Found {
    /// Takes rows of a block that has so many bytes.
    fn add(&mut self, block: RecordBatch, bytes: usize, rows: &[usize]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let number = self.blocks.len();
        self.blocks.push(block);
        self.bytes += bytes;
        self.places.extend(rows.iter().map(|row| (number, *row)));
        if self.bytes < BYTES_AT_ONCE { Ok(()) } else { self.gather() }
    }

    fn gather(&mut self) -> Result<()> {
        if !self.places.is_empty() {
            let blocks: Vec<&RecordBatch> = self.blocks.iter().collect();
            self.rows.push(without_garbage(interleave_record_batch(&blocks, &self.places)?)?);
        }
        self.blocks.clear();
        self.bytes = 0;
        self.places.clear();
        Ok(())
    }

    /// All of them.
    pub(super) fn into_rows(mut self) -> Result<Vec<RecordBatch>> {
        self.gather()?;
        Ok(self.rows)
    }
}

/// How rows are looked up.
pub(super) struct Lookup<'a> {
    /// Makes keys.
    pub(super) hashes: &'a KeyHashes,
    /// Keys that are looked for.
    pub(super) keys: &'a Rows,
    /// A row that is found is taken: it is dead from now on.
    pub(super) takes: bool,
    /// Column with the time of a row, and the time before which it is as good as gone.
    pub(super) expired: Option<(usize, i64)>,
}

impl HashRun {
    /// Rows that are not dead.
    pub(super) fn live_rows(&self) -> usize {
        self.files.iter().map(|file| file.file.num_rows() - file.dead.count).sum()
    }

    /// Bytes and rows on disk.
    pub(super) fn on_disk(&self) -> (usize, usize) {
        let files = self.files.iter().map(|file| (file.file.bytes(), file.file.num_rows()));
        let (bytes, rows) = files.fold((0, 0), |sum, file| (sum.0 + file.0, sum.1 + file.1));
        (usize::try_from(bytes).unwrap_or(usize::MAX), rows)
    }

    /// Bytes in memory.
    pub(super) fn memory(&self) -> usize {
        let file = |file: &RunFile| file.blocks.len() * size_of::<Block>() + file.dead.words.len() * 8;
        self.filter.words.len() * 8 + self.files.iter().map(file).sum::<usize>()
    }

    /// The rows for a checkpoint.
    pub(super) fn pieces(&self) -> impl Iterator<Item = StatePiece> {
        self.files.iter().map(|file| {
            let rows = PieceRows::Spilled(Arc::clone(&file.file));
            StatePiece { id: file.id, rows, dead: (file.dead.count > 0).then(|| file.dead.bits(file.file.num_rows())) }
        })
    }

    /// Where its blocks begin, and how many rows each has.
    pub(super) fn places(&self) -> impl Iterator<Item = (u64, usize)> {
        self.files.iter().flat_map(|file| &file.blocks).map(|block| (block.first_hash, block.rows))
    }

    /// The same, each with about how many bytes its block has.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (u64, usize, usize)> {
        let blocks = self.files.iter().flat_map(|file| file.blocks.iter().zip(file.file.block_bytes()));
        blocks.map(|(block, bytes)| (block.first_hash, block.rows, *bytes))
    }

    /// How wide the rows of each file are in the mean, and how many of them are not dead.
    pub(super) fn widths(&self) -> impl Iterator<Item = (usize, usize)> {
        let mean = |bytes: &[usize], rows: usize| bytes.iter().sum::<usize>() / rows.max(1);
        self.files.iter().map(move |RunFile { file, dead, .. }| {
            (mean(file.block_bytes(), file.num_rows()), file.num_rows() - dead.count)
        })
    }

    /// Looks for keys. Those that are here leave `wanted`, a list of hash and row that is sorted by hash.
    pub(super) fn find(&mut self, lookup: &Lookup<'_>, wanted: &mut Vec<(u64, u32)>, found: &mut Found) -> Result<()> {
        let filter = &self.filter;
        let mut blocks: BTreeMap<(usize, usize), Vec<(u64, u32)>> = BTreeMap::new();
        for &(hash, row) in wanted.iter().filter(|(hash, _)| filter.may_have(*hash)) {
            let Some(file) = self.files.partition_point(|file| file.blocks[0].first_hash <= hash).checked_sub(1) else {
                continue;
            };
            let block = self.files[file].blocks.partition_point(|block| block.first_hash <= hash) - 1;
            blocks.entry((file, block)).or_default().push((hash, row));
        }
        let mut gone = Vec::new();
        let mut open: Option<(usize, BlockReader)> = None;
        for ((number, block), candidates) in blocks {
            let batch = read(&self.files, &mut open, number, block)?;
            let file = &mut self.files[number];
            let first_row = file.blocks[block].first_row;
            let (keys, hashes) = lookup.hashes.hashed(&batch)?;
            let seen = match lookup.expired {
                Some((column, limit)) => Some((millis(batch.column(column))?, limit)),
                None => None,
            };
            let mut rows = Vec::new();
            for (hash, row) in candidates {
                let from = hashes.partition_point(|other| *other < hash);
                let same = hashes[from..].iter().take_while(|other| **other == hash).count();
                let is_key = |at: &usize| keys.row(*at) == lookup.keys.row(row as usize);
                let Some(at) = (from..from + same).filter(|at| !file.dead.has(first_row + at)).find(is_key) else {
                    continue;
                };
                let expired = seen.as_ref().is_some_and(|(seen, limit)| is_before(seen, at, *limit));
                if expired || lookup.takes {
                    file.dead.add(first_row + at, file.file.num_rows());
                }
                if !expired {
                    rows.push(at);
                    gone.push(row);
                }
            }
            found.add(batch, file.file.block_bytes()[block], &rows)?;
        }
        if !gone.is_empty() {
            gone.sort_unstable();
            wanted.retain(|(_, row)| gone.binary_search(row).is_err());
        }
        Ok(())
    }

    /// Takes rows out whose blocks have not been seen since `limit`, and files without live rows.
    pub(super) fn expire(&mut self, limit: i64) {
        for file in &mut self.files {
            let rows = file.file.num_rows();
            for block in file.blocks.iter().filter(|block| block.last_seen < limit) {
                (block.first_row..block.first_row + block.rows).for_each(|row| file.dead.add(row, rows));
            }
        }
        self.files.retain(|file| file.dead.count < file.file.num_rows());
    }

    /// The live rows whose hashes are in a range.
    pub(super) fn rows_in(&self, hashes: &KeyHashes, range: &RangeInclusive<u64>) -> Result<Vec<RecordBatch>> {
        let mut rows = Vec::new();
        let mut open = None;
        for (number, file) in self.files.iter().enumerate() {
            for (block, at) in file.blocks.iter().enumerate() {
                let next = file.blocks.get(block + 1).or_else(|| self.files.get(number + 1)?.blocks.first());
                let last_before = next.is_some_and(|next| next.first_hash <= *range.start());
                if at.first_hash > *range.end() || last_before {
                    continue;
                }
                let batch = read(&self.files, &mut open, number, block)?;
                let dead = |row: &usize| !file.dead.has(at.first_row + row);
                rows.push(rows_of(&batch, hashes, range, dead)?);
            }
        }
        rows.retain(|batch| batch.num_rows() > 0);
        Ok(rows)
    }
}

fn read(
    files: &[RunFile],
    open: &mut Option<(usize, BlockReader)>,
    number: usize,
    block: usize,
) -> Result<RecordBatch> {
    match open {
        Some((file, reader)) if *file == number => reader.read(block),
        _ => {
            let mut reader = files[number].file.reader()?;
            let batch = reader.read(block);
            *open = Some((number, reader));
            batch
        }
    }
}

fn rows_of(
    batch: &RecordBatch,
    hashes: &KeyHashes,
    range: &RangeInclusive<u64>,
    live: impl Fn(&usize) -> bool,
) -> Result<RecordBatch> {
    let (_, own) = hashes.hashed(batch)?;
    let wanted: BooleanArray = (0..batch.num_rows()).map(|row| Some(live(&row) && range.contains(&own[row]))).collect();
    if wanted.true_count() == batch.num_rows() { Ok(batch.clone()) } else { Ok(filter_record_batch(batch, &wanted)?) }
}

/// Rows of batches in memory whose hashes are in a range.
pub(super) fn held_rows_in(
    batches: &[RecordBatch],
    hashes: &KeyHashes,
    range: &RangeInclusive<u64>,
) -> Result<Vec<RecordBatch>> {
    if *range == (0..=u64::MAX) {
        return Ok(batches.to_vec());
    }
    batches.iter().map(|batch| rows_of(batch, hashes, range, |_| true)).collect()
}

/// The two youngest runs and their live rows, if they are to become one: when the youngest has at least half as many rows. So
/// each row is written a logarithmic number of times, as in a log-structured store.
pub(super) fn due(runs: &[HashRun]) -> Option<(&HashRun, &HashRun, usize)> {
    let [.., before, last] = runs else { return None };
    let (older, younger) = (before.live_rows(), last.live_rows());
    (younger * 2 >= older).then_some((before, last, older + younger))
}

/// Puts a merged run in place of the two that it was made of.
pub(super) fn replace_two(runs: &mut Vec<HashRun>, merged: HashRun) {
    runs.truncate(runs.len() - 2);
    runs.push(merged);
}

/// Writes a run.
pub(super) struct RunWriter<'a> {
    folder: &'a Arc<SpillFolder>,
    ids: &'a mut PieceIds,
    hashes: &'a KeyHashes,
    /// Column with the time at which a key was last seen.
    seen: Option<usize>,
    files: Vec<RunFile>,
    open: Option<(SpillWriter, Vec<Block>)>,
    filter: Filter,
}

impl<'a> RunWriter<'a> {
    /// Begins a run of about `rows` rows.
    pub(super) fn new(
        folder: &'a Arc<SpillFolder>,
        ids: &'a mut PieceIds,
        hashes: &'a KeyHashes,
        seen: Option<usize>,
        rows: usize,
    ) -> Self {
        Self { folder, ids, hashes, seen, files: Vec::new(), open: None, filter: Filter::new(rows) }
    }

    /// Adds rows, in any order; their hashes are above those of all calls before. Rows of one hash keep their order.
    pub(super) fn add(&mut self, batches: &[RecordBatch]) -> Result<()> {
        let mut order: Vec<(u64, u32, u32)> = Vec::new();
        for (number, batch) in batches.iter().enumerate() {
            let (_, hashes) = self.hashes.hashed(batch)?;
            order.extend(hashes.iter().enumerate().map(|(row, hash)| (*hash, number as u32, row as u32)));
        }
        order.sort_unstable();
        let widths = widths(batches);
        let batches: Vec<&RecordBatch> = batches.iter().collect();
        let mut rest = order.as_slice();
        while !rest.is_empty() {
            let (block, later) = rest.split_at(rows_of_block(rest, widths.as_deref()));
            self.write(&batches, block)?;
            rest = later;
        }
        Ok(())
    }

    fn write(&mut self, batches: &[&RecordBatch], rows: &[(u64, u32, u32)]) -> Result<()> {
        let block = if let [batch] = batches {
            take_record_batch(batch, &UInt32Array::from_iter_values(rows.iter().map(|row| row.2)))?
        } else {
            let places: Vec<(usize, usize)> = rows.iter().map(|row| (row.1 as usize, row.2 as usize)).collect();
            interleave_record_batch(batches, &places)?
        };
        rows.iter().for_each(|row| self.filter.add(row.0));
        let latest = |times: TimestampMillisecondArray| times.iter().map(|time| time.unwrap_or(i64::MAX)).max();
        let last_seen = self.seen.map(|column| millis(block.column(column)).map(latest)).transpose()?;
        let (mut writer, mut blocks) = match self.open.take() {
            Some(open) => open,
            None => (self.folder.file(block.schema_ref())?, Vec::new()),
        };
        let first_row = blocks.last().map_or(0, |last: &Block| last.first_row + last.rows);
        let last_seen = last_seen.flatten().unwrap_or(i64::MAX);
        blocks.push(Block { first_hash: rows[0].0, first_row, rows: rows.len(), last_seen });
        let is_full = writer.write(&block)?;
        self.open = Some((writer, blocks));
        if is_full { self.end_file() } else { Ok(()) }
    }

    fn end_file(&mut self) -> Result<()> {
        if let Some((writer, blocks)) = self.open.take() {
            let (id, file) = (self.ids.take(), writer.finish()?);
            self.files.push(RunFile { id, file, blocks, dead: DeadRows::default() });
        }
        Ok(())
    }

    /// Ends the run.
    pub(super) fn finish(mut self) -> Result<HashRun> {
        self.end_file()?;
        Ok(HashRun { files: self.files, filter: self.filter })
    }
}

/// How wide rows are, batch by batch, where so many as a block may have can be more bytes than it may have.
fn widths(batches: &[RecordBatch]) -> Option<Vec<RowBytes>> {
    if batches.iter().map(batch_bytes).sum::<usize>() <= BLOCK_BYTES {
        return None;
    }
    let widths: Vec<RowBytes> = batches.iter().map(RowBytes::of).collect();
    widths.iter().any(|batch| batch.widest() > BLOCK_BYTES / BLOCK_ROWS).then_some(widths)
}

/// How many of the rows, which are sorted by hash, are the next block. Some sets are much wider than others, so each row counts by itself.
fn rows_of_block(rows: &[(u64, u32, u32)], widths: Option<&[RowBytes]>) -> usize {
    let mut count = rows.len().min(BLOCK_ROWS);
    if let Some(widths) = widths {
        let bytes = rows[..count].iter().scan(0, |bytes, (_, batch, row)| {
            *bytes += widths[*batch as usize].row(*row as usize);
            Some(*bytes)
        });
        count = bytes.take_while(|bytes| *bytes <= BLOCK_BYTES).count().max(1);
    }
    while rows.get(count).is_some_and(|next| next.0 == rows[count - 1].0) {
        count += 1;
    }
    count
}

#[cfg(test)]
#[path = "hash_run_tests.rs"]
mod tests;
