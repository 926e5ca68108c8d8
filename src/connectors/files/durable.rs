//! Up to which epoch the partitions of a table are in committed files.
//!
//! Invariant, kept by the sink: at the end of an epoch a partition's rows of that epoch are all in closed files, or all in its open
//! one. So a closed file, once committed, says: the partition is complete up to here. When a killed run's epochs are
//! repeated, those rows are left out, and every row is in exactly one file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::contracts::{Committable, EpochNumber, Error, Result};

/// By partition folder, the last epoch whose rows are in committed files.
#[derive(Debug, Default)]
pub(super) struct Durable(BTreeMap<String, u64>);

impl Durable {
    /// Whether the partition's rows of `epoch` are in committed files.
    pub(super) fn has(&self, folder: &str, epoch: EpochNumber) -> bool {
        self.0.get(folder).is_some_and(|through| epoch.0 <= *through)
    }

    /// Takes note of a file that has been committed.
    pub(super) fn note(&mut self, file: &Noted) {
        let through = self.0.entry(file.folder.clone()).or_default();
        *through = file.through.max(*through);
    }
}

/// A staged file and what its commit says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Noted {
    folder: String,
    through: u64,
    /// The payload of the file itself.
    file: String,
}

impl Noted {
    /// With `staged`, the partition has all its rows up to epoch `through`.
    pub(super) fn committable(folder: String, through: EpochNumber, staged: Committable) -> Result<Committable> {
        let noted = Self { folder, through: through.0, file: staged.payload };
        let payload = serde_json::to_string(&noted);
        Ok(Committable { payload: payload.map_err(|e| Error::internal("a staged file as JSON").caused_by(e))? })
    }

    pub(super) fn of(committable: &Committable) -> Result<Self> {
        let unreadable = |e| Error::corrupt("a staged file's payload cannot be read").caused_by(e);
        serde_json::from_str(&committable.payload).map_err(unreadable)
    }

    /// The partition.
    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    /// The file itself, to be committed.
    pub(super) fn staged(&self) -> Committable {
        Committable { payload: self.file.clone() }
    }
}
