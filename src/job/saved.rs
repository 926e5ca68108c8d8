//! Where a job goes on: its checkpoints and its epoch log are opened, and the one to go on from is chosen.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::beginning::{Beginning, or_savepoint, savepoint, unused_setting};
use super::changes::{Reconciled, fits_open_files, reconcile};
use super::files::refuse_beside_sql;
use super::fresh::{Start, begins_anew, since_anew};
use super::moved_tables::{follow_tables, reads};
use super::newest::{Passes, newest};
use super::run::JobOptions;
use super::unsaved::refuse_beside_results;
use crate::connectors::files::{StatePlace, state_place};
use crate::contracts::{
    Clock, EpochLog, Error, ErrorKind, LeasePlace, LockedStorage, LogEntry, OpenedLog, Outside, Result, Storage,
    crash_point,
};
use crate::operators::StateLimit;
use crate::runtime::{Checkpointing, JobLog, begins_without_state, identity};
use crate::sql::{JobPlan, Settings};
use crate::state::{
    CheckpointStore, LocalStorage, Manifest, ObjectEpochLog, ObjectStorage, ReadObjects, SavedJob, Stamp,
};

/// What a person asks for of a job's saved state.
#[derive(Debug, Clone, Default)]
pub struct StateOptions {
    /// Where checkpoints lie, instead of the job's own setting.
    pub path: Option<String>,
    /// Time between two checkpoints, instead of the job's own setting.
    pub interval: Option<Duration>,
    /// Go on from the newest checkpoint that is not damaged.
    pub previous_checkpoint: bool,
    /// Go on from this savepoint.
    pub from_savepoint: Option<String>,
    /// What is said of queries was said to a run of this number already, of which this one is another attempt: it holds for what was
    /// saved and logged before that run.
    pub asked_before: Option<u64>,
    /// Queries that are gone, and whose state may go.
    pub drop_state: Vec<String>,
    /// Queries that have changed, and begin without state.
    pub reset: Vec<String>,
    /// Queries that have changed, and go on with their state as it is.
    pub keep_state: Vec<String>,
    /// Where the job's lease is kept, instead of the job's own setting.
    pub lease: Option<LeasePlace>,
    /// Whether this is one of several jobs with the same `--local`: results that are there may be those of another.
    pub of_fleet: bool,
    /// The world to run in, instead of the connectors'.
    pub outside: Option<Arc<dyn Outside>>,
}

impl StateOptions {
    /// A text that no other run has.
    pub(super) fn nonce(&self) -> Result<String> {
        self.outside.as_ref().map_or_else(nonce, |outside| Ok(outside.nonce()))
    }
}

/// Where a job's checkpoints lie, if it has any.
pub(super) fn checkpoints_path(options: &JobOptions, settings: &Settings, job: &str) -> Option<String> {
    match (&options.state.path, &options.local, &settings.checkpoints_path) {
        (Some(path), _, _) => Some(format!("{}/{job}", path.trim_end_matches('/'))),
        (None, Some(local), _) => Some(local.join("checkpoints").join(job).to_string_lossy().into_owned()),
        (None, None, path) => path.as_ref().map(|path| format!("{}/{job}", path.trim_end_matches('/'))),
    }
}

/// Where the run before has stopped, and where this one keeps what it does.
#[derive(Default)]
pub(super) struct SavedRun {
    pub(super) saved: SavedJob,
    pub(super) log: Option<JobLog>,
    pub(super) checkpointing: Option<Checkpointing>,
    /// The run begins anew: what is logged when the results of earlier ones have been set aside.
    pub(super) anew: Option<LogEntry>,
    pub(super) notes: Vec<String>,
}

/// Storage of a job's checkpoints below `path`; a folder is for one run at a time.
pub(super) async fn storage(
    path: &str,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<dyn Storage>, Option<Arc<dyn LockedStorage>>)> {
    match state_place(path, Arc::clone(&clock)).await? {
        StatePlace::Folder(folder) => {
            let folder = Arc::new(LocalStorage::new(folder));
            Ok((Arc::clone(&folder) as Arc<dyn Storage>, Some(folder)))
        }
        StatePlace::Bucket { store, prefix } => Ok((Arc::new(ObjectStorage::new(store, &prefix, path, clock)), None)),
    }
}

/// The epoch log in a storage, with what can be read of it; `anew`: see [`LockedStorage::open_log`]; `known`: what has been read of it, which
/// is added to.
pub(super) async fn open_log(
    storage: &Arc<dyn Storage>,
    locked: Option<&dyn LockedStorage>,
    nonce: &str,
    anew: bool,
    known: &mut ReadObjects,
) -> Result<OpenedLog> {
    if let Some(locked) = locked {
        return locked.open_log(anew).await;
    }
    let (log, entries, damage) = ObjectEpochLog::open_damaged(Arc::clone(storage), nonce, known).await?;
    Ok(OpenedLog { log: Arc::new(log), entries, damage })
}

/// A text that no other run has.
pub(super) fn nonce() -> Result<String> {
    let random = getrandom::u64().map_err(|e| Error::unavailable("the system gives no random numbers").caused_by(e))?;
    Ok(format!("{random:016x}"))
}

/// Times that a run tries to take over from another one that goes on writing meanwhile.
pub(super) const ATTEMPTS: usize = 20;

/// Opens what is there. With `--local`, checkpoints are in that folder; else where the job says, if it does.
///
/// Everything that can be refused is refused before anything is written, so that a job that is running is not disturbed by
/// one that cannot.
pub(super) async fn saved_run(
    options: &JobOptions,
    plan: &JobPlan,
    job: &str,
    clock: &Arc<dyn Clock>,
    limit: Option<&StateLimit>,
) -> Result<SavedRun> {
    let settings = &plan.settings;
    let simulated = options.state.outside.as_ref().map(|outside| outside.storage().place());
    let Some(path) = checkpoints_path(options, settings, job).or(simulated) else {
        let note = "positions and state are not kept: what is read now is read again by the next run \
                    (SET 'state.checkpoints.dir' = 's3://bucket/prefix', or --checkpoints)";
        return Ok(SavedRun { notes: vec![note.to_owned()], ..SavedRun::default() });
    };
    let (storage, locked) = match &options.state.outside {
        Some(outside) => (outside.storage(), outside.locked_storage()),
        None => storage(&path, Arc::clone(clock)).await?,
    };
    if locked.is_some() && options.state.outside.is_none() {
        refuse_beside_sql(Path::new(&storage.place()), &options.paths)?;
    }
    let opening = Opening { options, plan, job, clock, storage, locked, limit };
    let (mut attempt, mut known) = (1, ReadObjects::default());
    let begun = loop {
        match opening.begin(&mut known).await {
            // The run that is being taken over has written meanwhile. In a folder, its lock keeps this one out.
            Err(e) if e.kind() == ErrorKind::Fenced && opening.locked.is_none() && attempt < ATTEMPTS => attempt += 1,
            begun => break begun?,
        }
    };
    let Begun { mut store, log, manifest, saved, repeats, appeared, generation, anew, notes } = begun;
    if anew.is_some() {
        // In a bucket, behind a checkpoint of this run: without one, numbers would begin anew, below that of a run which still writes. A
        // run that comes from here on is a successor, which has done the same.
        store.clear().await?;
        crash_point("fresh.cleared");
    }
    store.references().adopt(manifest.as_ref(), &repeats).await?;
    let interval = Duration::from_millis(u64::try_from(settings.checkpoint_interval_ms).unwrap_or(0));
    let interval = options.state.interval.unwrap_or(interval);
    Ok(SavedRun {
        saved,
        log: Some(JobLog { log, entries: repeats, appeared, generation }),
        checkpointing: Some(Checkpointing { store, interval }),
        anew,
        notes,
    })
}

struct Opening<'a> {
    options: &'a JobOptions,
    plan: &'a JobPlan,
    job: &'a str,
    clock: &'a Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    /// The storage, when it is one run's at a time.
    locked: Option<Arc<dyn LockedStorage>>,
    /// What of the state may be in memory.
    limit: Option<&'a StateLimit>,
}

/// This run is the one that writes.
struct Begun {
    store: CheckpointStore,
    log: Arc<dyn EpochLog>,
    manifest: Option<Manifest>,
    saved: SavedJob,
    /// Of the log, what is to be repeated.
    repeats: Vec<LogEntry>,
    /// See [`Reconciled`].
    appeared: BTreeMap<String, u64>,
    generation: u64,
    /// What is logged when results of earlier runs have been set aside.
    anew: Option<LogEntry>,
    notes: Vec<String>,
}

impl Opening<'_> {
    /// # Errors
    /// `fenced` when another run has written while this one took over; what is wrong with state, SQL or options.
    async fn begin(&self, known: &mut ReadObjects) -> Result<Begun> {
        let (options, state) = (self.options, &self.options.state);
        let nonce = state.nonce()?;
        let opened = open_log(&self.storage, self.locked.as_deref(), &nonce, options.fresh, known).await?;
        let OpenedLog { log, entries, damage } = opened;
        let mut store = CheckpointStore::new(Arc::clone(&self.storage), nonce, self.plan.settings.checkpoints_kept);
        if let Some(limit) = self.limit {
            store = store.spilling(Arc::clone(&limit.folder), limit.bytes);
        }
        let mut notes = Vec::new();
        // Of what is forgotten anyway, nothing need be readable.
        let anew =
            options.fresh || (begins_anew(&entries) && state.from_savepoint.is_none() && !state.previous_checkpoint);
        let savepoint_of = state.from_savepoint.as_ref().map(|name| format!("savepoint {name}"));
        let passes = match (&savepoint_of, anew, state.previous_checkpoint) {
            (_, true, _) => Passes::ForNothing,
            (Some(name), ..) => Passes::For(name),
            (None, _, true) => Passes::ForThePrevious,
            (None, ..) => Passes::None,
        };
        let mut newest = newest(&store, passes, damage.is_some(), self.clock, &mut notes).await?;
        let generation = last_generation(&entries).max(newest.generation) + 1;
        let stamp = Stamp { generation, time_ms: self.clock.now_ms() };
        let epoch = last_epoch(&entries).max(newest.epoch);
        // Where to go back to, and what that is called.
        let back = match &state.from_savepoint {
            Some(name) => Some((savepoint(&store, name).await?, format!("savepoint {name}"))),
            None if newest.damaged => {
                let Some(before) = newest.manifest.take() else {
                    let error = format!("no checkpoint in '{}' can be read", self.storage.place());
                    return Err(or_savepoint(&store, Error::corrupt(error).hint("start anew with --fresh"), None).await);
                };
                let name = format!("checkpoint {}", before.number);
                Some((before, name))
            }
            None => None,
        };
        match damage {
            Some(damage) if options.fresh || back.is_some() => {
                notes.push(format!("{}: nothing of the log is needed", damage.message()));
            }
            Some(damage) => return Err(damage),
            None => {}
        }
        let (entries, is_pending) = since_anew(entries, newest.generation);
        let fresh = options.fresh || (is_pending && back.is_none());
        if fresh && !options.fresh {
            notes.push("the run before was killed while it began anew, so this one begins anew (--fresh)".to_owned());
        }
        let mut repeats = if fresh || back.is_some() { Vec::new() } else { entries };
        let mut manifest = match &back {
            _ if fresh => None,
            Some((back, _)) => Some(back.clone()),
            None => newest.manifest,
        };
        let from = Beginning {
            place: self.storage.place(),
            is_folder: self.locked.is_some(),
            manifest: manifest.as_ref(),
            back: back.as_ref().map(|(_, name)| name.as_str()),
            repeats: repeats.iter().filter_map(LogEntry::epoch).max().unwrap_or(0),
            fresh,
        };
        notes.extend(from.notes(&self.plan.queries));
        notes.extend(unused_setting(options, &self.plan.settings));
        if manifest.is_none() {
            begins_without_state(&repeats)?;
        }
        // A run that has only begun has left nothing.
        let has_epochs = repeats.iter().any(|entry| entry.epoch().is_some());
        if manifest.is_none() && !has_epochs && !fresh && state.outside.is_none() {
            let start = Start { options, plan: self.plan, job: self.job, clock: self.clock };
            refuse_beside_results(start, &mut notes).await?;
        }
        let queries = &self.plan.queries;
        let Reconciled { notes: mut changes, mut appeared } = reconcile(queries, manifest.as_mut(), &repeats, state)?;
        changes.extend(follow_tables(self.plan, manifest.as_mut(), &repeats, state)?);
        let names = || queries.iter().map(|query| (query.name.clone(), identity(&query.normal))).collect();
        let behind = manifest.as_ref().map(|manifest| manifest.epoch);
        let reads = || queries.iter().map(|query| (query.name.clone(), reads(&self.plan.sources, query))).collect();
        let started = |anew| LogEntry::Started { generation, queries: names(), anew, behind, reads: reads() };
        let number = store.newest_number().await?;
        log.append(&started(fresh)).await?;
        // What is damaged is found before a checkpoint is written that would name it again.
        let first = first_epoch(&repeats, epoch, fresh || options.local.is_none(), self.clock);
        let saved = match (&mut manifest, &back) {
            (Some(manifest), Some((_, name))) => {
                let loaded = self.fitting(self.load(&mut store, manifest).await?)?;
                *manifest = store.rewind(manifest, name, number, epoch, stamp).await?;
                loaded.of(manifest)
            }
            (Some(manifest), None) if self.locked.is_some() => self.fitting(self.load(&mut store, manifest).await?)?,
            (None, _) if self.locked.is_some() => SavedJob { epoch: first, ..SavedJob::default() },
            // A checkpoint that the run before has under way must not be committed any more.
            _ => {
                let mut latest = if fresh { None } else { store.latest().await? };
                let found = latest.as_ref().map_or(0, |latest| latest.number);
                if !fresh && found != number {
                    return Err(Error::new(ErrorKind::Fenced, came_since(found)));
                }
                appeared = reconcile(queries, latest.as_mut(), &repeats, state)?.appeared;
                follow_tables(self.plan, latest.as_mut(), &repeats, state)?;
                let loaded = match &latest {
                    Some(latest) => self.fitting(self.load_newest(&mut store, latest).await?)?,
                    None => SavedJob::default(),
                };
                let own = store.take_over(latest.as_ref(), number, first, stamp).await?;
                let loaded = loaded.of(&own);
                manifest = Some(own);
                loaded
            }
        };
        if back.is_some() {
            // (The log of a run that begins anew stays: until there is a checkpoint, nothing else knows its number, and from where epochs
            // are counted on.)
            log.forget(u64::MAX).await?;
            log.append(&started(false)).await?;
        }
        if let Some(manifest) = &manifest {
            // What a crash has left of entries that were being removed.
            repeats.retain(|entry| entry.epoch().is_none_or(|epoch| epoch > manifest.log_after));
        }
        notes.extend(changes);
        let anew = fresh.then(|| started(false));
        Ok(Begun { store, log, manifest, saved, repeats, appeared, generation, anew, notes })
    }

    /// # Errors
    /// A state that its query cannot take.
    fn fitting(&self, saved: SavedJob) -> Result<SavedJob> {
        for query in &self.plan.queries {
            if let Some(saved) = saved.queries.get(&query.name) {
                let checked = query.graph.check(&saved.operators);
                checked.map_err(|error| error.context(format!("query '{}'", query.name)))?;
                fits_open_files(query, saved.unwritten.as_ref())?;
            }
        }
        Ok(saved)
    }

    async fn load(&self, store: &mut CheckpointStore, manifest: &Manifest) -> Result<SavedJob> {
        match store.load(manifest).await {
            Err(error) => Err(or_savepoint(store, error, self.options.state.from_savepoint.as_deref()).await),
            loaded => loaded,
        }
    }

    /// # Errors
    /// `fenced` where the run before has committed another checkpoint meanwhile, and has removed what this one names.
    async fn load_newest(&self, store: &mut CheckpointStore, newest: &Manifest) -> Result<SavedJob> {
        match store.load(newest).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => match store.numbers().await?.last() {
                Some(later) if *later > newest.number => Err(Error::new(ErrorKind::Fenced, came_since(*later))),
                _ => Err(or_savepoint(store, error, None).await),
            },
            loaded => loaded,
        }
    }
}

fn came_since(number: u64) -> String {
    format!("checkpoint {number} came while the run that makes such was taken over")
}

/// Where epochs are counted from without a checkpoint: from where the log begins, if there is one. Else from 0 in a folder
/// that was empty; where earlier runs may have written (their last epoch was `last`), `by_time`, which grows faster than epochs follow
/// each other: so what DynamoDB keeps of one run is not newer than the epochs of the next.
fn first_epoch(log: &[LogEntry], last: u64, by_time: bool, clock: &Arc<dyn Clock>) -> u64 {
    if let Some(logged) = log.iter().find_map(LogEntry::epoch) {
        return logged.saturating_sub(1);
    }
    let begun_anew = log.iter().any(|entry| matches!(entry, LogEntry::Started { anew: true, .. }));
    let time = if by_time || begun_anew { u64::try_from(clock.now_ms()).unwrap_or(1) } else { 0 };
    time.max(last)
}

pub(super) fn last_epoch(entries: &[LogEntry]) -> u64 {
    entries.iter().filter_map(LogEntry::epoch).max().unwrap_or(0)
}

pub(super) fn last_generation(entries: &[LogEntry]) -> u64 {
    entries.iter().filter_map(LogEntry::begun).max().unwrap_or(0)
}
