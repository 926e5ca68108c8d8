//! An epoch log in memory, for tests.

use std::sync::Mutex;

use async_trait::async_trait;

use crate::contracts::{EpochLog, LogEntry, Result};

/// What has been appended.
#[derive(Default)]
pub(super) struct Entries(pub(super) Mutex<Vec<LogEntry>>);

#[async_trait]
impl EpochLog for Entries {
    async fn append(&self, entry: &LogEntry) -> Result<()> {
        self.0.lock().expect("unpoisoned").push(entry.clone());
        Ok(())
    }

    async fn forget(&self, _: u64) -> Result<()> {
        Ok(())
    }
}
