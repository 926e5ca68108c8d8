//! State as Parquet, for any tool to read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use datafusion::arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;

use crate::contracts::{Error, Result};

/// What files of each query begin with: its name in letters, digits, `_` and `-`, with a number where another one's would be the same.
pub(super) fn file_names<'a>(queries: impl Iterator<Item = &'a String>) -> BTreeMap<String, String> {
    let mut taken = BTreeSet::new();
    let name = |query: &String| {
        let safe: String = query.chars().map(|c| if c.is_alphanumeric() || c == '_' { c } else { '-' }).collect();
        let numbered = (2_u32..).map(|number| format!("{safe}~{number}"));
        let free = std::iter::once(safe.clone()).chain(numbered).find(|name| !taken.contains(name)).unwrap_or(safe);
        taken.insert(free.clone());
        (query.clone(), free)
    };
    queries.map(name).collect()
}

fn cannot_write(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unavailable(format!("cannot write '{}'", path.display())).caused_by(error)
}

/// Bytes of a row group that are held in memory.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// A file that is made when its first rows come.
pub(super) struct ParquetFile {
    path: PathBuf,
    writer: Option<ArrowWriter<File>>,
}

impl ParquetFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, writer: None }
    }

    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let failed = |e: ParquetError| cannot_write(&self.path, e);
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let file = File::create(&self.path)
                    .map_err(|e| Error::of_disk(format!("cannot write '{}'", self.path.display()), e))?;
                self.writer.insert(ArrowWriter::try_new(file, rows.schema(), None).map_err(failed)?)
            }
        };
        writer.write(rows).map_err(failed)?;
        if writer.in_progress_size() >= ROW_GROUP_BYTES { writer.flush().map_err(failed) } else { Ok(()) }
    }

    /// Its path, if there is a file.
    pub(super) fn begun(&self) -> Option<PathBuf> {
        self.writer.as_ref().map(|_| self.path.clone())
    }

    pub(super) fn close(self) -> Result<()> {
        match self.writer {
            Some(writer) => writer.close().map(drop).map_err(|e| cannot_write(&self.path, e)),
            None => Ok(()),
        }
    }
}
