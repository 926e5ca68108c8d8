//! A lease in a file, for replicas on one machine: compared and set under the lock of a file beside it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::contracts::{Error, Lease, LeaseStore, Result};

/// See the module's description.
#[derive(Debug)]
pub struct FolderLease {
    folder: PathBuf,
}

const FILE: &str = "lease.json";

impl FolderLease {
    /// The lease in `folder`, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The lock is held for a read and a write of a few bytes. But the disk may be slow, and a process that has it may be stopped: that is
    /// no reason for other leases of this process to wait.
    async fn locked<T: Send + 'static>(&self, work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static) -> Result<T> {
        let folder = self.folder.clone();
        let task = tokio::task::spawn_blocking(move || {
            fs::create_dir_all(&folder)?;
            let lock = File::create(folder.join("lease.lock"))?;
            lock.lock()?;
            work(&folder)
        });
        let done = task.await.map_err(|e| Error::internal("a task for a lease died").caused_by(e))?;
        done.map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => Error::corrupt(format!("'{}' is no lease", self.place()))
                .caused_by(e)
                .hint("remove the file when no replica runs"),
            _ => Error::of_disk(format!("the lease in '{}'", self.folder.display()), e),
        })
    }
}

fn stored(folder: &Path) -> io::Result<Option<Lease>> {
    match fs::read(folder.join(FILE)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        text => {
            let lease = serde_json::from_slice(&text?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            Ok(Some(lease))
        }
    }
}

#[async_trait]
impl LeaseStore for FolderLease {
    fn place(&self) -> String {
        self.folder.join(FILE).display().to_string()
    }

    async fn read(&self) -> Result<Option<Lease>> {
        self.locked(stored).await
    }

    async fn replace(&self, expected: Option<&Lease>, next: &Lease) -> Result<bool> {
        let (expected, next) = (expected.cloned(), next.clone());
        self.locked(move |folder| {
            if stored(folder)? != expected {
                return Ok(false);
            }
            let temporary = folder.join("lease.json.new");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(&next)?)?;
            file.sync_all()?;
            fs::rename(&temporary, folder.join(FILE))?;
            Ok(true)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::ErrorKind;

    /// To wait for it would be to wait for ever.
    #[tokio::test]
    async fn a_file_that_is_no_lease_is_not_taken_for_an_outage() {
        let folder = tempfile::tempdir().expect("a folder");
        let leases = FolderLease::new(folder.path());
        for text in ["", "{\"holder\":", "[]"] {
            fs::write(folder.path().join(FILE), text).expect("written");
            let error = leases.read().await.expect_err("it is none");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.message().contains("lease.json' is no lease"), "{error}");
        }
    }
}
