//! State on disk between two runs of a job.

mod store;

pub use store::{OperatorState, SavedJob, SavedSplit, SavedTable, StateStore};
