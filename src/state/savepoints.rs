//! Checkpoints under names, and checkpoints whose content is an earlier one's: rewound, taken over, copied.

use std::collections::BTreeSet;

use super::checkpoints::{CheckpointStore, SAVEPOINTS, STATE, Stamp, savepoint_name};
use super::checksum::hex_digest;
use super::manifest::Manifest;
use super::reference_files::FileName;
use super::saved::{CatchUp, Reread};
use crate::contracts::{Created, Error, ErrorKind, Result};

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
        self.find_savepoint(name).await?.ok_or_else(|| self.no_savepoint(name))
    }

    /// The same, or `None` if there is none.
    pub async fn find_savepoint(&self, name: &str) -> Result<Option<Manifest>> {
        self.read_manifest(&savepoint_name(name)).await
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
        // So they are if another savepoint names them.
        if self.numbers().await?.contains(&manifest.number) || self.is_kept_beside(manifest, name).await? {
            return Ok(());
        }
        self.storage.remove(&savepoint_name(name)).await?;
        Err(Error::unavailable(format!("checkpoint {} was removed meanwhile", manifest.number)).hint("try again"))
    }

    /// Whether there is a savepoint of it that is not called `name`.
    async fn is_kept_beside(&self, manifest: &Manifest, name: &str) -> Result<bool> {
        for other in self.savepoints().await?.into_iter().filter(|other| other != name) {
            match self.read_manifest(&savepoint_name(&other)).await {
                Ok(found) if found.as_ref() == Some(manifest) => return Ok(true),
                // One that is damaged keeps nothing that is known.
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Removes a savepoint, or what else has its name: it need not be readable.
    pub async fn drop_savepoint(&self, name: &str) -> Result<()> {
        if !self.savepoints().await?.iter().any(|known| known == name) {
            return Err(self.no_savepoint(name));
        }
        self.storage.remove(&savepoint_name(name)).await
    }

    /// That there is none of this name.
    pub fn no_savepoint(&self, name: &str) -> Error {
        Error::config(format!("there is no savepoint '{name}' in '{}'", self.storage.place()))
            .hint("`tidemill state list` shows which there are")
    }

    /// Number of the newest checkpoint that there is, readable or not. Who is about to become the one that writes asks for it before, and gives
    /// it to [`take_over`](Self::take_over), [`rewind`](Self::rewind) or [`copy_to`](Self::copy_to): a checkpoint that has come since has the
    /// next number, be it the last one of the run before or the first of a successor, on which nothing of this run's may be put.
    pub async fn newest_number(&self) -> Result<u64> {
        Ok(self.numbers().await?.last().copied().unwrap_or(0))
    }

    /// Commits the content of the newest checkpoint, which has the number `newest`, once more, as this run's: a run before it can commit
    /// nothing any more. Without one, it is an empty checkpoint after `epoch`.
    ///
    /// # Errors
    /// `fenced` when another checkpoint has come since.
    pub async fn take_over(
        &mut self,
        latest: Option<&Manifest>,
        newest: u64,
        epoch: u64,
        stamp: Stamp,
    ) -> Result<Manifest> {
        self.number = newest;
        let mut manifest = self.next_manifest(epoch, epoch, stamp);
        if let Some(latest) = latest {
            (manifest.epoch, manifest.log_after) = (latest.epoch, latest.log_after);
            (manifest.tables, manifest.queries) = (latest.tables.clone(), latest.queries.clone());
            manifest.set_reread(latest.reread.clone());
            manifest.references.clone_from(&latest.references);
        }
        self.publish(&manifest).await?;
        Ok(manifest)
    }

    /// Makes the content of `of` the newest checkpoint, behind the one that has the number `newest`: epochs are counted on from `epoch`, and
    /// nothing of the log is needed.
    ///
    /// # Errors
    /// `fenced` when another checkpoint has come since.
    pub async fn rewind(
        &mut self,
        of: &Manifest,
        from: &str,
        newest: u64,
        epoch: u64,
        stamp: Stamp,
    ) -> Result<Manifest> {
        self.number = newest;
        self.make_next(of, from, epoch, stamp).await
    }

    /// Makes the content of `of` the next checkpoint, as that of an epoch of its own: what sinks let appear of what it has is logged as of
    /// this epoch, and is no remainder of a run before.
    async fn make_next(&mut self, of: &Manifest, from: &str, before: u64, stamp: Stamp) -> Result<Manifest> {
        let epoch = before + 1;
        let mut manifest = self.next_manifest(epoch, before, stamp);
        manifest.from = Some(from.to_owned());
        manifest.tables.clone_from(&of.tables);
        // Records of earlier epochs that files need again are read first, under new numbers, and nobody else is given them.
        let queries: BTreeSet<String> = of.with_open_files().cloned().collect();
        if let Some(reread) = of.reread.as_ref().filter(|_| !queries.is_empty()) {
            let (tables, catch_up) = (reread.tables.clone(), CatchUp { tables: of.tables.clone(), queries });
            let (after_epoch, oldest_ms, catch_up) = (epoch, reread.oldest_ms, Some(catch_up));
            manifest.set_reread(Some(Reread { after_epoch, tables, oldest_ms, catch_up }));
        }
        manifest.queries.clone_from(&of.queries);
        manifest.references.clone_from(&of.references);
        for query in manifest.queries.values_mut() {
            // So does a query know which had given all that it gives once, and lacks it in open files; and what is logged as of this epoch
            // has not appeared before.
            let is_open = query.unwritten.is_some() || (query.operators.is_empty() && query.durable_epoch < of.epoch);
            query.durable_epoch = if is_open { before } else { epoch };
        }
        self.publish(&manifest).await?;
        Ok(manifest)
    }

    /// Copies a checkpoint with its files to `other`, where it becomes the newest, behind the one that has the number `newest`.
    ///
    /// The copies have names of their own, with the number of the checkpoint that is to name them: a run of the job there, which removes what
    /// no manifest names, removes only what has lower ones. If it makes a checkpoint of that number itself, this one is not made.
    ///
    /// # Errors
    /// `fenced` when a run there has made the next checkpoint: the same may be tried again.
    pub async fn copy_to(
        &self,
        manifest: &Manifest,
        other: &mut Self,
        newest: u64,
        epoch: u64,
        stamp: Stamp,
    ) -> Result<Manifest> {
        other.number = newest;
        let mut copy = manifest.clone();
        for file in copy.files_mut() {
            let content = self.storage.read(&file.name).await?.filter(|content| hex_digest(content) == file.sha256);
            let content = content.ok_or_else(|| {
                Error::corrupt(format!("state file '{}/{}' is missing or damaged", self.storage.place(), file.name))
            })?;
            let name = other.name_of_copy(&file.name);
            // An attempt before this one may have written a version of a reference table.
            let is_same = async || {
                let there = other.storage.read(&name).await?;
                Ok::<_, Error>(there.is_some_and(|there| hex_digest(&there) == file.sha256))
            };
            if other.storage.create(&name, content).await? == Created::Taken && !is_same().await? {
                return Err(Error::internal(format!("'{}/{name}' was there already", other.storage.place())));
            }
            file.name = name;
        }
        let from = format!("checkpoint {} of {}", manifest.number, self.storage.place());
        other.make_next(&copy, &from, epoch, stamp).await
    }

    /// What a copy of a file of another store is called.
    fn name_of_copy(&mut self, name: &str) -> String {
        let number = self.number + 1;
        match FileName::parse(name) {
            Some(version) => version.with(number, &self.nonce),
            None => {
                self.named += 1;
                format!("{STATE}/{number}-{}-{}.arrow", self.nonce, self.named - 1)
            }
        }
    }
}

#[cfg(test)]
#[path = "savepoints_tests.rs"]
mod tests;
