//! What a run of a job touches outside of its process, where connectors do not stand for it.

use std::fmt;
use std::sync::Arc;

use super::error::Result;
use super::lookup::Lookup;
use super::reference::ReferenceLoader;
use super::reject::ErrorOutput;
use super::sink::Sink;
use super::source::Source;
use super::storage::{LockedStorage, Storage};
use super::table::TableSpec;

/// A world for a job: a simulation brings its own, with faults that it chooses. Everything between these parts is the
/// program as it is.
pub trait Outside: Send + Sync + fmt::Debug {
    /// The table of `spec`, to read.
    fn source(&self, spec: &TableSpec) -> Result<Arc<dyn Source>>;

    /// The table of `spec`, to write, by the run of this number; `connector` as the table names it.
    fn sink(&self, spec: &TableSpec, connector: &str, generation: u64) -> Result<Box<dyn Sink>>;

    /// The table of `spec`, of which single rows are asked for.
    fn lookup(&self, spec: &TableSpec) -> Result<Arc<dyn Lookup>>;

    /// The reference table of `spec`.
    fn reference(&self, spec: &TableSpec) -> Result<Box<dyn ReferenceLoader>>;

    /// Where the run of this number writes refused records.
    fn error_output(&self, generation: u64) -> Result<Box<dyn ErrorOutput>>;

    /// Where checkpoints and the epoch log are kept.
    fn storage(&self) -> Arc<dyn Storage>;

    /// The same, where one run has it at a time.
    fn locked_storage(&self) -> Option<Arc<dyn LockedStorage>> {
        None
    }

    /// A text that no other run has.
    fn nonce(&self) -> String;
}
