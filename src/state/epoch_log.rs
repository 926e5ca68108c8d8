//! The epoch log as a local file: a line for each entry, `<checksum> <JSON>`, appended and synced.
//!
//! A line that a crash cut off is the last one, has no line end and never took effect: it is removed when the log is
//! opened. Any other damage is told, and stays until nothing of the log is needed any more. The file is locked while a run has it, so that two runs of a job on one folder cannot
//! mix; work that a dropped run has begun keeps it, too ([`in_use`]). Shortening writes a new file, which is locked before it takes the place of the old one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;

use super::checkpoints::{MANIFESTS, number_of};
use super::checksum::hex_digest;
use super::in_use::{self, Claim, gone};
use crate::contracts::{EpochLog, Error, ErrorKind, LogEntry, Result, SeenLog};

/// Name of the log in the folder of a job's saved states.
const FILE: &str = "epochs.log";
/// A shorter one, before it has taken that name.
pub(super) const NEXT: &str = ".epochs.next";
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
    lines: Vec<Line>,
    /// The last line is damaged and has no line end.
    unended: bool,
    /// A line could not be written. Those after it say what followed from it.
    failed: bool,
    /// The folder, when it may still name the longer file that this one has replaced after a crash.
    unsynced: Option<PathBuf>,
    _claim: Claim,
}

#[derive(Debug)]
struct Line {
    epoch: Option<u64>,
    bytes: usize,
    damaged: bool,
}

impl FileEpochLog {
    /// Opens the log in `folder`, makes it if it is not there, and answers its entries. Blocks.
    ///
    /// # Errors
    /// `fenced` while another run has it, `corrupt` where a line is damaged.
    pub fn open(folder: &Path) -> Result<(Self, Vec<LogEntry>)> {
        let (log, entries, damage) = Self::open_damaged(folder)?;
        damage.map_or(Ok((log, entries)), Err)
    }

    /// The same for who may need nothing of it: answers what can be read, and what is wrong with the rest. Blocks.
    pub(super) fn open_damaged(folder: &Path) -> Result<(Self, Vec<LogEntry>, Option<Error>)> {
        let path = folder.join(FILE);
        let failed = |e| failed("open", &path, e);
        let claim = Claim::take(folder).ok_or_else(|| taken(folder))?;
        fs::create_dir_all(folder).map_err(failed)?;
        let is_lost = !path.try_exists().map_err(failed)? && has_manifests(folder);
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
        if is_lost && bytes.is_empty() {
            // The next one must not take it for a log without entries.
            bytes.extend(LOST);
            file.write_all(LOST).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        let Parsed { entries, lines, damage } = parse(&bytes, &path);
        let whole: usize = lines.iter().map(|line| line.bytes).sum();
        if whole < bytes.len() {
            file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        sync(folder).map_err(failed)?;
        let unended = whole > 0 && bytes[whole - 1] != b'\n';
        let open = Open { file, lines, unended, failed: false, unsynced: None, _claim: claim };
        let open = Arc::new(Mutex::new(open));
        let weak: Weak<Mutex<Open>> = Arc::downgrade(&open);
        in_use::opened(folder, weak);
        Ok((Self { folder: folder.to_owned(), path, open }, entries, damage))
    }

    /// Reads the log in `folder`, if there is one, and changes nothing. Blocks.
    pub(super) fn see(folder: &Path) -> Result<SeenLog> {
        let path = folder.join(FILE);
        let failed = |e| failed("read", &path, e);
        let mut file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(SeenLog::default()),
            file => file.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let Parsed { entries, damage, .. } = parse(&bytes, &path);
        Ok(SeenLog { entries, damaged: damage.is_some() })
    }
}

fn taken(folder: &Path) -> Error {
    Error::new(ErrorKind::Fenced, format!("another run of this job uses '{}'", folder.display()))
        .hint("stop it first; another job has another name (SET 'pipeline.name'), or another folder")
}

#[async_trait]
impl EpochLog for FileEpochLog {
    async fn append(&self, entry: &LogEntry) -> Result<()> {
        let (line, epoch, open) = (line(entry)?, entry.epoch(), Arc::downgrade(&self.open));
        let (path, anew) = (self.path.clone(), matches!(entry, LogEntry::Started { anew: true, .. }));
        let write = move || {
            let open = open.upgrade().ok_or_else(gone)?;
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            open.append(epoch, &line, |file, line| file.write_all(line).and_then(|()| file.sync_data()))?;
            if anew && open.lines.iter().any(|line| line.damaged) {
                open.retain(&path, |line| !line.damaged, sync)?;
            }
            Ok(())
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
        // (It is damaged as it is: a line end more changes nothing.)
        let ended = if self.unended { [b"\n", line].concat() } else { Vec::new() };
        if let Err(error) = write(&mut self.file, if self.unended { &ended } else { line }) {
            self.failed = true;
            let whole: usize = self.lines.iter().map(|line| line.bytes).sum();
            let _ = self.file.set_len(whole as u64);
            return Err(error);
        }
        if let Some(last) = self.lines.last_mut().filter(|_| self.unended) {
            last.bytes += 1;
        }
        self.unended = false;
        self.lines.push(Line { epoch, bytes: line.len(), damaged: false });
        Ok(())
    }

    /// Removes entries up to and with `epoch`, when they are at least half of the log: so it is written a constant number of
    /// times. The beginnings of runs go when nothing else is left. `sync` makes durable what a folder names.
    fn forget(&mut self, path: &Path, epoch: u64, sync: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let needed = |line: &Line| !line.damaged && line.epoch.is_none_or(|own| own > epoch);
        if !self.lines.iter().any(|line| line.epoch.is_some_and(|own| own > epoch)) {
            // Entries that a crash leaves here are known by their numbers.
            self.file.set_len(0)?;
            self.lines.clear();
            self.unended = false;
            return Ok(());
        }
        let bytes = |lines: &mut dyn Iterator<Item = &Line>| lines.map(|line| line.bytes).sum::<usize>();
        let kept = bytes(&mut self.lines.iter().filter(|line| needed(line)));
        if kept * 2 > bytes(&mut self.lines.iter()) && !self.lines.iter().any(|line| line.damaged) {
            return Ok(());
        }
        self.retain(path, needed, sync)
    }

    /// Puts a file with these lines only in the place of this one.
    fn retain(
        &mut self,
        path: &Path,
        needed: impl Fn(&Line) -> bool,
        sync: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let (all, mut text, mut at) = (fs::read(path)?, Vec::new(), 0);
        for line in &self.lines {
            if needed(line) {
                text.extend_from_slice(&all[at..at + line.bytes]);
            }
            at += line.bytes;
        }
        let temporary = path.with_file_name(NEXT);
        let _ = fs::remove_file(&temporary);
        let mut next = OpenOptions::new().read(true).append(true).create_new(true).open(&temporary)?;
        next.try_lock()?;
        next.write_all(&text)?;
        next.sync_all()?;
        fs::rename(&temporary, path)?;
        // Whatever fails from here on: this is the log, whose lock others look at, and the file before has no name any more.
        self.file = next;
        self.lines.retain(needed);
        self.unended = false;
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

/// Stands where there was no file, though a run has made checkpoints: each run leaves one.
const LOST: &[u8] = b"the log was gone when a run looked for it\n";

/// Whether a folder has checkpoints.
fn has_manifests(folder: &Path) -> bool {
    let entries = fs::read_dir(folder.join(MANIFESTS)).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| format!("{MANIFESTS}/{}", entry.file_name().to_string_lossy());
    entries.map(name).any(|name| number_of(&name).is_some())
}

/// What a file has, but for a torn end.
struct Parsed {
    entries: Vec<LogEntry>,
    lines: Vec<Line>,
    /// The first.
    damage: Option<Error>,
}

fn parse(bytes: &[u8], path: &Path) -> Parsed {
    let mut parsed = Parsed { entries: Vec::new(), lines: Vec::new(), damage: None };
    for (number, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        let entry = line.strip_suffix(b"\n").and_then(parse_line);
        // A write that was cut off leaves the beginning of a line. One that is whole but for its last byte was damaged.
        let is_torn = !line.ends_with(b"\n") && parse_line(&line[..line.len() - 1]).is_none();
        if entry.is_none() && is_torn {
            break;
        }
        let epoch = entry.as_ref().and_then(LogEntry::epoch);
        parsed.lines.push(Line { epoch, bytes: line.len(), damaged: entry.is_none() });
        if entry.is_none() && parsed.damage.is_none() {
            let error = if line == LOST {
                format!("the epoch log '{}' is gone, though there are checkpoints", path.display())
            } else {
                format!("line {} of the epoch log '{}' is damaged", number + 1, path.display())
            };
            parsed.damage = Some(Error::corrupt(error).hint(DAMAGED));
        }
        parsed.entries.extend(entry);
    }
    parsed
}

/// What can be done where an entry cannot be read.
pub(super) const DAMAGED: &str = "`tidemill state rewind STORE latest` goes on from the newest checkpoint without the log, and writes again what \
                                  came since; or restore it from a copy; or run with --fresh to read everything again";

pub(super) fn parse_line(line: &[u8]) -> Option<LogEntry> {
    let (checksum, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    (checksum == &hex_digest(json.as_bytes())[..CHECKSUM_DIGITS]).then(|| serde_json::from_str(json).ok())?
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::of_disk(format!("cannot {what} the epoch log '{}'", path.display()), error)
}

#[cfg(test)]
#[path = "epoch_log_tests.rs"]
mod tests;
