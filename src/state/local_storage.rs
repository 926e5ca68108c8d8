//! Storage in a folder of this machine: temporary file, fsync, link, fsync of the folder.
//!
//! A link never replaces a file, so the first of two that create a name wins. (`object_store` has folders too, but does
//! not sync what it writes.) What is done in a folder is done for the run that has its log, and not after it has gone ([`super::in_use`]).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::FileEpochLog;
use super::epoch_log::NEXT as NEXT_LOG;
use super::in_use::Permit;
use crate::contracts::{Created, Error, LockedStorage, OpenedLog, Result, SeenLog, Storage};

/// A folder, which need not exist.
#[derive(Debug)]
pub struct LocalStorage {
    root: PathBuf,
}

/// Number of the next temporary file. A folder may have one `LocalStorage` after the other.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl LocalStorage {
    /// Objects below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        name: &str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (path, permit) = (self.root.join(name), Permit::of(&self.root));
        let task = tokio::task::spawn_blocking(move || {
            let done = permit.begin().and_then(|_held| work(&path));
            done.map_err(|e| failed(what, &path, e))
        });
        task.await.map_err(|e| Error::internal("a task that uses the disk died").caused_by(e))?
    }
}

/// The log first: what follows is for one run at a time.
fn open_log(folder: &Path, anew: bool) -> Result<OpenedLog> {
    refuse_old_layout(folder, anew)?;
    let (log, entries, damage) = FileEpochLog::open_damaged(folder)?;
    remove_temporary(folder).map_err(|e| failed("tidy", folder, e))?;
    Ok(OpenedLog { log: Arc::new(log), entries, damage })
}

/// Folders of the objects of a job.
const FOLDERS: [&str; 4] = ["manifests", "state", "savepoints", "references"];

/// Removes what runs that have died left half written. Whatever else lies in the folder is somebody's.
fn remove_temporary(folder: &Path) -> io::Result<()> {
    missing_is_none(fs::remove_file(folder.join(NEXT_LOG)))?;
    for below in FOLDERS {
        for entry in missing_is_none(fs::read_dir(folder.join(below)))?.into_iter().flatten() {
            let entry = entry?;
            if entry.file_type()?.is_file() && is_temporary(&entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// What [`create`] calls an object until it is whole.
fn temporary(file: &str, process: u32, number: u64) -> String {
    format!(".{file}.{process}-{number}")
}

fn is_temporary(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = name.strip_prefix('.').and_then(|name| name.rsplit_once('.'));
    let numbers = parts.filter(|(file, _)| !file.is_empty()).and_then(|(_, numbers)| numbers.split_once('-'));
    numbers.is_some_and(|(process, number)| is_number(process) && is_number(number))
}

/// States of versions that saved only at the end of a run lie in the folder itself, as `<n>.json` and `<n>-<query>-<operator>.arrow`.
fn is_old_layout(name: &str) -> bool {
    let is_number = |text: &str| text.parse::<u64>().is_ok_and(|number| number.to_string() == text);
    let arrow = name.strip_suffix(".arrow").and_then(|name| name.split_once('-'));
    let parts = arrow.and_then(|(number, rest)| Some((number, rest.rsplit_once('-')?)));
    let is_state = |(number, (query, operator)): (&str, (&str, &str))| {
        // (A date has three numbers.)
        is_number(number) && !query.is_empty() && !is_number(query) && is_number(operator)
    };
    name.strip_suffix(".json").is_some_and(is_number) || parts.is_some_and(is_state)
}

fn refuse_old_layout(folder: &Path, fresh: bool) -> Result<()> {
    let failed = |e| Error::of_disk(format!("cannot read '{}'", folder.display()), e);
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let old = path.is_file() && is_old_layout(&name);
        if old && fresh {
            std::fs::remove_file(&path).map_err(failed)?;
        } else if old {
            return Err(Error::corrupt(format!("the saved state in '{}' is of an earlier version", folder.display()))
                .hint("end it with the program that wrote it, or start anew with --fresh"));
        }
    }
    Ok(())
}

fn create(root: &Path, name: &str, content: &[u8], number: u64) -> io::Result<Created> {
    let path = root.join(name);
    let (Some(folder), Some(file)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("an object needs a name"));
    };
    if !folder.is_dir() {
        fs::create_dir_all(folder)?;
        File::open(root)?.sync_all()?;
    }
    let temporary = folder.join(temporary(&file.to_string_lossy(), std::process::id(), number));
    let mut written = File::create(&temporary)?;
    if let Err(error) = written.write_all(content).and_then(|()| written.sync_all()) {
        // A disk that is full is not filled further with parts of what it could not take.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    let linked = match fs::hard_link(&temporary, &path) {
        Ok(()) => Ok(Created::New),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            Ok(if fs::read(&path)? == content { Created::New } else { Created::Taken })
        }
        // A file system without links: the lock of the epoch log keeps other runs out.
        Err(_) if !path.exists() => fs::rename(&temporary, &path).map(|()| Created::New),
        Err(e) => Err(e),
    };
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    File::open(folder)?.sync_all()?;
    linked
}

fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    Error::of_disk(format!("cannot {what} '{}'", path.display()), error)
}

fn missing_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    async fn create(&self, name: &str, content: Bytes) -> Result<Created> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (root, name_in_root) = (self.root.clone(), name.to_owned());
        self.blocking("write", name, move |_| create(&root, &name_in_root, &content, number)).await
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        self.blocking("read", name, |path| Ok(missing_is_none(fs::read(path))?.map(Bytes::from))).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        self.blocking("list", folder, move |path| {
            let mut names = Vec::new();
            for entry in missing_is_none(fs::read_dir(path))?.into_iter().flatten() {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if entry.file_type()?.is_file() && !name.starts_with('.') {
                    names.push(format!("{prefix}{name}"));
                }
            }
            Ok(names)
        })
        .await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.blocking("remove", name, |path| missing_is_none(fs::remove_file(path)).map(drop)).await
    }
}

#[async_trait]
impl LockedStorage for LocalStorage {
    async fn open_log(&self, anew: bool) -> Result<OpenedLog> {
        let root = self.root.clone();
        let opened = tokio::task::spawn_blocking(move || open_log(&root, anew)).await;
        opened.map_err(|e| Error::internal("the task that opened the epoch log died").caused_by(e))?
    }

    async fn see_log(&self) -> Result<SeenLog> {
        let root = self.root.clone();
        let seen = tokio::task::spawn_blocking(move || FileEpochLog::see(&root)).await;
        seen.map_err(|e| Error::internal("the task that read the epoch log died").caused_by(e))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::LogEntry;

    #[tokio::test]
    async fn only_what_is_the_job_s_own_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let foreign = [
            ".env",
            ".gitignore",
            ".data.json.12-3",
            "data.json",
            "rows.arrow",
            "07.json",
            "2026-03.json",
            "2026-03.arrow",
            "2026-11-27.arrow",
            "archive/.part-job-1-0-e5.json",
            "archive/.x.json.12-3",
            "state/.notes",
            "state/.x.arrow.12-",
            "state/.12-3",
            "state/deeper/.x.arrow.12-3",
            "manifests/.0000000001.json.swp",
        ];
        let own = [".epochs.next", "manifests/.0000000001.json.12-3", "state/.1-n-0.arrow.12-3"];
        let own = own.into_iter().chain(["savepoints/.a.b.json.12-30", "references/.1-n-0.arrow.1-0"]);
        for name in foreign.into_iter().chain(own.clone()) {
            let path = at(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, "somebody's").expect("written");
        }
        let storage = LocalStorage::new(folder.path());
        for anew in [false, true] {
            drop(storage.open_log(anew).await.expect("opened"));
            for name in foreign {
                assert!(at(name).exists(), "{name} is gone");
            }
            for name in own.clone() {
                assert!(!at(name).exists(), "{name} is still there");
            }
        }
        // What `create` leaves behind when it is killed.
        assert!(is_temporary(&temporary("0000000001.json", 4711, 17)));
    }

    #[tokio::test]
    async fn states_of_the_first_versions_are_refused_and_removed_when_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = LocalStorage::new(folder.path());
        for name in ["1.json", "12-a-sql-counts-0.arrow"] {
            fs::write(folder.path().join(name), "old").expect("written");
            let error = storage.open_log(false).await.err().expect("refused");
            assert!(error.message().contains("is of an earlier version"), "{error}");
            drop(storage.open_log(true).await.expect("opened"));
            assert!(!folder.path().join(name).exists(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_log_is_seen_without_being_touched() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = LocalStorage::new(folder.path());
        let seen = storage.see_log().await.expect("nothing is there");
        assert_eq!((seen.entries, seen.damaged), (vec![], false));
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
        let opened = storage.open_log(false).await.expect("opened");
        let entry = LogEntry::started(1, false);
        opened.log.append(&entry).await.expect("appended");
        let seen = storage.see_log().await.expect("a run has it");
        assert_eq!((seen.entries, seen.damaged), (vec![entry.clone()], false));
        drop(opened);
        let path = folder.path().join("epochs.log");
        let whole = fs::read(&path).expect("readable");
        let torn = [&whole[..], &whole[..9]].concat();
        fs::write(&path, &torn).expect("written");
        let seen = storage.see_log().await.expect("seen");
        assert_eq!((seen.entries, seen.damaged), (vec![entry], false));
        assert_eq!(fs::read(&path).expect("readable"), torn);
    }
}
