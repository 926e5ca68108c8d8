//! Versions of reference tables: the rows that epochs have joined with, kept for as long as those epochs may be repeated.
//!
//! ```text
//!  rows of a table ─► digest ─► files below references/, if they are not there ─► the cut of each epoch names the digest
//!                                                                                └► so does the manifest, as of its epoch
//!  killed ─► cuts are repeated: each digest is read from those files, whatever the table's own have become
//! ```
//!
//! A version is *in use* from when it is kept until a checkpoint has every epoch that names it, those included that have to be
//! read once more. Clean-up leaves alone what is in use, and what a manifest names that is kept: a savepoint, an earlier checkpoint.
//!
//! Content is known by its digest, but a name is never given twice: a request to remove an object may arrive long after it was sent
//! and given up, and by then the same content may be in use again. So content that comes back is written under a new name, and
//! as with state files a run removes only names whose number is not above that of its last checkpoint: those of its successor are.
//! What the successor finds it may use without writing it again: the newest manifest and the log behind it name it, so the run before
//! knew it to be in use.
//!
//! This is no store of all versions that a table ever had, and nobody need clean it up by hand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;

use super::checksum::hex_digest;
use super::files::{Packing, decode, encode};
use super::manifest::{Manifest, ManifestReference, StateFile};
use super::ranges::Ranges;
use super::reference_files::{FOLDER, FileName, digest_of, digested, fitted, parts_of, shown_digest, written};
use super::stored_files::put;
use crate::contracts::{Error, LogEntry, Result, Storage, off_the_runtime};

/// Digests by table.
type Versions = BTreeMap<String, String>;

const MEND: &str = "restore the file from a copy, or put the table's own files back as they were then; or give up that the epochs since \
                    the last checkpoint are repeated as they were: `tidemill state rewind STORE latest`, or --fresh where there is none";

/// See the module's description.
#[derive(Debug)]
pub struct ReferenceVersions {
    storage: Arc<dyn Storage>,
    /// Different in every run.
    nonce: String,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Number of the last checkpoint that this run has loaded or committed.
    number: u64,
    /// The versions of all tables, from which epoch on; the first is what a repeated epoch may need at the earliest.
    uses: VecDeque<(u64, Versions)>,
    /// The last version of each table that was kept: no cut may name it yet.
    held: Versions,
    /// Files of versions in use, by digest.
    stored: BTreeMap<String, ManifestReference>,
    /// Names of all files that are there, as far as this run knows.
    files: BTreeSet<String>,
}

impl Known {
    fn is_in_use(&self, digest: &str) -> bool {
        self.uses
            .iter()
            .map(|(_, versions)| versions)
            .chain([&self.held])
            .any(|of| of.values().any(|own| own == digest))
    }

    fn note(&mut self, epoch: u64, versions: &Versions) {
        if self.uses.back().is_none_or(|(_, last)| last != versions) {
            self.uses.push_back((epoch, versions.clone()));
        }
    }
}

impl ReferenceVersions {
    pub(super) fn new(storage: Arc<dyn Storage>, nonce: String) -> Self {
        Self { storage, nonce, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on from a checkpoint: what it names, and what the epochs name that are repeated behind it, is in use.
    pub async fn adopt(&self, manifest: Option<&Manifest>, log: &[LogEntry]) -> Result<()> {
        let files = self.storage.list(FOLDER).await?;
        let mut known = self.known();
        known.files.extend(files);
        if let Some(manifest) = manifest {
            let versions = manifest.references.iter().map(|(table, own)| (table.clone(), own.digest.clone()));
            known.note(manifest.repeats_after(), &versions.collect());
            for own in manifest.references.values() {
                if own.files.iter().all(|file| known.files.contains(&file.name)) {
                    known.stored.insert(own.digest.clone(), own.clone());
                }
            }
        }
        let after = manifest.map_or(0, Manifest::repeats_after);
        for entry in log {
            match entry {
                LogEntry::Cut(cut) if cut.epoch > after => known.note(cut.epoch, &cut.references),
                _ => {}
            }
        }
        Ok(())
    }

    /// What rows would be called.
    pub async fn digest(rows: &RecordBatch) -> Result<String> {
        let parts = parts_of(rows);
        Ok(off_the_runtime(move || digested(&parts)).await??.0)
    }

    /// Keeps the rows that a table has from now on. Answers their digest, which a cut may name.
    ///
    /// Costs their encoding, and a write of them if they are not there; one file after the other, since nobody waits for more than
    /// the next epoch.
    pub async fn keep(&self, table: &str, rows: &RecordBatch) -> Result<String> {
        let parts = parts_of(rows);
        let own = parts.clone();
        let (digest, mut only) = off_the_runtime(move || digested(&own)).await??;
        let names = {
            let mut known = self.known();
            let is_there = known.is_in_use(&digest) && known.stored.contains_key(&digest);
            known.held.insert(table.to_owned(), digest.clone());
            if is_there {
                return Ok(digest);
            }
            // Older files of it may be about to go.
            known.stored.remove(&digest);
            let names = FileName::all(known.number + 1, &self.nonce, &digest, parts.len());
            known.files.extend(names.iter().cloned());
            names
        };
        let mut files = Vec::with_capacity(parts.len());
        for (part, name) in parts.into_iter().zip(names) {
            let encoded = match only.take() {
                Some(encoded) => encoded,
                None => off_the_runtime(move || encode(&part, Packing::Plain)).await??,
            };
            files.push(put(&self.storage, name, encoded, Ranges::default()).await?);
        }
        if digest_of(files.iter().map(|file| file.sha256.as_str())) != digest {
            return Err(Error::internal(format!("reference table '{table}' is written in two ways")));
        }
        let version = ManifestReference { digest: digest.clone(), rows: rows.num_rows() as u64, files };
        self.known().stored.insert(digest.clone(), version);
        Ok(digest)
    }

    /// Says what an epoch that is about to be cut has of each table.
    pub fn note(&self, epoch: u64, versions: &BTreeMap<String, String>) {
        self.known().note(epoch, versions);
    }

    /// The rows of a version in the columns of `schema`, at most `most_bytes` of them; within it `corrupt` when they are not there as they
    /// were.
    ///
    /// # Errors
    /// `unavailable` when the storage does not answer, or there are more; `config` when a column was not kept.
    pub async fn load(
        &self,
        digest: &str,
        schema: &SchemaRef,
        most_bytes: Option<usize>,
    ) -> Result<Result<RecordBatch>> {
        let attempts = {
            let known = self.known();
            let own = known.stored.get(digest).map(|own| own.files.iter().map(|file| file.name.clone()).collect());
            own.into_iter().chain(written(known.files.iter(), digest)).collect::<Vec<_>>()
        };
        let mut wrong = format!("is not in '{}/{FOLDER}'", self.storage.place());
        for names in attempts {
            match self.read(names, digest, most_bytes).await? {
                Ok((rows, version)) => {
                    self.known().stored.insert(digest.to_owned(), version);
                    return fitted(&rows, schema).map(Ok);
                }
                Err(why) => wrong = why,
            }
        }
        // Whoever has the rows may write them once more.
        self.known().stored.remove(digest);
        let shown = shown_digest(digest);
        Ok(Err(Error::corrupt(format!("its version {shown} {wrong}")).hint(MEND)))
    }

    /// Reads files of a version, or says what is wrong with them.
    async fn read(
        &self,
        names: Vec<String>,
        digest: &str,
        most_bytes: Option<usize>,
    ) -> Result<std::result::Result<(RecordBatch, ManifestReference), String>> {
        let place = self.storage.place();
        let (mut contents, mut files, mut bytes) = (Vec::new(), Vec::new(), 0);
        for name in names {
            let Some(content) = self.storage.read(&name).await? else {
                return Ok(Err(format!("lacks its file '{place}/{name}'")));
            };
            bytes += content.len();
            if let Some(most) = most_bytes.filter(|most| bytes > *most) {
                let error = format!("it had more than {} MiB of rows, which do not fit into memory", most >> 20);
                return Err(Error::unavailable(error).of_this_machine().hint("give the job more --memory"));
            }
            contents.push((format!("{place}/{name}"), content.clone()));
            let length = content.len() as u64;
            let sha256 = off_the_runtime(move || hex_digest(&content)).await?;
            files.push(StateFile { name, bytes: length, unpacked: 0, sha256, pieces: Ranges::default() });
        }
        if digest_of(files.iter().map(|file| file.sha256.as_str())) != digest {
            let names: Vec<&str> = contents.iter().map(|(name, _)| name.as_str()).collect();
            return Ok(Err(format!("is damaged: '{}' has not the content that its name says", names.join("', '"))));
        }
        let rows = off_the_runtime(move || {
            let mut batches = Vec::new();
            // Each content goes when its rows are there.
            for (name, content) in contents {
                batches.extend(decode(content, &name)?.into_iter().map(|(_, batch)| batch));
            }
            match &batches[..] {
                [] => Err(Error::internal("a version of a reference table without a file")),
                [only] => Ok(only.clone()),
                [first, ..] => Ok(concat_batches(first.schema_ref(), &batches)?),
            }
        });
        let rows = rows.await??;
        let version = ManifestReference { digest: digest.to_owned(), rows: rows.num_rows() as u64, files };
        Ok(Ok((rows, version)))
    }

    /// The versions that an epoch had, for the manifest of a checkpoint behind it.
    pub(super) fn at(&self, epoch: u64) -> BTreeMap<String, ManifestReference> {
        let known = self.known();
        let uses = known.uses.iter().rev().find(|(from, _)| *from <= epoch);
        let version = |(table, digest): (&String, &String)| Some((table.clone(), known.stored.get(digest)?.clone()));
        uses.map(|(_, versions)| versions.iter().filter_map(version).collect()).unwrap_or_default()
    }

    /// Takes note of the number that this run is at.
    pub(super) fn reached(&self, number: u64) {
        let mut known = self.known();
        known.number = known.number.max(number);
    }

    /// A checkpoint is committed: epochs that it has are not repeated any more.
    pub(super) fn committed(&self, manifest: &Manifest) {
        let mut known = self.known();
        known.number = known.number.max(manifest.number);
        let after = manifest.repeats_after();
        while known.uses.get(1).is_some_and(|(from, _)| *from <= after + 1) {
            known.uses.pop_front();
        }
    }

    /// Files that nobody needs: versions in use do, and manifests those that are `named`. What has gone out of use is written anew when
    /// it comes back, also where its files are still there.
    pub(super) fn needless(&self, number: u64, named: &BTreeSet<String>) -> Vec<String> {
        let mut known = self.known();
        let unused: Vec<String> = known.stored.keys().filter(|digest| !known.is_in_use(digest)).cloned().collect();
        for digest in &unused {
            known.stored.remove(digest);
        }
        // What was written twice is needed once.
        let holds = |name: &str, digest: &str| match known.stored.get(digest) {
            Some(own) => own.files.iter().any(|file| file.name == name),
            None => known.is_in_use(digest),
        };
        let is_needless = |name: &&String| {
            let file = FileName::parse(name);
            file.is_some_and(|file| file.number <= number && !holds(name, file.digest)) && !named.contains(*name)
        };
        known.files.iter().filter(is_needless).cloned().collect()
    }

    /// A file has been removed.
    pub(super) fn removed(&self, name: &str) {
        self.known().files.remove(name);
    }
}
