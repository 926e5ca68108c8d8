//! A run that finds no saved state begins without. Where something tells that there has been some, rows would come a second time, or
//! a state that somebody counts on would lie where nobody looks: such a run is refused, before it writes anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fresh::{MOVE_OBJECTS, OR_BEGIN, own_object};
use super::run::{JobOptions, earlier_name};
use super::saved::{checkpoints_path, storage};
use crate::connectors::{Connectors, JobContext};
use crate::contracts::{Clock, Error, ErrorKind, Result};
use crate::sql::JobPlan;

/// Refuses a run of `job` that would begin without state beside what earlier runs have left.
///
/// # Errors
/// What was found, and what is to be done.
pub(super) async fn refuse_beside_results(
    options: &JobOptions,
    plan: &JobPlan,
    job: &str,
    clock: &Arc<dyn Clock>,
    notes: &mut Vec<String>,
) -> Result<()> {
    if let Some(earlier) = earlier_name(&plan.settings, &options.paths) {
        refuse_renamed(options, plan, job, &earlier, clock, notes).await?;
    }
    let Some(local) = &options.local else {
        return refuse_beside_own_objects(options, plan, job, clock, notes).await;
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
    // Of any run of this job: the number does not matter.
    let context = JobContext { job: job.to_owned(), generation: 0 };
    let connectors = Connectors::new(Some(local.clone()), Arc::clone(clock), context);
    for query in &plan.queries {
        let Some(file) = connectors.own_file(&query.sink.spec, &query.sink.connector)? else { continue };
        let error = format!(
            "'{}' was written by an earlier run of this job into '{}', but there is no saved state to go on from",
            file.display(),
            query.sink.name
        );
        return Err(Error::config(error).hint(
            "run with --fresh to set such files aside and read everything again; where nothing is to be written twice, say where to \
             begin: --from latest, or a time",
        ));
    }
    Ok(())
}

/// The same for buckets: the place of checkpoints may be misspelt, or somebody, or a rule of the bucket, has emptied it.
async fn refuse_beside_own_objects(
    options: &JobOptions,
    plan: &JobPlan,
    job: &str,
    clock: &Arc<dyn Clock>,
    notes: &mut Vec<String>,
) -> Result<()> {
    match own_object(options, plan, job, clock).await {
        Ok(None) => Ok(()),
        Ok(Some((object, table))) => {
            let error = format!(
                "'{object}' was written by an earlier run of this job into '{table}', but there is no saved state to go on from"
            );
            let hint =
                format!("see whether checkpoints are looked for in the right place. Else {MOVE_OBJECTS}; {OR_BEGIN}");
            Err(Error::config(error).hint(hint))
        }
        // The role may write there, and not see what is there.
        Err(error) if error.kind() == ErrorKind::Config => {
            notes.push(format!("whether earlier runs of this job have written objects is not known: {error}"));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// What is named `clicks.v1` was `clicks` for earlier programs, as `clicks.v2` was.
async fn refuse_renamed(
    options: &JobOptions,
    plan: &JobPlan,
    job: &str,
    earlier: &str,
    clock: &Arc<dyn Clock>,
    notes: &mut Vec<String>,
) -> Result<()> {
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
