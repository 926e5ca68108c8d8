//! The folders of states that this process has in use, and when the next run of it may have one.
//!
//! ```text
//!  run 1   log opened ──── work in the pool ──┐ dropped: log left
//!                               ══════════════╪═══════► ended, log closed
//!  run 2                                      └ waits ──────────────► log opened
//! ```
//!
//! A run that fails, or is dropped, may leave work in the pool for calls that block, and what has begun there cannot be called back.
//! It would write into the folder while the next run, in this process or another, goes on from there. So each piece of work has
//! the folder's log open while it runs, which keeps the log's lock; one that only begins when its run has gone does nothing.
//!
//! What it is not: it keeps other processes out only by that lock.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// How long a run waits for what one before has left: a file of state (32 MB) is written and synced in less.
const LEFT_WORK: Duration = Duration::from_secs(10);

/// What the log of a folder holds open.
pub(super) type OpenLog = dyn Any + Send + Sync;

static USED: Mutex<BTreeMap<PathBuf, Used>> = Mutex::new(BTreeMap::new());
static FREED: Condvar = Condvar::new();

#[derive(Default)]
struct Used {
    open: Option<Weak<OpenLog>>,
    /// The run has gone. Work of it has not.
    left: bool,
}

fn used() -> MutexGuard<'static, BTreeMap<PathBuf, Used>> {
    USED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder is this process's. It must be dropped after the lock that it stands for.
#[derive(Debug)]
pub(super) struct Claim {
    folder: PathBuf,
}

impl Claim {
    /// Takes the folder, when what a run that has gone has begun there is done. `None` when a run has it, or still is not
    /// done. Blocks.
    pub(super) fn take(folder: &Path) -> Option<Self> {
        let waits = |used: &mut BTreeMap<PathBuf, Used>| used.get(folder).is_some_and(|used| used.left);
        let waited = FREED.wait_timeout_while(used(), LEFT_WORK, waits);
        let mut used = waited.unwrap_or_else(PoisonError::into_inner).0;
        if used.contains_key(folder) {
            return None;
        }
        let folder = folder.to_owned();
        used.insert(folder.clone(), Used::default());
        Some(Self { folder })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        used().remove(&self.folder);
        FREED.notify_all();
    }
}

/// What work in the folder has to hold.
pub(super) fn opened(folder: &Path, open: Weak<OpenLog>) {
    if let Some(used) = used().get_mut(folder) {
        used.open = Some(open);
    }
}

/// The run that has opened the log does nothing more.
pub(super) fn left(folder: &Path) {
    if let Some(used) = used().get_mut(folder) {
        used.left = true;
    }
}

/// The right to work in a folder: that of the run which has its log open, if there is one.
#[derive(Debug)]
pub(super) struct Permit(Option<Weak<OpenLog>>);

impl Permit {
    /// For work that is asked for now.
    pub(super) fn of(folder: &Path) -> Self {
        Self(used().get(folder).and_then(|used| used.open.clone()))
    }

    /// To be held while the work is done.
    ///
    /// # Errors
    /// The run has gone.
    pub(super) fn begin(self) -> io::Result<Option<Arc<OpenLog>>> {
        self.0.map(|open| open.upgrade().ok_or_else(gone)).transpose()
    }
}

/// Nobody waits for it.
pub(super) fn gone() -> io::Error {
    io::Error::other("the run that asked for it has gone")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, TryLockError};
    use std::sync::mpsc::{RecvTimeoutError, sync_channel};

    use bytes::Bytes;
    use futures::poll;

    use super::super::{FileEpochLog, LocalStorage};
    use super::*;
    use crate::contracts::{EpochLog, ErrorKind, LogEntry, Storage};

    const MANIFEST: &str = "manifests/0000000001.json";

    fn started() -> LogEntry {
        LogEntry::started(1, false)
    }

    /// Once, a golden that was killed in the midst of a checkpoint: its manifest was created when the next run had seen that there was none.
    #[test]
    fn what_has_not_begun_when_its_run_goes_is_never_done() {
        let folder = tempfile::tempdir().expect("a folder");
        let pool_of_one = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
        pool_of_one.expect("a runtime").block_on(async {
            let (log, _) = FileEpochLog::open(folder.path()).expect("a log");
            let storage = LocalStorage::new(folder.path());
            let (release, blocked) = sync_channel::<()>(1);
            let blocker = tokio::task::spawn_blocking(move || blocked.recv());
            {
                let (mut create, entry) = (storage.create(MANIFEST, Bytes::from_static(b"{}")), started());
                let mut append = log.append(&entry);
                assert!(poll!(&mut create).is_pending() && poll!(&mut append).is_pending());
            }
            drop(log);
            let (next, entries) = FileEpochLog::open(folder.path()).expect("nobody has it");
            let storage = LocalStorage::new(folder.path());
            release.send(()).expect("it waits");
            blocker.await.expect("it ends").expect("it was told to");
            assert_eq!(storage.list("manifests").await.expect("listed"), Vec::<String>::new());
            drop(next);
            let again = FileEpochLog::open(folder.path()).expect("a log").1;
            assert_eq!((entries, again), (vec![], vec![]));
        });
    }

    #[tokio::test]
    async fn what_has_begun_keeps_the_folder_until_it_is_done() {
        let folder = tempfile::tempdir().expect("a folder");
        let (log, _) = FileEpochLog::open(folder.path()).expect("a log");
        let file = File::open(folder.path().join("epochs.log")).expect("the file");
        let (begun, has_begun) = sync_channel(1);
        let (release, blocked) = sync_channel::<()>(1);
        let (permit, written) = (Permit::of(folder.path()), folder.path().join("written"));
        let work = tokio::task::spawn_blocking(move || {
            let held = permit.begin().expect("its run is there");
            begun.send(()).expect("somebody waits");
            blocked.recv().expect("it is told to");
            fs::write(written, "late").expect("written");
            drop(held);
        });
        has_begun.recv().expect("it begins");
        assert_eq!(FileEpochLog::open(folder.path()).err().map(|e| e.kind()), Some(ErrorKind::Fenced), "in use");
        drop(log);
        assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)), "another process could have it");
        let (opened, opens) = sync_channel(1);
        let path = folder.path().to_owned();
        let next = std::thread::spawn(move || {
            let log = FileEpochLog::open(&path).map(|(log, _)| log);
            opened.send(path.join("written").exists()).expect("somebody waits");
            log
        });
        assert_eq!(opens.recv_timeout(Duration::from_millis(100)), Err(RecvTimeoutError::Timeout));
        release.send(()).expect("it waits");
        work.await.expect("it ends");
        assert_eq!(opens.recv(), Ok(true), "opened while a run before still wrote");
        next.join().expect("no panic").expect("a log");
    }
}
