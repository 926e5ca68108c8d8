//! Rows as records of a stream of the embedded Kinesis: one record a row, put when the epoch is flushed. At least once: a
//! replayed epoch puts its records again.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::contracts::{Changes, Clock, EpochNumber, Error, RefusedRow, Result, Sink, TableSpec, WriteOutcome};

use super::encode::RowEncoder;
use super::local::{LocalStream, MAX_RECORD_BYTES, PutRecord};
use super::produce::{BATCH_BYTES, BATCH_RECORDS};

/// A row that no stream takes.
pub(super) fn too_large(row: usize, bytes: usize) -> RefusedRow {
    let detail = format!("record of {bytes} bytes, at most {MAX_RECORD_BYTES}");
    RefusedRow { row, reason: "record_too_large".to_owned(), column: None, detail, record: None }
}

/// Puts rows into a stream of the embedded Kinesis.
pub(super) struct LocalStreamSink {
    stream: LocalStream,
    encoder: RowEncoder,
    pending: Vec<(Vec<u8>, String)>,
}

impl LocalStreamSink {
    pub(super) fn open(spec: &TableSpec, local: &Path, stream: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self {
            encoder: RowEncoder::new(spec)?,
            stream: LocalStream::open(local, stream, None, clock)?,
            pending: Vec::new(),
        })
    }

    fn put(&mut self) -> Result<()> {
        let mut rest = self.pending.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(data, key): &&(Vec<u8>, String)| {
                bytes += data.len() + key.len();
                bytes <= BATCH_BYTES
            };
            let count = rest.iter().take(BATCH_RECORDS).take_while(fits).count().max(1);
            let (batch, later) = rest.split_at(count);
            let records: Vec<_> = batch.iter().map(|(data, key)| PutRecord::new(data, key)).collect();
            for result in self.stream.put_records(&records)? {
                result.map_err(|refusal| Error::data(format!("stream refused a record: {}", refusal.message)))?;
            }
            rest = later;
        }
        self.pending.clear();
        Ok(())
    }
}

#[async_trait]
impl Sink for LocalStreamSink {
    async fn write(&mut self, _epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let mut outcome = WriteOutcome::default();
        let pending = &mut self.pending;
        self.encoder.encode(&changes, |row, data, key| {
            let bytes = data.len() + key.len();
            if bytes > MAX_RECORD_BYTES {
                outcome.refused.push(too_large(row, bytes));
            } else {
                pending.push((data, key));
                outcome.written += 1;
            }
        })?;
        Ok(outcome)
    }

    fn flushes_parts(&self) -> bool {
        true
    }

    async fn flush(&mut self, _epoch: EpochNumber, _now_ms: i64) -> Result<WriteOutcome> {
        self.put()?;
        self.stream.sync().await?;
        Ok(WriteOutcome::default())
    }
}
