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
use super::in_use::Permit;
use crate::contracts::{Created, EpochLog, Error, ErrorKind, LockedStorage, LogEntry, Result, Storage};

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
fn open_log(folder: &Path, anew: bool) -> Result<(FileEpochLog, Vec<LogEntry>)> {
    refuse_old_layout(folder, anew)?;
    let opened = match FileEpochLog::open(folder) {
        Err(error) if error.kind() == ErrorKind::Corrupt && anew => {
            FileEpochLog::discard(folder)?;
            FileEpochLog::open(folder)?
        }
        opened => opened?,
    };
    remove_hidden(folder).map_err(|e| failed("tidy", folder, e))?;
    Ok(opened)
}

fn remove_hidden(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_hidden(&entry.path())?;
        } else if entry.file_name().to_string_lossy().starts_with('.') {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// States of versions that saved only at the end of a run lie in the folder itself, as `<n>.json`.
fn refuse_old_layout(folder: &Path, fresh: bool) -> Result<()> {
    let failed = |e| Error::of_disk(format!("cannot read '{}'", folder.display()), e);
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

fn create(root: &Path, name: &str, content: &[u8], number: u64) -> io::Result<Created> {
    let path = root.join(name);
    let (Some(folder), Some(file)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("an object needs a name"));
    };
    if !folder.is_dir() {
        fs::create_dir_all(folder)?;
        File::open(root)?.sync_all()?;
    }
    let temporary = folder.join(format!(".{}.{}-{number}", file.to_string_lossy(), std::process::id()));
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
    async fn open_log(&self, anew: bool) -> Result<(Arc<dyn EpochLog>, Vec<LogEntry>)> {
        let root = self.root.clone();
        let opened = tokio::task::spawn_blocking(move || open_log(&root, anew)).await;
        let (log, entries) =
            opened.map_err(|e| Error::internal("the task that opened the epoch log died").caused_by(e))??;
        Ok((Arc::new(log), entries))
    }
}
