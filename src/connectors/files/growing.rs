//! Files of a folder that are read while somebody still writes them: what is added behind the end that was read is lost, and it is said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::connectors::line_file::{DiskFile, ReadAt, open_blocking};
use crate::contracts::Result;

use super::listing::ListedFile;

/// By name, how many bytes a file had when it was read to its end.
#[derive(Debug, Default)]
pub(super) struct ReadFiles(Mutex<BTreeMap<String, u64>>);

impl ReadFiles {
    fn ended(&self, name: &str, bytes: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), bytes);
    }

    /// Warns of the files that are listed with more than that, once of each.
    pub(super) fn compare(&self, table: &str, files: &[ListedFile]) {
        let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.is_empty() {
            return;
        }
        for file in files {
            if ended.get(&file.name).is_some_and(|bytes| file.bytes > *bytes)
                && let Some(bytes) = ended.remove(&file.name)
            {
                grown(table, &file.name, bytes, file.bytes);
            }
        }
    }

    /// The same of what there is at the end of the run. A file that is gone says nothing.
    pub(super) async fn compare_at_end(&self, table: &str) {
        let ended = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let compare = move || {
            let now = |name: &String| std::fs::metadata(name).map_or(0, |metadata| metadata.len());
            let sizes = ended.into_iter().map(|(name, bytes)| (now(&name), name, bytes));
            Ok(sizes.filter(|(now, _, bytes)| now > bytes).collect::<Vec<_>>())
        };
        // It cannot fail, and what has been read is no worse for it.
        for (now, name, bytes) in open_blocking(compare).await.unwrap_or_default() {
            grown(table, &name, bytes, now);
        }
    }
}

fn grown(table: &str, name: &str, read: u64, now: u64) {
    tracing::warn!(
        "table '{table}': '{name}' had {read} bytes when it was read to its end, and has {now} now; what was added is not read. Write \
         a file under a name that begins with '.' or '_', and rename it when it is complete"
    );
}

/// A file that tells when there is nothing behind what was read.
pub(super) struct ToldFile {
    pub(super) file: DiskFile,
    pub(super) name: String,
    pub(super) told: Arc<ReadFiles>,
}

impl ReadAt for ToldFile {
    fn length(&self) -> Result<u64> {
        self.file.length()
    }

    fn modified_ms(&self) -> Result<i64> {
        self.file.modified_ms()
    }

    fn read_at(&mut self, offset: u64, bytes: usize, buffer: &mut Vec<u8>) -> Result<usize> {
        let read = self.file.read_at(offset, bytes, buffer)?;
        // A reader looks once more behind the last record.
        if read == 0 && bytes > 0 {
            self.told.ended(&self.name, offset);
        }
        Ok(read)
    }
}
