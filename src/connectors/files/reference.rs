//! Reference tables: all files of a table as one batch, read again when they change.
//!
//! A `ReloadedFiles` asks for [`ReferenceFiles::version`] for each epoch, which only lists, and calls
//! [`ReferenceFiles::load`] when it differs (in a bucket: when an ETag or a size does). A file that cannot be read in full is an error of the load
//! (a wrong row is one too, with its line), so that a job never joins with half a table.
//!
//! A table without any file, in a bucket or in a folder, is *away* and not empty: its files are being replaced, a disk is not mounted, or its path
//! is misspelt. Files of no bytes are none: a copy begins with one, and the folders of S3's console are such.

use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take};
use async_trait::async_trait;

use crate::connectors::blocking::ChunkReader;
use crate::connectors::line_file::open_blocking;
use crate::contracts::{
    Clock, Decoder, Error, Fetch, Polled, RawChunk, ReferenceLoader, Reject, Result, RowChunk, StartPosition, TableSpec,
};
use crate::formats::decoder;

use super::listing::ListedFile;
use super::location::{Place, Reach};
use super::source::{FileAt, Kind, none_there};

/// How often a bucket is listed: 10 s are 260,000 requests a month, about 1.30 USD.
const LIST_INTERVAL: Duration = Duration::from_secs(10);

/// Which files a table has: their paths, sizes, modification times and ETags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileVersion(Vec<ListedFile>);

impl FileVersion {
    fn is_away(&self) -> bool {
        self.0.is_empty()
    }
}

/// The files of a reference table.
#[derive(Debug, Clone)]
pub struct ReferenceFiles {
    spec: TableSpec,
    place: Place,
    last: Arc<Mutex<Option<(FileVersion, Duration)>>>,
    clock: Arc<dyn Clock>,
    most_bytes: Option<usize>,
}

impl ReferenceFiles {
    /// The table of `spec`, in the format of its option `format`. Nothing is read yet.
    pub(crate) fn open(spec: &TableSpec, reach: &Reach<'_>) -> Result<Self> {
        spec.require("format")?;
        Ok(Self {
            spec: spec.clone(),
            place: reach.place(spec.require("path")?)?,
            last: Arc::default(),
            clock: Arc::clone(&reach.clock),
            most_bytes: None,
        })
    }

    /// The same with an end to what is loaded, in bytes of columns: a table that is joined with must fit into memory.
    #[must_use]
    pub fn within(self, most_bytes: Option<usize>) -> Self {
        Self { most_bytes, ..self }
    }

    /// What is there now; in a bucket, what was there at most 10 s ago.
    pub async fn version(&self) -> Result<FileVersion> {
        if matches!(self.place, Place::S3(_)) {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((version, at)) = &*last
                && self.clock.elapsed().saturating_sub(*at) < LIST_INTERVAL
            {
                return Ok(version.clone());
            }
        }
        let version = FileVersion(self.list().await?);
        self.remember(&version);
        Ok(version)
    }

    fn remember(&self, version: &FileVersion) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((version.clone(), self.clock.elapsed()));
    }

    /// All rows, in the columns of the spec, and the version that was read. A file that changes while it is read makes
    /// the read start again.
    pub async fn load(&self) -> Result<(FileVersion, RecordBatch)> {
        self.load_unless_away().await?.ok_or_else(|| self.away())
    }

    /// The same; `None` where there are no files.
    async fn load_unless_away(&self) -> Result<Option<(FileVersion, RecordBatch)>> {
        for _ in 0..ATTEMPTS {
            let version = FileVersion(self.list().await?);
            if version.is_away() {
                self.remember(&version);
                return Ok(None);
            }
            let batch = self.read(&version.0).await;
            if self.list().await? == version.0 {
                self.remember(&version);
                return Ok(Some((version, batch?)));
            }
        }
        Err(Error::unavailable(format!("the files of table '{}' change all the time", self.spec.name))
            .hint("write a new file elsewhere and move it into place"))
    }

    async fn list(&self) -> Result<Vec<ListedFile>> {
        match self.place.list().await {
            Ok(mut files) => {
                files.retain(|file| file.bytes > 0);
                Ok(files)
            }
            // A folder below may have gone between two looks.
            Err(error) if is_not_found(&error) => Ok(Vec::new()),
            Err(error) => Err(error.context(format!("table '{}'", self.spec.name))),
        }
    }

    fn away(&self) -> Error {
        none_there(&self.spec)
            .hint("check the path; a table that is to be empty has a file without rows (a line end, a CSV header)")
    }

    async fn read(&self, files: &[ListedFile]) -> Result<RecordBatch> {
        let mut loaded = Loaded { batches: Vec::new(), bytes: 0 };
        for file in files {
            let at = FileAt { place: &self.place, spec: &self.spec, name: &file.name, versions: None };
            let this = self.clone();
            loaded = match Kind::of(&self.spec)? {
                Kind::Parquet => {
                    let mut reader = at.parquet(None, StartPosition::TrimHorizon).await?;
                    let name = file.name.clone();
                    let read = open_blocking(move || {
                        while let Some(Fetch::Rows(rows)) = reader.read()? {
                            let batch = this.all_fit(&name, rows)?;
                            this.take(&mut loaded, batch)?;
                        }
                        Ok(loaded)
                    });
                    read.await?
                }
                Kind::Lines(framing) => {
                    let constants = self.place.partition_values(&file.name, &self.spec)?;
                    let mut reader = at.lines(framing, None, StartPosition::TrimHorizon, None).await?;
                    let name = file.name.clone();
                    let read = open_blocking(move || {
                        let mut decoder = decoder(this.spec.require("format")?, &this.spec, None)?;
                        while let Some(Fetch::Records(chunk)) = reader.read()? {
                            let batch = this.decode(&name, decoder.as_mut(), &chunk, &constants)?;
                            this.take(&mut loaded, batch)?;
                        }
                        Ok(loaded)
                    });
                    read.await?
                }
            };
        }
        Ok(concat_batches(&self.spec.schema, &loaded.batches)?)
    }

    /// The rows of a chunk, if the table takes all of them.
    fn all_fit(&self, name: &str, rows: RowChunk) -> Result<RecordBatch> {
        let told = |error: Error| {
            let error = error.context(format!("reference table '{}'", self.spec.name));
            error.hint("mend the file; a reference table is used only when all of it can be read")
        };
        if let Some(Reject { record, column, detail, .. }) = rows.rejects.first() {
            let (row, column) = (rows.sequence.get(*record as usize), column.as_deref().unwrap_or_default());
            return Err(told(Error::data(format!("'{name}', row {row}: column '{column}' does not fit: {detail}"))));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.batch.num_rows()));
        let columns = rows.batch.columns().to_vec();
        RecordBatch::try_new_with_options(Arc::clone(&self.spec.schema), columns, &options)
            .map_err(|e| told(Error::data(format!("'{name}' does not fit the table's columns")).caused_by(e)))
    }

    /// Takes rows that have been read, unless they are too many.
    fn take(&self, loaded: &mut Loaded, batch: RecordBatch) -> Result<()> {
        loaded.bytes += batch.get_array_memory_size();
        loaded.batches.push(batch);
        match self.most_bytes {
            Some(most) if loaded.bytes > most => Err(Error::unavailable(format!(
                "reference table '{}' has more than {} MiB of rows, which do not fit into memory",
                self.spec.name,
                most >> 20
            ))
            .of_this_machine()
            .hint("give the job more --memory, name fewer columns in CREATE TABLE, or look its rows up in a DynamoDB table instead")),
            _ => Ok(()),
        }
    }

    fn decode(
        &self,
        name: &str,
        decoder: &mut dyn Decoder,
        chunk: &RawChunk,
        constants: &[(String, ArrayRef)],
    ) -> Result<RecordBatch> {
        let decoded = decoder.decode(chunk);
        if let Some(reject) = decoded.rejects.first() {
            let index = reject.record as usize;
            let column = reject.column.as_ref().map(|c| format!(" in column '{c}'")).unwrap_or_default();
            let text: String = String::from_utf8_lossy(chunk.record(index)).chars().take(80).collect();
            return Err(Error::data(format!(
                "'{name}', byte {}: {}{column}: {} (record: {text})",
                chunk.sequence.get(index),
                reject.reason,
                reject.detail
            ))
            .context(format!("reference table '{}'", self.spec.name))
            .hint("mend the file; a reference table is used only when all of it can be read"));
        }
        let mut columns = decoded.batch.columns().to_vec();
        for (column, value) in constants {
            let Ok(index) = self.spec.schema.index_of(column) else { continue };
            if value.is_null(0) && !self.spec.schema.field(index).is_nullable() {
                return Err(Error::data(format!("'{name}': its folders say nothing of '{column}', which is NOT NULL"))
                    .context(format!("reference table '{}'", self.spec.name))
                    .hint(format!(
                        "move the file into a folder '{column}=…', or declare the column without NOT NULL"
                    )));
            }
            columns[index] = take(value, &UInt32Array::from(vec![0; decoded.batch.num_rows()]), None)?;
        }
        // There may be rows alone: a query of which no row can match reads no column.
        let options = RecordBatchOptions::new().with_row_count(Some(decoded.batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.spec.schema), columns, &options)?)
    }
}

/// A reference table that is loaded again when its files change.
#[derive(Debug)]
pub(crate) struct ReloadedFiles {
    files: ReferenceFiles,
    version: Option<FileVersion>,
}

impl From<ReferenceFiles> for ReloadedFiles {
    fn from(files: ReferenceFiles) -> Self {
        Self { files, version: None }
    }
}

#[async_trait]
impl ReferenceLoader for ReloadedFiles {
    async fn poll(&mut self) -> Result<Polled> {
        if let Some(version) = &self.version {
            let now = self.files.version().await?;
            if now == *version {
                return Ok(Polled::Same);
            }
            if now.is_away() {
                return Ok(Polled::Away(self.files.away()));
            }
        }
        let Some((version, rows)) = self.files.load_unless_away().await? else {
            return Ok(Polled::Away(self.files.away()));
        };
        self.version = Some(version);
        Ok(Polled::Changed(rows))
    }

    fn forget(&mut self) {
        self.version = None;
    }
}

fn is_not_found(error: &Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::NotFound)
}

/// Rows of a table so far.
struct Loaded {
    batches: Vec<RecordBatch>,
    bytes: usize,
}

/// Reads that may be disturbed by a writer before the load fails.
const ATTEMPTS: usize = 5;
