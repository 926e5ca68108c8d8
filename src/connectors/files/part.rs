//! A file of this machine that appears whole or not at all, and the names of files here and in buckets.
//!
//! ```text
//! write   <folder>/.part-<job>-<generation>-<seq>-e<epoch>.<ext>     hidden; the epoch in which it was opened
//! finish  fsync, of the folder too; becomes a committable {"temporary": …, "path": …}
//! commit  rename to <folder>/part-<job>-<generation>-<seq>-e<epoch>.<ext>, fsync the folder
//! ```
//!
//! A commit that was done already is recognised by the final name; so committing twice changes nothing.

use std::fs::{File, OpenOptions, ReadDir};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::connectors::line_file::io_error;
use crate::contracts::{EpochNumber, Error, Result, hex};

use super::folders;

/// A run without checkpoints has the time of its start, in milliseconds, as its number: no other has one from here on (the year 2001).
const FIRST_TIME: u64 = 1_000_000_000_000;

/// Names for the files of one run of a job. Clones share the counter, so that no two sinks of a run collide.
#[derive(Debug, Clone)]
pub struct PartNames {
    job: Arc<str>,
    generation: u64,
    /// When the run began, in milliseconds since 1970.
    began_ms: u64,
    next: Arc<AtomicU64>,
}

impl PartNames {
    /// Names for generation `generation` (each run of a job has a higher one) of `job`, which begins now.
    pub fn new(job: &str, generation: u64, now_ms: i64) -> Self {
        let job = file_name_of(job);
        let began_ms = u64::try_from(now_ms).unwrap_or(0);
        Self { job: job.into(), generation, began_ms, next: Arc::new(AtomicU64::new(0)) }
    }

    /// `<job>-<generation>-<seq>-e<epoch>`, never given twice: of a file whose first rows are of this epoch.
    pub(super) fn next_in(&self, epoch: EpochNumber) -> String {
        format!("{}-e{}", self.next(), epoch.0)
    }

    /// `<job>-<generation>-<seq>`, never given twice.
    pub(super) fn next(&self) -> String {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}-{}-{seq}", self.job, self.generation)
    }

    /// Bytes of the longest name that a file can have, hidden or not.
    pub(super) fn longest(&self, extension: &str) -> usize {
        let number = u64::MAX;
        format!(".part-{}-{number}-{number}-e{number}.{extension}", self.job).len()
    }

    /// Whether the file `part-…` was begun, and never finished, by an earlier run of this job. A run that crashed before it saved
    /// anything had this run's generation; a number that this run has not given out yet tells its files. One without checkpoints had a
    /// time, which is higher than any number that was counted.
    pub(super) fn is_leftover(&self, name: &str) -> bool {
        name.strip_prefix("part-").and_then(|rest| self.numbers(rest)).is_some_and(|(generation, seq)| {
            generation < self.generation
                || (generation == self.generation && seq >= self.next.load(Ordering::Relaxed))
                || (generation != self.generation && (FIRST_TIME..self.began_ms).contains(&generation))
        })
    }

    /// Whether `name` is a visible file of any run of this job.
    pub(super) fn is_own(&self, name: &str) -> bool {
        let rest = name.strip_prefix("part-").or_else(|| name.strip_prefix("errors-"));
        rest.is_some_and(|rest| self.numbers(rest).is_some())
    }

    /// Generation and number of `<job>-<generation>-<seq>-e<epoch>.<ext>`; earlier versions had no epoch there, and files of the
    /// error output have none.
    fn numbers(&self, name: &str) -> Option<(u64, u64)> {
        let rest = name.strip_prefix(&*self.job)?.strip_prefix('-')?;
        let (generation, rest) = rest.split_once('-')?;
        let (seq, _extension) = rest.split_once('.')?;
        let (seq, epoch) = seq.split_once("-e").unwrap_or((seq, "0"));
        epoch.parse::<u64>().ok()?;
        Some((generation.parse().ok()?, seq.parse().ok()?))
    }

    /// Removes what earlier runs left behind below `folder`.
    pub(super) fn remove_leftovers(&self, folder: &Path) -> Result<()> {
        each_file(folder, &mut |path, name| {
            if !name.strip_prefix('.').is_some_and(|name| self.is_leftover(name)) {
                return Ok(());
            }
            match std::fs::remove_file(&path) {
                // Another sink of this run that writes here was quicker.
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
                removed => removed.map_err(|e| io_error(&path, "removed", e)),
            }
        })
    }
}

/// A job's name in names of files. Where it has other characters, a part of its SHA-256 tells it from jobs whose names differ only there: they may
/// write into one folder, and must not take each other's files for theirs.
fn file_name_of(job: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.') { c } else { '_' };
    let name: String = job.chars().map(allowed).collect();
    if name == job {
        return name;
    }
    format!("{name}_{}", hex(&Sha256::digest(job.as_bytes())[..4]))
}

/// Goes through all that is no folder below `folder`, which need not exist: path, and name. A folder in it that may not be read (`lost+found`)
/// has nothing of a job.
pub(super) fn each_file(folder: &Path, visit: &mut dyn FnMut(PathBuf, &str) -> Result<()>) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|e| io_error(folder, "listed", e))?,
    };
    each_entry(folder, entries, &|folder: &Path| std::fs::read_dir(folder), visit)
}

fn each_entry(
    folder: &Path,
    entries: ReadDir,
    read: &dyn Fn(&Path) -> io::Result<ReadDir>,
    visit: &mut dyn FnMut(PathBuf, &str) -> Result<()>,
) -> Result<()> {
    let failed = |e| io_error(folder, "listed", e);
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if !entry.file_type().map_err(failed)?.is_dir() {
            visit(path, &entry.file_name().to_string_lossy())?;
            continue;
        }
        match read(&path) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {}
            entries => each_entry(&path, entries.map_err(|e| io_error(&path, "listed", e))?, read, visit)?,
        }
    }
    Ok(())
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct PartFile {
    temporary: PathBuf,
    path: PathBuf,
}

/// A finished file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Staged {
    temporary: PathBuf,
    path: PathBuf,
}

impl PartFile {
    /// Makes a new hidden file in `folder`.
    pub(super) fn create(
        folder: &Path,
        names: &PartNames,
        epoch: EpochNumber,
        extension: &str,
    ) -> Result<(Self, File)> {
        folders::make(folder)?;
        loop {
            let name = names.next_in(epoch);
            let path = folder.join(format!("part-{name}.{extension}"));
            let temporary = folder.join(format!(".part-{name}.{extension}"));
            if path.exists() {
                continue;
            }
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => return Ok((Self { temporary, path }, file)),
                // No other file of this run has that name: a run that crashed left it.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    std::fs::remove_file(&temporary).map_err(|e| io_error(&temporary, "removed", e))?;
                }
                Err(e) => return Err(io_error(&temporary, "made", e)),
            }
        }
    }

    /// Where the file will appear.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the content durable, under its hidden name, and stages the rename.
    pub(super) fn finish(self, file: &File) -> Result<Staged> {
        file.sync_all().map_err(|e| io_error(&self.temporary, "synced", e))?;
        folders::sync_name(&self.temporary)?;
        Ok(Staged { temporary: self.temporary, path: self.path })
    }
}

impl Staged {
    /// The same where it lies now: `root`, below which it was staged, may have been moved since. It may have been copied, too, and what is
    /// where it was is then another's.
    pub(super) fn below(self, root: &Path) -> Self {
        let is_there = |staged: &Self| staged.temporary.exists() || staged.path.exists();
        let parts: Vec<_> = self.temporary.components().collect();
        // Names of files are never given twice, so what has the name is it.
        let below_root = (1..=parts.len()).map(|last| {
            let below: PathBuf = parts[parts.len() - last..].iter().collect();
            let temporary = root.join(below);
            let path = self.path.file_name().map_or_else(|| temporary.clone(), |name| temporary.with_file_name(name));
            Self { temporary, path }
        });
        below_root.into_iter().find(is_there).unwrap_or(self)
    }
}

/// Lets a finished file appear.
pub(super) fn commit(staged: &Staged) -> Result<()> {
    let Staged { temporary, path } = staged;
    match std::fs::rename(temporary, path) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NotFound && path.exists() => return Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(Error::corrupt(format!(
                "staged file '{}' is gone, and '{}' is not there",
                temporary.display(),
                path.display()
            ))
            .hint(
                "if somebody has taken the file away since it appeared, put it back, or an empty one of its name, until the job has \
                 started: nothing is lost then. Else `tidemill state rewind STORE latest` writes what came since the last checkpoint \
                 again, beside the files that are there; --fresh begins anew",
            )
            .caused_by(e));
        }
        Err(e) => return Err(io_error(path, "committed", e)),
    }
    folders::sync_name(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_those_of_earlier_runs_of_this_job() {
        let others = ["my-job", "my job", "東京", "大阪"].map(|job| PartNames::new(job, 2, 0).next());
        assert_eq!(others, ["my_job_69bd8cf1-2-0", "my_job_0b64d7ce-2-0", "___130016b2-2-0", "___6df97746-2-0"]);
        let own = PartNames::new("my-job", 3, 0);
        assert!(own.is_own(&format!("part-{}-e1.jsonl", others[0])));
        assert!(own.is_leftover(&format!("part-{}-e1.jsonl", others[0])));
        assert!(!own.is_own(&format!("part-{}-e1.jsonl", others[1])) && !own.is_own("part-my_job-2-0-e1.jsonl"));
        let names = PartNames::new("my_job", 3, 1_790_000_000_000);
        assert!(others.iter().all(|other| !names.is_own(&format!("part-{other}-e1.jsonl"))));
        assert_eq!(names.next_in(EpochNumber(12)), "my_job-3-0-e12");
        for (name, leftover) in [
            ("part-my_job-2-17.parquet", true),
            ("part-my_job-2-17-e4711.parquet", true),
            ("part-my_job-3-17.jsonl.gz", true),
            ("part-my_job-3-17-e5.jsonl.gz", true),
            ("part-my_job-3-0-e5.jsonl.gz", false),
            ("part-my_job-2-17-x5.parquet", false),
            ("part-my_job-2-17-ex.parquet", false),
            ("part-my_job-3-0.parquet", false),
            ("part-my_job-4-17.parquet", false),
            // Of runs without checkpoints, of which the last one began when this one had.
            ("part-my_job-1789999999999-3-e1.parquet", true),
            ("part-my_job-1790000000001-3-e1.parquet", false),
            ("part-my_job-999999999999-3-e1.parquet", false),
            ("part-other-1-1.parquet", false),
            (".part-my_job-1-1.parquet", false),
            ("part-my_job-x-1.parquet", false),
        ] {
            assert_eq!(names.is_leftover(name), leftover, "{name}");
        }
        for (name, own) in [
            ("part-my_job-2-17.parquet", true),
            ("part-my_job-2-17-e1.parquet", true),
            ("errors-my_job-9-0.jsonl", true),
            ("part-my_job_backfill_01234567-2-17.parquet", false),
            ("part-my_job2-2-17.parquet", false),
            (".part-my_job-2-17.parquet", false),
            ("notes.txt", false),
        ] {
            assert_eq!(names.is_own(name), own, "{name}");
        }
    }

    /// After a loss of power the log says that the file is there: under its hidden name, then under its own.
    #[test]
    fn names_are_durable_before_somebody_relies_on_them() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("out/day=1");
        let names = PartNames::new("job", 1, 0);
        let (part, file) = PartFile::create(&folder, &names, EpochNumber(1), "jsonl").expect("a file");
        assert_eq!(folders::SYNCED.take(), [root.path().to_owned(), root.path().join("out")]);
        let staged = part.finish(&file).expect("staged");
        assert_eq!(folders::SYNCED.take(), std::slice::from_ref(&folder));
        commit(&staged).expect("visible");
        assert_eq!(folders::SYNCED.take(), std::slice::from_ref(&folder));
    }

    #[test]
    fn a_folder_that_may_not_be_read_has_nothing_of_a_job() {
        let root = tempfile::tempdir().expect("a folder");
        for folder in ["day=1", "lost+found/deep", "lost+found", "broken"] {
            std::fs::create_dir_all(root.path().join(folder)).expect("made");
            std::fs::write(root.path().join(folder).join("a.jsonl"), "").expect("written");
        }
        let found = |fails: ErrorKind| {
            // Whoever runs tests may read everything.
            let read = |folder: &Path| match folder.ends_with("lost+found") {
                true => Err(io::Error::from(fails)),
                false => std::fs::read_dir(folder),
            };
            let mut found = Vec::new();
            let entries = std::fs::read_dir(root.path()).expect("it is there");
            let gone_through = each_entry(root.path(), entries, &read, &mut |path, _| {
                found.push(path);
                Ok(())
            });
            found.sort();
            gone_through.map(|()| found)
        };
        let expected = ["broken/a.jsonl", "day=1/a.jsonl"].map(|file| root.path().join(file));
        assert_eq!(found(ErrorKind::PermissionDenied).expect("passed over"), expected);
        let error = found(ErrorKind::Other).expect_err("nobody knows what is there").to_string();
        assert!(error.contains("lost+found' could not be listed"), "{error}");
    }

    /// After a kill between log and rename, the whole folder is copied, and the job goes on in the copy.
    #[test]
    fn in_a_copy_the_copy_of_a_file_appears() {
        let top = tempfile::tempdir().expect("a folder");
        let names = PartNames::new("job", 1, 0);
        let [old, new] = ["old", "new"].map(|root| top.path().join(root));
        let (part, file) = PartFile::create(&old.join("day=1"), &names, EpochNumber(1), "jsonl").expect("a file");
        let staged = part.finish(&file).expect("staged");
        let text = serde_json::to_string(&staged).expect("text");
        let again = || serde_json::from_str::<Staged>(&text).expect("as it was written");
        std::fs::create_dir_all(new.join("day=1")).expect("made");
        std::fs::copy(&staged.temporary, new.join("day=1/.part-job-1-0-e1.jsonl")).expect("copied");
        for _ in 0..2 {
            commit(&again().below(&new)).expect("visible");
            assert!(new.join("day=1/part-job-1-0-e1.jsonl").exists() && staged.temporary.exists());
        }
        // Moved, and where it was.
        std::fs::remove_dir_all(&new).expect("removed");
        std::fs::rename(&old, &new).expect("moved");
        commit(&again().below(&new)).expect("visible");
        std::fs::rename(&new, &old).expect("moved");
        commit(&again().below(&top.path().join("elsewhere"))).expect("it is there");
    }
}
