//! The runtime: reads sources, cuts epochs, runs queries, feeds sinks.
//!
//! ```text
//!  split reader ─┐ decode                    ┌─ query 1 ─► writer 1 ─► sink
//!  split reader ─┼────────► driver (epochs) ─┼─ query 2 ─► writer 2 ─► sink
//!  split reader ─┘  bounded    one at a time └─ query 3 ─► writer 3 ─► sink
//! ```
//!
//! Tables that name the same stream are one feed: each split is read, and decoded where columns agree, once.
//! Readers decode while queries run, and writers flush epoch N while N+1 is computed. Every arrow is a
//! bounded channel, so a slow sink slows the reading down. Between two epochs nothing moves in the
//! queries: that is where state can be saved.
//!
//! Architecture invariant: the runtime knows connectors, formats and SQL only through
//! [`crate::contracts`] and the plans in [`crate::operators`].

mod accounting;
mod age;
mod catching_up;
mod changes;
mod checkpoints;
mod computed_time;
mod crew;
mod driver;
#[cfg(test)]
mod driver_tests;
mod epoch;
mod error_orders;
mod failures;
mod feed;
mod gathered;
mod idleness;
mod inputs;
mod lookup_cache;
mod memory;
mod opening;
mod patience;
mod pieces;
mod points;
mod progress;
mod queries;
mod quotas;
mod read_all;
mod reader;
#[cfg(test)]
mod reader_tests;
mod references;
mod repeat;
mod replay;
mod restored;
mod rows;
mod shared_decode;
mod splits;
mod standings;
mod table_time;
#[cfg(test)]
mod table_time_tests;
#[cfg(test)]
mod test_log;
mod unwritten;
mod worker;
mod writer;

pub use accounting::{QueryCounts, Summary, TableCounts};
pub(crate) use changes::WaitingChanges;
pub use checkpoints::{CheckpointCounts, Checkpointing};
pub use epoch::EpochLimits;
pub(crate) use error_orders::{ErrorsOrder, run_errors};
pub use failures::Retries;
pub use feed::{DecoderFactory, FeedSpecification, TableSpecification};
pub(crate) use feed::{is_of_feed, table_names};
pub use lookup_cache::CachedLookup;
pub use progress::{LastCheckpoint, Progress};
pub use read_all::{AllRows, read_all};
pub(crate) use reader::{rejected_row, row_json};
pub use references::ReferenceSpecification;
pub use repeat::{
    HINT_MARK, IN_FULL, JobLog, RECORDS, begins_without_state, identity, is_identity_of, is_text_of,
    without_hint_numbers,
};
pub use rows::WatermarkRule;
pub use shared_decode::union_of;
pub use unwritten::columns_of_open_rows;
pub use worker::{Ending, Job, QuerySpec, Worker};
pub(crate) use writer::{Order, WriterLog, run_writer};
