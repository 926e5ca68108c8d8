//! A stream of the embedded Kinesis: its folder, its shards, and putting records.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::connectors::line_file::io_error;
use crate::contracts::{Clock, Error, Result, off_the_runtime};

use super::log::FrameBuilder;
use super::routing::{hash_key, hash_range, shard_of};
use super::shard::ShardWriter;

/// Shards of a new stream.
pub const DEFAULT_SHARDS: u32 = 4;
/// AWS takes at most this many bytes of data and key in a record (the limit before October 2025; 10 MiB streams
/// are opt-in there).
pub const MAX_RECORD_BYTES: usize = 1 << 20;
/// AWS takes at most this many characters in a partition key.
pub const MAX_KEY_CHARACTERS: usize = 256;

/// What describes a stream, in its folder.
const DESCRIPTION: &str = "stream.json";

/// What `stream.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamDescription {
    /// Format of the folder, now 1.
    pub version: u32,
    /// The stream's name.
    pub name: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: i64,
    /// Its shards, in order.
    pub shards: Vec<ShardDescription>,
}

/// One shard, in the words of AWS's `DescribeStream`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardDescription {
    /// `shardId-000000000000`
    pub shard_id: String,
    /// First MD5 of its keys, decimal.
    pub starting_hash_key: String,
    /// Last MD5 of its keys, decimal.
    pub ending_hash_key: String,
}

/// Folder of a stream under `--local DIR`.
pub fn stream_folder(local: &Path, stream: &str) -> PathBuf {
    local.join("kinesis").join(stream)
}

/// The log of a shard.
pub(super) fn log_path(folder: &Path, shard_id: &str) -> PathBuf {
    folder.join(format!("{shard_id}.log"))
}

/// Refuses names that AWS refuses (they could also leave the folder).
fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 128 || !name.chars().all(allowed) || name.starts_with('.') {
        return Err(Error::config(format!("'{name}' is no name for a stream"))
            .hint("1 to 128 letters, digits, '_', '-' and '.'"));
    }
    Ok(())
}

/// One record to put.
#[derive(Debug, Clone, Copy)]
pub struct PutRecord<'a> {
    /// The payload.
    pub data: &'a [u8],
    /// Decides the shard.
    pub partition_key: &'a str,
    /// Decides it in the key's place: the shard whose range has this hash.
    pub explicit_hash_key: Option<u128>,
}

impl<'a> PutRecord<'a> {
    /// A record whose key decides the shard.
    pub fn new(data: &'a [u8], partition_key: &'a str) -> Self {
        Self { data, partition_key, explicit_hash_key: None }
    }
}

/// Where a record went, or why it was refused.
pub type PutResult = std::result::Result<PutReceipt, PutRefusal>;

/// Where a record went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutReceipt {
    /// Index of the shard.
    pub shard: u32,
    /// Number within the shard.
    pub sequence_number: u64,
}

/// Why a record was refused; it stays refused when it is put again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutRefusal {
    /// AWS's error code.
    pub code: &'static str,
    /// In words.
    pub message: String,
}

/// A stream, open for writing.
///
/// Records of one put that go to one shard become visible to readers together. Writers in several
/// processes may put to one stream at once.
pub struct LocalStream {
    description: StreamDescription,
    writers: Vec<ShardWriter>,
    frames: Vec<FrameBuilder>,
    clock: Arc<dyn Clock>,
    /// Its folder, until the names of its files are on disk.
    unsynced_folder: Option<PathBuf>,
}

impl LocalStream {
    /// Opens a stream, making one of `shards` shards (default 4) when there is none.
    pub fn open(local: &Path, name: &str, shards: Option<u32>, clock: Arc<dyn Clock>) -> Result<Self> {
        let description = describe_or_create(local, name, shards, clock.as_ref())?;
        let folder = stream_folder(local, name);
        let shards = &description.shards;
        let writers =
            shards.iter().map(|s| ShardWriter::open(&log_path(&folder, &s.shard_id))).collect::<Result<_>>()?;
        let frames = shards.iter().map(|_| FrameBuilder::default()).collect();
        Ok(Self { description, writers, frames, clock, unsynced_folder: Some(folder) })
    }

    /// The stream's description.
    pub fn description(&self) -> &StreamDescription {
        &self.description
    }

    /// Waits until everything that has been put is on disk: what a checkpoint says to be there outlasts a power cut.
    pub async fn sync(&mut self) -> Result<()> {
        let files = self.writers.iter_mut().filter_map(|writer| writer.take_unsynced().transpose());
        let mut files = files.collect::<Result<Vec<_>>>()?;
        if files.is_empty() {
            return Ok(());
        }
        if let Some(folder) = self.unsynced_folder.take() {
            // The names in it, and its own.
            let above = folder.ancestors().take(3).filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned);
            for path in std::iter::once(folder.join(DESCRIPTION)).chain(above) {
                let file = std::fs::File::open(&path).map_err(|e| io_error(&path, "opened", e))?;
                files.push((path, file));
            }
        }
        let sync =
            move || files.iter().try_for_each(|(path, file)| file.sync_all().map_err(|e| io_error(path, "synced", e)));
        off_the_runtime(sync).await?
    }

    /// Puts records: the answer has one entry for each, in order. Refused records do not disturb the others.
    /// Blocks while it writes to the page cache.
    pub fn put_records(&mut self, records: &[PutRecord<'_>]) -> Result<Vec<PutResult>> {
        let shards = self.frames.len() as u32;
        let mut results = Vec::with_capacity(records.len());
        for record in records {
            results.push(check(record).map(|()| {
                let shard =
                    shard_of(record.explicit_hash_key.unwrap_or_else(|| hash_key(record.partition_key)), shards);
                let frame = &mut self.frames[shard as usize];
                frame.push(record.data, record.partition_key);
                // Place in the frame for now; the frame's first number is added below.
                PutReceipt { shard, sequence_number: frame.len() as u64 - 1 }
            }));
        }
        let now = self.clock.now_ms();
        let mut first_numbers = vec![0; self.frames.len()];
        for ((writer, frame), first) in self.writers.iter_mut().zip(&mut self.frames).zip(&mut first_numbers) {
            if frame.len() > 0 {
                *first = writer.append(frame, now)?;
            }
        }
        for receipt in results.iter_mut().flatten() {
            receipt.sequence_number += first_numbers[receipt.shard as usize];
        }
        Ok(results)
    }
}

fn check(record: &PutRecord<'_>) -> std::result::Result<(), PutRefusal> {
    let refuse = |message: String| Err(PutRefusal { code: "ValidationException", message });
    let characters = record.partition_key.chars().count();
    if characters == 0 || characters > MAX_KEY_CHARACTERS {
        return refuse(format!("partition key of {characters} characters; 1 to {MAX_KEY_CHARACTERS} are allowed"));
    }
    let bytes = record.data.len() + record.partition_key.len();
    if bytes > MAX_RECORD_BYTES {
        return refuse(format!("record and key of {bytes} bytes; at most {MAX_RECORD_BYTES} are allowed"));
    }
    Ok(())
}

/// Description of a stream that exists.
pub(super) fn describe(folder: &Path) -> Result<Option<StreamDescription>> {
    let path = folder.join(DESCRIPTION);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(&path, "read", e)),
    };
    let description: StreamDescription = serde_json::from_slice(&text)
        .map_err(|e| Error::corrupt(format!("'{}' is no description of a stream", path.display())).caused_by(e))?;
    if description.version != 1 || description.shards.is_empty() {
        return Err(Error::corrupt(format!("'{}' is of a version that this program cannot read", path.display())));
    }
    Ok(Some(description))
}

/// Description of a stream, which is made when there is none. Several may do so at once, also in other
/// processes: one wins.
pub(super) fn describe_or_create(
    local: &Path,
    name: &str,
    shards: Option<u32>,
    clock: &dyn Clock,
) -> Result<StreamDescription> {
    check_name(name)?;
    let folder = stream_folder(local, name);
    if let Some(found) = describe(&folder)? {
        return Ok(found);
    }
    let count = shards.unwrap_or(DEFAULT_SHARDS);
    if !(1..=10_000).contains(&count) {
        return Err(Error::config(format!("a stream cannot have {count} shards")).hint("1 to 10000"));
    }
    std::fs::create_dir_all(&folder).map_err(|e| io_error(&folder, "made", e))?;
    let shards = (0..count).map(|index| {
        let (first, last) = hash_range(index, count);
        ShardDescription {
            shard_id: format!("shardId-{index:012}"),
            starting_hash_key: first.to_string(),
            ending_hash_key: last.to_string(),
        }
    });
    let made =
        StreamDescription { version: 1, name: name.to_owned(), created_ms: clock.now_ms(), shards: shards.collect() };
    let text = serde_json::to_vec_pretty(&made).map_err(|e| Error::internal("stream.json").caused_by(e))?;
    let path = folder.join(DESCRIPTION);
    // Unlike any other maker's, in this process or another.
    static MADE: AtomicU64 = AtomicU64::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".stream.json.{}.{number}", std::process::id()));
    let written = std::fs::File::create(&temporary).and_then(|mut file| file.write_all(&text));
    written.map_err(|e| io_error(&temporary, "written", e))?;
    // A hard link fails when the name exists: whoever links first has made the stream.
    let linked = std::fs::hard_link(&temporary, &path);
    std::fs::remove_file(&temporary).map_err(|e| io_error(&temporary, "removed", e))?;
    match linked {
        Ok(()) => Ok(made),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            describe(&folder)?.ok_or_else(|| Error::corrupt(format!("'{}' vanished", path.display())))
        }
        Err(e) => Err(io_error(&path, "made", e)),
    }
}
