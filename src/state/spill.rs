//! State rows that do not fit into memory, in files of the local disk that live as long as their process.
//!
//! ```text
//!   SpillFolder ── a folder of this process (`spill_folder.rs`)
//!     └── SpilledFile: Arrow IPC, many small batches ("blocks"), each readable by itself; gone when nobody needs it
//! ```
//!
//! A spilled file is never changed and never needed by another process: what must outlive this one is in checkpoints. So it
//! is not synced. Its checksums are kept in memory (`checked_file.rs`): a file that something else has damaged, cut off or taken
//! away while the job runs is an error that names it, never another state.

use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;

use super::checked_file::{CheckedReader, CheckedWriter, Checksums};
use super::spill_folder::SpillFolder;
use crate::contracts::{Error, Result, batch_bytes, compact};

/// What helps where nothing more can be put on the disk for spilled rows.
pub(crate) const MORE_DISK: &str =
    "make room on that disk, name a folder of another with --spill-dir, or give the job more --memory";

fn unwritable(path: &Path, error: ArrowError) -> Error {
    Error::unavailable(format!("cannot write spilled state to '{}'", path.display()))
        .of_this_machine()
        .caused_by(error)
        .hint(MORE_DISK)
}

/// A file that is being written.
pub struct SpillWriter {
    folder: Arc<SpillFolder>,
    path: PathBuf,
    schema: SchemaRef,
    writer: Option<FileWriter<CheckedWriter>>,
    blocks: Vec<usize>,
    sizes: Vec<usize>,
    bytes: usize,
}

impl SpillWriter {
    /// Begins a file for rows of `schema`.
    pub(super) fn create(folder: &Arc<SpillFolder>, schema: &SchemaRef) -> Result<Self> {
        let path = folder.name();
        let made = || -> std::result::Result<_, ArrowError> {
            FileWriter::try_new(CheckedWriter::new(File::create(&path)?), schema)
        };
        let writer = Some(made().map_err(|e| unwritable(&path, e))?);
        let (blocks, sizes, schema) = (Vec::new(), Vec::new(), Arc::clone(schema));
        Ok(Self { folder: Arc::clone(folder), path, schema, writer, blocks, sizes, bytes: 0 })
    }

    /// Schema of the rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Adds a block. Answers whether the file is full now.
    pub fn write(&mut self, block: &RecordBatch) -> Result<bool> {
        let columns: Vec<_> = block.columns().iter().map(compact).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(block.num_rows()));
        let block = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let Some(writer) = &mut self.writer else {
            return Err(Error::internal("a spilled file was written after its end"));
        };
        writer.write(&block).map_err(|e| unwritable(&self.path, e))?;
        self.blocks.push(block.num_rows());
        self.sizes.push(batch_bytes(&block));
        self.bytes += self.sizes.last().copied().unwrap_or(0);
        Ok(self.bytes >= self.folder.file_bytes())
    }

    /// Ends the file.
    pub fn finish(mut self) -> Result<Arc<SpilledFile>> {
        let Some(writer) = self.writer.take() else {
            return Err(Error::internal("a spilled file was ended twice"));
        };
        let path = self.path.clone();
        let end = || -> std::result::Result<Checksums, ArrowError> { Ok(writer.into_inner()?.end()?) };
        let checksums = end().map_err(|e| unwritable(&path, e))?;
        let bytes = checksums.length();
        self.folder.holds(bytes);
        let (schema, blocks) = (Arc::clone(&self.schema), std::mem::take(&mut self.blocks));
        let (sizes, rows) = (std::mem::take(&mut self.sizes), blocks.iter().sum());
        Ok(Arc::new(SpilledFile { folder: Arc::clone(&self.folder), path, schema, blocks, sizes, rows, checksums }))
    }
}

impl fmt::Debug for SpillWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpillWriter").field("path", &self.path).field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

impl Drop for SpillWriter {
    fn drop(&mut self) {
        if self.writer.is_some() {
            // It was not finished: the folder takes it along if it cannot be removed now.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Rows on disk. The file goes when this does.
#[derive(Debug)]
pub struct SpilledFile {
    folder: Arc<SpillFolder>,
    path: PathBuf,
    schema: SchemaRef,
    /// Rows of each block.
    blocks: Vec<usize>,
    /// About how many bytes each has in memory.
    sizes: Vec<usize>,
    rows: usize,
    checksums: Checksums,
}

impl SpilledFile {
    /// Rows in all.
    pub fn num_rows(&self) -> usize {
        self.rows
    }

    /// Rows of each block.
    pub fn block_rows(&self) -> &[usize] {
        &self.blocks
    }

    /// About how many bytes each block has when it is read.
    pub fn block_bytes(&self) -> &[usize] {
        &self.sizes
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.checksums.length()
    }

    /// Schema of the rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Opens it to read blocks.
    pub fn reader(&self) -> Result<BlockReader> {
        let open = || -> std::result::Result<_, ArrowError> {
            FileReader::try_new(CheckedReader::new(File::open(&self.path)?, self.checksums.clone()), None)
        };
        let reader = open().map_err(|e| self.unreadable(e))?;
        Ok(BlockReader { reader, path: self.path.clone() })
    }

    fn unreadable(&self, error: ArrowError) -> Error {
        unreadable(&self.path, error)
    }
}

/// A disk that does not answer is one thing; another content than was written, or none, is another: no later attempt finds it again.
fn unreadable(path: &Path, error: ArrowError) -> Error {
    let answers = |e: &std::io::Error| matches!(e.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof);
    let path = path.display();
    let found = match &error {
        ArrowError::IoError(_, e) if e.kind() == ErrorKind::NotFound => {
            Error::corrupt(format!("spilled state in '{path}' was taken away while the job ran"))
        }
        ArrowError::IoError(_, e) if !answers(e) => {
            Error::unavailable(format!("cannot read spilled state from '{path}'")).of_this_machine()
        }
        _ => Error::corrupt(format!("spilled state in '{path}' was damaged while the job ran")),
    };
    found.caused_by(error).hint(
        "nothing else may touch the files while the job runs; start it again, and it goes on from its last checkpoint",
    )
}

impl Drop for SpilledFile {
    fn drop(&mut self) {
        self.folder.lets_go(self.bytes());
        // The folder takes it along if it cannot be removed now.
        let _ = fs::remove_file(&self.path);
    }
}

/// Reads blocks of a spilled file.
#[derive(Debug)]
pub struct BlockReader {
    reader: FileReader<CheckedReader>,
    path: PathBuf,
}

impl BlockReader {
    /// The rows of a block.
    pub fn read(&mut self, block: usize) -> Result<RecordBatch> {
        let mut read = || {
            self.reader.set_index(block)?;
            self.reader.next().unwrap_or_else(|| Err(ArrowError::IpcError("there is no such block".to_owned())))
        };
        read().map_err(|e| unreadable(&self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringViewArray};

    use super::*;
    use crate::contracts::ErrorKind as Kind;
    use crate::state::PieceRows;

    fn batch(numbers: std::ops::Range<i64>) -> RecordBatch {
        let texts: StringViewArray = numbers.clone().map(|n| Some(format!("a text of some length {n}"))).collect();
        let numbers = Int64Array::from_iter_values(numbers);
        let columns: [(&str, ArrayRef); 2] = [("n", Arc::new(numbers)), ("t", Arc::new(texts))];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).expect("a batch")
    }

    fn load(file: &Arc<SpilledFile>) -> Result<RecordBatch> {
        PieceRows::Spilled(Arc::clone(file)).load()
    }

    #[test]
    fn blocks_are_read_one_by_one_and_files_go_with_their_last_user() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 1 << 20).expect("created");
        let whole = batch(0..1_000);
        let mut writer = folder.file(&whole.schema()).expect("a file");
        for from in (0..1_000).step_by(100) {
            writer.write(&whole.slice(from, 100)).expect("written");
        }
        let file = writer.finish().expect("finished");
        assert_eq!(file.reader().expect("a reader").read(7).expect("read"), whole.slice(700, 100));
        assert_eq!(load(&file).expect("loaded"), whole);
        let whole_bytes = batch_bytes(&whole);
        assert!(file.block_bytes().iter().sum::<usize>().abs_diff(whole_bytes) < whole_bytes / 10);
        assert!(file.bytes() < 100_000, "{} bytes: a block has its own text only", file.bytes());
        assert_eq!(folder.bytes(), (file.bytes(), file.bytes()));
        let path = file.path.clone();
        drop(file);
        assert!(!path.exists());
        assert_eq!(folder.bytes().1, 0);
    }

    #[test]
    fn any_damage_to_a_file_is_an_error_that_names_it() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 1 << 20).expect("created");
        let whole = batch(0..100);
        let mut writer = folder.file(&whole.schema()).expect("a file");
        for from in [0, 50] {
            writer.write(&whole.slice(from, 50)).expect("written");
        }
        let file = writer.finish().expect("finished");
        let good = fs::read(&file.path).expect("read");
        let refused = |what: &str, kind: Kind| {
            let error = load(&file).expect_err(what);
            let text = error.to_string();
            assert!(error.kind() == kind && text.contains(&*file.path.to_string_lossy()), "{what}: {text}");
        };
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&file.path, bad).expect("written");
            refused(&format!("byte {at} of {} flipped", good.len()), Kind::Corrupt);
        }
        for length in (0..good.len()).step_by(97) {
            fs::write(&file.path, &good[..length]).expect("written");
            refused(&format!("cut off after {length} bytes"), Kind::Corrupt);
        }
        // As long as before, and all of it from another file.
        fs::write(&file.path, vec![0; good.len()]).expect("written");
        refused("zeros", Kind::Corrupt);
        fs::write(&file.path, &good).expect("written");
        assert_eq!(load(&file).expect("loaded"), whole);
        fs::remove_file(&file.path).expect("removed");
        // A checkpoint that has to read it would else be tried again for ever.
        refused("gone", Kind::Corrupt);
        std::fs::remove_dir_all(folder.path()).expect("removed");
        let error = folder.file(&whole.schema()).expect_err("there is no folder");
        assert!(error.is_of_this_machine(), "{error}");
    }
}
