//! A file that is being written, here or in a bucket, and what is staged of it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::connectors::line_file::{io_error, open_blocking};
use crate::contracts::{Committable, EpochNumber, Error, Result};

use super::folders;
use super::listing::object_path;
use super::location::Place;
use super::part::{self, PartFile, PartNames};
use super::partition::FolderRoom;
use super::upload::{self, Upload};

/// Objects that are completed side by side.
const COMMITS_AT_ONCE: usize = 8;

/// Bytes of a name in a folder, as the usual file systems of Linux have it (NAME_MAX), and of a path without its final zero (PATH_MAX).
const LONGEST_NAME: usize = 255;
const LONGEST_PATH: usize = 4_095;
/// Bytes of a key ("Naming Amazon S3 objects").
const LONGEST_KEY: usize = 1_024;

/// An open file.
pub(super) enum Output {
    Local { part: PartFile, file: File, bytes: u64 },
    S3(Box<Upload>),
}

/// What a commit makes visible, as a committable's payload has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Staged {
    Local(part::Staged),
    S3(upload::Staged),
    /// An empty file that says that a partition is complete: its folder below the table's, and its name.
    Success {
        success: String,
    },
}

impl Staged {
    pub(super) fn committable(&self) -> Result<Committable> {
        let payload = serde_json::to_string(self).map_err(|e| Error::config("a path is not UTF-8").caused_by(e))?;
        Ok(Committable { payload })
    }
}

/// Where a sink makes its files.
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) names: PartNames,
    /// Shared by all uploads of a sink.
    pub(super) permits: Arc<Semaphore>,
    /// Size at which files are closed.
    pub(super) file_bytes: u64,
}

impl Target {
    /// How long a folder below the table's may be, so that the names of its files have room beside it.
    pub(super) fn folder_room(&self, extension: &str) -> FolderRoom {
        let beside = |before: usize, most: usize| most.saturating_sub(before + 2 + self.names.longest(extension));
        match &self.place {
            Place::Local(root) => {
                FolderRoom { name: LONGEST_NAME, whole: beside(root.as_os_str().len(), LONGEST_PATH) }
            }
            Place::S3(prefix) => FolderRoom { name: LONGEST_KEY, whole: beside(prefix.key.len(), LONGEST_KEY) },
        }
    }

    /// A new file in `folder` below the table's, whose first rows are of `epoch`. Blocks.
    pub(super) fn create(&self, folder: &str, epoch: EpochNumber, extension: &str) -> Result<Output> {
        match &self.place {
            Place::Local(root) => {
                let (part, file) = PartFile::create(&root.join(folder), &self.names, epoch, extension)?;
                Ok(Output::Local { part, file, bytes: 0 })
            }
            Place::S3(prefix) => {
                let names = (&self.names, epoch);
                let upload = Upload::create(prefix, folder, names, extension, self.file_bytes, &self.permits)?;
                Ok(Output::S3(Box::new(upload)))
            }
        }
    }

    /// Removes what earlier runs of the job have begun and never finished.
    pub(super) async fn remove_leftovers(&self) -> Result<()> {
        match &self.place {
            Place::Local(root) => {
                let (root, names) = (root.clone(), self.names.clone());
                open_blocking(move || names.remove_leftovers(&root)).await
            }
            Place::S3(prefix) => upload::abort_leftovers(prefix, &self.names).await,
        }
    }

    /// Lets staged files appear, and after them the marks of complete partitions.
    pub(super) async fn commit(&self, committables: &[Committable]) -> Result<()> {
        let unreadable = |e| Error::corrupt("a staged file's payload cannot be read").caused_by(e);
        let mut marks = Vec::new();
        let mut files = Vec::new();
        for committable in committables {
            match serde_json::from_str(&committable.payload).map_err(unreadable)? {
                Staged::Success { success } => marks.push(success),
                file => files.push(file),
            }
        }
        let commits = files.into_iter().map(|file| self.commit_file(file));
        futures::stream::iter(commits).buffer_unordered(COMMITS_AT_ONCE).try_collect::<()>().await?;
        for mark in marks {
            self.mark(&mark).await?;
        }
        Ok(())
    }

    async fn commit_file(&self, file: Staged) -> Result<()> {
        match (file, &self.place) {
            (Staged::Local(staged), _) => open_blocking(move || part::commit(&staged)).await,
            (Staged::S3(staged), Place::S3(prefix)) => upload::complete(&staged, &prefix.bucket).await,
            (Staged::S3(_), Place::Local(_)) => Err(Error::config("a staged file of S3 waits for its commit")
                .hint("run the job without --local, or with --fresh")),
            (Staged::Success { .. }, _) => Ok(()),
        }
    }

    async fn mark(&self, below: &str) -> Result<()> {
        match &self.place {
            Place::Local(root) => {
                let (root, path) = (root.clone(), root.join(below));
                open_blocking(move || {
                    // Whoever has taken the partition's files away may have taken its folder, too.
                    folders::make(path.parent().unwrap_or(&root))?;
                    let made = File::create(&path).and_then(|mark| mark.sync_all());
                    made.map_err(|e| io_error(&path, "made", e))?;
                    folders::sync_name(&path)
                })
                .await
            }
            Place::S3(prefix) => {
                let key = prefix.join(below);
                let store = prefix.bucket.store().await?;
                let put = store.put(&object_path(&key)?, PutPayload::default()).await;
                let failed = |e| crate::connectors::aws::object_failure("PutObject", &prefix.bucket, &key, &e).into();
                put.map(drop).map_err(failed)
            }
        }
    }
}

impl Output {
    /// Its name in errors.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Local { part, .. } => part.path().display().to_string(),
            Self::S3(upload) => upload.url(),
        }
    }

    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Local { bytes, .. } => *bytes,
            Self::S3(upload) => upload.bytes(),
        }
    }

    /// Makes the content durable. Blocks.
    pub(super) fn finish(self) -> Result<Staged> {
        match self {
            Self::Local { part, file, .. } => part.finish(&file).map(Staged::Local),
            Self::S3(upload) => upload.finish().map(Staged::S3),
        }
    }
}

impl Write for Output {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Local { file, bytes, .. } => {
                let written = file.write(buffer)?;
                *bytes += written as u64;
                Ok(written)
            }
            Self::S3(upload) => upload.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Local { file, .. } => file.flush(),
            Self::S3(upload) => upload.flush(),
        }
    }
}

/// The error of a failed write.
pub(super) fn write_error(name: &str, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => io_error(Path::new(name), "written", error),
    }
}
