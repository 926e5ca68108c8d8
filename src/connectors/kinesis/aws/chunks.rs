//! Records of an answer as chunks for the decoder.
//!
//! A chunk holds about [`CHUNK_BYTES`] of payloads in one buffer, each with its sequence number and arrival time, and its
//! partition key where a query asks for it. User records of an aggregate are numbered `<sequence number>/<index>`, so
//! each has a name of its own and a position may stand between two of them.
//!
//! Payloads are unpacked when it is their turn to be decoded: an answer of 10 MiB may be gigabytes when it is unpacked, and what lies in
//! memory is one chunk of those, at most [`CHUNK_BYTES`] and one payload.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::buffer::Buffer;
use aws_sdk_kinesis::types::Record;
use aws_smithy_types::DateTime;

use crate::contracts::{Arrivals, Error, RECORD_PADDING, RawChunk, RecordRange, Result, SequenceNumbers, SplitId};

use super::kpl::deaggregate;
use super::payload::Compression;
use super::position::{Place, ShardPosition};
use super::sequence::SequenceNumber;

/// Payload bytes at which a chunk is closed, where there are few readers.
const CHUNK_BYTES: usize = 1 << 20;
/// Records at which a chunk is closed: each costs about 150 bytes beside its payload (its number, most of all), and an aggregate of
/// 1 MiB may have 170,000 that are empty.
const CHUNK_RECORDS: usize = 16_384;

/// What is done with payloads.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnpackOptions {
    pub(super) deaggregate: bool,
    pub(super) compression: Compression,
    /// Whether partition keys are given.
    pub(super) with_keys: bool,
}

/// Makes chunks of one shard's records.
#[derive(Debug)]
pub(super) struct Unpacker {
    options: UnpackOptions,
    split: SplitId,
    /// Payload bytes at which a chunk is closed.
    chunk_bytes: usize,
    /// Chunks whose payloads are as they came.
    packed: VecDeque<RawChunk>,
    /// Records of the first of them that have been given out.
    given: usize,
}

#[derive(Default)]
struct Open {
    data: Vec<u8>,
    records: Vec<RecordRange>,
    sequence: Vec<Box<str>>,
    arrivals: Vec<i64>,
    keys: Vec<Box<str>>,
}

/// Milliseconds since 1970. The service sends seconds with a fraction, as a binary float: they are rounded, not cut off.
pub(super) fn arrival_ms(record: &Record) -> i64 {
    let rounded = |t: &DateTime| t.secs() * 1_000 + i64::from((t.subsec_nanos() + 500_000) / 1_000_000);
    record.approximate_arrival_timestamp().map_or(0, rounded)
}

impl Unpacker {
    pub(super) fn new(split: SplitId, options: UnpackOptions) -> Self {
        Self { options, split, chunk_bytes: CHUNK_BYTES, packed: VecDeque::new(), given: 0 }
    }

    /// Makes the next chunks no larger than about `bytes`, nor than [`CHUNK_BYTES`].
    pub(super) fn limit_chunks(&mut self, bytes: usize) {
        self.chunk_bytes = bytes.min(CHUNK_BYTES);
    }

    /// Takes the records behind `position`, which moves to the last of them. Records that it is past already are left
    /// out: an answer may begin with the one that reading stopped in.
    ///
    /// # Errors
    /// A sequence number is none: without it nobody could go on behind the record.
    pub(super) fn take(&mut self, records: &[Record], position: &mut ShardPosition) -> Result<()> {
        let mut open = Open::default();
        for record in records {
            let Some(sequence) = SequenceNumber::parse(record.sequence_number()) else {
                let number = record.sequence_number();
                return Err(Error::data(format!("shard '{}': a record has '{number}' for a sequence number", self.split))
                    .hint("the service gives decimal numbers: is the endpoint one that speaks Kinesis, and nothing between that changes answers?"));
            };
            // User records up to this index have been given out before.
            let mut skip = 0;
            if let Place::After { sequence: after, after_sub } = &position.place {
                match (sequence.cmp(after), after_sub) {
                    (std::cmp::Ordering::Less, _) | (std::cmp::Ordering::Equal, None) => continue,
                    (std::cmp::Ordering::Equal, Some(sub)) => skip = *sub as usize + 1,
                    (std::cmp::Ordering::Greater, _) => {}
                }
            }
            let arrival = arrival_ms(record);
            let data = record.data().as_ref();
            let user_records = if self.options.deaggregate { deaggregate(data) } else { None };
            let after_sub = user_records.as_ref().and_then(|r| u32::try_from(r.len()).ok()?.checked_sub(1));
            match &user_records {
                None => {
                    self.push(&mut open, data, sequence.as_str().into(), arrival, record.partition_key().unwrap_or(""));
                    self.close_if_full(&mut open);
                }
                Some(user_records) => {
                    for (index, user) in user_records.iter().enumerate().skip(skip) {
                        let number = format!("{sequence}/{index}").into();
                        self.push(&mut open, user.data, number, arrival, user.partition_key);
                        self.close_if_full(&mut open);
                    }
                }
            }
            position.place = Place::After { sequence, after_sub };
            position.read_until(arrival);
        }
        if !open.records.is_empty() {
            let chunk = self.close(&mut open);
            self.packed.push_back(chunk);
        }
        Ok(())
    }

    /// The next records that have been taken, unpacked.
    pub(super) fn next_chunk(&mut self) -> Option<RawChunk> {
        if self.options.compression == Compression::None {
            return self.packed.pop_front();
        }
        let packed = self.packed.front()?;
        let (from, mut data, mut records) = (self.given, Vec::new(), Vec::new());
        while self.given < packed.len() && data.len() < self.chunk_bytes {
            let start = data.len() as u32;
            self.options.compression.unpack(packed.record(self.given), &mut data);
            records.push(RecordRange { start, end: data.len() as u32 });
            self.given += 1;
        }
        data.resize(data.len() + RECORD_PADDING, 0);
        let given = packed.slice(from..self.given);
        if self.given == packed.len() {
            self.given = 0;
            self.packed.pop_front();
        }
        Some(RawChunk { data: Buffer::from_vec(data), records: records.into(), ..given })
    }

    fn push(&self, open: &mut Open, data: &[u8], sequence: Box<str>, arrival_ms: i64, key: &str) {
        let start = open.data.len() as u32;
        open.data.extend_from_slice(data);
        open.records.push(RecordRange { start, end: open.data.len() as u32 });
        open.sequence.push(sequence);
        open.arrivals.push(arrival_ms);
        if self.options.with_keys {
            open.keys.push(key.into());
        }
    }

    fn close_if_full(&mut self, open: &mut Open) {
        if open.data.len() >= self.chunk_bytes || open.records.len() >= CHUNK_RECORDS {
            let chunk = self.close(open);
            self.packed.push_back(chunk);
        }
    }

    fn close(&self, open: &mut Open) -> RawChunk {
        let mut open = std::mem::take(open);
        open.data.resize(open.data.len() + RECORD_PADDING, 0);
        // It has grown by doubling, and may wait for a while.
        open.data.shrink_to_fit();
        RawChunk {
            split: self.split.clone(),
            data: Buffer::from_vec(open.data),
            records: open.records.into(),
            sequence: SequenceNumbers::Text(open.sequence.into()),
            arrivals: Arrivals::Each(open.arrivals.into()),
            partition_keys: self.options.with_keys.then(|| Arc::from(open.keys)),
        }
    }
}
