//! What every layer may import: the traits between the runtime and the connectors, and the plain
//! values that cross them.
//!
//! Nothing here does I/O, reads a clock or knows DataFusion's planner. A connector sees a
//! [`TableSpec`] and answers with a [`Source`] or a [`Sink`]; the runtime sees only those traits.
//!
//! ```text
//!  Source ── splits() ──► SplitReader ── next() ──► RawChunk ──► Decoder ──► Decoded (Arrow)
//!                                                                               │ epoch
//!  Sink ◄── write(epoch, Changes) ◄── operators ◄── stage plans ◄───────────────┘
//! ```
//!
//! Architecture invariant: this module imports no other module of the crate.

mod bytes;
mod caller;
mod caught;
mod checksum;
mod clock;
mod compact;
mod crash;
mod decode;
mod epoch_log;
mod error;
mod hex;
mod last_work;
mod lease;
mod lookup;
mod off_runtime;
mod outage;
mod outside;
mod random;
mod record;
mod reference;
mod reject;
mod sink;
mod source;
mod storage;
mod table;
mod time;

pub(crate) use bytes::RowBytes;
pub use bytes::batch_bytes;
pub use caller::{NO_CREDENTIALS, SET_THE_CLOCK, refused_credentials};
pub use caught::caught;
pub use checksum::xxh64;
pub use clock::{Clock, ManualClock, SystemClock};
pub(crate) use compact::{MOST_MERGED_BYTES, compact, merge_within, without_garbage};
pub use crash::{CRASH_POINTS, FRESH_CRASH_POINTS, crash_point};
pub use decode::{Decoded, Decoder, SkippedTime};
pub use epoch_log::{EpochCut, EpochLog, LogEntry, Opened, OpenedAt, OpenedLog, SeenLog, SplitCut, TableCut};
pub use error::{Error, ErrorKind, Location, Result};
pub use hex::hex;
pub use last_work::{Presence, spawn_last, with_presence};
pub use lease::{Lease, LeasePlace, LeaseStore};
pub use lookup::{Lookup, LookupCache};
pub use off_runtime::{off_the_runtime, wait_for};
pub use outage::Outage;
pub use outside::Outside;
pub use random::{SPLITMIX64_STEP, splitmix64};
pub use record::{Arrivals, Position, RECORD_PADDING, RawChunk, RecordRange, RowChunk, SequenceNumbers};
pub use reference::{Polled, ReferenceLoader};
pub use reject::{ErrorOutput, Reject, RejectReason, RejectedRecord};
pub use sink::{ChangeKind, Changes, Committable, RefusedRow, Sink, WriteOutcome};
pub use source::{
    Boundedness, Fetch, Source, SourceProgress, Split, SplitId, SplitProgress, SplitReader, StartPosition,
};
pub use storage::{Created, LockedStorage, Storage, object_key};
pub use table::{MetadataColumn, TableSpec};
pub use time::{EpochNumber, Watermark};
