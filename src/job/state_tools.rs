//! What people do with a job's saved state by hand: look at it, keep it, go back to it, take it elsewhere.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::beginning::first_again;
use super::files::refuse_with_sql;
use super::job_folder::{only_job, refuse_other_folder};
use super::newest::{Passes, newest};
use super::saved::{ATTEMPTS, last_epoch, last_generation, nonce, open_log, storage};
use super::state_parquet::{ParquetFile, file_names};
use super::state_text::{changed, everything, short};
use crate::contracts::{
    Clock, EpochLog, Error, ErrorKind, LockedStorage, LogEntry, OpenedLog, Outside, Result, SeenLog,
};
use crate::state::{CheckpointStore, Manifest, ReadObjects, Stamp};

#[cfg(test)]
#[path = "state_tools_race_tests.rs"]
mod race_tests;
#[cfg(test)]
#[path = "state_tools_tests.rs"]
mod tests;

/// Checkpoints that a rewind leaves beside savepoints.
const KEPT: usize = 3;
/// Times that a checkpoint is read which a running job removes meanwhile.
const READS: usize = 3;

/// The saved state of a job.
pub struct StateTools {
    store: CheckpointStore,
    locked: Option<Arc<dyn LockedStorage>>,
    clock: Arc<dyn Clock>,
    outside: Option<Arc<dyn Outside>>,
}

impl StateTools {
    /// Opens `path`: the folder or `s3://` prefix of a job's checkpoints, or a folder with one job's below it, such as that of
    /// `--local`. What runs with `--local` use counts before a copy that lies in that folder itself.
    pub async fn open(path: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let (mut own, mut locked) = storage(path, Arc::clone(&clock)).await?;
        if locked.is_some()
            && let Some(inner) = only_job(Path::new(&own.place()))?
        {
            (own, locked) = storage(&inner.to_string_lossy(), Arc::clone(&clock)).await?;
        }
        Ok(Self { store: CheckpointStore::new(own, nonce()?, KEPT), locked, clock, outside: None })
    }

    /// Those of the job of a world of its own.
    pub fn within(outside: Arc<dyn Outside>, clock: Arc<dyn Clock>) -> Self {
        let store = CheckpointStore::new(outside.storage(), outside.nonce(), KEPT);
        Self { store, locked: outside.locked_storage(), clock, outside: Some(outside) }
    }

    /// A text that nobody else has.
    fn nonce(&self) -> Result<String> {
        self.outside.as_ref().map_or_else(nonce, |outside| Ok(outside.nonce()))
    }

    /// A checkpoint by its number, `latest`, or the name of a savepoint.
    async fn find(&self, which: &str) -> Result<(Manifest, String)> {
        let found = self.look(which).await?;
        found.ok_or_else(|| match which.parse() {
            Ok(number) => self.store.no_checkpoint(number),
            Err(_) if which == "latest" => self.nothing(),
            Err(_) => self.store.no_savepoint(which),
        })
    }

    /// The same, or `None` if there is none.
    async fn look(&self, which: &str) -> Result<Option<(Manifest, String)>> {
        let (found, kind) = match which.parse() {
            Ok(number) => (self.store.find_manifest(number).await?, "checkpoint"),
            Err(_) if which == "latest" => (self.store.latest().await?, "checkpoint"),
            Err(_) => (self.store.find_savepoint(which).await?, "savepoint"),
        };
        Ok(found.map(|manifest| {
            let name = if kind == "savepoint" { which.to_owned() } else { manifest.number.to_string() };
            (manifest, format!("{kind} {name}"))
        }))
    }

    fn nothing(&self) -> Error {
        let hint = match self.locked {
            Some(_) => "give the folder of one job: DIR/checkpoints/JOB",
            None => "give the prefix of one job: s3://bucket/prefix/JOB",
        };
        Error::config(format!("there is no checkpoint in '{}'", self.store.storage().place())).hint(hint)
    }

    /// A line for each checkpoint and savepoint.
    pub async fn list(&self) -> Result<String> {
        let mut text = format!("{}\n", self.store.storage().place());
        let line = |name: String, manifest: Result<Manifest>| match manifest {
            Ok(manifest) => format!("  {name}  {}", short(&manifest)),
            Err(error) => format!("  {name}  {}", error.message()),
        };
        let (numbers, savepoints) = (self.checkpoints().await?, self.savepoints().await?);
        if numbers.is_empty() && savepoints.is_empty() {
            return Err(self.nothing());
        }
        for number in numbers {
            let _ = writeln!(text, "{}", line(format!("{number:>6}"), self.store.manifest(number).await));
        }
        for name in savepoints {
            let _ = writeln!(text, "{}", line(name.clone(), self.store.savepoint(&name).await));
        }
        Ok(text)
    }

    /// Everything that a checkpoint says, for people.
    pub async fn show(&self, which: &str) -> Result<String> {
        let (manifest, name) = self.find(which).await?;
        Ok(everything(&manifest, &name))
    }

    /// What has changed between two checkpoints.
    pub async fn diff(&self, before: &str, after: &str) -> Result<String> {
        let ((before, name_before), (after, name_after)) = (self.find(before).await?, self.find(after).await?);
        Ok(changed((&before, &name_before), (&after, &name_after)))
    }

    /// Writes the state of each operator (of one query, if it is named), and the rows in open files of its sink, as Parquet below `folder`.
    /// Answers the files.
    pub async fn export(&self, which: &str, query: Option<&str>, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut reads = 0;
        let (mut manifest, _) = self.find(which).await?;
        let mut files = Vec::new();
        loop {
            match self.export_from(&manifest, query, folder, &mut files).await {
                Ok(()) => return Ok(files),
                Err(error) => {
                    (manifest, _) = self.read_again(which, &manifest, error, &mut reads).await?;
                    // What has been written is of another checkpoint.
                    for file in files.drain(..) {
                        let failed = |e| Error::of_disk(format!("cannot remove '{}'", file.display()), e);
                        std::fs::remove_file(&file).map_err(failed)?;
                    }
                }
            }
        }
    }

    /// One operator after the other, a file of state at a time: the state may be larger than memory.
    async fn export_from(
        &self,
        manifest: &Manifest,
        query: Option<&str>,
        folder: &Path,
        files: &mut Vec<PathBuf>,
    ) -> Result<()> {
        if let Some(query) = query
            && !manifest.queries.contains_key(query)
        {
            return Err(
                Error::config(format!("there is no query '{query}' in it")).hint("`tidemill state show` has the names")
            );
        }
        let failed = |e| Error::of_disk(format!("cannot write below '{}'", folder.display()), e);
        std::fs::create_dir_all(folder).map_err(failed)?;
        let names = file_names(manifest.queries.keys());
        for (name, saved) in manifest.queries.iter().filter(|(name, _)| query.is_none_or(|query| query == *name)) {
            let operators = saved.operators.iter().enumerate().map(|(number, state)| (number.to_string(), state));
            let open = saved.unwritten.iter().map(|state| ("open".to_owned(), state));
            for (which, state) in operators.chain(open) {
                let mut file = ParquetFile::new(folder.join(format!("{}-{which}.parquet", names[name])));
                let read = self.store.for_each_live(state, &mut |rows| file.write(&rows)).await;
                files.extend(file.begun());
                read.and_then(|()| file.close()).map_err(|e| e.context(format!("query '{name}'")))?;
            }
        }
        Ok(())
    }

    /// Numbers of the checkpoints that there are, in their order.
    pub async fn checkpoints(&self) -> Result<Vec<u64>> {
        self.store.numbers().await
    }

    /// Names of the savepoints, in their order.
    pub async fn savepoints(&self) -> Result<Vec<String>> {
        self.store.savepoints().await
    }

    /// Keeps a checkpoint as a savepoint.
    pub async fn save(&self, which: &str, name: &str) -> Result<String> {
        let (manifest, found) = self.find(which).await?;
        if is_checkpoint(name) {
            return Err(Error::config(format!("a savepoint cannot be called '{name}'")).hint("take a word"));
        }
        self.store.save_as(&manifest, name).await?;
        Ok(format!("{found} is kept as savepoint {name}"))
    }

    /// Removes a savepoint.
    pub async fn drop_savepoint(&self, name: &str) -> Result<String> {
        self.store.drop_savepoint(name).await?;
        Ok(format!("savepoint {name} is gone; its files go with the next checkpoint"))
    }

    /// Makes the content of a checkpoint the newest one, so that the next run goes on from it. A run that is under way is
    /// refused, or ends with `fenced`.
    pub async fn rewind(&mut self, which: &str) -> Result<String> {
        // First, so that what is not there disturbs nobody.
        let (of, name) = self.find(which).await?;
        match is_checkpoint(which) {
            true => self.rewind_kept(&of, &name).await,
            false => self.rewind_raced(&of, &name).await,
        }
    }

    /// A run that is being taken over may commit the checkpoint that it has under way, and remove this one, so it is a savepoint meanwhile.
    async fn rewind_kept(&mut self, of: &Manifest, name: &str) -> Result<String> {
        let kept = format!("rewind-{}", self.nonce()?);
        self.store.save_as(of, &kept).await?;
        let rewound = self.rewind_raced(of, name).await;
        match (rewound, self.store.drop_savepoint(&kept).await) {
            (Ok(said), Err(error)) => Ok(format!(
                "{said}\nthe savepoint '{kept}', which has kept its files meanwhile, is still there: {error}"
            )),
            (Err(error), Err(_)) => Err(error.context(format!(
                "the savepoint '{kept}', which keeps the files of {name}, is still there (`tidemill state drop` removes it)"
            ))),
            (rewound, Ok(_)) => rewound,
        }
    }

    async fn rewind_raced(&mut self, of: &Manifest, name: &str) -> Result<String> {
        // What cannot be loaded must not become the newest, nor the log be emptied for it.
        self.store.verify(of).await?;
        let (mut attempt, mut known) = (1, ReadObjects::default());
        loop {
            match self.rewind_to(of, name, &mut known).await {
                Err(error) if self.was_raced(&error) && attempt < ATTEMPTS => attempt += 1,
                rewound => return rewound,
            }
        }
    }

    async fn rewind_to(&mut self, of: &Manifest, name: &str, known: &mut ReadObjects) -> Result<String> {
        let TakenOver { epoch, newest, stamp, log } = self.take_over(known).await?;
        let manifest = self.store.rewind(of, name, newest, epoch, stamp).await?;
        self.close(&log, stamp).await?;
        let first = first_again(of).map(|note| format!("\n{note}")).unwrap_or_default();
        Ok(format!("checkpoint {} is {name} again; epochs are counted on from {epoch}{first}", manifest.number))
    }

    /// Copies a checkpoint with all its files to the store at `path`, where it becomes the newest.
    ///
    /// # Errors
    /// `path` is a folder of other things than the checkpoints of one job: no run would find the copy there.
    pub async fn restore(&self, which: &str, path: &str) -> Result<String> {
        let (mut of, mut name) = self.find(which).await?;
        let (to, locked) = storage(path, Arc::clone(&self.clock)).await?;
        if locked.is_some() {
            refuse_with_sql(Path::new(&to.place()))?;
            refuse_other_folder(Path::new(&to.place()))?;
        }
        let store = CheckpointStore::new(to, self.nonce()?, KEPT);
        let mut other = Self { store, locked, clock: Arc::clone(&self.clock), outside: self.outside.clone() };
        let (own_epoch, own_generation) = self.counted().await?;
        let (mut attempt, mut reads, mut known) = (1, 0, ReadObjects::default());
        loop {
            let copied = async {
                // What cannot be copied must not end a run there, nor look like one that has been.
                self.store.verify_all(&of).await?;
                let TakenOver { epoch, newest, mut stamp, log } = other.take_over(&mut known).await?;
                // What the job here has written, since the checkpoint too, must not be newer than what it will write from there.
                let epoch = epoch.max(own_epoch).max(of.epoch);
                stamp.generation = stamp.generation.max(own_generation + 1);
                let manifest = self.store.copy_to(&of, &mut other.store, newest, epoch, stamp).await?;
                other.close(&log, stamp).await?;
                let path = path.trim_end_matches('/');
                let (parent, job) = path.rsplit_once('/').unwrap_or((".", path));
                let (number, first) =
                    (manifest.number, first_again(&of).map(|note| format!("\n{note}")).unwrap_or_default());
                Ok(format!(
                    "{name} is checkpoint {number} of {path}; a job called '{job}' goes on from it with --checkpoints {parent}{first}"
                ))
            };
            match copied.await {
                Err(error) if other.was_raced(&error) && attempt < ATTEMPTS => attempt += 1,
                Err(error) => (of, name) = self.read_again(which, &of, error, &mut reads).await?,
                copied => return copied,
            }
        }
    }

    /// What `which` is by now, to be read instead of `read`, which could not be: a job that is running may have removed that meanwhile, and
    /// the newest is another one.
    ///
    /// # Errors
    /// The one given, if the checkpoint is still there; else `unavailable`.
    async fn read_again(
        &self,
        which: &str,
        read: &Manifest,
        error: Error,
        reads: &mut usize,
    ) -> Result<(Manifest, String)> {
        if error.kind() != ErrorKind::Corrupt {
            return Err(error);
        }
        match self.look(which).await? {
            Some((now, _)) if (now.number, &now.nonce) == (read.number, &read.nonce) => return Err(error),
            Some(found) if *reads + 1 < READS => {
                *reads += 1;
                return Ok(found);
            }
            _ => {}
        }
        let gone = format!("checkpoint {} was removed while it was read", read.number);
        let hint = "try again; or keep one first, with `tidemill state save`, and read that";
        Err(Error::unavailable(gone).hint(hint).caused_by(error))
    }

    /// The last epoch and the last run that are known here, or may be by the time at which a copy is used. Disturbs nobody.
    async fn counted(&self) -> Result<(u64, u64)> {
        let seen = match &self.locked {
            Some(locked) => locked.see_log().await?,
            None => {
                let OpenedLog { entries, damage, .. } =
                    open_log(self.store.storage(), None, &self.nonce()?, false, &mut ReadObjects::default()).await?;
                SeenLog { entries, damaged: damage.is_some() }
            }
        };
        let (epoch, generation) = self.last(&seen.entries, seen.damaged).await?;
        // A job that is running goes on counting, and one that has ended will, once it is started again.
        Ok((epoch + EPOCHS_AHEAD, generation + 1))
    }

    /// Whether a run that is being taken over has written meanwhile. Where it has a lock, that keeps others out.
    fn was_raced(&self, error: &Error) -> bool {
        error.kind() == ErrorKind::Fenced && self.locked.is_none()
    }

    /// Makes this program the one that may write. `known` is what an attempt before has read of the log.
    async fn take_over(&mut self, known: &mut ReadObjects) -> Result<TakenOver> {
        let (storage, nonce) = (self.store.storage(), self.nonce()?);
        // Nothing of it is needed, so it may be damaged.
        let OpenedLog { mut log, entries, damage } =
            open_log(storage, self.locked.as_deref(), &nonce, false, known).await?;
        // First, so that a checkpoint which comes from here on has the number that this one wants.
        let newest = self.store.newest_number().await?;
        let (mut epoch, mut generation) = self.last(&entries, damage.is_some()).await?;
        if self.locked.is_none() {
            // What a job that is running has appended meanwhile: it would be first again and again, if all that was between its last entry
            // and this program's.
            let since = open_log(storage, None, &nonce, false, known).await?;
            epoch = epoch.max(last_epoch(&since.entries));
            generation = generation.max(last_generation(&since.entries));
            log = since.log;
        }
        generation += 1;
        // From here on, a run that is under way can write nothing any more. In a folder the lock has seen to that; what a tool leaves there
        // which comes to nothing would look like a run that has been.
        if self.locked.is_none() {
            log.append(&LogEntry::started(generation, false)).await?;
        }
        Ok(TakenOver { epoch, newest, stamp: Stamp { generation, time_ms: self.clock.now_ms() }, log })
    }

    /// There is a checkpoint that needs nothing of the log.
    ///
    /// # Errors
    /// `fenced` when a run has taken over since: what is said to be done might not be.
    async fn close(&self, log: &Arc<dyn EpochLog>, stamp: Stamp) -> Result<()> {
        log.forget(u64::MAX).await?;
        match self.locked {
            Some(_) => Ok(()),
            None => log.append(&LogEntry::started(stamp.generation, false)).await,
        }
    }

    /// The last epoch and the last run, by the newest checkpoint and these entries of the log, which may have had more.
    async fn last(&self, entries: &[LogEntry], damaged: bool) -> Result<(u64, u64)> {
        // Who goes back to another one, or copies it, does so also where the newest is damaged.
        let mut notes = Vec::new();
        let newest = newest(&self.store, Passes::For("another one"), damaged, &self.clock, &mut notes).await?;
        notes.iter().for_each(|note| tracing::warn!("{note}"));
        Ok((newest.epoch.max(last_epoch(entries)), newest.generation.max(last_generation(entries))))
    }
}

/// What a tool has that is the one which may write.
struct TakenOver {
    /// The last one that there has been.
    epoch: u64,
    /// Number of the newest checkpoint by then.
    newest: u64,
    stamp: Stamp,
    log: Arc<dyn EpochLog>,
}

/// A job whose checkpoint is copied may cut so many epochs more until the copy is used: eleven days of ten a second.
const EPOCHS_AHEAD: u64 = 10_000_000;

/// Whether this is `latest` or a number, and no savepoint's name.
fn is_checkpoint(which: &str) -> bool {
    which == "latest" || which.parse::<u64>().is_ok()
}
