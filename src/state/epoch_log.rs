//! The epoch log as a local file: a line for each entry, `<checksum> <JSON>`, appended and synced.
//!
//! A line that a crash cut off is the last one, has no line end and never took effect: it is removed when the log is
//! opened. Any other damage is an error. The file is locked while a run has it, so that two runs of a job on one folder cannot
//! mix; work that a dropped run has begun keeps it, too ([`in_use`]). Shortening writes a new file, which is locked before it takes the place of the old one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;

use super::checksum::hex_digest;
use super::in_use::{self, Claim, gone};
use crate::contracts::{EpochLog, Error, ErrorKind, LogEntry, Result};

/// Name of the log in the folder of a job's saved states.
const FILE: &str = "epochs.log";
/// Hex digits of a line's checksum: 64 bits of SHA-256.
const CHECKSUM_DIGITS: usize = 16;

/// An open log.
#[derive(Debug)]
pub struct FileEpochLog {
    folder: PathBuf,
    path: PathBuf,
    open: Arc<Mutex<Open>>,
}

impl Drop for FileEpochLog {
    fn drop(&mut self) {
        in_use::left(&self.folder);
    }
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Epoch and length of each line.
    lines: Vec<(Option<u64>, usize)>,
    /// A line could not be written. Those after it say what followed from it.
    failed: bool,
    /// The folder, when it may still name the longer file that this one has replaced after a crash.
    unsynced: Option<PathBuf>,
    _claim: Claim,
}

impl FileEpochLog {
    /// Opens the log in `folder`, makes it if it is not there, and answers its entries. Blocks.
    pub fn open(folder: &Path) -> Result<(Self, Vec<LogEntry>)> {
        let path = folder.join(FILE);
        let failed = |e| failed("open", &path, e);
        let claim = Claim::take(folder).ok_or_else(|| taken(folder))?;
        fs::create_dir_all(folder).map_err(failed)?;
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(folder)),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        // The run that has it may have put a shorter one in its place since this one was opened.
        let (own, named) = (file.metadata().map_err(failed)?, fs::metadata(&path).map_err(failed)?);
        if (own.dev(), own.ino()) != (named.dev(), named.ino()) {
            return Err(taken(folder));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let (entries, whole) = parse(&bytes, &path)?;
        if whole < bytes.len() {
            file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        sync(folder).map_err(failed)?;
        let lengths = bytes[..whole].split_inclusive(|b| *b == b'\n').map(<[u8]>::len);
        let lines = entries.iter().map(LogEntry::epoch).zip(lengths).collect();
        let open = Arc::new(Mutex::new(Open { file, lines, failed: false, unsynced: None, _claim: claim }));
        let weak: Weak<Mutex<Open>> = Arc::downgrade(&open);
        in_use::opened(folder, weak);
        Ok((Self { folder: folder.to_owned(), path, open }, entries))
    }
}

fn taken(folder: &Path) -> Error {
    Error::new(ErrorKind::Fenced, format!("another run of this job uses '{}'", folder.display()))
        .hint("stop it first, or give this one another --local folder")
}

impl FileEpochLog {
    /// Removes a log that cannot be read. Blocks.
    pub fn discard(folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        fs::remove_file(&path).map_err(|e| failed("remove", &path, e))
    }
}

#[async_trait]
impl EpochLog for FileEpochLog {
    async fn append(&self, entry: &LogEntry) -> Result<()> {
        let (line, epoch, open) = (line(entry)?, entry.epoch(), Arc::downgrade(&self.open));
        let write = move || {
            let open = open.upgrade().ok_or_else(gone)?;
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            open.append(epoch, &line, |file, line| file.write_all(line).and_then(|()| file.sync_data()))
        };
        let written = tokio::task::spawn_blocking(write).await;
        written
            .map_err(|e| Error::internal("the task that wrote the epoch log died").caused_by(e))?
            .map_err(|e| failed("write", &self.path, e))
    }

    async fn forget(&self, epoch: u64) -> Result<()> {
        let (open, path) = (Arc::downgrade(&self.open), self.path.clone());
        let work = move || {
            let open = open.upgrade().ok_or_else(|| failed("shorten", &path, gone()))?;
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            open.forget(&path, epoch, sync).map_err(|e| failed("shorten", &path, e))
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|e| Error::internal("the task that shortened the epoch log died").caused_by(e))?
    }
}

impl Open {
    /// Has `write` append a line. After a failure nothing more is written in this run: a part of the line may be there, and is the end of
    /// the file also where it cannot be cut off.
    fn append(
        &mut self,
        epoch: Option<u64>,
        line: &[u8],
        write: impl FnOnce(&mut File, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an entry before this one could not be written"));
        }
        if let Some(folder) = &self.unsynced {
            if let Err(error) = sync(folder) {
                self.failed = true;
                return Err(error);
            }
            self.unsynced = None;
        }
        if let Err(error) = write(&mut self.file, line) {
            self.failed = true;
            let whole: usize = self.lines.iter().map(|(_, bytes)| bytes).sum();
            let _ = self.file.set_len(whole as u64);
            return Err(error);
        }
        self.lines.push((epoch, line.len()));
        Ok(())
    }

    /// Removes entries up to and with `epoch`, when they are at least half of the log: so it is written a constant number of
    /// times. The beginnings of runs go when nothing else is left. `sync` makes durable what a folder names.
    fn forget(&mut self, path: &Path, epoch: u64, sync: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let needed = |own: &Option<u64>| own.is_none_or(|own| own > epoch);
        if !self.lines.iter().any(|(own, _)| own.is_some_and(|own| own > epoch)) {
            // Entries that a crash leaves here are known by their numbers.
            self.file.set_len(0)?;
            self.lines.clear();
            return Ok(());
        }
        let bytes =
            |lines: &mut dyn Iterator<Item = &(Option<u64>, usize)>| lines.map(|(_, bytes)| bytes).sum::<usize>();
        let kept = bytes(&mut self.lines.iter().filter(|(own, _)| needed(own)));
        if kept * 2 > bytes(&mut self.lines.iter()) {
            return Ok(());
        }
        let (all, mut text, mut at) = (fs::read(path)?, Vec::with_capacity(kept), 0);
        for (own, length) in &self.lines {
            if needed(own) {
                text.extend_from_slice(&all[at..at + length]);
            }
            at += length;
        }
        let temporary = path.with_file_name(".epochs.next");
        let _ = fs::remove_file(&temporary);
        let mut next = OpenOptions::new().read(true).append(true).create_new(true).open(&temporary)?;
        next.try_lock()?;
        next.write_all(&text)?;
        next.sync_all()?;
        fs::rename(&temporary, path)?;
        // Whatever fails from here on: this is the log, whose lock others look at, and the file before has no name any more.
        self.file = next;
        self.lines.retain(|(own, _)| needed(own));
        if let Some(folder) = path.parent() {
            self.unsynced = Some(folder.to_owned());
            sync(folder)?;
            self.unsynced = None;
        }
        Ok(())
    }
}

/// Makes durable what a folder names.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// An entry as it is stored.
pub(super) fn line(entry: &LogEntry) -> Result<Vec<u8>> {
    let json = serde_json::to_string(entry);
    let json = json.map_err(|e| Error::internal("a log entry cannot be written as JSON").caused_by(e))?;
    Ok(format!("{} {json}\n", &hex_digest(json.as_bytes())[..CHECKSUM_DIGITS]).into_bytes())
}

/// Entries, and the length of what is whole.
fn parse(bytes: &[u8], path: &Path) -> Result<(Vec<LogEntry>, usize)> {
    let (mut entries, mut whole) = (Vec::new(), 0);
    for (number, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        if let Some(entry) = line.strip_suffix(b"\n").and_then(parse_line) {
            entries.push(entry);
            whole += line.len();
            continue;
        }
        // A write that was cut off leaves the beginning of a line. One that is whole but for its last byte was damaged.
        let is_torn = !line.ends_with(b"\n") && parse_line(&line[..line.len() - 1]).is_none();
        if !is_torn {
            let error = Error::corrupt(format!("line {} of the epoch log '{}' is damaged", number + 1, path.display()));
            return Err(error.hint("restore the file, or run with --fresh to read everything again"));
        }
    }
    Ok((entries, whole))
}

pub(super) fn parse_line(line: &[u8]) -> Option<LogEntry> {
    let (checksum, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    (checksum == &hex_digest(json.as_bytes())[..CHECKSUM_DIGITS]).then(|| serde_json::from_str(json).ok())?
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::unavailable(format!("cannot {what} the epoch log '{}'", path.display())).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::{EpochCut, SplitCut};

    fn cut(epoch: u64) -> LogEntry {
        let split = SplitCut {
            feed: "events".to_owned(),
            split: "shardId-000000000000".to_owned(),
            opened: None,
            records: 17,
            after: Some("4711".to_owned()),
            version: Some("\"e-tag\"".to_owned()),
            ended: false,
        };
        let (generation, now_ms) = (1, 1_790_000_000_000);
        let (splits, tables) = (vec![split], vec![]);
        let references = [("weights".to_owned(), "5e0c".repeat(16))].into();
        LogEntry::Cut(EpochCut {
            epoch,
            generation,
            now_ms,
            oldest_ms: Some(7),
            closes: false,
            catches_up: false,
            splits,
            tables,
            references,
        })
    }

    async fn written(folder: &Path, epochs: std::ops::Range<u64>) -> Vec<u8> {
        let (log, _) = FileEpochLog::open(folder).expect("a log");
        let started = LogEntry::Started { generation: 1, queries: Default::default(), anew: false };
        log.append(&started).await.expect("an entry");
        for epoch in epochs {
            log.append(&cut(epoch)).await.expect("an entry");
        }
        fs::read(folder.join(FILE)).expect("the file")
    }

    #[tokio::test]
    async fn a_torn_tail_is_cut_off_wherever_it_was_torn() {
        let folder = tempfile::tempdir().expect("a folder");
        let bytes = written(folder.path(), 1..4).await;
        let last = bytes.len() - bytes.split_inclusive(|b| *b == b'\n').next_back().map_or(0, <[u8]>::len);
        for end in last..bytes.len() {
            fs::write(folder.path().join(FILE), &bytes[..end]).expect("a torn file");
            let (log, entries) = FileEpochLog::open(folder.path()).expect("a torn tail is no error");
            assert_eq!(entries.last(), Some(&cut(2)), "torn at {end}");
            log.append(&cut(3)).await.expect("goes on");
            assert_eq!(fs::read(folder.path().join(FILE)).expect("the file"), bytes, "torn at {end}");
        }
    }

    #[tokio::test]
    async fn a_line_that_is_written_in_part_is_cut_off_and_nothing_follows_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let bytes = written(folder.path(), 1..4).await;
        let content = || fs::read(folder.path().join(FILE)).expect("the file");
        for can_be_cut in [true, false] {
            let (log, entries) = FileEpochLog::open(folder.path()).expect("a log");
            assert_eq!(entries.last(), Some(&cut(3)));
            let full = |file: &mut File, line: &[u8]| {
                file.write_all(&line[..line.len() / 2])?;
                Err(io::ErrorKind::StorageFull.into())
            };
            let text = line(&cut(4)).expect("a line");
            let written = log.open.lock().expect("no panic").append(Some(4), &text, full);
            assert_eq!(written.map_err(|e| e.kind()), Err(io::ErrorKind::StorageFull));
            assert_eq!(content(), bytes);
            if !can_be_cut {
                fs::write(folder.path().join(FILE), [&bytes, &text[..9]].concat()).expect("half a line");
            }
            // There is space again: what another task has waited to write must not come without what was before it.
            let error = log.append(&cut(5)).await.expect_err("it is refused");
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            log.forget(2).await.expect("shortened");
            drop(log);
            let (log, entries) = FileEpochLog::open(folder.path()).expect("only the end of a log may be torn");
            assert_eq!(entries.iter().filter_map(LogEntry::epoch).collect::<Vec<_>>(), [3]);
            log.append(&cut(4)).await.expect("goes on");
            drop(log);
            fs::write(folder.path().join(FILE), &bytes).expect("as it was");
        }
    }

    #[tokio::test]
    async fn a_flipped_bit_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let bytes = written(folder.path(), 1..4).await;
        // Five and eight have no divisor in common: every bit of some byte is met.
        for bit in (0..bytes.len() * 8).step_by(5) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(folder.path().join(FILE), &damaged).expect("a damaged file");
            let error = FileEpochLog::open(folder.path()).err().unwrap_or_else(|| panic!("bit {bit} was not noticed"));
            assert_eq!(error.kind(), ErrorKind::Corrupt, "bit {bit}: {error}");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("--fresh")), "{error}");
        }
    }

    #[tokio::test]
    async fn forgets_what_a_checkpoint_covers_while_a_run_has_it() {
        let folder = tempfile::tempdir().expect("a folder");
        written(folder.path(), 1..6).await;
        let epochs = |entries: Vec<LogEntry>| entries.iter().filter_map(LogEntry::epoch).collect::<Vec<_>>();
        let (log, _) = FileEpochLog::open(folder.path()).expect("a log");
        let long = fs::metadata(folder.path().join(FILE)).expect("the file").len();
        log.forget(1).await.expect("not worth it");
        assert_eq!(fs::metadata(folder.path().join(FILE)).expect("the file").len(), long);
        log.forget(3).await.expect("shortened");
        assert!(fs::metadata(folder.path().join(FILE)).expect("the file").len() < long);
        assert_eq!(FileEpochLog::open(folder.path()).err().map(|e| e.kind()), Some(ErrorKind::Fenced));
        log.append(&cut(6)).await.expect("goes on");
        drop(log);
        let (log, entries) = FileEpochLog::open(folder.path()).expect("a log");
        assert_eq!(epochs(entries), [4, 5, 6]);
        log.forget(6).await.expect("shortened");
        log.append(&cut(7)).await.expect("goes on");
        drop(log);
        assert_eq!(epochs(FileEpochLog::open(folder.path()).expect("a log").1), [7]);
    }

    #[tokio::test]
    async fn what_fails_when_it_is_shortened_does_not_part_the_run_from_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        written(folder.path(), 1..6).await;
        let path = folder.path().join(FILE);
        let numbers = |entries: Vec<LogEntry>| entries.iter().filter_map(LogEntry::epoch).collect::<Vec<_>>();
        let (log, _) = FileEpochLog::open(folder.path()).expect("a log");
        // The shorter file has its name, and the folder cannot be synced.
        let full = |_: &Path| Err(io::ErrorKind::StorageFull.into());
        let forgotten = log.open.lock().expect("no panic").forget(&path, 3, full);
        assert_eq!(forgotten.map_err(|e| e.kind()), Err(io::ErrorKind::StorageFull));
        assert_eq!(FileEpochLog::open(folder.path()).err().map(|e| e.kind()), Some(ErrorKind::Fenced));
        log.append(&cut(6)).await.expect("goes on");
        let named = File::open(&path).expect("the file");
        assert!(matches!(named.try_lock(), Err(TryLockError::WouldBlock)), "the log's lock is this run's");
        log.forget(5).await.expect("shortened again");
        log.append(&cut(7)).await.expect("goes on");
        drop(log);
        assert_eq!(numbers(FileEpochLog::open(folder.path()).expect("a log").1), [6, 7]);

        // All of it is covered, and it cannot be emptied: a part of a line that comes then is cut off, and no more.
        let (log, _) = FileEpochLog::open(folder.path()).expect("a log");
        {
            let mut open = log.open.lock().expect("no panic");
            let file = std::mem::replace(&mut open.file, File::open(&path).expect("to be read only"));
            assert!(open.forget(&path, 7, sync).is_err());
            open.file = file;
            let half = |file: &mut File, line: &[u8]| {
                file.write_all(&line[..line.len() / 2])?;
                Err(io::ErrorKind::StorageFull.into())
            };
            assert!(open.append(Some(8), &line(&cut(8)).expect("a line"), half).is_err());
        }
        drop(log);
        assert_eq!(numbers(FileEpochLog::open(folder.path()).expect("a log").1), [6, 7]);
    }

    /// Its name must be durable before anything is written that the file before does not have.
    #[tokio::test]
    async fn nothing_is_written_to_a_shortened_log_whose_name_may_go() {
        let folder = tempfile::tempdir().expect("a folder");
        written(folder.path(), 1..6).await;
        let path = folder.path().join(FILE);
        let (log, _) = FileEpochLog::open(folder.path()).expect("a log");
        {
            let mut open = log.open.lock().expect("no panic");
            assert!(open.forget(&path, 3, |_| Err(io::ErrorKind::StorageFull.into())).is_err());
            open.unsynced = Some(folder.path().join("gone"));
        }
        let error = log.append(&cut(6)).await.expect_err("it still cannot be synced");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        log.append(&cut(7)).await.expect_err("nothing follows it");
        drop(log);
        let (_, entries) = FileEpochLog::open(folder.path()).expect("a log");
        assert_eq!(entries.iter().filter_map(LogEntry::epoch).collect::<Vec<_>>(), [4, 5]);
    }

    #[test]
    fn two_runs_cannot_have_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = FileEpochLog::open(folder.path()).expect("a log");
        let second = FileEpochLog::open(folder.path()).expect_err("it is taken");
        assert_eq!(second.kind(), ErrorKind::Fenced, "{second}");
        drop(first);
        FileEpochLog::open(folder.path()).expect("free again");
    }
}
