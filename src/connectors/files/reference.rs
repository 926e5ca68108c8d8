//! Reference tables: all files of a table as one batch, read again when they change.
//!
//! The runtime asks for [`ReferenceFiles::version`] now and then, which only lists, and calls
//! [`ReferenceFiles::load`] when it differs. A file that cannot be read in full is an error of the load
//! (a wrong row is one too, with its line), so that a job never joins with half a table.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::SchemaRef;

use crate::connectors::blocking::ChunkReader;
use crate::connectors::line_file::{AtEnd, LineFile, open_blocking, split_id};
use crate::contracts::{Decoder, Error, Fetch, RawChunk, Result, StartPosition, TableSpec};
use crate::formats::csv::CsvOptions;
use crate::formats::decoder;
use crate::formats::lines::Framing;

use super::listing::{ListedFile, list, partition_values};
use super::location::resolve;
use super::parquet_read::ParquetFile;

/// Which files a table has: their paths, sizes and modification times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileVersion(Vec<ListedFile>);

/// The files of a reference table.
#[derive(Debug, Clone)]
pub struct ReferenceFiles {
    spec: TableSpec,
    root: PathBuf,
}

impl ReferenceFiles {
    /// The table of `spec`, in the format of its option `format`. Nothing is read yet.
    pub fn open(spec: &TableSpec, local: Option<&Path>) -> Result<Self> {
        let root = resolve(spec.require("path")?, local)?;
        spec.require("format")?;
        Ok(Self { spec: spec.clone(), root })
    }

    /// What is there now.
    pub async fn version(&self) -> Result<FileVersion> {
        let this = self.clone();
        open_blocking(move || this.list().map(FileVersion)).await
    }

    /// All rows, in the columns of the spec, and the version that was read. A file that changes while it is read makes
    /// the read start again.
    pub async fn load(&self) -> Result<(FileVersion, RecordBatch)> {
        let this = self.clone();
        open_blocking(move || {
            for _ in 0..ATTEMPTS {
                let before = this.list()?;
                let batch = this.read(&before)?;
                if this.list()? == before {
                    return Ok((FileVersion(before), batch));
                }
            }
            Err(Error::unavailable(format!("the files of table '{}' change all the time", this.spec.name))
                .hint("write a new file elsewhere and move it into place"))
        })
        .await
    }

    fn list(&self) -> Result<Vec<ListedFile>> {
        list(&self.root).map_err(|e| e.context(format!("table '{}'", self.spec.name)))
    }

    fn read(&self, files: &[ListedFile]) -> Result<RecordBatch> {
        let schema: &SchemaRef = &self.spec.schema;
        let mut batches = Vec::new();
        for file in files {
            let constants = partition_values(&self.root, &file.path, &self.spec)?;
            let id = split_id(&file.path.display().to_string());
            if self.spec.option("format") == Some("parquet") {
                let mut reader =
                    ParquetFile::open(&file.path, id, schema.clone(), constants, None, StartPosition::TrimHorizon)?;
                while let Some(Fetch::Rows(rows)) = reader.read()? {
                    batches.push(rows.batch);
                }
                continue;
            }
            let mut decoder = decoder(self.spec.require("format")?, &self.spec, None)?;
            let framing = match self.spec.option("format") {
                Some("csv") => CsvOptions::of(&self.spec)?.framing(),
                _ => Framing::Lines,
            };
            let mut reader = LineFile::open(&file.path, id, framing, AtEnd::Finish, None, StartPosition::TrimHorizon)?;
            while let Some(Fetch::Records(chunk)) = reader.read()? {
                batches.push(self.decode(&file.path, decoder.as_mut(), &chunk, &constants)?);
            }
        }
        Ok(concat_batches(schema, &batches)?)
    }

    fn decode(
        &self,
        path: &Path,
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
                "'{}', byte {}: {}{column}: {} (record: {text})",
                path.display(),
                chunk.sequence.get(index),
                reject.reason,
                reject.detail
            ))
            .context(format!("reference table '{}'", self.spec.name))
            .hint("mend the file; a reference table is used only when all of it can be read"));
        }
        let mut columns = decoded.batch.columns().to_vec();
        for (name, value) in constants {
            if let Ok(index) = self.spec.schema.index_of(name) {
                columns[index] = take(value, &UInt32Array::from(vec![0; decoded.batch.num_rows()]), None)?;
            }
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.spec.schema), columns)?)
    }
}

/// Reads that may be disturbed by a writer before the load fails.
const ATTEMPTS: usize = 5;
