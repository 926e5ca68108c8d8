//! One task for each split: fetch, decode, add columns, hand over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use datafusion::arrow::array::RecordBatch;
use tokio::sync::{Notify, mpsc};

use super::catching_up::Until;
use super::idleness::{Pending, steady_ms};
use super::pieces::{RowBytes, left, until_bytes};
use super::quotas::Quotas;
use super::rows::{Provenance, RowMaker, Unfit, UnfitRows};
use super::shared_decode::FeedDecoder;
use crate::contracts::{
    Arrivals, Clock, Error, Fetch, Position, RawChunk, Reject, RejectReason, RejectedRecord, Result, RowChunk,
    SequenceNumbers, SkippedTime, SplitReader, caught,
};

/// Records of one split that belong together: all of them, and the position after them.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) feed: usize,
    pub(crate) split: usize,
    /// Upper half of the origin column.
    pub(crate) number: u32,
    pub(crate) position: Position,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// What people call the source of the split.
    pub(crate) stream: Arc<str>,
    /// Of its records.
    pub(crate) sequence: SequenceNumbers,
    pub(crate) arrivals: Arrivals,
    pub(crate) raw: Option<RawChunk>,
    /// How far behind the newest record the split was, in milliseconds, where the source says so.
    pub(crate) behind_ms: Option<u64>,
    /// What each table of the feed makes of them.
    pub(crate) parts: Vec<Part>,
}

impl Piece {
    /// How far reading is behind, where the source says so. What has waited for its epoch is older by now than it was when the source
    /// was asked.
    pub(crate) fn behind_ms_at(&self, now_ms: i64) -> Option<u64> {
        let newest = self.raw.as_ref().map(|raw| self.arrivals.get(raw.len() - 1));
        let age = newest.and_then(|ms| u64::try_from(now_ms - ms).ok()).unwrap_or(0);
        self.behind_ms.map(|ms| ms.max(age))
    }
}

/// A piece as one table sees it.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) batch: RecordBatch,
    /// Record of each row; `None` means row `i` is record `i`.
    pub(crate) records: Option<Vec<u32>>,
    /// The split's watermark after these rows, in milliseconds.
    pub(crate) watermark: i64,
    pub(crate) decoded: u64,
    pub(crate) skipped: u64,
    pub(crate) rejects: Vec<RejectedRecord>,
}

/// What a reader tells the driver.
#[derive(Debug)]
pub(crate) enum Event {
    Piece(Box<Piece>),
    CaughtUp {
        feed: usize,
        split: usize,
        /// Where reading stands, where the source knows it without a record.
        position: Option<Position>,
        /// When that was so, in milliseconds of the steady clock.
        at_ms: i64,
    },
    /// The split has ended, or (not `really`) it is caught up and the run ends there.
    Finished {
        feed: usize,
        split: usize,
        really: bool,
        position: Option<Position>,
    },
    /// The split's first records have been given, and there are more: it waits for its turn.
    Looked {
        feed: usize,
        split: usize,
    },
    /// The split has nothing more, and a logged epoch asks for records of it.
    Gone {
        feed: usize,
        split: usize,
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

    #[cfg(test)]
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
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

/// A table of the feed, as a reader fills it.
pub(crate) struct TableMaker {
    pub(crate) name: Arc<str>,
    pub(crate) maker: RowMaker,
}

/// A reader at work.
pub(crate) struct ReaderTask {
    pub(crate) feed: usize,
    pub(crate) split: usize,
    pub(crate) reader: Box<dyn SplitReader>,
    pub(crate) decoder: FeedDecoder,
    pub(crate) tables: Vec<TableMaker>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) brake: Arc<Brake>,
    pub(crate) pieces: Arc<AtomicU32>,
    /// Most records in one piece: an epoch is cut between pieces.
    pub(crate) max_records: usize,
    /// Most bytes, but for a single record.
    pub(crate) max_bytes: usize,
    /// Whether the split ends when it has been read up to now.
    pub(crate) ends_when_caught_up: bool,
    pub(crate) quotas: Quotas,
    /// Whether it gives the first records that come, and ends.
    pub(crate) looks: bool,
    /// Up to where it reads, if not on and on.
    pub(crate) until: Option<Until>,
    pub(crate) clock: Arc<dyn Clock>,
    /// What is on its way to the driver.
    pub(crate) pending: Pending,
}

/// Answers in a row that there is nothing more, after which records that an earlier run had count as gone.
const PATIENCE: u32 = 100;

impl ReaderTask {
    pub(crate) async fn run(mut self) {
        let (events, who) = (self.events.clone(), format!("a reader of '{}'", self.stream()));
        // Nobody waits for this task: one that dies would be missed by nobody, and its split stand still.
        if let Err(error) = caught(&who, self.read()).await.flatten() {
            // A closed channel means that the driver has gone: nobody is left to tell.
            let _ = events.send(Event::Failed(error)).await;
        }
    }

    async fn read(&mut self) -> Result<()> {
        let (feed, split, events) = (self.feed, self.split, self.events.clone());
        let (mut nothing, mut looked, mut reached) = (0, false, false);
        loop {
            // One that is only looked into must not keep its place while others wait for it.
            if !self.looks {
                self.brake.wait().await;
            }
            let Some(allowed) = self.quotas.allowed().await else { return Ok(()) };
            if reached {
                let _ = self.events.send(Event::Finished { feed, split, really: false, position: None }).await;
                return Ok(());
            }
            let repeats = self.quotas.replaying() || self.until.is_some();
            self.reader.repeats(if repeats { allowed as u64 } else { 0 });
            // When the answer comes it may be old: a process can be stopped for a minute, and a service can take one.
            let at_ms = steady_ms(&self.clock);
            let fetched = self.reader.next().await?;
            let is_records = matches!(fetched, Fetch::Records(_) | Fetch::Rows(_));
            if looked && is_records {
                // These are read again when it is the split's turn.
                let _ = self.events.send(Event::Looked { feed, split }).await;
                return Ok(());
            }
            looked = self.looks && is_records;
            if is_records {
                self.pending.add();
            }
            if self.quotas.replaying() && !is_records {
                nothing += 1;
                if nothing > PATIENCE || matches!(fetched, Fetch::Finished) {
                    let _ = self.events.send(Event::Gone { feed, split }).await;
                    return Ok(());
                }
                continue;
            }
            if let (Some(until), Fetch::CaughtUp) = (&self.until, &fetched) {
                nothing += 1;
                reached = nothing > PATIENCE || until.is_reached_at(self.reader.position().as_ref());
                continue;
            }
            nothing = 0;
            let fetched = match (&self.until, fetched) {
                (Some(until), Fetch::Records(chunk)) => {
                    let (read, all) = until.of_chunk(&chunk.sequence, chunk.len());
                    reached = all;
                    Fetch::Records(if read < chunk.len() { chunk.slice(0..read) } else { chunk })
                }
                (Some(until), Fetch::Rows(chunk)) => {
                    let rows = chunk.batch.num_rows();
                    let (read, all) = until.of_chunk(&chunk.sequence, rows);
                    reached = all;
                    Fetch::Rows(if read < rows { chunk.slice(0..read) } else { chunk })
                }
                (_, fetched) => fetched,
            };
            let event = match fetched {
                Fetch::Records(chunk) => {
                    let mut from = 0;
                    while from < chunk.len() {
                        let Some(most) = self.quotas.allowed().await else { return Ok(()) };
                        let most = most.min(self.max_records);
                        let until = until_bytes(&chunk, from, from.saturating_add(most), self.max_bytes);
                        let part = if until - from == chunk.len() { chunk.clone() } else { chunk.slice(from..until) };
                        // A place first: of hundreds of readers, few hold decoded rows while they wait.
                        let Ok(place) = events.reserve().await else { return Ok(()) };
                        let piece = self.decode(part).await?;
                        self.quotas.used(until - from);
                        self.pending.add();
                        place.send(Event::Piece(Box::new(piece)));
                        from = until;
                    }
                    self.pending.done();
                    continue;
                }
                Fetch::Rows(chunk) => {
                    let rows = chunk.batch.num_rows();
                    let bytes = RowBytes::of(&chunk);
                    let fit = bytes.rows_of(self.max_bytes).min(self.max_records);
                    let mut from = 0;
                    while from < rows {
                        let Some(most) = self.quotas.allowed().await else { return Ok(()) };
                        let most = most.min(fit);
                        let until = from.saturating_add(most).min(rows);
                        let Ok(place) = events.reserve().await else { return Ok(()) };
                        let piece =
                            self.typed(chunk.slice(from..until), bytes.up_to(until) - bytes.up_to(from)).await?;
                        self.quotas.used(until - from);
                        self.pending.add();
                        place.send(Event::Piece(Box::new(piece)));
                        from = until;
                    }
                    self.pending.done();
                    continue;
                }
                Fetch::CaughtUp if self.ends_when_caught_up => {
                    Event::Finished { feed, split, really: false, position: self.reader.position() }
                }
                Fetch::CaughtUp => Event::CaughtUp { feed, split, position: self.reader.position(), at_ms },
                Fetch::Finished => Event::Finished { feed, split, really: true, position: None },
            };
            let finished = matches!(event, Event::Finished { .. });
            if self.events.send(event).await.is_err() || finished {
                return Ok(());
            }
        }
    }

    async fn decode(&mut self, chunk: RawChunk) -> Result<Piece> {
        let number = self.pieces.fetch_add(1, Ordering::Relaxed);
        let mut parts = Vec::with_capacity(self.tables.len());
        for (table, decoded) in self.tables.iter_mut().zip(self.decoder.decode(&chunk)?) {
            let provenance = Provenance {
                split: &chunk.split,
                sequence: &chunk.sequence,
                arrivals: &chunk.arrivals,
                partition_keys: chunk.partition_keys.as_ref(),
                raw: Some(&chunk),
                rows: decoded.rows.as_deref(),
            };
            let (skipped, all) = (decoded.skipped, decoded.batch.num_rows());
            let record = |row: usize| provenance.record(row) as u32;
            let (part, unfit) =
                table.part(decoded.batch, &[], &provenance, decoded.skipped_time.as_ref(), number, skipped).await?;
            let mut rejects = decoded.rejects;
            let out: Vec<usize> = unfit.keys().copied().collect();
            rejects.extend(unfit.into_iter().map(|(row, Unfit { reason, column, detail })| Reject {
                record: record(row),
                reason,
                column,
                detail,
            }));
            rejects.sort_by_key(|reject| reject.record);
            let refused = |reject| rejected(&table.name, &table.maker.stream, &chunk, reject);
            let rejects = rejects.into_iter().map(refused).collect();
            parts.push(Part { records: left(decoded.rows, all, &out), rejects, ..part });
        }
        Ok(Piece {
            feed: self.feed,
            split: self.split,
            number,
            position: chunk.position_after(chunk.len() - 1),
            records: chunk.len() as u64,
            bytes: chunk.records.iter().map(|r| u64::from(r.end - r.start)).sum(),
            stream: self.stream(),
            sequence: chunk.sequence.clone(),
            arrivals: chunk.arrivals.clone(),
            raw: Some(chunk),
            behind_ms: self.reader.behind_ms(),
            parts,
        })
    }

    fn stream(&self) -> Arc<str> {
        self.tables.first().map_or_else(|| "".into(), |table| Arc::clone(&table.maker.stream))
    }

    async fn typed(&mut self, chunk: RowChunk, bytes: u64) -> Result<Piece> {
        let number = self.pieces.fetch_add(1, Ordering::Relaxed);
        let provenance = Provenance {
            split: &chunk.split,
            sequence: &chunk.sequence,
            arrivals: &chunk.arrivals,
            partition_keys: None,
            raw: None,
            rows: None,
        };
        let mut parts = Vec::with_capacity(self.tables.len());
        for (table, rows) in self.tables.iter_mut().zip(self.decoder.rows(&chunk.batch)?) {
            let (part, unfit) = table.part(rows, &chunk.rejects, &provenance, None, number, 0).await?;
            let out: Vec<usize> = unfit.keys().copied().collect();
            let rejects = unfit.into_iter().map(|(row, Unfit { reason, column, detail })| RejectedRecord {
                origin: table.name.to_string(),
                stream: table.maker.stream.to_string(),
                split: chunk.split.to_string(),
                sequence_number: chunk.sequence.get(row).into_owned(),
                arrival_ms: Some(chunk.arrivals.get(row)),
                reason,
                column,
                detail,
                record: row_json(&chunk.batch, row),
            });
            let rejects = rejects.collect();
            parts.push(Part { records: left(None, chunk.batch.num_rows(), &out), rejects, ..part });
        }
        let rows = chunk.batch.num_rows();
        Ok(Piece {
            feed: self.feed,
            split: self.split,
            number,
            position: chunk.position_after(rows - 1),
            records: rows as u64,
            bytes,
            stream: self.stream(),
            sequence: chunk.sequence,
            arrivals: chunk.arrivals,
            raw: None,
            behind_ms: self.reader.behind_ms(),
            parts,
        })
    }
}

impl TableMaker {
    /// The table's rows of a piece, and those of the decoded rows that are refused.
    async fn part(
        &mut self,
        decoded: RecordBatch,
        rejects: &[Reject],
        provenance: &Provenance<'_>,
        skipped_time: Option<&SkippedTime>,
        number: u32,
        skipped: u64,
    ) -> Result<(Part, UnfitRows)> {
        let made = self.maker.make(decoded, rejects, provenance, skipped_time, number).await?;
        let (decoded, watermark) = (made.batch.num_rows() as u64, self.maker.watermark);
        let (batch, rejects) = (made.batch, Vec::new());
        Ok((Part { batch, records: None, watermark, decoded, skipped, rejects }, made.unfit))
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

/// A refused row that comes from no single record.
pub(crate) fn rejected_row(
    origin: &str,
    reason: RejectReason,
    column: Option<String>,
    detail: String,
    record: Vec<u8>,
) -> RejectedRecord {
    RejectedRecord {
        origin: origin.to_owned(),
        stream: String::new(),
        split: String::new(),
        sequence_number: String::new(),
        arrival_ms: None,
        reason,
        column,
        detail,
        record,
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
