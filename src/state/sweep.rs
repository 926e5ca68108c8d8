//! Clean-up: old checkpoints, and files that no manifest names.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::checkpoints::{CheckpointStore, SAVEPOINTS, STATE, manifest_name, savepoint_name};
use super::reference_files::{FOLDER, FileName};
use crate::contracts::{ErrorKind, Result, crash_point};

impl CheckpointStore {
    /// Removes old checkpoints, and state files and versions of reference tables that no manifest names.
    ///
    /// A run touches only files with numbers up to its own last one: what its successor is writing has higher ones.
    pub async fn sweep(&self) -> Result<()> {
        let own: Vec<u64> = self.numbers().await?.into_iter().filter(|number| *number <= self.number).collect();
        let (old, _) = own.split_at(own.len().saturating_sub(self.kept));
        for number in old {
            self.storage.remove(&manifest_name(*number)).await?;
        }
        crash_point("sweep.midst");
        let saved = self.savepoints().await?;
        // Afterwards: who goes back to one of them, and drops it then, has made a checkpoint before.
        let numbers = self.numbers().await?;
        let numbered = numbers.into_iter().map(manifest_name);
        let mut needed = BTreeSet::new();
        for name in numbered.chain(saved.iter().map(|name| savepoint_name(name))) {
            match self.read_manifest(&name).await {
                Ok(Some(manifest)) => needed.extend(manifest.files().map(|file| file.name.clone())),
                // One that has gone meanwhile was another run's to remove: so is the rest.
                Ok(None) => return Ok(()),
                // What a damaged one names is not known: nothing is removed until a person has looked.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.tell_unreadable(&name);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        for name in self.storage.list(STATE).await? {
            if number_of_file(&name).is_some_and(|number| number <= self.number) && !needed.contains(&name) {
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

    /// The highest number that a file has, whether a manifest names it or not.
    pub(super) async fn highest_number_of_files(&self) -> Result<u64> {
        let state = self.storage.list(STATE).await?;
        let references = self.storage.list(FOLDER).await?;
        let of_references = references.iter().filter_map(|name| FileName::parse(name)).map(|file| file.number);
        Ok(state.iter().filter_map(|name| number_of_file(name)).chain(of_references).max().unwrap_or(0))
    }

    /// Once in a run.
    fn tell_unreadable(&self, name: &str) {
        if self.told.swap(true, Ordering::Relaxed) {
            return;
        }
        let place = self.storage.place();
        let way_out = match name.strip_prefix(SAVEPOINTS).and_then(|name| name[1..].strip_suffix(".json")) {
            Some(savepoint) => format!("`tidemill state drop {place} {savepoint}` removes it"),
            None => "move it away".to_owned(),
        };
        tracing::warn!(
            "'{place}/{name}' cannot be read, so it is not known which state files it needs, and none is removed any more: restore it from \
             a copy, or {way_out}"
        );
    }
}

/// That of the checkpoint which a state file was written for.
fn number_of_file(name: &str) -> Option<u64> {
    name.strip_prefix(STATE)?.strip_prefix('/')?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::tests::{STAMP, job, piece, storages, store};
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_read_keeps_all_files_until_it_is_dropped() {
        for storage in storages().1 {
            let mut own = store(&storage, "a");
            let mut epoch = 6;
            let mut checkpoint = async |own: &mut CheckpointStore| {
                epoch += 1;
                own.commit(&job(epoch, vec![piece(epoch, 0..9, &[])]), epoch, STAMP).await.expect("committed");
                own.sweep().await.expect("swept");
                storage.list(STATE).await.expect("listed").len()
            };
            for _ in 0..3 {
                checkpoint(&mut own).await;
            }
            let usual = checkpoint(&mut own).await;
            storage.create("savepoints/notes.json", Bytes::from_static(b"{}")).await.expect("written");
            let kept = checkpoint(&mut own).await;
            assert!(kept > usual && checkpoint(&mut own).await > kept && own.told.load(Ordering::Relaxed));
            let error = own.drop_savepoint("../manifests/0000000006").await.expect_err("it is none");
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
            own.drop_savepoint("notes").await.expect("dropped");
            assert_eq!(checkpoint(&mut own).await, usual, "{}", storage.place());
        }
    }
}
