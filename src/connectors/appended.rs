//! Files of the embedded stand-ins that only grow, a line for each record: what is appended outlasts a power cut, as a checkpoint that
//! follows says of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::line_file::io_error;
use crate::contracts::{Result, off_the_runtime};

/// How much is looked through at a time for the end of a line.
const BLOCK_BYTES: u64 = 64 << 10;

/// Opens a file to append to it. A new one, and its folder, are on disk by their names when this returns; what is appended is when
/// the caller has synced it.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true);
    match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let file = options.create(true).open(path)?;
    for folder in folder.ancestors().take(2).filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

/// Waits until what has been appended is on disk.
pub(crate) async fn sync(path: &Path, file: File) -> Result<()> {
    off_the_runtime(move || file.sync_data()).await?.map_err(|e| io_error(path, "synced", e))
}

/// Removes a last line that a crash cut off: it never was a record. Returns the file's length.
pub(crate) fn cut_torn_line(path: &Path) -> io::Result<u64> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    file.lock()?;
    let length = file.metadata()?.len();
    let whole = end_of_lines(&mut file, length)?;
    if whole < length {
        file.set_len(whole)?;
    }
    Ok(whole)
}

/// Where the last line end before `length` is passed: 0 without one. A line may have any length, so it goes back block by block.
fn end_of_lines(file: &mut File, length: u64) -> io::Result<u64> {
    let (mut end, mut block) = (length, Vec::new());
    while end > 0 {
        let from = end.saturating_sub(BLOCK_BYTES);
        file.seek(SeekFrom::Start(from))?;
        block.clear();
        file.take(end - from).read_to_end(&mut block)?;
        if let Some(at) = memchr::memrchr(b'\n', &block) {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_of_any_length_is_cut_off_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder").join("lines.jsonl");
        assert_eq!(cut_torn_line(&path).unwrap(), 0);
        drop(open(&path).unwrap());
        let block = usize::try_from(BLOCK_BYTES).unwrap();
        for before in ["", "one\n", "one\ntwo\n"] {
            for torn in [0, 1, block - 1, block, 10 * block + 7] {
                std::fs::write(&path, format!("{before}{}", "x".repeat(torn))).unwrap();
                assert_eq!(cut_torn_line(&path).unwrap(), before.len() as u64, "{torn} behind {before:?}");
                assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
            }
        }
    }
}
