//! One task for each split: fetch, decode, add columns, hand over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use datafusion::arrow::array::RecordBatch;
use tokio::sync::{Notify, mpsc};

use super::rows::{Provenance, RowMaker};
use crate::contracts::{
    Decoded, Decoder, Error, Fetch, Position, RawChunk, Reject, RejectReason, RejectedRecord, Result, RowChunk,
    SplitReader,
};

/// Rows of one split that belong together: all of them, and the position after them.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) table: usize,
    pub(crate) split: usize,
    /// Upper half of the origin column.
    pub(crate) number: u32,
    pub(crate) batch: RecordBatch,
    /// The split's watermark after these rows, in milliseconds.
    pub(crate) watermark: i64,
    pub(crate) position: Position,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) decoded: u64,
    pub(crate) skipped: u64,
    pub(crate) rejects: Vec<RejectedRecord>,
    pub(crate) raw: Option<RawChunk>,
    /// How far behind the newest record the split was, in milliseconds, where the source says so.
    pub(crate) behind_ms: Option<u64>,
}

/// What a reader tells the driver.
#[derive(Debug)]
pub(crate) enum Event {
    Piece(Box<Piece>),
    CaughtUp {
        table: usize,
        split: usize,
        /// Where reading stands, where the source knows it without a record.
        position: Option<Position>,
    },
    /// The split has ended, or (not `really`) it is caught up and the run ends there.
    Finished {
        table: usize,
        split: usize,
        really: bool,
        position: Option<Position>,
    },
    Failed(Error),
}

/// Holds a split back that runs too far ahead of the others.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    held: AtomicBool,
    released: Notify,
}

impl Brake {
    pub(crate) fn hold(&self, hold: bool) {
        if self.held.swap(hold, Ordering::AcqRel) && !hold {
            self.released.notify_waiters();
        }
    }

    async fn wait(&self) {
        loop {
            let released = self.released.notified();
            if !self.held.load(Ordering::Acquire) {
                return;
            }
            released.await;
        }
    }
}

/// A reader at work.
pub(crate) struct ReaderTask {
    pub(crate) table: usize,
    pub(crate) table_name: Arc<str>,
    pub(crate) split: usize,
    pub(crate) reader: Box<dyn SplitReader>,
    pub(crate) decoder: Option<Box<dyn Decoder>>,
    pub(crate) maker: RowMaker,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) brake: Arc<Brake>,
    pub(crate) pieces: Arc<AtomicU32>,
    /// Most records in one piece: an epoch is cut between pieces.
    pub(crate) max_records: usize,
    /// Whether the split ends when it has been read up to now.
    pub(crate) ends_when_caught_up: bool,
}

impl ReaderTask {
    pub(crate) async fn run(mut self) {
        let events = self.events.clone();
        if let Err(error) = self.read().await {
            // A closed channel means that the driver has gone: nobody is left to tell.
            let _ = events.send(Event::Failed(error)).await;
        }
    }

    async fn read(&mut self) -> Result<()> {
        let (table, split) = (self.table, self.split);
        loop {
            self.brake.wait().await;
            let event = match self.reader.next().await? {
                Fetch::Records(chunk) => {
                    let mut from = 0;
                    while from < chunk.len() {
                        let until = (from + self.max_records).min(chunk.len());
                        let part = if until - from == chunk.len() { chunk.clone() } else { chunk.slice(from..until) };
                        let piece = self.decode(part).await?;
                        if self.events.send(Event::Piece(Box::new(piece))).await.is_err() {
                            return Ok(());
                        }
                        from = until;
                    }
                    continue;
                }
                Fetch::Rows(chunk) => {
                    let rows = chunk.batch.num_rows();
                    let mut from = 0;
                    while from < rows {
                        let until = (from + self.max_records).min(rows);
                        let piece = self.typed(chunk.slice(from..until)).await?;
                        if self.events.send(Event::Piece(Box::new(piece))).await.is_err() {
                            return Ok(());
                        }
                        from = until;
                    }
                    continue;
                }
                Fetch::CaughtUp if self.ends_when_caught_up => {
                    Event::Finished { table, split, really: false, position: self.reader.position() }
                }
                Fetch::CaughtUp => Event::CaughtUp { table, split, position: self.reader.position() },
                Fetch::Finished => Event::Finished { table, split, really: true, position: None },
            };
            let finished = matches!(event, Event::Finished { .. });
            if self.events.send(event).await.is_err() || finished {
                return Ok(());
            }
        }
    }

    async fn decode(&mut self, chunk: RawChunk) -> Result<Piece> {
        let Some(decoder) = &mut self.decoder else {
            return Err(Error::internal("raw records from a source that was planned as typed"));
        };
        let decoded: Decoded = decoder.decode(&chunk);
        let number = self.pieces.fetch_add(1, Ordering::Relaxed);
        let provenance = Provenance {
            split: &chunk.split,
            sequence: &chunk.sequence,
            arrivals: &chunk.arrivals,
            partition_keys: chunk.partition_keys.as_ref(),
            raw: Some(&chunk),
            rows: decoded.rows.as_deref(),
        };
        let made = self.maker.make(decoded.batch, &provenance, decoded.skipped_time.as_ref(), number).await?;
        let mut rejects = decoded.rejects;
        rejects.extend(made.timeless.iter().map(|row| Reject {
            record: decoded.rows.as_ref().map_or(*row as u32, |rows| rows[*row]),
            reason: RejectReason::BadTimestamp,
            column: None,
            detail: "the computed time column is NULL".to_owned(),
        }));
        rejects.sort_by_key(|reject| reject.record);
        let name = &self.table_name;
        let rejects = rejects.into_iter().map(|reject| rejected(name, &self.maker.stream, &chunk, reject)).collect();
        Ok(Piece {
            table: self.table,
            split: self.split,
            number,
            decoded: made.batch.num_rows() as u64,
            batch: made.batch,
            watermark: self.maker.watermark,
            position: chunk.position_after(chunk.len() - 1),
            records: chunk.len() as u64,
            bytes: chunk.records.iter().map(|r| u64::from(r.end - r.start)).sum(),
            skipped: decoded.skipped,
            rejects,
            raw: Some(chunk),
            behind_ms: self.reader.behind_ms(),
        })
    }

    async fn typed(&mut self, chunk: RowChunk) -> Result<Piece> {
        let number = self.pieces.fetch_add(1, Ordering::Relaxed);
        let provenance = Provenance {
            split: &chunk.split,
            sequence: &chunk.sequence,
            arrivals: &chunk.arrivals,
            partition_keys: None,
            raw: None,
            rows: None,
        };
        let rows = chunk.batch.num_rows();
        let made = self.maker.make(chunk.batch.clone(), &provenance, None, number).await?;
        let rejects = made.timeless.iter().map(|row| RejectedRecord {
            origin: self.table_name.to_string(),
            stream: self.maker.stream.to_string(),
            split: chunk.split.to_string(),
            sequence_number: chunk.sequence.get(*row).into_owned(),
            arrival_ms: Some(chunk.arrivals.get(*row)),
            reason: RejectReason::BadTimestamp,
            column: None,
            detail: "the time column is NULL".to_owned(),
            record: row_json(&chunk.batch, *row),
        });
        Ok(Piece {
            table: self.table,
            split: self.split,
            number,
            decoded: made.batch.num_rows() as u64,
            rejects: rejects.collect(),
            batch: made.batch,
            watermark: self.maker.watermark,
            position: chunk.position_after(rows - 1),
            records: rows as u64,
            bytes: chunk.batch.get_array_memory_size() as u64,
            skipped: 0,
            raw: None,
            behind_ms: self.reader.behind_ms(),
        })
    }
}

/// A refused record with everything that is known of it.
pub(crate) fn rejected(origin: &str, stream: &str, chunk: &RawChunk, reject: Reject) -> RejectedRecord {
    let record = reject.record as usize;
    RejectedRecord {
        origin: origin.to_owned(),
        stream: stream.to_owned(),
        split: chunk.split.to_string(),
        sequence_number: chunk.sequence.get(record).into_owned(),
        arrival_ms: Some(chunk.arrivals.get(record)),
        reason: reject.reason,
        column: reject.column,
        detail: reject.detail,
        record: chunk.record(record).to_vec(),
    }
}

/// One row as JSON, where there is no original record.
pub(crate) fn row_json(batch: &RecordBatch, row: usize) -> Vec<u8> {
    let mut writer = datafusion::arrow::json::LineDelimitedWriter::new(Vec::new());
    match writer.write(&batch.slice(row, 1)).and_then(|()| writer.finish()) {
        Ok(()) => writer.into_inner().trim_ascii_end().to_vec(),
        Err(error) => format!("(row {row} cannot be shown: {error})").into_bytes(),
    }
}
