//! The Parquet files of a folder, for somebody who reads them with a reader of their own: which there are, and what their folders' names say.
//!
//! The rules are the connector's: hidden files are not there, files stand in the order of their names, and a partition's value is
//! unescaped.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use arrow::array::ArrayRef;

use crate::contracts::{Result, TableSpec};

use super::listing::{ListedFile, partitions};
use super::location::Place;

/// See the module's description.
#[derive(Debug)]
pub struct ArchivedFiles {
    place: Place,
    files: Vec<ListedFile>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct ArchivedFile<'a> {
    /// Its path.
    pub path: &'a Path,
    /// Its size.
    pub bytes: u64,
    /// Milliseconds since 1970.
    pub modified_ms: i64,
}

impl ArchivedFiles {
    /// Those below `folder`, sorted by name.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn list(folder: PathBuf) -> Result<Self> {
        let place = Place::Local(folder);
        let mut files = place.list().await?;
        files.retain(|file| file.name.ends_with(".parquet") && file.bytes > 0);
        Ok(Self { place, files })
    }

    /// All of them.
    pub fn files(&self) -> impl Iterator<Item = ArchivedFile<'_>> {
        self.files.iter().map(|file| ArchivedFile {
            path: Path::new(&file.name),
            bytes: file.bytes,
            modified_ms: file.modified_ms,
        })
    }

    /// Names of the columns that folders have in their names, of any file.
    pub fn partition_columns(&self) -> BTreeSet<String> {
        self.files.iter().flat_map(|file| partitions(self.place.below(&file.name))).map(|(name, _)| name).collect()
    }

    /// For each partition column of `spec`, in the order of `spec.partitioned_by`, its value in a file as an array of length 1.
    ///
    /// # Errors
    /// A value does not fit the type that `spec.schema` has.
    pub fn partition_values(&self, file: ArchivedFile<'_>, spec: &TableSpec) -> Result<Vec<ArrayRef>> {
        let values = self.place.partition_values(&file.path.to_string_lossy(), spec)?;
        Ok(values.into_iter().map(|(_, value)| value).collect())
    }
}
