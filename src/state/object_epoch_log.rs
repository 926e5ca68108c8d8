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

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::oneshot;

use super::epoch_log::{line, parse_line};
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

#[derive(Debug)]
struct Writer {
    next: u64,
    /// Objects that are there: number, the last epoch in it; `None` for the beginning of a run.
    objects: VecDeque<(u64, Option<u64>)>,
    /// Whether an append has failed: what it wrote may be there, so no other can follow.
    failed: Option<(ErrorKind, String)>,
}

impl ObjectEpochLog {
    /// Opens the log in `storage` and answers its entries. `nonce` must differ from that of every other run.
    pub async fn open(storage: Arc<dyn Storage>, nonce: &str) -> Result<(Self, Vec<LogEntry>)> {
        let mut numbers: Vec<u64> = storage.list(FOLDER).await?.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        let reads: Vec<_> = numbers.iter().map(|number| read(&storage, *number).boxed()).collect();
        let read: Vec<_> = futures::stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
        // Those that the run before removed meanwhile are none, and no first objects of runs either.
        let there = numbers.iter().zip(&read).filter_map(|(number, entries)| Some((*number, entries.as_ref()?)));
        let objects = there.map(|(number, entries)| (number, last_epoch(entries))).collect();
        let next = numbers.last().map_or(1, |last| last + 1);
        let log = Self {
            storage,
            nonce: nonce.to_owned(),
            waiting: Mutex::default(),
            writer: tokio::sync::Mutex::new(Writer { next, objects, failed: None }),
        };
        Ok((log, read.into_iter().flatten().flatten().collect()))
    }

    /// Writes what waits as one object.
    async fn write(&self, writer: &mut Writer) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if waiting.is_empty() {
            return;
        }
        let mut content = format!("{}\n", self.nonce).into_bytes();
        waiting.iter().for_each(|entry| content.extend(&entry.line));
        let epoch = waiting.iter().map(|entry| entry.epoch).max().flatten();
        let created = match &writer.failed {
            Some((kind, message)) => Err(Error::new(*kind, message.clone())),
            None => self.storage.create(&name(writer.next), content.into()).await,
        };
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
        for entry in waiting {
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
        drop(writer);
        answer.await.map_err(|e| Error::internal("an entry of the epoch log was not written").caused_by(e))?
    }

    async fn forget(&self, epoch: u64) -> Result<()> {
        let old = {
            let mut writer = self.writer.lock().await;
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
        // The oldest first: what a crash leaves is known by its epochs.
        for number in old {
            self.storage.remove(&name(number)).await?;
        }
        Ok(())
    }
}

/// The entries of an object. `None` if it was removed since it was listed: it has been covered by a checkpoint.
async fn read(storage: &Arc<dyn Storage>, number: u64) -> Result<Option<Vec<LogEntry>>> {
    let name = name(number);
    let Some(content) = storage.read(&name).await? else { return Ok(None) };
    let lines = content.split(|b| *b == b'\n').skip(1).filter(|line| !line.is_empty());
    let entries: Option<Vec<LogEntry>> = lines.map(parse_line).collect();
    let whole = entries.filter(|_| content.ends_with(b"\n")).ok_or_else(|| {
        Error::corrupt(format!("'{}/{name}' of the epoch log is damaged", storage.place()))
            .hint("restore the object, or run with --fresh to read everything again")
    });
    whole.map(Some)
}

fn last_epoch(entries: &[LogEntry]) -> Option<u64> {
    entries.iter().map(LogEntry::epoch).max().flatten()
}

fn name(number: u64) -> String {
    format!("{FOLDER}/{number:012}")
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix(FOLDER)?.strip_prefix('/')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;
    use crate::contracts::EpochCut;
    use crate::state::tests::storages;

    /// Whoever lists it finds objects that are removed before they are read.
    #[derive(Debug)]
    struct Shrinking {
        of: Arc<dyn Storage>,
        goes: Vec<u64>,
    }

    #[async_trait]
    impl Storage for Shrinking {
        fn place(&self) -> String {
            self.of.place()
        }

        async fn create(&self, name: &str, content: Bytes) -> Result<Created> {
            self.of.create(name, content).await
        }

        async fn read(&self, name: &str) -> Result<Option<Bytes>> {
            self.of.read(name).await
        }

        async fn list(&self, folder: &str) -> Result<Vec<String>> {
            let listed = self.of.list(folder).await;
            for number in &self.goes {
                self.of.remove(&name(*number)).await?;
            }
            listed
        }

        async fn remove(&self, name: &str) -> Result<()> {
            self.of.remove(name).await
        }
    }

    fn started(generation: u64) -> LogEntry {
        LogEntry::Started { generation, queries: BTreeMap::new(), anew: false }
    }

    fn cut(epoch: u64) -> LogEntry {
        let (generation, now_ms, splits, tables) = (1, 5, vec![], vec![]);
        let (oldest_ms, closes, references) = (None, false, BTreeMap::new());
        LogEntry::Cut(EpochCut {
            epoch,
            generation,
            now_ms,
            oldest_ms,
            closes,
            catches_up: false,
            splits,
            tables,
            references,
        })
    }

    /// Else those that are kept, as first objects of runs, would make room for them: what fences a run that sleeps since.
    #[tokio::test]
    async fn objects_that_are_removed_while_they_are_read_are_no_first_ones() {
        for storage in storages().1 {
            let (sleeping, _) = ObjectEpochLog::open(Arc::clone(&storage), "a").await.expect("a log");
            let (before, _) = ObjectEpochLog::open(Arc::clone(&storage), "b").await.expect("a log");
            before.append(&started(1)).await.expect("an entry");
            let epochs = STARTS_KEPT as u64 + 8;
            for epoch in 1..=epochs {
                before.append(&cut(epoch)).await.expect("an entry");
            }
            // The run before tidies up while this one opens the log; the newest object stays.
            let shrinking = Shrinking { of: Arc::clone(&storage), goes: (2..=epochs).collect() };
            let (own, entries) = ObjectEpochLog::open(Arc::new(shrinking), "c").await.expect("a log");
            assert_eq!(entries, [started(1), cut(epochs)], "{}", storage.place());
            own.append(&started(2)).await.expect("an entry");
            own.append(&cut(epochs + 1)).await.expect("an entry");
            own.forget(epochs).await.expect("shortened");
            let error = sleeping.append(&started(1)).await.expect_err("it has slept through two runs");
            assert_eq!(error.kind(), ErrorKind::Fenced, "{}: {error}", storage.place());
        }
    }
}
