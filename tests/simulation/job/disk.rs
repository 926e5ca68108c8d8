//! A disk of one machine: checkpoints and the epoch log lie there as files, written by the program as it is. Power fails in the midst of a
//! write, and at times the disk is full.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidemill::contracts::{Created, EpochLog, Error, LockedStorage, LogEntry, OpenedLog, Result, SeenLog, Storage};
use tidemill::state::LocalStorage;

use super::bug::Bug;
use super::machine::Machine;
use crate::world::Chance;

/// Of 1,000 writes, so many are torn: what was to be written is there in part, or as a whole, and nobody has been told.
const TORN_PER_MILLE: u64 = 12;
/// Before so many of 1,000 writes the disk becomes full, for a while.
const FULL_PER_MILLE: u64 = 4;

/// What outlives processes.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: tempfile::TempDir,
    log: Mutex<Arc<HeldLog>>,
    full_until: Mutex<Duration>,
}

/// The log that a process has open; none when the process has ended.
#[derive(Default)]
struct HeldLog(Mutex<Option<Arc<dyn EpochLog>>>);

impl fmt::Debug for HeldLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a log")
    }
}

impl Disk {
    /// An empty one, in memory where the system has such files: each entry of a log is synced.
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self { folder: folder.expect("a folder"), log: Mutex::default(), full_until: Mutex::default() }
    }

    /// A text without the name of its folder, which is another one each time.
    pub(crate) fn named(&self, text: &str) -> String {
        text.replace(&self.folder.path().display().to_string(), "DISK")
    }

    /// Every file, by its name.
    pub(crate) fn stored(&self) -> BTreeMap<String, Bytes> {
        let mut stored = BTreeMap::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
                match entry.is_dir() {
                    true => folders.push(entry),
                    false => {
                        let name = entry.strip_prefix(self.folder.path()).expect("it is below").to_string_lossy();
                        stored.insert(name.into_owned(), fs::read(&entry).expect("a file").into());
                    }
                }
            }
        }
        stored
    }

    /// The process that had it has ended, whatever of it is left in this one.
    pub(crate) fn power_off(&self, chance: &Chance, bug: Option<Bug>) {
        let log = std::mem::take(&mut *held(&self.log));
        drop(held(&log.0).take());
        if bug == Some(Bug::DoesNotSync) && chance.percent(50) {
            let path = self.folder.path().join("epochs.log");
            let text = fs::read(&path).unwrap_or_default();
            let last = text.split_inclusive(|byte| *byte == b'\n').next_back().map_or(0, <[u8]>::len);
            cut(&path, (text.len() - last) as u64);
        }
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while it is held")
}

/// Leaves the first bytes of a file.
fn cut(path: &Path, bytes: u64) {
    if let Ok(file) = OpenOptions::new().write(true).open(path) {
        file.set_len(bytes).expect("a file can be cut");
    }
}

/// Work of the program that blocks, at one moment of virtual time.
fn now<T>(work: impl Future<Output = T>) -> T {
    futures::executor::block_on(tokio::task::unconstrained(work))
}

/// The disk as one process sees it.
#[derive(Debug)]
pub(crate) struct OwnDisk {
    disk: Arc<Disk>,
    storage: Arc<LocalStorage>,
    machine: Arc<Machine>,
}

/// What becomes of a write.
enum Fate {
    Done,
    Full,
    /// This much of it, of 1,000; and power fails.
    Torn(u64),
}

impl OwnDisk {
    pub(crate) fn new(disk: Arc<Disk>, machine: Arc<Machine>) -> Self {
        let storage = Arc::new(LocalStorage::new(disk.folder.path()));
        Self { disk, storage, machine }
    }

    async fn turns(&self) {
        self.machine.goes().await;
        let ms = self.machine.nature.lock().chance.below(10);
        self.machine.nature.world.sleep(Duration::from_millis(ms)).await;
        self.machine.goes().await;
    }

    fn fate(&self) -> Fate {
        let nature = &self.machine.nature;
        if nature.is_calm() {
            return Fate::Done;
        }
        let mut inner = nature.lock();
        let mut full_until = held(&self.disk.full_until);
        if inner.chance.below(1_000) < FULL_PER_MILLE {
            *full_until = nature.world.now() + Duration::from_millis(100 + inner.chance.below(6_000));
        }
        if nature.world.now() < *full_until {
            inner.faults.count("full disk");
            return Fate::Full;
        }
        if inner.chance.below(1_000) < TORN_PER_MILLE {
            inner.faults.count("torn write");
            return Fate::Torn(inner.chance.below(1_001));
        }
        Fate::Done
    }

    async fn dies<T>(&self) -> T {
        self.machine.nature.trace("power fails in the midst of a write");
        self.machine.die();
        std::future::pending().await
    }

    /// What a write that ended early leaves beside the object.
    fn leave_part(&self, name: &str, content: &[u8]) {
        let path = self.disk.folder.path().join(name);
        let (Some(folder), Some(file)) = (path.parent(), path.file_name()) else { return };
        let ready = fs::create_dir_all(folder);
        ready
            .and_then(|()| fs::write(folder.join(format!(".{}.1-0", file.to_string_lossy())), content))
            .expect("written");
    }
}

fn full(what: &Path) -> Error {
    Error::unavailable(format!("cannot write '{}': the simulated disk is full", what.display()))
}

fn part(bytes: usize, of_thousand: u64) -> usize {
    bytes * of_thousand as usize / 1_000
}

#[async_trait]
impl Storage for OwnDisk {
    fn place(&self) -> String {
        self.storage.place()
    }

    async fn create(&self, name: &str, content: Bytes) -> Result<Created> {
        self.turns().await;
        let created = match self.fate() {
            Fate::Done => now(self.storage.create(name, content)),
            Fate::Full => {
                self.leave_part(name, &content[..content.len() / 2]);
                Err(full(Path::new(name)))
            }
            Fate::Torn(1_000) => {
                let _ = now(self.storage.create(name, content));
                self.dies().await
            }
            Fate::Torn(of_thousand) => {
                self.leave_part(name, &content[..part(content.len(), of_thousand)]);
                self.dies().await
            }
        };
        self.turns().await;
        created
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        self.turns().await;
        now(self.storage.read(name))
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.turns().await;
        now(self.storage.list(folder))
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.turns().await;
        now(self.storage.remove(name))
    }
}

#[async_trait]
impl LockedStorage for OwnDisk {
    async fn open_log(&self, anew: bool) -> Result<OpenedLog> {
        self.turns().await;
        let OpenedLog { log, entries, damage } = now(self.storage.open_log(anew))?;
        let log = Arc::new(HeldLog(Mutex::new(Some(log))));
        *held(&self.disk.log) = Arc::clone(&log);
        let (disk, machine) = (Arc::clone(&self.disk), Arc::clone(&self.machine));
        let path = self.disk.folder.path().join("epochs.log");
        let log = Arc::new(OwnLog { own: Self::new(disk, machine), log, path, failed: Mutex::default() });
        Ok(OpenedLog { log, entries, damage })
    }

    async fn see_log(&self) -> Result<SeenLog> {
        self.turns().await;
        now(self.storage.see_log())
    }
}

/// The log of one process.
#[derive(Debug)]
struct OwnLog {
    own: OwnDisk,
    log: Arc<HeldLog>,
    path: PathBuf,
    /// Once there was no space, nothing more is written.
    failed: Mutex<bool>,
}

impl OwnLog {
    fn length(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// Does something with the log, while the process lives.
    async fn does<T>(&self, work: impl AsyncFnOnce(&dyn EpochLog) -> T) -> T {
        let done = held(&self.log.0).as_deref().map(|log| now(work(log)));
        match done {
            Some(done) => done,
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl EpochLog for OwnLog {
    async fn append(&self, entry: &LogEntry) -> Result<()> {
        self.own.turns().await;
        if *held(&self.failed) {
            return Err(full(&self.path));
        }
        let before = self.length();
        match self.own.fate() {
            Fate::Done => self.does(async |log| log.append(entry).await).await?,
            Fate::Full => {
                *held(&self.failed) = true;
                // The line's beginning may be there, and could not be cut off.
                let mut file = OpenOptions::new().append(true).open(&self.path).expect("the log");
                file.write_all(b"5e0c5e0c5e0c5e0c {\"cut\":").expect("written");
                return Err(full(&self.path));
            }
            Fate::Torn(of_thousand) => {
                let _ = self.does(async |log| log.append(entry).await).await;
                let written = self.length().saturating_sub(before);
                cut(&self.path, before + part(written as usize, of_thousand) as u64);
                self.own.dies().await
            }
        }
        self.own.turns().await;
        Ok(())
    }

    async fn forget(&self, epoch: u64) -> Result<()> {
        self.own.turns().await;
        match self.own.fate() {
            Fate::Done => self.does(async |log| log.forget(epoch).await).await?,
            Fate::Full => return Err(full(&self.path)),
            Fate::Torn(1_000) => {
                let _ = self.does(async |log| log.forget(epoch).await).await;
                self.own.dies().await
            }
            Fate::Torn(of_thousand) => {
                // The shorter log that was to take its place.
                let text = fs::read(&self.path).unwrap_or_default();
                fs::write(self.path.with_file_name(".epochs.next"), &text[..part(text.len(), of_thousand)])
                    .expect("written");
                self.own.dies().await
            }
        }
        self.own.turns().await;
        Ok(())
    }
}
