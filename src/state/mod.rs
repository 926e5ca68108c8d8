//! State on disk between two runs of a job, and the log of the epochs since.

mod checksum;
mod epoch_log;
mod store;

pub(crate) use checksum::hex_digest;
pub use epoch_log::FileEpochLog;
pub use store::{OperatorState, SavedJob, SavedSplit, SavedTable, StateStore};
