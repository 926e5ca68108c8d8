//! The epoch log in a [`Storage`]: an object for each entry, or for those that came while the one before was written.
//!
//! ```text
//!   log/000000000041    run a: cut 7                 run a, which was paused, creates 43: taken, fenced
//!   log/000000000042    run a: cut 8, committed …
//!   log/000000000043    run b: started
//! ```
//!
//! A run appends one object at a time, each under the number that follows. So what a stale run tries next is the number that
//! its successor has begun with. Therefore, when others are removed, the first object of a run is kept, and so is the newest of all: a
//! successor that found only older ones would begin with a number that a run which still writes has behind it, and the two would never meet.
//! For the same reason an object that is damaged is not removed, when nothing of it is needed: an empty one takes its place.
//!
//! A request may be on its way for so long that the run before has passed its number, and removed what it had there. So a run looks, behind its
//! first object, whether it is the newest: what it wants to follow may have gone on. (Or it has been followed already.)

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::oneshot;

use super::checkpoints::{MANIFESTS, number_of as manifest_number};
use super::epoch_log::{DAMAGED, line, parse_line};
use super::sweep::remove_all;
use crate::contracts::{Created, EpochLog, Error, ErrorKind, LogEntry, Result, Storage};

const FOLDER: &str = "log";
/// Objects that are read side by side.
const READS_AT_ONCE: usize = 16;
/// First objects of runs that are kept. A run would have to sleep through so many successors to go unnoticed.
const STARTS_KEPT: usize = 64;

/// An open log.
#[derive(Debug)]
pub struct ObjectEpochLog {
    storage: Arc<dyn Storage>,
    nonce: String,
    /// Entries that wait for the object that is being written.
    waiting: Mutex<Vec<Waiting>>,
    writer: tokio::sync::Mutex<Writer>,
}

#[derive(Debug)]
struct Waiting {
    line: Vec<u8>,
    epoch: Option<u64>,
    done: oneshot::Sender<Result<()>>,
}

#[derive(Debug, Default)]
struct Writer {
    next: u64,
    /// Objects that are there: number, the last epoch in it; `None` for the beginning of a run.
    objects: VecDeque<(u64, Option<u64>)>,
    /// What was given up in the midst of being written: it may be there, or not, under the next number, so it is written before all else.
    begun: Option<Begun>,
    /// Whether this run has an object, and none was behind the first of them.
    is_newest: bool,
    /// Those that cannot be read.
    damaged: Vec<u64>,
    /// Whether an append has failed: what it wrote may be there, so no other can follow.
    failed: Option<(ErrorKind, String)>,
}

/// Objects of a log that have been read, for who opens it again soon. One that is whole never changes.
#[derive(Debug, Default)]
pub struct ReadObjects(BTreeMap<u64, Vec<LogEntry>>);

/// An object that is being written.
#[derive(Debug)]
struct Begun {
    content: Bytes,
    epoch: Option<u64>,
    entries: Vec<Waiting>,
}

impl ObjectEpochLog {
    /// Opens the log in `storage` and answers its entries. `nonce` must differ from that of every other run.
    ///
    /// # Errors
    /// `corrupt` where an object is damaged.
    pub async fn open(storage: Arc<dyn Storage>, nonce: &str) -> Result<(Self, Vec<LogEntry>)> {
        let (log, entries, damage) = Self::open_damaged(storage, nonce, &mut ReadObjects::default()).await?;
        damage.map_or(Ok((log, entries)), Err)
    }

    /// The same for who may need nothing of it: answers what can be read, and what is wrong with the rest. Writes nothing. What is in `known`
    /// is not read again, and what is read is added: who has lost a race against a run that goes on appending has to be quicker than that.
    pub async fn open_damaged(
        storage: Arc<dyn Storage>,
        nonce: &str,
        known: &mut ReadObjects,
    ) -> Result<(Self, Vec<LogEntry>, Option<Error>)> {
        let mut numbers = self::numbers(&storage).await?;
        let mut damage = None;
        let is_manifest = |name: &String| manifest_number(name).is_some();
        if numbers.is_empty() && storage.list(MANIFESTS).await?.iter().any(is_manifest) {
            // Each run logs that it begins before it makes a checkpoint: perhaps one has begun meanwhile.
            numbers = self::numbers(&storage).await?;
            let gone = || {
                Error::corrupt(format!("the epoch log in '{}' is gone, though there are checkpoints", storage.place()))
            };
            damage = numbers.is_empty().then(|| gone().hint(DAMAGED));
        }
        let new: Vec<u64> = numbers.iter().copied().filter(|number| !known.0.contains_key(number)).collect();
        let reads: Vec<_> = new.iter().map(|number| read(&storage, *number).boxed()).collect();
        let read: Vec<_> = futures::stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
        let next = numbers.last().map_or(1, |last| last + 1);
        let (mut writer, mut all) = (Writer { next, ..Writer::default() }, Vec::new());
        for (number, content) in new.into_iter().zip(read) {
            match content {
                Content::Whole(entries) => drop(known.0.insert(number, entries)),
                // One that the run before removed meanwhile is none, and no first object of a run either.
                Content::Gone => {}
                Content::Damaged(error) => {
                    writer.damaged.push(number);
                    damage = damage.or(Some(error));
                }
            }
        }
        for number in numbers {
            if let Some(entries) = known.0.get(&number) {
                writer.objects.push_back((number, last_epoch(entries)));
                all.extend(entries.iter().cloned());
            }
        }
        let (nonce, writer) = (nonce.to_owned(), tokio::sync::Mutex::new(writer));
        Ok((Self { storage, nonce, waiting: Mutex::default(), writer }, all, damage))
    }

    /// Puts an empty object in the place of each that cannot be read: it may have been the first one of a run.
    async fn mend(&self, writer: &mut Writer) -> Result<()> {
        while let Some(number) = writer.damaged.last().copied() {
            self.storage.remove(&name(number)).await?;
            self.storage.create(&name(number), format!("{}\n", self.nonce).into()).await?;
            writer.damaged.pop();
            writer.objects.push_back((number, None));
        }
        // In their order again.
        writer.objects.make_contiguous().sort_unstable_by_key(|(number, _)| *number);
        Ok(())
    }

    /// Writes what waits as one object. May be dropped: the next call finishes what this one has begun.
    async fn write(&self, writer: &mut Writer) {
        if writer.begun.is_some() {
            self.create(writer).await;
        }
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if waiting.is_empty() {
            return;
        }
        let mut content = format!("{}\n", self.nonce).into_bytes();
        waiting.iter().for_each(|entry| content.extend(&entry.line));
        let epoch = waiting.iter().map(|entry| entry.epoch).max().flatten();
        writer.begun = Some(Begun { content: content.into(), epoch, entries: waiting });
        self.create(writer).await;
    }

    /// Whether an object that was created is the newest one. One that is not is removed again, unless another run has begun behind it: that
    /// one has seen it, and it keeps out the run before.
    async fn look_behind(&self, number: u64, content: &[u8]) -> Result<Created> {
        let names = self.storage.list(FOLDER).await?;
        let behind: Vec<u64> =
            names.iter().filter_map(|name| number_of(name)).filter(|other| *other > number).collect();
        if behind.is_empty() {
            return Ok(Created::New);
        }
        let own = parse(content).as_deref().and_then(last_run);
        let reads: Vec<_> = behind.iter().map(|other| read(&self.storage, *other).boxed()).collect();
        let mut reads = futures::stream::iter(reads).buffered(READS_AT_ONCE);
        while let Some(content) = reads.try_next().await? {
            if let Content::Whole(entries) = content
                && last_run(&entries) > own
            {
                return Ok(Created::Taken);
            }
        }
        self.storage.remove(&name(number)).await?;
        Ok(Created::Taken)
    }

    /// Creates the object that has been begun, perhaps once more: the same content is no other object.
    async fn create(&self, writer: &mut Writer) {
        let Some(begun) = &writer.begun else { return };
        let created = match &writer.failed {
            Some((kind, message)) => Err(Error::new(*kind, message.clone())),
            None => self.storage.create(&name(writer.next), begun.content.clone()).await,
        };
        let created = match created {
            Ok(Created::New) if !writer.is_newest => self.look_behind(writer.next, &begun.content).await,
            created => created,
        };
        writer.is_newest |= matches!(created, Ok(Created::New));
        let Some(Begun { epoch, entries, .. }) = writer.begun.take() else { return };
        let failure = match created {
            Ok(Created::New) => None,
            Ok(Created::Taken) => Some((
                ErrorKind::Fenced,
                format!("another run of this job has taken over: entry {} of its log is not this run's", writer.next),
            )),
            Err(error) => Some((error.kind(), error.to_string())),
        };
        match &failure {
            None => {
                writer.objects.push_back((writer.next, epoch));
                writer.next += 1;
            }
            Some(failure) => writer.failed = Some(failure.clone()),
        }
        for entry in entries {
            let answer = failure.as_ref().map_or(Ok(()), |(kind, message)| Err(Error::new(*kind, message.clone())));
            // One that does not wait any more has been cancelled.
            let _ = entry.done.send(answer);
        }
    }
}

#[async_trait]
impl EpochLog for ObjectEpochLog {
    async fn append(&self, entry: &LogEntry) -> Result<()> {
        let (done, mut answer) = oneshot::channel();
        let waiting = Waiting { line: line(entry)?, epoch: entry.epoch(), done };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(waiting);
        // Whoever gets here first writes for all that wait by then.
        let mut writer = self.writer.lock().await;
        if let Ok(answer) = answer.try_recv() {
            return answer;
        }
        self.write(&mut writer).await;
        let written = answer.await;
        written.map_err(|e| Error::internal("an entry of the epoch log was not written").caused_by(e))??;
        match entry {
            LogEntry::Started { anew: true, .. } => self.mend(&mut writer).await,
            _ => Ok(()),
        }
    }

    async fn forget(&self, epoch: u64) -> Result<()> {
        let old = {
            let mut writer = self.writer.lock().await;
            self.mend(&mut writer).await?;
            let newest = writer.next - 1;
            let starts = writer.objects.iter().filter(|(_, last)| last.is_none()).count();
            let mut spare = starts.saturating_sub(STARTS_KEPT);
            let mut old = Vec::new();
            writer.objects.retain(|(number, last)| {
                let remove = match last {
                    _ if *number == newest => false,
                    Some(last) => *last <= epoch,
                    None if spare > 0 => {
                        spare -= 1;
                        true
                    }
                    None => false,
                };
                if remove {
                    old.push(*number);
                }
                !remove
            });
            old
        };
        // In any order: whatever a crash leaves of them, their epochs are up to what a manifest says that is there by now, and who opens the
        // log, and then looks for the newest manifest, takes nothing up to there as promised or to be repeated. Of first objects of runs,
        // those go which say nothing about the run that has made that manifest.
        let old: Vec<String> = old.into_iter().map(name).collect();
        remove_all(old.iter().map(|name| self.storage.remove(name)).collect()).await
    }
}

/// What an object of the log has.
enum Content {
    Whole(Vec<LogEntry>),
    /// It was removed since it was listed: it has been covered by a checkpoint.
    Gone,
    Damaged(Error),
}

async fn read(storage: &Arc<dyn Storage>, number: u64) -> Result<Content> {
    let name = name(number);
    let Some(content) = storage.read(&name).await? else { return Ok(Content::Gone) };
    let damaged = || Error::corrupt(format!("'{}/{name}' of the epoch log is damaged", storage.place())).hint(DAMAGED);
    Ok(parse(&content).map_or_else(|| Content::Damaged(damaged()), Content::Whole))
}

/// Entries of an object; `None` if it is damaged.
fn parse(content: &[u8]) -> Option<Vec<LogEntry>> {
    let lines = content.split(|b| *b == b'\n').skip(1).filter(|line| !line.is_empty());
    let entries: Option<Vec<LogEntry>> = lines.map(parse_line).collect();
    entries.filter(|_| content.ends_with(b"\n"))
}

fn last_epoch(entries: &[LogEntry]) -> Option<u64> {
    entries.iter().map(LogEntry::epoch).max().flatten()
}

/// Number of the last run that begins in these entries.
fn last_run(entries: &[LogEntry]) -> Option<u64> {
    entries.iter().filter_map(LogEntry::begun).max()
}

/// Numbers of the objects that are there, in their order.
async fn numbers(storage: &Arc<dyn Storage>) -> Result<Vec<u64>> {
    let names = storage.list(FOLDER).await?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn name(number: u64) -> String {
    format!("{FOLDER}/{number:012}")
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix(FOLDER)?.strip_prefix('/')?.parse().ok()
}

#[cfg(test)]
#[path = "object_epoch_log_tests.rs"]
mod tests;
