//! A run that finds no saved state begins without. Where something tells that there has been some, rows would come a second time, or
//! a state that somebody counts on would lie where nobody looks: such a run is refused, before it writes anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fresh::{MOVE_OBJECTS, OR_BEGIN, Start, own_object};
use super::run::earlier_name;
use super::saved::{checkpoints_path, storage};
use crate::contracts::{Error, ErrorKind, Result};

/// Refuses a run of `job` that would begin without state beside what earlier runs have left.
///
/// # Errors
/// What was found, and what is to be done.
pub(super) async fn refuse_beside_results(start: Start<'_>, notes: &mut Vec<String>) -> Result<()> {
    let Start { options, plan, job, .. } = start;
    if let Some(earlier) = earlier_name(&plan.settings, &options.paths) {
        refuse_renamed(start, &earlier, notes).await?;
    }
    let Some(local) = &options.local else {
        return refuse_beside_own_objects(start, notes).await;
    };
    if local.join("manifests").is_dir() {
        let (copy, own) = (local.display(), local.join("checkpoints").join(job));
        let error =
            format!("'{copy}' has a copy of checkpoints in the folder itself, where no run with --local {copy} looks");
        let hint =
            format!("to go on from it, `tidemill state restore {copy} --to {}`; else move it away", own.display());
        return Err(Error::config(error).hint(hint));
    }
    let found = results(local).filter(|_| !options.state.of_fleet && !any_keeps_state(&local.join("checkpoints")));
    if let Some(path) = found {
        return Err(Error::config(format!("'{}' has results, but no saved state to go on from", path.display()))
            .hint("run with --fresh to read everything again and write over them, or use another folder"));
    }
    if options.from.is_some() {
        return Ok(());
    }
    let connectors = start.connectors();
    for query in &plan.queries {
        let Some(file) = connectors.own_file(&query.sink.spec, &query.sink.connector)? else { continue };
        let hint = format!("run with --fresh to set such files aside and read everything again; {OR_BEGIN}");
        return Err(was_written_before(file.display(), &query.sink.name).hint(hint));
    }
    Ok(())
}

/// The same for buckets: the place of checkpoints may be misspelt, or somebody, or a rule of the bucket, has emptied it.
async fn refuse_beside_own_objects(start: Start<'_>, notes: &mut Vec<String>) -> Result<()> {
    match own_object(start).await {
        Ok(None) => Ok(()),
        Ok(Some((object, table))) => {
            let hint =
                format!("see whether checkpoints are looked for in the right place. Else {MOVE_OBJECTS}; {OR_BEGIN}");
            Err(was_written_before(&object, &table).hint(hint))
        }
        // The role may write there, and not see what is there.
        Err(error) if error.kind() == ErrorKind::Config => {
            notes.push(format!("whether earlier runs of this job have written objects is not known: {error}"));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn was_written_before(what: impl std::fmt::Display, table: &str) -> Error {
    Error::config(format!(
        "'{what}' was written by an earlier run of this job into '{table}', but there is no saved state to go on from"
    ))
}

/// What is named `clicks.v1` was `clicks` for earlier programs, as `clicks.v2` was.
async fn refuse_renamed(start: Start<'_>, earlier: &str, notes: &mut Vec<String>) -> Result<()> {
    let Start { options, plan, job, clock } = start;
    let Some(path) = checkpoints_path(options, &plan.settings, earlier) else { return Ok(()) };
    let found = async {
        let (storage, locked) = storage(&path, Arc::clone(clock)).await?;
        if locked.is_some() {
            return Ok::<_, Error>(keeps_state(Path::new(&storage.place())));
        }
        Ok(!storage.list("manifests").await?.is_empty() || !storage.list("log").await?.is_empty())
    };
    match found.await {
        Ok(false) => Ok(()),
        // The role may be this job's alone, who has never had another name.
        Err(error) if error.kind() == ErrorKind::Config => {
            notes
                .push(format!("whether there is state from when '{job}' was called '{earlier}' is not known: {error}"));
            Ok(())
        }
        Err(error) => Err(error),
        Ok(true) => {
            let error = format!(
                "there is no saved state of '{job}', but one of '{earlier}' in '{path}', as earlier versions called this job"
            );
            Err(Error::config(error).hint(format!(
                "to go on from it, SET 'pipeline.name' = '{earlier}' (in one job only); to begin without it, SET 'pipeline.name' = '{job}'"
            )))
        }
    }
}

/// Whether a job's folder has anything that a run goes on from.
fn keeps_state(folder: &Path) -> bool {
    let has = |name: &str| std::fs::read_dir(folder.join(name)).is_ok_and(|mut entries| entries.next().is_some());
    has("manifests") || std::fs::metadata(folder.join("epochs.log")).is_ok_and(|log| log.len() > 0)
}

fn any_keeps_state(checkpoints: &Path) -> bool {
    std::fs::read_dir(checkpoints).into_iter().flatten().flatten().any(|job| keeps_state(&job.path()))
}

/// Results of earlier runs below a folder.
fn results(local: &Path) -> Option<PathBuf> {
    ["dynamodb.sqlite", "sns"].iter().map(|name| local.join(name)).find(|path| path.exists())
}
