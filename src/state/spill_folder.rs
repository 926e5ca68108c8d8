//! The folder of a process in which it keeps what does not fit into memory.
//!
//! ```text
//!   tidemill-new-…    being made: nobody's loss, so whoever finds it without a lock may remove it
//!         │ locked, then renamed
//!   tidemill-spill-…  locked for as long as its process lives; without a lock it is what a killed one has left
//! ```
//!
//! Locked are the folder itself and, for programs that know no other lock and for file systems that lock no folders, a file in it.
//! A folder has its name only while it is locked, and who removes one has its lock until it is gone. So a living one is never taken for a
//! dead one, and of one that was removed in part the rest goes next time.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;

use super::spill::SpillWriter;
use crate::contracts::{Error, Result};

/// Names of folders below the one that is given.
const PREFIX: &str = "tidemill-spill-";
/// … while they are made.
const NEW_PREFIX: &str = "tidemill-new-";
/// In a folder, locked as the folder itself is.
const LOCK: &str = "lock";
/// Neighbours may take a new folder away before it is locked, each once.
const ATTEMPTS: usize = 1_000;

/// See the module's description.
#[derive(Debug)]
pub struct SpillFolder {
    folder: PathBuf,
    _locks: Vec<File>,
    file_bytes: usize,
    named: AtomicU64,
    written: AtomicU64,
    held: AtomicU64,
}

impl SpillFolder {
    /// A folder of this process's own below `parent`, which is created where it is missing. Folders that processes before have
    /// left there are removed, as far as they can be. A file is full when it has `file_bytes`: a checkpoint has so much in memory at a time.
    ///
    /// # Errors
    /// The disk refuses: see [`Error::of_disk`].
    pub fn create(parent: &Path, file_bytes: usize) -> Result<Arc<Self>> {
        let failed = |e: std::io::Error| {
            Error::of_disk(format!("cannot make a folder for spilled state below '{}'", parent.display()), e)
                .hint("name a folder of a disk that can be written with --spill-dir")
        };
        fs::create_dir_all(parent).map_err(failed)?;
        remove_left(parent);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match made(parent) {
                Ok((folder, locks)) => {
                    let (named, written, held) = Default::default();
                    return Ok(Arc::new(Self { folder, _locks: locks, file_bytes, named, written, held }));
                }
                Err(e)
                    if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::WouldBlock) =>
                {
                    last = Some(e);
                }
                Err(e) => return Err(failed(e)),
            }
        }
        Err(failed(last.unwrap_or_else(|| ErrorKind::NotFound.into())))
    }

    /// Begins a file for rows of `schema`.
    pub fn file(self: &Arc<Self>, schema: &SchemaRef) -> Result<SpillWriter> {
        SpillWriter::create(self, schema)
    }

    /// For a new file.
    pub(super) fn name(&self) -> PathBuf {
        self.folder.join(format!("{}.arrow", self.named.fetch_add(1, Ordering::Relaxed)))
    }

    /// A file of so many bytes is there.
    pub(super) fn holds(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It is there no more.
    pub(super) fn lets_go(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes written in all, and bytes of the files that are there.
    pub fn bytes(&self) -> (u64, u64) {
        (self.written.load(Ordering::Relaxed), self.held.load(Ordering::Relaxed))
    }

    /// Bytes from which on a file is full.
    pub fn file_bytes(&self) -> usize {
        self.file_bytes
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for SpillFolder {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next process.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A folder that is locked, and has its name since.
fn made(parent: &Path) -> std::io::Result<(PathBuf, Vec<File>)> {
    // Processes of several containers may have one number, and one folder.
    let own = format!("{}-{:016x}", std::process::id(), getrandom::u64().map_err(std::io::Error::other)?);
    let (new, folder) = (parent.join(format!("{NEW_PREFIX}{own}")), parent.join(format!("{PREFIX}{own}")));
    fs::create_dir(&new)?;
    let mut locks = Vec::new();
    let whole = File::open(&new)?;
    match whole.try_lock() {
        Ok(()) => locks.push(whole),
        Err(TryLockError::WouldBlock) => return Err(ErrorKind::WouldBlock.into()),
        // A file system that locks no folders.
        Err(TryLockError::Error(_)) => {}
    }
    let within = File::create(new.join(LOCK))?;
    within.try_lock()?;
    locks.push(within);
    fs::rename(&new, &folder)?;
    Ok((folder, locks))
}

/// Removes folders whose process has died: nobody holds their locks. Those that cannot be removed are others', or are in nobody's way.
fn remove_left(parent: &Path) {
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(e) => {
            return tracing::warn!("cannot look for spilled state of earlier runs in '{}': {e}", parent.display());
        }
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(PREFIX) && !name.starts_with(NEW_PREFIX) {
            continue;
        }
        let Some(_locks) = locks_of_a_dead(&path) else { continue };
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                tracing::warn!("cannot remove spilled state that an earlier run has left in '{}': {e}", path.display());
            }
            _ => {}
        }
    }
}

/// The locks of a folder that nobody else has; `None` where somebody has one, or may have.
fn locks_of_a_dead(folder: &Path) -> Option<Vec<File>> {
    let mut locks = Vec::new();
    for path in [folder.to_owned(), folder.join(LOCK)] {
        match File::open(&path) {
            Ok(file) => match file.try_lock() {
                Ok(()) => locks.push(file),
                Err(TryLockError::WouldBlock) => return None,
                Err(TryLockError::Error(_)) if path == folder => {}
                Err(TryLockError::Error(_)) => return None,
            },
            // It was removed in part.
            Err(e) if e.kind() == ErrorKind::NotFound && path != folder => {}
            Err(_) => return None,
        }
    }
    Some(locks)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    use super::*;
    use crate::state::PieceRows;

    fn create(parent: &Path) -> Arc<SpillFolder> {
        SpillFolder::create(parent, 1 << 20).expect("created")
    }

    fn dead(parent: &Path, name: &str, files: &[&str]) -> PathBuf {
        let folder = parent.join(name);
        fs::create_dir(&folder).expect("created");
        files.iter().for_each(|file| fs::write(folder.join(file), "x").expect("written"));
        folder
    }

    #[test]
    fn folders_of_dead_processes_are_removed_and_others_are_not() {
        let parent = tempfile::tempdir().expect("a folder");
        let living = create(parent.path());
        let gone = [
            dead(parent.path(), "tidemill-spill-1-0", &[LOCK, "0.arrow"]),
            // Somebody was killed while it was removing this one, and another while it was making that.
            dead(parent.path(), "tidemill-spill-1-1", &["0.arrow", "1.arrow"]),
            dead(parent.path(), "tidemill-new-1-2", &[]),
        ];
        // A program before this one locks only the file.
        let older = dead(parent.path(), "tidemill-spill-7-0", &[LOCK, "0.arrow"]);
        let lock = File::open(older.join(LOCK)).expect("opened");
        lock.try_lock().expect("locked");
        let other = dead(parent.path(), "another-program-s", &["0.arrow"]);
        let second = create(parent.path());
        assert!([living.path(), second.path(), &older, &other].iter().all(|folder| folder.exists()));
        assert!(gone.iter().all(|folder| !folder.exists()), "{gone:?}");
        assert!(second.path().join(LOCK).exists(), "for a program before this one");
        let path = second.path().to_owned();
        drop(second);
        assert!(!path.exists());
        drop(lock);
        drop(create(parent.path()));
        assert!(!older.exists());
    }

    /// A folder whose files cannot be removed, until this goes.
    struct Fixed(PathBuf);

    impl Fixed {
        fn set(&self, mode: u32, flag: &str) {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&self.0, fs::Permissions::from_mode(mode)).expect("changed");
            // Root may do what the mode forbids, but not what the file system does.
            let _ = std::process::Command::new("chattr").arg(flag).arg(&self.0).status();
        }
    }

    impl Drop for Fixed {
        fn drop(&mut self) {
            let _ = std::process::Command::new("chattr").arg("-i").arg(&self.0).status();
            self.set(0o755, "-i");
        }
    }

    #[test]
    fn what_cannot_be_removed_stops_nobody() {
        let parent = tempfile::tempdir().expect("a folder");
        let left = Fixed(dead(parent.path(), "tidemill-spill-1-0", &[LOCK, "0.arrow"]));
        left.set(0o555, "+i");
        fs::write(parent.path().join("tidemill-spill-1-1"), "a file").expect("written");
        let also_left = dead(parent.path(), "tidemill-spill-1-2", &["0.arrow"]);
        let folder = create(parent.path());
        assert!(folder.path().exists() && !also_left.exists());
        if !left.0.join("0.arrow").exists() {
            println!("skipped: this user may remove everything here");
        }
    }

    #[test]
    fn neighbours_that_begin_at_the_same_time_leave_each_other_s_folders() {
        let parent = tempfile::tempdir().expect("a folder");
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
        let batch = RecordBatch::try_from_iter([("n", column)]).expect("a batch");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let folder = create(parent.path());
                        let mut writer = folder.file(&batch.schema()).expect("begun");
                        writer.write(&batch).expect("written");
                        let rows = PieceRows::Spilled(writer.finish().expect("ended"));
                        assert_eq!(rows.load().expect("read"), batch);
                    }
                });
            }
        });
        let left: Vec<_> = fs::read_dir(parent.path()).expect("read").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
