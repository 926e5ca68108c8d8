//! Which folder is that of one job's checkpoints.

use std::path::{Path, PathBuf};

use crate::contracts::{Error, Result};

/// What only the folder of `--local`, or one above those of several jobs, has.
const OF_LOCAL: [&str; 3] = ["checkpoints", "kinesis", "dynamodb.sqlite"];
/// What a job's own folder may have.
const OF_STORE: [&str; 7] = ["manifests", "savepoints", "state", "references", "epochs.log", "lease", "wanted"];

/// # Errors
/// `folder` has something in it, and is not that of one job's checkpoints.
pub(super) fn refuse_other_folder(folder: &Path) -> Result<()> {
    let has = |names: &[&str]| names.iter().any(|name| folder.join(name).exists());
    let is_empty = || match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
        entries => entries.map(|mut entries| entries.next().is_none()),
    };
    let failed = |e| Error::of_disk(format!("cannot list '{}'", folder.display()), e);
    if !has(&OF_LOCAL) && (has(&OF_STORE) || is_empty().map_err(failed)?) {
        return Ok(());
    }
    let shown = folder.display();
    Err(Error::config(format!(
        "'{shown}' is not the folder of one job's checkpoints, so no run would find a copy there"
    ))
    .hint(format!("name the job, which goes on from it then: {shown}/checkpoints/JOB for runs with --local {shown}")))
}

/// The folder of the one job below `folder`, when that is not a job's itself.
pub(super) fn only_job(folder: &Path) -> Result<Option<PathBuf>> {
    let jobs_in = |below: &Path| {
        let entries = std::fs::read_dir(below).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut jobs: Vec<PathBuf> = entries.filter(|path| path.join("manifests").is_dir()).collect();
        jobs.sort();
        jobs
    };
    let mut jobs = jobs_in(&folder.join("checkpoints"));
    if jobs.is_empty() {
        if folder.join("manifests").is_dir() || folder.join("savepoints").is_dir() {
            return Ok(None);
        }
        if !folder.join("checkpoints").is_dir() {
            jobs = jobs_in(folder);
        }
    }
    match jobs.len() {
        0 => Err(Error::config(format!("there are no checkpoints in '{}'", folder.display()))
            .hint("give the folder of --local, or that of one job: DIR/checkpoints/JOB")),
        1 => Ok(jobs.pop()),
        _ => {
            let names: Vec<String> = jobs.iter().map(|job| job.display().to_string()).collect();
            Err(Error::config(format!("'{}' has the checkpoints of several jobs", folder.display()))
                .hint(format!("give one of {}", names.join(", "))))
        }
    }
}
