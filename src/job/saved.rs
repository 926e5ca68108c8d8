//! Where a job goes on: its checkpoints and its epoch log are opened, and the one to go on from is chosen.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::run::JobOptions;
use crate::connectors::files::{StatePlace, state_place};
use crate::contracts::{Clock, EpochLog, Error, ErrorKind, LogEntry, Result, Storage};
use crate::runtime::{Checkpointing, JobLog};
use crate::sql::Settings;
use crate::state::{CheckpointStore, FileEpochLog, LocalStorage, ObjectEpochLog, ObjectStorage, SavedJob, Stamp};

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
    /// Queries that are gone, and whose state may go.
    pub drop_state: Vec<String>,
    /// Queries that have changed, and begin without state.
    pub reset: Vec<String>,
}

/// Where the run before has stopped, and where this one keeps what it does.
#[derive(Default)]
pub(super) struct SavedRun {
    pub(super) saved: SavedJob,
    pub(super) log: Option<JobLog>,
    pub(super) checkpointing: Option<Checkpointing>,
    pub(super) notes: Vec<String>,
}

/// Storage of a job's checkpoints below `path`, and its folder if it is one.
pub(super) async fn storage(
    path: &str,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<dyn Storage>, Option<Arc<LocalStorage>>)> {
    match state_place(path, Arc::clone(&clock)).await? {
        StatePlace::Folder(folder) => {
            let folder = Arc::new(LocalStorage::new(folder));
            Ok((Arc::clone(&folder) as Arc<dyn Storage>, Some(folder)))
        }
        StatePlace::Bucket { store, prefix } => Ok((Arc::new(ObjectStorage::new(store, &prefix, path, clock)), None)),
    }
}

/// A text that no other run has.
pub(super) fn nonce() -> Result<String> {
    let random = getrandom::u64().map_err(|e| Error::unavailable("the system gives no random numbers").caused_by(e))?;
    Ok(format!("{random:016x}"))
}

/// Opens what is there. With `--local`, checkpoints are in that folder; else where the job says, if it does.
pub(super) async fn saved_run(
    options: &JobOptions,
    settings: &Settings,
    job: &str,
    clock: &Arc<dyn Clock>,
) -> Result<SavedRun> {
    let path = match (&options.state.path, &options.local, &settings.checkpoints_path) {
        (Some(path), _, _) => Some(format!("{}/{job}", path.trim_end_matches('/'))),
        (None, Some(local), _) => Some(local.join("checkpoints").join(job).to_string_lossy().into_owned()),
        (None, None, path) => path.as_ref().map(|path| format!("{}/{job}", path.trim_end_matches('/'))),
    };
    let Some(path) = path else {
        let note = "positions and state are not kept: what is read now is read again by the next run \
                    (SET 'state.checkpoints.dir' = 's3://bucket/prefix', or --checkpoints)";
        return Ok(SavedRun { notes: vec![note.to_owned()], ..SavedRun::default() });
    };
    let (storage, folder) = storage(&path, Arc::clone(clock)).await?;
    let nonce = nonce()?;
    let has_results = options.local.as_deref().filter(|local| !local.join("checkpoints").exists()).and_then(results);
    let (log, entries): (Arc<dyn EpochLog>, _) = match &folder {
        Some(folder) => {
            refuse_old_layout(folder.root(), options.fresh)?;
            // The lock first: what follows is for one run at a time.
            let (log, entries) = open_file_log(folder.root(), options.fresh)?;
            folder.remove_leftovers()?;
            (Arc::new(log), entries)
        }
        None => {
            let (log, entries) = ObjectEpochLog::open(Arc::clone(&storage), &nonce).await?;
            (Arc::new(log), entries)
        }
    };
    let mut store = CheckpointStore::new(storage, nonce, settings.checkpoints_kept);
    let mut notes = Vec::new();
    let newest = newest(&store, options, &mut notes).await?;
    let generation = last_generation(&entries).max(newest.generation) + 1;
    let stamp = Stamp { generation, time_ms: clock.now_ms() };
    let epoch = entries.iter().filter_map(LogEntry::epoch).max().unwrap_or(0).max(newest.epoch);
    let mut repeats = entries;
    let manifest = if options.fresh {
        store.clear().await?;
        log.forget(u64::MAX).await?;
        repeats = Vec::new();
        None
    } else if let Some(name) = &options.state.from_savepoint {
        let savepoint = store.savepoint(name).await?;
        let manifest = store.rewind(&savepoint, &format!("savepoint {name}"), epoch, stamp).await?;
        log.forget(u64::MAX).await?;
        repeats = Vec::new();
        Some(manifest)
    } else if newest.damaged {
        let Some(before) = &newest.manifest else {
            return Err(
                Error::corrupt(format!("no checkpoint in '{path}' can be read")).hint("start anew with --fresh")
            );
        };
        let manifest = store.rewind(before, &format!("checkpoint {}", before.number), epoch, stamp).await?;
        log.forget(u64::MAX).await?;
        repeats = Vec::new();
        Some(manifest)
    } else {
        newest.manifest
    };
    if let (None, true, false, Some(path)) = (&manifest, repeats.is_empty(), options.fresh, has_results) {
        return Err(Error::config(format!("'{}' has results, but no saved state to go on from", path.display()))
            .hint("run with --fresh to read everything again and write over them, or use another folder"));
    }
    let saved = match &manifest {
        Some(manifest) => store.load(manifest).await?,
        None => SavedJob { epoch: first_epoch(&repeats, options, clock), ..SavedJob::default() },
    };
    if let Some(manifest) = &manifest {
        // What a crash has left of entries that were being removed.
        repeats.retain(|entry| entry.epoch().is_none_or(|epoch| epoch > manifest.log_after));
    }
    let interval = Duration::from_millis(u64::try_from(settings.checkpoint_interval_ms).unwrap_or(0));
    let interval = options.state.interval.unwrap_or(interval);
    Ok(SavedRun {
        saved,
        log: Some(JobLog { log, entries: repeats, generation }),
        checkpointing: Some(Checkpointing { store, interval }),
        notes,
    })
}

/// The newest checkpoint that can be read.
#[derive(Default)]
struct Newest {
    manifest: Option<crate::state::Manifest>,
    /// There is a newer one, which cannot.
    damaged: bool,
    generation: u64,
    epoch: u64,
}

async fn newest(store: &CheckpointStore, options: &JobOptions, notes: &mut Vec<String>) -> Result<Newest> {
    let mut newest = Newest::default();
    for number in store.numbers().await?.into_iter().rev() {
        match store.manifest(number).await {
            Ok(manifest) => {
                (newest.generation, newest.epoch) = (manifest.generation, manifest.epoch);
                newest.manifest = Some(manifest);
                break;
            }
            // What it says is not known: its run and its epochs are passed over by the time.
            Err(error) if options.fresh => notes.push(format!("--fresh: {}", error.message())),
            Err(error) if error.kind() == ErrorKind::Corrupt && options.state.previous_checkpoint => {
                notes.push(format!("{}: going on from the one before", error.message()));
                newest.damaged = true;
            }
            Err(error) => return Err(error),
        }
    }
    if newest.damaged
        && let Some(manifest) = &newest.manifest
    {
        // The damaged one was at most so many checkpoints later; numbers of epochs must not be used twice.
        newest.generation += 1_000;
        newest.epoch = manifest.epoch + 1_000_000;
    }
    Ok(newest)
}

/// Where epochs are counted from without a checkpoint: from where the log begins, if there is one. Else from 0 in a folder
/// that was empty; where earlier runs may have written, from the time, which grows faster than epochs follow each other: so
/// what DynamoDB keeps of one run is not newer than the epochs of the next.
fn first_epoch(log: &[LogEntry], options: &JobOptions, clock: &Arc<dyn Clock>) -> u64 {
    let logged = log.iter().find_map(LogEntry::epoch).map(|epoch| epoch.saturating_sub(1));
    let by_time =
        || if options.fresh || options.local.is_none() { u64::try_from(clock.now_ms()).unwrap_or(1) } else { 0 };
    logged.unwrap_or_else(by_time)
}

fn last_generation(entries: &[LogEntry]) -> u64 {
    let started = entries.iter().filter_map(|entry| match entry {
        LogEntry::Started { generation, .. } => Some(*generation),
        _ => None,
    });
    started.max().unwrap_or(0)
}

fn open_file_log(folder: &Path, fresh: bool) -> Result<(FileEpochLog, Vec<LogEntry>)> {
    match FileEpochLog::open(folder) {
        Err(error) if error.kind() == ErrorKind::Corrupt && fresh => {
            FileEpochLog::discard(folder)?;
            FileEpochLog::open(folder)
        }
        opened => opened,
    }
}

/// Results of earlier runs below a folder.
fn results(local: &Path) -> Option<std::path::PathBuf> {
    ["dynamodb.sqlite", "sns", "s3"].iter().map(|name| local.join(name)).find(|path| path.exists())
}

/// States of versions that saved only at the end of a run lie in the folder itself, as `<n>.json`.
fn refuse_old_layout(folder: &Path, fresh: bool) -> Result<()> {
    let failed = |e| Error::unavailable(format!("cannot read '{}'", folder.display())).caused_by(e);
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let old = path.is_file() && (name.ends_with(".json") || name.ends_with(".arrow"));
        if old && fresh {
            std::fs::remove_file(&path).map_err(failed)?;
        } else if old {
            return Err(Error::corrupt(format!("the saved state in '{}' is of an earlier version", folder.display()))
                .hint("end it with the program that wrote it, or start anew with --fresh"));
        }
    }
    Ok(())
}
