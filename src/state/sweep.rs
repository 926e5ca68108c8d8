//! Clean-up: old checkpoints, and files that no manifest names.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::checkpoints::{CheckpointStore, SAVEPOINTS, STATE, manifest_name, savepoint_name};
use super::reference_files::{FOLDER, FileName};
use crate::contracts::{ErrorKind, Result, crash_point};

/// Removals that are under way at a time. A job that hands over waits for all of them, and a bucket takes 20 to 40 ms for each.
pub(super) const REMOVALS_AT_ONCE: usize = 16;

/// Makes these removals, in no order. One that fails leaves what has not been removed by then.
pub(super) async fn remove_all(removals: Vec<BoxFuture<'_, Result<()>>>) -> Result<()> {
    futures::stream::iter(removals).buffer_unordered(REMOVALS_AT_ONCE).try_collect().await
}

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
        let mut state = self.storage.list(STATE).await?;
        state.retain(|name| number_of_file(name).is_some_and(|number| number <= self.number) && !needed.contains(name));
        remove_all(state.iter().map(|name| self.storage.remove(name)).collect()).await?;
        let references = self.references.needless(self.number, &needed);
        let removals: Vec<_> = references
            .iter()
            .map(|name| self.storage.remove(name).map(move |done| done.map(|()| self.references.removed(name))).boxed())
            .collect();
        remove_all(removals).await?;
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

    use super::super::test_storage::counting_removals;
    use super::super::tests::{STAMP, job, piece, storages, store};
    use super::*;

    #[tokio::test]
    async fn files_that_nobody_needs_are_removed_side_by_side() {
        for of in storages().1 {
            let (storage, most) = counting_removals(&of);
            let mut own = store(&storage, "a");
            own.commit(&job(7, vec![piece(7, 0..9, &[])]), 7, STAMP).await.expect("committed");
            let needed = of.list(STATE).await.expect("listed");
            for n in 0..40 {
                let left = format!("{STATE}/1-left-{n}.arrow");
                of.create(&left, Bytes::from_static(b"by a run that was killed")).await.expect("written");
            }
            own.sweep().await.expect("swept");
            assert_eq!(most.load(Ordering::Relaxed), REMOVALS_AT_ONCE, "{}", of.place());
            assert_eq!(of.list(STATE).await.expect("listed").len(), needed.len(), "{}", of.place());
        }
    }

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
