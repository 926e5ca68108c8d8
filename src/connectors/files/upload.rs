//! A file that is uploaded in parts while it is written, and that appears whole or not at all.
//!
//! ```text
//! write   8 MiB gathered ─► UploadPart, in the background     nothing is to be seen
//! finish  the last part; a committable {bucket, key, upload, parts, bytes}
//! commit  CompleteMultipartUpload                              the object is there
//! ```
//!
//! The upload's id outlives the process: another one can complete it from the committable alone. A commit that was done
//! already is recognised by the object that stands there. What a run that died has left is aborted by the next one.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use object_store::PutPayload;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::connectors::aws::{Bucket, Call, failure, object_failure};
use crate::contracts::{EpochNumber, Error, Result, wait_for};

use super::listing::object_path;
use super::location::Prefix;
use super::part::PartNames;

/// Bytes of a part. S3 takes 5 MiB to 5 GiB, and 10,000 parts: this is enough for files of 80 GiB.
const PART_BYTES: usize = 8 << 20;
/// S3's bound of parts in an upload.
const MOST_PARTS: u64 = 10_000;
/// Parts of one sink that are under way at a time; so many times [`PART_BYTES`] wait in memory for the network.
pub(super) const PARTS_UNDER_WAY: usize = 4;

/// A finished upload.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Staged {
    bucket: String,
    key: String,
    upload: String,
    /// The ETag of each part, in order.
    parts: Vec<String>,
    bytes: u64,
}

/// An upload that is being written.
pub(super) struct Upload {
    bucket: Bucket,
    key: Path,
    id: String,
    permits: Arc<Semaphore>,
    part_bytes: usize,
    gathered: Vec<u8>,
    done: Vec<String>,
    under_way: VecDeque<JoinHandle<Result<PartId>>>,
    started: usize,
    bytes: u64,
}

impl Upload {
    /// Starts an upload below `prefix`. `expected_bytes` is the size at which the file will be closed. Blocks.
    pub(super) fn create(
        prefix: &Prefix,
        folder: &str,
        (names, epoch): (&PartNames, EpochNumber),
        extension: &str,
        expected_bytes: u64,
        permits: &Arc<Semaphore>,
    ) -> Result<Self> {
        let (place, names, folder, extension) =
            (prefix.clone(), names.clone(), folder.to_owned(), extension.to_owned());
        let (key, id) = wait_for(async move {
            let store = place.bucket.store().await?;
            loop {
                let file = format!("part-{}.{extension}", names.next_in(epoch));
                let key = place.join(&if folder.is_empty() { file } else { format!("{folder}/{file}") });
                let path = object_path(&key)?;
                // A run that died before it saved anything had this run's number: its files are not written over.
                if place.bucket.find(&key).await?.is_some() {
                    continue;
                }
                let id = store.create_multipart(&path).await;
                let id = id.map_err(|e| object_failure("CreateMultipartUpload", &place.bucket, &key, &e).error)?;
                return Ok::<_, Error>((path, id));
            }
        })??;
        // Half of the parts for the expected size: a file may grow past it by a row group.
        let part_bytes = PART_BYTES.max(usize::try_from(expected_bytes / (MOST_PARTS / 2)).unwrap_or(PART_BYTES));
        Ok(Self {
            bucket: prefix.bucket.clone(),
            key,
            id,
            permits: Arc::clone(permits),
            part_bytes,
            gathered: Vec::new(),
            done: Vec::new(),
            under_way: VecDeque::new(),
            started: 0,
            bytes: 0,
        })
    }

    /// `s3://bucket/key`
    pub(super) fn url(&self) -> String {
        format!("s3://{}/{}", self.bucket.name(), self.key)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sends what is gathered as a part, once one of the sink's permits is free. Blocks.
    fn send(&mut self) -> Result<()> {
        let data = Bytes::from(std::mem::take(&mut self.gathered));
        let index = self.started;
        self.started += 1;
        let permits = Arc::clone(&self.permits);
        let permit = wait_for(permits.acquire_owned())?;
        let permit = permit.map_err(|e| Error::internal("the permits for uploads are gone").caused_by(e))?;
        let (bucket, key, id) = (self.bucket.clone(), self.key.clone(), self.id.clone());
        self.under_way.push_back(tokio::spawn(async move {
            let store = bucket.store().await?;
            let part = store.put_part(&key, &id, index, PutPayload::from_bytes(data)).await;
            drop(permit);
            part.map_err(|e| object_failure("UploadPart", &bucket, key.as_ref(), &e).into())
        }));
        while self.under_way.front().is_some_and(JoinHandle::is_finished) {
            self.take_first()?;
        }
        Ok(())
    }

    /// Waits for the oldest part that is under way. Blocks.
    fn take_first(&mut self) -> Result<()> {
        if let Some(part) = self.under_way.pop_front() {
            let part = wait_for(part)?.map_err(|e| Error::internal("an upload's task died").caused_by(e))?;
            self.done.push(part?.content_id);
        }
        Ok(())
    }

    /// Sends the last part, waits for all, and stages the object. Blocks.
    pub(super) fn finish(mut self) -> Result<Staged> {
        if !self.gathered.is_empty() || self.started == 0 {
            self.send()?;
        }
        while !self.under_way.is_empty() {
            self.take_first()?;
        }
        Ok(Staged {
            bucket: self.bucket.name().to_owned(),
            key: self.key.to_string(),
            upload: self.id,
            parts: self.done,
            bytes: self.bytes,
        })
    }
}

#[cfg(test)]
impl Upload {
    /// One that sends a part when so many more bytes are written.
    pub(super) fn with_room(prefix: &Prefix, permits: &Arc<Semaphore>, room: usize) -> Self {
        Self {
            bucket: prefix.bucket.clone(),
            key: Path::from("part-job-1-0-e1.jsonl"),
            id: "an upload".to_owned(),
            permits: Arc::clone(permits),
            part_bytes: PART_BYTES,
            gathered: vec![b' '; PART_BYTES - room],
            done: Vec::new(),
            under_way: VecDeque::new(),
            started: 0,
            bytes: 0,
        }
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.permits.is_closed() {
            return Err(io::Error::other("the upload was given up"));
        }
        if self.gathered.capacity() == 0 {
            // Grown once where a file is large, and small where it is small.
            self.gathered.reserve(bytes.len().max(self.part_bytes.min(64 << 10)));
        }
        let take = bytes.len().min(self.part_bytes - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..take]);
        self.bytes += take as u64;
        if self.gathered.len() >= self.part_bytes {
            self.send().map_err(io::Error::other)?;
        }
        Ok(take)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lets a finished object appear; when it is there already, nothing happens.
pub(super) async fn complete(staged: &Staged, near: &Bucket) -> Result<()> {
    let bucket = near.sibling(&staged.bucket);
    let store = bucket.store().await?;
    let key = object_path(&staged.key)?;
    let parts = staged.parts.iter().map(|tag| PartId { content_id: tag.clone() }).collect();
    let Err(error) = store.complete_multipart(&key, &staged.upload, parts).await else { return Ok(()) };
    // Done before, by this process or another (NoSuchUpload), or the answer was lost: the object tells.
    let failed = || Error::from(object_failure("CompleteMultipartUpload", &bucket, &staged.key, &error));
    match bucket.find(&staged.key).await {
        Ok(Some(found)) if found.bytes == staged.bytes => Ok(()),
        Ok(Some(found)) => Err(Error::corrupt(format!(
            "'s3://{}/{}' has {} bytes, but the upload to complete has {}",
            staged.bucket, staged.key, found.bytes, staged.bytes
        ))
        .hint("another program has written this name: keep the table's prefix for the job alone")),
        Ok(None) if matches!(error, object_store::Error::NotFound { .. }) => Err(Error::corrupt(format!(
            "the upload of 's3://{}/{}' is gone, and the object is not there",
            staged.bucket, staged.key
        ))
        .hint(
            "if somebody has taken the object away since it appeared, put it back (or as many bytes under its key) until the job has \
             started: nothing is lost then. If the upload was aborted, by a lifecycle rule or a newer run of the job, `tidemill state \
             rewind STORE latest` writes what came since the last checkpoint again, beside the objects that are there; --fresh begins anew",
        )
        .caused_by(failed())),
        Ok(None) => Err(failed()),
        // The upload may be gone since it was completed: whoever cannot look does not know, and tries again later.
        Err(unknown) => Err(unknown.caused_by(failed())),
    }
}

/// Aborts the uploads that earlier runs of this job have left below `prefix`.
pub(super) async fn abort_leftovers(prefix: &Prefix, names: &PartNames) -> Result<()> {
    let clients = prefix.bucket.clients().await?;
    let bucket = prefix.bucket.name();
    let (mut key_marker, mut id_marker) = (None, None);
    loop {
        let page = clients
            .sdk
            .list_multipart_uploads()
            .bucket(bucket)
            .prefix(prefix.join(""))
            .set_key_marker(key_marker)
            .set_upload_id_marker(id_marker)
            .send()
            .await;
        let call = Call { service: "s3", operation: "ListMultipartUploads", resource: bucket };
        let page = page.map_err(|e| failure(call, &e).error)?;
        for upload in page.uploads() {
            let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
            let file = key.rsplit('/').next().unwrap_or(key);
            if !names.is_leftover(file) {
                continue;
            }
            match clients.store.abort_multipart(&object_path(key)?, &id.to_owned()).await {
                // Gone meanwhile.
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(object_failure("AbortMultipartUpload", &prefix.bucket, key, &e).into()),
            }
        }
        if page.is_truncated() != Some(true) {
            return Ok(());
        }
        key_marker = page.next_key_marker().map(str::to_owned);
        id_marker = page.next_upload_id_marker().map(str::to_owned);
    }
}
