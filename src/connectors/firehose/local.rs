//! Firehose without AWS: a delivery stream is `DIR/firehose/<name>.jsonl`. At least once, as the real one.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::connectors::appended;
use crate::connectors::line_file::io_error;
use crate::contracts::{Changes, EpochNumber, Result, Sink, TableSpec, WriteOutcome};

use super::{Encoding, delivery_stream};

/// Appends records to a file.
pub(super) struct LocalDeliverySink {
    path: PathBuf,
    encoding: Encoding,
    pending: Vec<u8>,
}

impl LocalDeliverySink {
    pub(super) fn try_new(spec: &TableSpec, local: &Path) -> Result<Self> {
        let path = local.join("firehose").join(format!("{}.jsonl", delivery_stream(spec)?));
        Ok(Self { path, encoding: Encoding::of(spec)?, pending: Vec::new() })
    }

    /// Appends what waits. Answers the file, which is to be synced.
    fn append(&mut self) -> std::io::Result<File> {
        let mut file = appended::open(&self.path)?;
        file.write_all(&self.pending)?;
        self.pending.clear();
        Ok(file)
    }
}

#[async_trait]
impl Sink for LocalDeliverySink {
    async fn write(&mut self, _epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let (records, refused) = self.encoding.records(&changes)?;
        let written = records.len() as u64;
        self.pending.extend(records.into_iter().flatten());
        Ok(WriteOutcome { written, refused })
    }

    fn flushes_parts(&self) -> bool {
        true
    }

    async fn flush(&mut self, _epoch: EpochNumber, _now_ms: i64) -> Result<WriteOutcome> {
        if !self.pending.is_empty() {
            let file = self.append().map_err(|e| io_error(&self.path, "written", e))?;
            appended::sync(&self.path, file).await?;
        }
        Ok(WriteOutcome::default())
    }
}
