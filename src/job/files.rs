//! Finding the `.sql` files of a job.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::contracts::{Error, Result};
use crate::sql::SqlText;

/// Reads the files that `paths` name: a file as it is, a folder with all `.sql` files in it (also in folders
/// below it), by name. Names that begin with a dot are left out.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Arc<SqlText>>> {
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::config(format!("cannot read '{}'", path.display())).caused_by(e))?;
        Ok(Arc::new(SqlText::new(path.to_string_lossy().as_ref(), text)))
    };
    named_by(paths)?.iter().map(read).collect()
}

/// The files that [`load`] reads.
fn named_by(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = files.len();
            collect(path, &mut files)?;
            if files.len() == before {
                return Err(Error::config(format!("there is no .sql file in '{}'", path.display())));
            }
        } else if path.exists() {
            files.push(path.clone());
        } else {
            return Err(Error::config(format!("there is no file or folder '{}'", path.display())));
        }
    }
    files.dedup();
    Ok(files)
}

/// Refuses a folder of checkpoints in which files of the job itself lie: PATH/JOB, where PATH is the folder that the job's is in.
pub(super) fn refuse_beside_sql(folder: &Path, paths: &[PathBuf]) -> Result<()> {
    // One that is not there yet has nothing in it.
    let Ok(meant) = folder.canonicalize() else { return Ok(()) };
    let lies_there = |file: &PathBuf| file.canonicalize().is_ok_and(|file| file.parent() == Some(&meant));
    match named_by(paths)?.iter().find(|file| lies_there(file)) {
        Some(file) => Err(beside_sql(folder, file)),
        None => Ok(()),
    }
}

/// The same for a folder that is of no job yet.
pub(super) fn refuse_with_sql(folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    match entries.into_iter().find(|path| is_sql(path)) {
        Some(file) => Err(beside_sql(folder, &file)),
        None => Ok(()),
    }
}

fn beside_sql(folder: &Path, file: &Path) -> Error {
    let error = format!(
        "checkpoints cannot be kept in '{}', where '{}' lies: what is in their folder is removed when it is not needed",
        folder.display(),
        file.display()
    );
    Error::config(error).hint(
        "name another folder: checkpoints of a job are kept in PATH/JOB, and `--checkpoints .` beside the job's folder is that folder. If \
         there are checkpoints in it, move 'manifests', 'state', 'savepoints', 'references' and 'epochs.log' into the new one",
    )
}

/// The jobs of a fleet: a file or a folder with `.sql` files in it is one job, of what `load` finds there; a folder without is the
/// jobs in the folders below it, by name.
///
/// # Errors
/// Nothing there.
pub(super) fn jobs(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut jobs = Vec::new();
    for path in paths {
        let entries = if path.is_dir() { visible(path)? } else { Vec::new() };
        if entries.is_empty() || entries.iter().any(|entry| is_sql(entry)) {
            jobs.push(path.clone());
            continue;
        }
        let before = jobs.len();
        for folder in entries.into_iter().filter(|entry| entry.is_dir()) {
            let mut files = Vec::new();
            collect(&folder, &mut files)?;
            if !files.is_empty() {
                jobs.push(folder);
            }
        }
        if jobs.len() == before {
            return Err(Error::config(format!("there is no .sql file in '{}'", path.display())));
        }
    }
    Ok(jobs)
}

fn is_sql(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("sql"))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for path in visible(folder)? {
        if path.is_dir() {
            collect(&path, files)?;
        } else if is_sql(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// What is in a folder, by name, but for names that begin with a dot.
fn visible(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::config(format!("cannot list '{}'", folder.display())).caused_by(e);
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
    }
    entries.retain(|path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')));
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_a_job_or_holds_jobs() {
        let top = tempfile::tempdir().expect("a folder");
        for file in
            ["one/a.sql", "several/b/x.sql", "several/a/deep/y.SQL", "several/.hidden/z.sql", "several/no/z.txt"]
        {
            let path = top.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, "").expect("written");
        }
        let found = |names: &[&str]| {
            let paths: Vec<PathBuf> = names.iter().map(|name| top.path().join(name)).collect();
            let found = jobs(&paths)?
                .into_iter()
                .map(|job| job.strip_prefix(top.path()).expect("below").to_string_lossy().into_owned());
            Ok::<_, Error>(found.collect::<Vec<_>>())
        };
        assert_eq!(found(&["one", "several"]).expect("jobs"), ["one", "several/a", "several/b"]);
        assert_eq!(found(&["one/a.sql", "missing"]).expect("told when it is loaded"), ["one/a.sql", "missing"]);
        assert!(found(&["several/no"]).expect_err("nothing there").to_string().contains("several/no"));
    }
}
