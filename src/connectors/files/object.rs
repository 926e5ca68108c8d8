//! Reading an object of S3 from blocking code: at any place, in ranges, with bounded memory.
//!
//! Every range is asked for on condition that the ETag is still the one that was seen when the object was opened: bytes
//! of two versions are never mixed.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use tokio::runtime::Handle;

use crate::connectors::aws::{Bucket, object_failure};
use crate::connectors::line_file::ReadAt;
use crate::contracts::{Error, Result};

use super::listing::object_path;

/// Bytes of a block of a Parquet file. Pages are about 1 MiB at most; a column is read from its first to its last.
const BLOCK: usize = 1 << 20;
/// Bytes of text that are asked for at a time. If the first byte takes 40 ms, one reader has at most 100 MB/s.
pub(super) const RANGE: usize = 4 << 20;

/// An object, as it was when it was opened.
#[derive(Debug, Clone)]
pub(super) struct Object {
    bucket: Bucket,
    key: Path,
    pub(super) bytes: u64,
    pub(super) modified_ms: i64,
    tag: Option<String>,
    /// Of the runtime whose blocking pool reads it.
    handle: Handle,
}

impl Object {
    /// Looks the object up.
    pub(super) async fn open(bucket: &Bucket, key: &str) -> Result<Self> {
        let path = object_path(key)?;
        let store = bucket.store().await?;
        let meta = store.head(&path).await.map_err(|e| object_failure("HeadObject", bucket, key, &e).error)?;
        Ok(Self {
            bucket: bucket.clone(),
            key: path,
            bytes: meta.size,
            modified_ms: meta.last_modified.timestamp_millis(),
            tag: meta.e_tag,
            handle: Handle::current(),
        })
    }

    /// `s3://bucket/key`
    pub(super) fn url(&self) -> String {
        format!("s3://{}/{}", self.bucket.name(), self.key)
    }

    fn written_over(&self) -> Error {
        Error::corrupt(format!("'{}' was written over while it was read", self.url()))
            .hint("write new files instead of changing old ones, or read the table again with --fresh")
    }

    /// Bytes from `start` on; fewer than `length` only at the end. Blocks.
    fn range(&self, start: u64, length: usize) -> Result<Bytes> {
        let end = self.bytes.min(start.saturating_add(length as u64));
        if start >= end {
            return Ok(Bytes::new());
        }
        let fetch = async {
            let store = self.bucket.store().await?;
            let options = GetOptions {
                if_match: self.tag.clone(),
                range: Some(GetRange::Bounded(start..end)),
                ..GetOptions::default()
            };
            let failed = |e: object_store::Error| match e {
                object_store::Error::Precondition { .. } => self.written_over(),
                e => object_failure("GetObject", &self.bucket, self.key.as_ref(), &e).error,
            };
            let found = store.get_opts(&self.key, options).await.map_err(failed)?;
            found.bytes().await.map_err(failed)
        };
        let bytes = self.handle.block_on(fetch)?;
        if bytes.len() as u64 == end - start {
            Ok(bytes)
        } else {
            Err(Error::unavailable(format!("'{}': a range came back cut short", self.url())))
        }
    }
}

/// Which version (ETag) of each object, by its split, a source reads. An object may be opened again to be read on, also in a later run.
#[derive(Debug, Default)]
pub(super) struct Versions(Mutex<BTreeMap<String, Option<String>>>);

impl Versions {
    /// Notes the version that is opened first, and refuses any other.
    pub(super) fn check(&self, split: &str, object: &Object) -> Result<()> {
        let mut seen = self.seen();
        let tag = seen.entry(split.to_owned()).or_insert_with(|| object.tag.clone());
        if *tag == object.tag { Ok(()) } else { Err(object.written_over()) }
    }

    /// The version that is read, once it has been opened.
    pub(super) fn of(&self, split: &str) -> Option<String> {
        self.seen().get(split).cloned().flatten()
    }

    /// An earlier run has read some of this version.
    pub(super) fn expect(&self, split: &str, version: &str) {
        self.seen().insert(split.to_owned(), Some(version.to_owned()));
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, Option<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object of text.
pub(super) struct ObjectText {
    object: Object,
    window: Bytes,
    window_start: u64,
}

impl ObjectText {
    pub(super) fn new(object: Object) -> Self {
        Self { object, window: Bytes::new(), window_start: 0 }
    }
}

impl ReadAt for ObjectText {
    fn length(&self) -> Result<u64> {
        Ok(self.object.bytes)
    }

    fn modified_ms(&self) -> Result<i64> {
        Ok(self.object.modified_ms)
    }

    fn read_at(&mut self, offset: u64, bytes: usize, buffer: &mut Vec<u8>) -> Result<usize> {
        let (mut at, mut left) = (offset, bytes);
        while left > 0 && at < self.object.bytes {
            let inside = at.checked_sub(self.window_start).and_then(|i| usize::try_from(i).ok());
            match inside.filter(|i| *i < self.window.len()) {
                Some(from) => {
                    let take = left.min(self.window.len() - from);
                    buffer.extend_from_slice(&self.window[from..from + take]);
                    at += take as u64;
                    left -= take;
                }
                None => {
                    self.window = self.object.range(at, RANGE.max(left))?;
                    self.window_start = at;
                }
            }
        }
        Ok(bytes - left)
    }
}

/// An object of Parquet: a few blocks around the places where its columns are being read.
#[derive(Clone)]
pub(super) struct ObjectPages {
    object: Object,
    blocks: Arc<Mutex<Blocks>>,
}

struct Blocks {
    /// The least recently used first.
    kept: VecDeque<(u64, Bytes)>,
    most: usize,
}

impl ObjectPages {
    /// `columns` is how many of its columns are read side by side: so many blocks are kept, and two for the footer.
    pub(super) fn new(object: Object, columns: usize) -> Self {
        let blocks = Blocks { kept: VecDeque::new(), most: columns + 2 };
        Self { object, blocks: Arc::new(Mutex::new(blocks)) }
    }

    /// The block that holds the byte at `at`, from there to its end.
    fn block(&self, at: u64) -> Result<Bytes> {
        let number = at / BLOCK as u64;
        let inside = (at % BLOCK as u64) as usize;
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = blocks.kept.iter().position(|(n, _)| *n == number)
            && let Some(block) = blocks.kept.remove(index)
        {
            let bytes = block.1.slice(inside.min(block.1.len())..);
            blocks.kept.push_back(block);
            return Ok(bytes);
        }
        let bytes = self.object.range(number * BLOCK as u64, BLOCK)?;
        if blocks.kept.len() >= blocks.most {
            blocks.kept.pop_front();
        }
        blocks.kept.push_back((number, bytes.clone()));
        Ok(bytes.slice(inside.min(bytes.len())..))
    }
}

fn as_parquet(error: Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl Length for ObjectPages {
    fn len(&self) -> u64 {
        self.object.bytes
    }
}

impl ChunkReader for ObjectPages {
    type T = PagesFrom;

    fn get_read(&self, start: u64) -> parquet::errors::Result<PagesFrom> {
        Ok(PagesFrom { pages: self.clone(), at: start, rest: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        if length > BLOCK {
            return self.object.range(start, length).map_err(as_parquet);
        }
        let first = self.block(start).map_err(as_parquet)?;
        if first.len() >= length {
            return Ok(first.slice(..length));
        }
        let mut both = first.to_vec();
        let second = self.block(start + first.len() as u64).map_err(as_parquet)?;
        let missing = length - both.len();
        if second.len() < missing {
            return Err(ParquetError::EOF(format!("'{}' ends within a page", self.object.url())));
        }
        both.extend_from_slice(&second[..missing]);
        Ok(both.into())
    }
}

/// Reads on from some place.
pub(super) struct PagesFrom {
    pages: ObjectPages,
    at: u64,
    rest: Bytes,
}

impl Read for PagesFrom {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() && self.at < self.pages.object.bytes {
            self.rest = self.pages.block(self.at).map_err(io::Error::other)?;
        }
        let take = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..take]);
        self.at += take as u64;
        Ok(take)
    }
}
