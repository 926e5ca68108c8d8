//! Checkpoints of a job, and the log of the epochs since.
//!
//! ```text
//!  SavedJob ─► increments (what is new) ─► files (Arrow IPC) ─┐
//!                                                            ├─► Storage: a folder, or a prefix of a bucket
//!                         manifest (JSON, by number) ◄───────┤
//!  rows of reference tables, by digest ─► files ─────────────┘ (named by the epoch log, too)
//! ```

mod checked_file;
#[cfg(test)]
mod checkpoint_tests;
mod checkpoints;
mod checksum;
mod epoch_log;
mod files;
mod in_use;
mod increments;
mod loaded_pieces;
mod local_storage;
mod manifest;
mod object_epoch_log;
mod object_storage;
mod ranges;
mod reference_files;
#[cfg(test)]
mod reference_tests;
mod reference_versions;
mod restore;
#[cfg(test)]
mod restore_tests;
mod saved;
mod savepoints;
mod spill;
mod spill_folder;
mod stored_files;
mod sweep;
#[cfg(test)]
mod test_faults;
#[cfg(test)]
pub(crate) mod test_storage;
#[cfg(test)]
mod tests;

pub use checkpoints::{CheckpointStore, Committed, DEFAULT_KEPT, Stamp};
pub(crate) use checksum::hex_digest;
pub use epoch_log::FileEpochLog;
pub use files::STATE_FILE_BYTES;
pub use local_storage::LocalStorage;
pub use manifest::{
    CATCH_UP_VERSION, MANIFEST_VERSION, MANIFEST_VERSIONS, Manifest, ManifestOperator, ManifestQuery,
    ManifestReference, StateFile,
};
pub use object_epoch_log::{ObjectEpochLog, ReadObjects};
pub use object_storage::ObjectStorage;
pub use ranges::Ranges;
pub(crate) use reference_files::shown_digest;
pub use reference_versions::ReferenceVersions;
pub use saved::{
    CatchUp, OperatorState, PieceIds, PieceRows, Reread, SavedJob, SavedQuery, SavedSplit, SavedTable, StatePiece,
};
pub(crate) use spill::MORE_DISK;
pub use spill::{BlockReader, SpillWriter, SpilledFile};
pub use spill_folder::SpillFolder;
