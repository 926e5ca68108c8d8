//! Clean-up: old checkpoints, and files that no manifest names.

use std::collections::BTreeSet;

use super::checkpoints::{CheckpointStore, STATE, manifest_name, savepoint_name};
use crate::contracts::{ErrorKind, Result, crash_point};

impl CheckpointStore {
    /// Removes old checkpoints, and state files and versions of reference tables that no manifest names.
    ///
    /// A run touches only files with numbers up to its own last one: what its successor is writing has higher ones.
    pub async fn sweep(&self) -> Result<()> {
        let numbers = self.numbers().await?;
        let (own, others): (Vec<u64>, Vec<u64>) = numbers.into_iter().partition(|number| *number <= self.number);
        let (old, kept) = own.split_at(own.len().saturating_sub(self.kept));
        for number in old {
            self.storage.remove(&manifest_name(*number)).await?;
        }
        crash_point("sweep.midst");
        let numbered = kept.iter().chain(&others).map(|number| manifest_name(*number));
        let saved = self.savepoints().await?;
        let mut needed = BTreeSet::new();
        for name in numbered.chain(saved.iter().map(|name| savepoint_name(name))) {
            match self.read_manifest(&name).await {
                Ok(Some(manifest)) => needed.extend(manifest.files().map(|file| file.name.clone())),
                // What a damaged one names is not known: nothing is removed until a person has looked. And one that has
                // gone meanwhile was another run's to remove: so is the rest.
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        for name in self.storage.list(STATE).await? {
            let number = name.strip_prefix(STATE).and_then(|rest| rest[1..].split('-').next()?.parse::<u64>().ok());
            if number.is_some_and(|number| number <= self.number) && !needed.contains(&name) {
                self.storage.remove(&name).await?;
            }
        }
        for name in self.references.needless(self.number, &needed) {
            self.storage.remove(&name).await?;
            self.references.removed(&name);
        }
        crash_point("sweep.after");
        Ok(())
    }
}
