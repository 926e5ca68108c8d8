//! Checkpoints under names, and checkpoints whose content is an earlier one's: rewound, taken over, copied.

use super::checkpoints::{CheckpointStore, SAVEPOINTS, Stamp, savepoint_name};
use super::checksum::hex_digest;
use super::manifest::Manifest;
use crate::contracts::{Created, Error, Result};

impl CheckpointStore {
    /// Names of the savepoints, in their order.
    pub async fn savepoints(&self) -> Result<Vec<String>> {
        let names = self.storage.list(SAVEPOINTS).await?;
        let name = |path: &String| Some(path.strip_prefix(SAVEPOINTS)?[1..].strip_suffix(".json")?.to_owned());
        let mut names: Vec<String> = names.iter().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// The manifest of a savepoint.
    pub async fn savepoint(&self, name: &str) -> Result<Manifest> {
        self.read_manifest(&savepoint_name(name)).await?.ok_or_else(|| {
            Error::config(format!("there is no savepoint '{name}' in '{}'", self.storage.place()))
                .hint("`tidemill state list` shows which there are")
        })
    }

    /// Gives a checkpoint a name under which it is kept until it is removed by hand.
    pub async fn save_as(&self, manifest: &Manifest, name: &str) -> Result<()> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(allowed) {
            return Err(Error::config(format!("'{name}' is no name for a savepoint"))
                .hint("take letters, digits, '-', '_' and '.'"));
        }
        match self.storage.create(&savepoint_name(name), manifest.text()?.into()).await? {
            Created::New => {}
            Created::Taken => {
                return Err(Error::config(format!("there is a savepoint '{name}' already"))
                    .hint("take another name, or remove that one with `tidemill state drop`"));
            }
        }
        // Clean-up removes a manifest first, and asks then which savepoints there are: if it is still there, its files are safe.
        if self.numbers().await?.contains(&manifest.number) {
            return Ok(());
        }
        self.storage.remove(&savepoint_name(name)).await?;
        Err(Error::unavailable(format!("checkpoint {} was removed meanwhile", manifest.number)).hint("try again"))
    }

    /// Removes a savepoint.
    pub async fn drop_savepoint(&self, name: &str) -> Result<()> {
        self.savepoint(name).await?;
        self.storage.remove(&savepoint_name(name)).await
    }

    /// Commits the content of the newest checkpoint once more, as this run's: a run before it can commit nothing any more.
    /// Without one, it is an empty checkpoint after `epoch`.
    pub async fn take_over(&mut self, latest: Option<&Manifest>, epoch: u64, stamp: Stamp) -> Result<Manifest> {
        self.number = match latest {
            Some(latest) => latest.number,
            None => self.numbers().await?.last().copied().unwrap_or(0),
        };
        let mut manifest = self.next_manifest(epoch, epoch, stamp);
        if let Some(latest) = latest {
            (manifest.epoch, manifest.log_after) = (latest.epoch, latest.log_after);
            (manifest.tables, manifest.queries) = (latest.tables.clone(), latest.queries.clone());
            manifest.reread.clone_from(&latest.reread);
            manifest.references.clone_from(&latest.references);
        }
        self.publish(&manifest).await?;
        Ok(manifest)
    }

    /// Makes the content of `of` the newest checkpoint: epochs are counted on from `epoch`, and nothing of the log is needed.
    pub async fn rewind(&mut self, of: &Manifest, from: &str, epoch: u64, stamp: Stamp) -> Result<Manifest> {
        self.number = self.numbers().await?.last().copied().unwrap_or(0);
        let mut manifest = self.next_manifest(epoch, epoch, stamp);
        manifest.from = Some(from.to_owned());
        // Where records of earlier epochs are needed again, all are read from there on, under new numbers.
        manifest.tables = of.reread.as_ref().map_or(&of.tables, |reread| &reread.tables).clone();
        manifest.queries.clone_from(&of.queries);
        manifest.references.clone_from(&of.references);
        for query in manifest.queries.values_mut() {
            // So does a query know which had given all that it gives once, and lacks it in open files.
            let is_open = query.operators.is_empty() && query.durable_epoch < of.epoch;
            query.durable_epoch = if is_open { epoch.saturating_sub(1) } else { epoch };
        }
        self.publish(&manifest).await?;
        Ok(manifest)
    }

    /// Copies a checkpoint with its files to `other`, where it becomes the newest.
    pub async fn copy_to(&self, manifest: &Manifest, other: &mut Self, epoch: u64, stamp: Stamp) -> Result<Manifest> {
        for file in manifest.files() {
            let content = self.storage.read(&file.name).await?.filter(|content| hex_digest(content) == file.sha256);
            let content = content.ok_or_else(|| {
                Error::corrupt(format!("state file '{}/{}' is missing or damaged", self.storage.place(), file.name))
            })?;
            // An attempt before this one, or an earlier copy, may have written it.
            let is_same = async || {
                let there = other.storage.read(&file.name).await?;
                Ok::<_, Error>(there.is_some_and(|there| hex_digest(&there) == file.sha256))
            };
            if other.storage.create(&file.name, content).await? == Created::Taken && !is_same().await? {
                let error = format!("'{}/{}' is another file", other.storage.place(), file.name);
                return Err(Error::config(error).hint("copy into an empty folder"));
            }
        }
        other
            .rewind(manifest, &format!("checkpoint {} of {}", manifest.number, self.storage.place()), epoch, stamp)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{STAMP, job, piece, storages, store};
    use crate::contracts::ErrorKind;

    #[tokio::test]
    async fn a_paused_run_commits_nothing_behind_one_that_begins_anew_however_often_that_dies() {
        for storage in storages().1 {
            let mut paused = store(&storage, "a");
            for epoch in [7, 8] {
                paused.commit(&job(epoch, vec![piece(epoch, 0..9, &[])]), epoch, STAMP).await.expect("committed");
            }
            for (nonce, number) in [("b", 3), ("c", 4)] {
                let mut anew = store(&storage, nonce);
                assert_eq!(anew.take_over(None, 100, STAMP).await.expect("taken over").number, number);
                anew.clear().await.expect("cleared");
                assert_eq!(anew.numbers().await.expect("numbers"), [number]);
                assert!(storage.list("state").await.expect("names").is_empty(), "nobody needs them");
            }
            let error = paused.commit(&job(9, vec![]), 9, STAMP).await.expect_err("fenced");
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
            assert_eq!(paused.numbers().await.expect("numbers"), [4]);
        }
    }

    #[tokio::test]
    async fn a_run_that_is_paused_while_it_begins_anew_removes_nothing_of_its_successor() {
        for storage in storages().1 {
            let rows = |epoch| job(epoch, vec![piece(epoch, 0..9, &[])]);
            store(&storage, "old").commit(&rows(7), 7, STAMP).await.expect("committed");
            let mut paused = store(&storage, "a");
            assert_eq!(paused.take_over(None, 100, STAMP).await.expect("taken over").number, 2);
            // What that one was about to do is done by another one, which goes on.
            let mut successor = store(&storage, "b");
            assert_eq!(successor.take_over(None, 100, STAMP).await.expect("taken over").number, 3);
            successor.clear().await.expect("cleared");
            for epoch in 101..=103 {
                successor.commit(&rows(epoch), epoch, STAMP).await.expect("committed");
            }
            let error = paused.clear().await.expect_err("fenced");
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
            paused.sweep().await.expect("swept");
            assert_eq!(successor.numbers().await.expect("numbers"), [3, 4, 5, 6]);
            for number in 3..=6 {
                let manifest = successor.manifest(number).await.expect("it is there");
                successor.verify(&manifest).await.expect("so are its files");
            }
        }
    }
}
