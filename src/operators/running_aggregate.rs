//! `GROUP BY` without a window: an update stream whose cost is what changed, not what is stored.
//!
//! ```text
//!   index: key ──► (chunk, row)          chunk 0: x(dead) b  c        one row of partial state each
//!                                        chunk 1: x  d                chunks only grow by appending
//! ```
//!
//! An epoch merges its partial states with the stored states of *the keys it touched*, appends the
//! result as a new chunk and marks the old rows dead. Chunks are merged as in a log-structured store:
//! when one has grown to half of its neighbour, or is mostly dead. So each row is rewritten a
//! logarithmic number of times, and an epoch takes time in proportion to its own keys.
//!
//! When memory is short all chunks go to disk as one sorted run, and come back key by key, as rows come for them
//! (`cold_rows.rs`).

use std::sync::Arc;

use datafusion::arrow::array::{Array, Int8Array, PrimitiveArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, interleave_record_batch, take_record_batch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMillisecondType};
use datafusion::arrow::row::Rows;
use hashbrown::HashTable;

use super::WEIGHT_COLUMN;
use super::cold_rows::{ColdRows, Lost};
use super::compute::Compute;
use super::key_hashes::KeyHashes;
use super::partials::AggregateParts;
use super::window_aggregate::millis;
use crate::contracts::{MOST_MERGED_BYTES, Result, Watermark, batch_bytes, merge_within, without_garbage};
use crate::state::{PieceIds, SpillFolder};

mod saved;
mod time_to_live;

pub use time_to_live::TimeToLive;

/// What the operator tells downstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// The new values of the keys that changed.
    Upserts,
    /// The old values withdrawn (weight -1) and the new ones (+1), for what filters above.
    Deltas,
    /// Only keys that were not there before: `SELECT DISTINCT` over an append stream.
    NewKeys,
}

#[derive(Debug)]
struct Chunk {
    /// Its name in snapshots.
    id: u64,
    batch: RecordBatch,
    /// About how many bytes the batch has.
    bytes: usize,
    keys: Rows,
    /// When each key was last seen, where there is a time-to-live; NULL where that is not known.
    seen: Option<PrimitiveArray<TimestampMillisecondType>>,
    dead: Vec<bool>,
    live: usize,
}

impl Chunk {
    fn bytes(&self) -> usize {
        self.bytes + self.keys.size() + self.dead.len()
    }

    /// About how many bytes the rows have that are not dead.
    fn live_bytes(&self) -> usize {
        (self.bytes as u128 * self.live as u128 / self.dead.len().max(1) as u128) as usize
    }
}

type Place = (u32, u32);

/// See the module's description.
#[derive(Debug)]
pub struct RunningAggregate {
    parts: Arc<AggregateParts>,
    emit: Emit,
    ttl: Option<TimeToLive>,
    hashes: KeyHashes,
    /// By age.
    chunks: Vec<Chunk>,
    ids: PieceIds,
    index: HashTable<(u64, Place)>,
    /// Keys that are on disk.
    cold: ColdRows,
    watermark: Watermark,
    swept: Watermark,
    output_schema: SchemaRef,
    /// Chunks are merged up to so many bytes.
    pub(super) most_merged: usize,
}

impl RunningAggregate {
    /// An operator without state.
    pub fn try_new(parts: Arc<AggregateParts>, emit: Emit, ttl: Option<TimeToLive>) -> Result<Self> {
        let hashes = KeyHashes::try_new(parts.state_schema(), (0..parts.key_columns()).collect())?;
        let mut fields: Vec<_> = parts.output_schema().fields().iter().cloned().collect();
        if emit == Emit::Deltas {
            fields.push(Arc::new(Field::new(WEIGHT_COLUMN, DataType::Int8, false)));
        }
        Ok(Self {
            parts,
            emit,
            ttl,
            hashes,
            chunks: Vec::new(),
            ids: PieceIds::default(),
            index: HashTable::new(),
            cold: ColdRows::new(ttl.map(|ttl| ttl.last_seen)),
            watermark: Watermark::MIN,
            swept: Watermark::MIN,
            output_schema: Arc::new(Schema::new(fields)),
            most_merged: MOST_MERGED_BYTES,
        })
    }

    /// How far behind the watermark rows may be, in milliseconds.
    pub(super) fn time_to_live(&self) -> Option<i64> {
        self.ttl.map(|ttl| ttl.ttl_ms)
    }

    /// Up to where event time has come.
    pub(super) fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// Number of keys and of stored state rows, dead ones included.
    pub fn size(&self) -> (usize, usize) {
        let cold = self.cold.live_rows();
        (self.index.len() + cold, self.chunks.iter().map(|c| c.batch.num_rows()).sum::<usize>() + cold)
    }

    /// What hashes its keys.
    pub(super) fn hashes(&self) -> &KeyHashes {
        &self.hashes
    }

    /// Bytes of state in memory, about, and how many of them [`Self::spill`] can put on disk.
    pub fn memory(&self) -> (usize, usize) {
        let held =
            self.chunks.iter().map(Chunk::bytes).sum::<usize>() + self.index.capacity() * size_of::<(u64, Place)>();
        (held + self.cold.memory(), if self.hashes.are_empty() { 0 } else { held })
    }

    /// About how many bytes the states of so many keys can have, in memory and on disk: those of the widest. A state without a key is not
    /// merged in parts, so it does not count.
    pub(super) fn bytes_of_keys(&self, mut keys: usize) -> usize {
        if self.hashes.are_empty() {
            return 0;
        }
        let chunks = self.chunks.iter().map(|chunk| (chunk.bytes / chunk.dead.len().max(1), chunk.live));
        let mut widths: Vec<(usize, usize)> = chunks.chain(self.cold.widths()).collect();
        widths.sort_unstable_by_key(|(width, _)| std::cmp::Reverse(*width));
        let bytes = widths.into_iter().map(|(width, rows)| {
            let taken = rows.min(keys);
            keys -= taken;
            width * taken
        });
        bytes.sum()
    }

    /// Puts the state on disk; keys come back when rows come for them.
    pub fn spill(&mut self, folder: &Arc<SpillFolder>) -> Result<()> {
        if self.index.is_empty() || self.hashes.are_empty() {
            return Ok(());
        }
        let live = self.chunks.iter().map(live_rows).collect::<Result<Vec<_>>>()?;
        self.chunks.clear();
        self.index = HashTable::new();
        self.cold.add(&live, &self.hashes, folder, &mut self.ids)
    }

    /// Takes the partial states of an epoch and returns what changed.
    pub async fn push(&mut self, partials: Vec<RecordBatch>, compute: &Compute) -> Result<Vec<RecordBatch>> {
        let rows: usize = partials.iter().map(RecordBatch::num_rows).sum();
        if rows == 0 {
            return Ok(Vec::new());
        }
        // Partial states of one task have each key once; those of several must be merged first.
        let delta = match partials.len() {
            1 => concat_batches(self.parts.state_schema(), &partials)?,
            _ => self.merged(&partials, compute).await?,
        };
        let keys = self.hashes.rows(&delta)?;
        let (mut found, mut fresh, mut lost) = (Vec::new(), Vec::new(), Lost::new());
        let limit = self.limit();
        for row in 0..delta.num_rows() {
            let hash = self.hashes.hash(&keys, row);
            match self.find(hash, &keys, row) {
                Some(place) if self.is_older(place, limit) => {
                    // Not swept yet: when sweeping happens must not show.
                    self.forget(place);
                    fresh.push(row as u32);
                }
                Some(place) => found.push(place),
                None => lost.push((hash, row as u32)),
            }
        }
        // Without a time-to-live, a distinct row is stored as it came first.
        let is_final = self.emit == Emit::NewKeys && self.ttl.is_none();
        let cold = self.cold.find(&mut lost, &self.hashes, &keys, !is_final, limit)?;
        let mut out = Vec::new();
        if self.emit == Emit::NewKeys {
            fresh.extend(lost.into_iter().map(|(_, row)| row));
            fresh.sort_unstable();
            let fresh = take_record_batch(&delta, &UInt32Array::from(fresh))?;
            out = self.finished(std::slice::from_ref(&fresh), None, compute).await?;
            if is_final {
                self.append(fresh).await?;
                return Ok(out);
            }
        }
        let mut states = if found.is_empty() { Vec::new() } else { vec![self.gather(&found)?] };
        states.extend(cold);
        let merged = if states.is_empty() {
            delta
        } else {
            if self.emit == Emit::Deltas {
                out.extend(self.finished(&states, Some(-1), compute).await?);
            }
            states.push(delta);
            self.merged(&states, compute).await?
        };
        for (chunk, row) in found {
            let chunk = &mut self.chunks[chunk as usize];
            chunk.dead[row as usize] = true;
            chunk.live -= 1;
        }
        self.append(merged.clone()).await?;
        if self.emit != Emit::NewKeys {
            let weight = (self.emit == Emit::Deltas).then_some(1);
            out.extend(self.finished(&[merged], weight, compute).await?);
        }
        Ok(out)
    }

    /// Partial states of which some may have the same key, merged into one batch.
    pub(super) async fn merged(&self, partials: &[RecordBatch], compute: &Compute) -> Result<RecordBatch> {
        Ok(concat_batches(self.parts.state_schema(), &self.parts.reduce(partials, compute).await?)?)
    }

    /// Moves event time on and forgets keys that have not been seen for so long as they are kept. That nothing follows is no time: a later run may
    /// bring more.
    pub fn advance(&mut self, watermark: Watermark) -> Result<()> {
        if watermark < Watermark::MAX {
            self.watermark = self.watermark.max(watermark);
        }
        if self.watermark == Watermark::MIN {
            return Ok(());
        }
        let Some(ttl) = self.ttl else {
            self.swept = self.watermark;
            return Ok(());
        };
        // Sweeping costs a pass over the state, so it is done sixteen times in a time-to-live.
        let pause = (ttl.ttl_ms / 16).max(1);
        if self.swept != Watermark::MIN && self.watermark.0 - self.swept.0 < pause {
            return Ok(());
        }
        self.swept = self.watermark;
        let limit = self.limit();
        for number in 0..self.chunks.len() {
            for row in 0..self.chunks[number].dead.len() {
                let place = (number as u32, row as u32);
                if !self.chunks[number].dead[row] && self.is_older(place, limit) {
                    self.forget(place);
                }
            }
        }
        if let Some(limit) = limit {
            self.cold.expire(limit);
        }
        self.tidy()
    }

    /// Keys that were last seen before this time, in milliseconds, are forgotten.
    fn limit(&self) -> Option<i64> {
        let ttl = self.ttl?;
        (self.watermark != Watermark::MIN).then(|| self.watermark.0.saturating_sub(ttl.kept_ms()))
    }

    fn is_older(&self, (chunk, row): Place, limit: Option<i64>) -> bool {
        let seen = &self.chunks[chunk as usize].seen;
        limit.zip(seen.as_ref()).is_some_and(|(limit, seen)| is_before(seen, row as usize, limit))
    }

    fn forget(&mut self, place: Place) {
        let chunk = &mut self.chunks[place.0 as usize];
        let hash = self.hashes.hash(&chunk.keys, place.1 as usize);
        chunk.dead[place.1 as usize] = true;
        chunk.live -= 1;
        if let Ok(entry) = self.index.find_entry(hash, |(_, at)| *at == place) {
            entry.remove();
        }
    }

    fn find(&self, hash: u64, keys: &Rows, row: usize) -> Option<Place> {
        let keyless = self.hashes.are_empty();
        let same = |(h, (chunk, at)): &(u64, Place)| {
            *h == hash && (keyless || self.chunks[*chunk as usize].keys.row(*at as usize) == keys.row(row))
        };
        self.index.find(hash, same).map(|(_, place)| *place)
    }

    fn gather(&self, places: &[Place]) -> Result<RecordBatch> {
        let batches: Vec<&RecordBatch> = self.chunks.iter().map(|c| &c.batch).collect();
        let places: Vec<(usize, usize)> = places.iter().map(|(c, r)| (*c as usize, *r as usize)).collect();
        Ok(interleave_record_batch(&batches, &places)?)
    }

    /// Stores rows whose keys have no live row.
    async fn append(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.add_chunk(batch)?;
        self.tidy()
    }

    fn add_chunk(&mut self, batch: RecordBatch) -> Result<()> {
        let (id, rows) = (self.ids.take(), batch.num_rows());
        self.put_chunk(id, batch, vec![false; rows])
    }

    fn put_chunk(&mut self, id: u64, batch: RecordBatch, dead: Vec<bool>) -> Result<()> {
        let keys = self.hashes.rows(&batch)?;
        let (number, bytes) = (self.chunks.len() as u32, batch_bytes(&batch));
        let seen = self.ttl.map(|ttl| millis(batch.column(ttl.last_seen))).transpose()?;
        let live = dead.iter().filter(|dead| !**dead).count();
        self.chunks.push(Chunk { id, batch, bytes, keys, seen, dead, live });
        let keyless = self.hashes.are_empty();
        for row in 0..self.chunks[number as usize].dead.len() {
            let chunk = &self.chunks[number as usize];
            if chunk.dead[row] {
                continue;
            }
            let (hash, place) = (self.hashes.hash(&chunk.keys, row), (number, row as u32));
            let (chunks, key) = (&self.chunks, (!keyless).then(|| chunk.keys.row(row)));
            let same = |(h, (chunk, at)): &(u64, Place)| {
                *h == hash && key.is_none_or(|key| chunks[*chunk as usize].keys.row(*at as usize) == key)
            };
            let Some(entry) = self.index.find_mut(hash, same) else {
                self.index.insert_unique(hash, (hash, place), |(h, _)| *h);
                continue;
            };
            // Of two rows of a snapshot, the younger one counts.
            let (older, at) = std::mem::replace(&mut entry.1, place);
            let older = &mut self.chunks[older as usize];
            if !std::mem::replace(&mut older.dead[at as usize], true) {
                older.live -= 1;
            }
        }
        Ok(())
    }

    /// Takes the live rows of a chunk out of the index, before they move.
    fn unindex(&mut self, number: usize) {
        let chunk = &self.chunks[number];
        for row in (0..chunk.dead.len()).filter(|row| !chunk.dead[*row]) {
            let hash = self.hashes.hash(&chunk.keys, row);
            if let Ok(entry) = self.index.find_entry(hash, |(_, at)| *at == (number as u32, row as u32)) {
                entry.remove();
            }
        }
    }

    /// Merges chunks from the end while the last is at least half as large as its neighbour, and from one on that is mostly dead. (What
    /// stands behind such a one is together smaller than it was, so those that died in it have paid for it.) None becomes larger than
    /// Arrow can have it.
    fn tidy(&mut self) -> Result<()> {
        loop {
            let alike = match self.chunks.as_slice() {
                [.., before, last]
                    if last.live * 2 >= before.live && before.live_bytes() + last.live_bytes() <= self.most_merged =>
                {
                    Some(self.chunks.len() - 2)
                }
                _ => None,
            };
            let wasteful = self.chunks.iter().position(|chunk| chunk.live * 2 < chunk.batch.num_rows());
            let Some(from) = alike.into_iter().chain(wasteful).min() else { return Ok(()) };
            (from..self.chunks.len()).for_each(|number| self.unindex(number));
            let live = self.chunks.drain(from..).map(|chunk| live_rows(&chunk)).collect::<Result<Vec<_>>>()?;
            // What is merged again and again would hold the text of every row that has ever been in it.
            for merged in merge_within(self.parts.state_schema(), &live, self.most_merged)? {
                if merged.num_rows() > 0 {
                    self.add_chunk(without_garbage(merged)?)?;
                }
            }
        }
    }

    async fn finished(
        &self,
        states: &[RecordBatch],
        weight: Option<i8>,
        compute: &Compute,
    ) -> Result<Vec<RecordBatch>> {
        if states.iter().all(|s| s.num_rows() == 0) {
            return Ok(Vec::new());
        }
        let rows = self.parts.finish(states, compute).await?;
        let Some(weight) = weight else { return Ok(rows) };
        let weigh = |batch: RecordBatch| {
            let mut columns = batch.columns().to_vec();
            columns.push(Arc::new(Int8Array::from_value(weight, batch.num_rows())));
            Ok(RecordBatch::try_new(Arc::clone(&self.output_schema), columns)?)
        };
        rows.into_iter().map(weigh).collect()
    }
}

/// Whether a key was last seen before `limit`. Of one that came without a time, and has not been seen since, that is not known.
pub(super) fn is_before(seen: &PrimitiveArray<TimestampMillisecondType>, row: usize, limit: i64) -> bool {
    seen.is_valid(row) && seen.value(row) < limit
}

fn live_rows(chunk: &Chunk) -> Result<RecordBatch> {
    if chunk.live == chunk.batch.num_rows() {
        return Ok(chunk.batch.clone());
    }
    let live: UInt32Array = (0..chunk.dead.len() as u32).filter(|r| !chunk.dead[*r as usize]).collect();
    Ok(take_record_batch(&chunk.batch, &live)?)
}
