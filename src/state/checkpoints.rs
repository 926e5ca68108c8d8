//! The checkpoints of a job: manifests and state files in a [`Storage`].
//!
//! ```text
//!   manifests/0000000012.json     one for each checkpoint that is kept; created, never changed
//!   savepoints/<name>.json        copies of manifests that clean-up leaves alone
//!   state/<number>-<nonce>-….arrow    rows, named by the manifests
//!   references/<number>-….arrow   versions of reference tables, named by manifests and by the epoch log
//!   log/…                         the epoch log, where it is kept in objects
//! ```
//!
//! State files are written first, then the manifest is created under the next number. Of two runs that want the same
//! number, one gets it; the other is [`Fenced`](ErrorKind::Fenced). A number is given once although old manifests are
//! removed: after creating one, a run looks whether there are higher ones.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};

use super::files::{Packing, STATE_FILE_BYTES, arrange, dead_rows, encode};
use super::increments::{KeptFile, increment};
use super::manifest::{MANIFEST_VERSION, Manifest, ManifestOperator, ManifestQuery, StateFile};
use super::reference_versions::ReferenceVersions;
use super::saved::{OperatorState, SavedJob};
use super::spill_folder::SpillFolder;
use super::stored_files::{put, write_file};
use crate::contracts::{Created, Error, ErrorKind, Result, Storage, crash_point};

/// Files that are read or written side by side.
pub(super) const FILES_AT_ONCE: usize = 4;
/// Checkpoints that are kept beside savepoints.
pub const DEFAULT_KEPT: usize = 3;
/// Looks for the newest checkpoint, while a run makes others and removes it.
const LOOKS: usize = 5;
pub(super) const MANIFESTS: &str = "manifests";
pub(super) const SAVEPOINTS: &str = "savepoints";
pub(super) const STATE: &str = "state";

/// What a checkpoint has cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// Its number.
    pub number: u64,
    /// Bytes that it has written, the manifest included.
    pub written_bytes: u64,
    /// Bytes of all files that it names.
    pub total_bytes: u64,
}

/// Who writes a checkpoint, and when.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Number of the run.
    pub generation: u64,
    /// Now, in milliseconds since 1970.
    pub time_ms: i64,
}

/// See the module's description.
#[derive(Debug)]
pub struct CheckpointStore {
    pub(super) storage: Arc<dyn Storage>,
    /// Different in every run.
    pub(super) nonce: String,
    pub(super) kept: usize,
    /// Number of the last checkpoint that this run has loaded or committed.
    pub(super) number: u64,
    /// State files of the last checkpoint, by query and number of the operator; `None` is what its sink has not written.
    pub(super) stored: HashMap<StateKey, Vec<KeptFile>>,
    pub(super) dead: HashMap<StateKey, StateFile>,
    /// Files that this run has named.
    pub(super) named: u64,
    /// Where rows go that are loaded beyond so many bytes.
    pub(super) spill: Option<(Arc<SpillFolder>, usize)>,
    pub(super) held: AtomicUsize,
    pub(super) references: Arc<ReferenceVersions>,
    /// It has been said that nothing can be cleaned up.
    pub(super) told: AtomicBool,
}

/// Query, and number of the operator.
pub(super) type StateKey = (String, Option<usize>);

impl CheckpointStore {
    /// Checkpoints in `storage`. `nonce` must differ from that of every other run; `kept` checkpoints are kept.
    pub fn new(storage: Arc<dyn Storage>, nonce: impl Into<String>, kept: usize) -> Self {
        let (stored, dead) = (HashMap::new(), HashMap::new());
        let (nonce, kept) = (nonce.into(), kept.max(1));
        let references = Arc::new(ReferenceVersions::new(Arc::clone(&storage), nonce.clone()));
        let (held, told) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { storage, nonce, kept, number: 0, stored, dead, named: 0, spill: None, held, references, told }
    }

    /// Of what is loaded, keeps up to `bytes` in memory and the rest in `folder`.
    #[must_use]
    pub fn spilling(mut self, folder: Arc<SpillFolder>, bytes: usize) -> Self {
        self.spill = Some((folder, bytes));
        self
    }

    /// Where they are kept.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The reference tables as epochs have had them.
    pub fn references(&self) -> &Arc<ReferenceVersions> {
        &self.references
    }

    /// Numbers of the checkpoints, growing.
    pub async fn numbers(&self) -> Result<Vec<u64>> {
        let names = self.storage.list(MANIFESTS).await?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The manifest of a checkpoint.
    pub async fn manifest(&self, number: u64) -> Result<Manifest> {
        self.find_manifest(number).await?.ok_or_else(|| self.no_checkpoint(number))
    }

    /// That there is none of this number.
    pub fn no_checkpoint(&self, number: u64) -> Error {
        Error::config(format!("there is no checkpoint {number} in '{}'", self.storage.place()))
            .hint("`tidemill state list` shows which there are")
    }

    /// The same, or `None` if there is none.
    pub async fn find_manifest(&self, number: u64) -> Result<Option<Manifest>> {
        self.read_manifest(&manifest_name(number)).await
    }

    /// The newest manifest.
    pub async fn latest(&self) -> Result<Option<Manifest>> {
        for _ in 0..LOOKS {
            let Some(number) = self.numbers().await?.pop() else { return Ok(None) };
            let manifest = self.read_manifest(&manifest_name(number)).await?;
            if manifest.is_some() {
                return Ok(manifest);
            }
            // A run that keeps few has removed it since: there is a newer one.
        }
        let place = self.storage.place();
        Err(Error::unavailable(format!("the newest checkpoint in '{place}' is removed whenever it is read"))
            .hint("try again"))
    }

    pub(super) async fn read_manifest(&self, name: &str) -> Result<Option<Manifest>> {
        let shown = format!("{}/{name}", self.storage.place());
        self.storage.read(name).await?.map(|text| Manifest::parse(&text, &shown)).transpose()
    }

    /// Of files that are written side by side, each is in memory as bytes: together they may have an eighth of what loaded rows may have.
    fn files_at_once(&self) -> usize {
        let fits = |most: usize| most / (8 * self.file_bytes());
        self.spill.as_ref().map_or(FILES_AT_ONCE, |(_, most)| fits(*most).clamp(1, FILES_AT_ONCE))
    }

    /// Bytes of state in a file.
    pub(super) fn file_bytes(&self) -> usize {
        self.spill.as_ref().map_or(STATE_FILE_BYTES, |(folder, _)| folder.file_bytes())
    }

    /// Writes a checkpoint under the next number. `log_after` is the epoch up to which the log is not needed any more.
    ///
    /// # Errors
    /// `fenced` when another run has gone on from the same checkpoint; `unavailable` when the storage does not answer: then
    /// the same may be tried again.
    pub async fn commit(&mut self, job: &SavedJob, log_after: u64, stamp: Stamp) -> Result<Committed> {
        let mut manifest = self.next_manifest(job.epoch, log_after, stamp);
        manifest.tables.clone_from(&job.tables);
        manifest.set_reread(job.reread.clone());
        manifest.references = self.references.at(job.epoch);
        let (mut stored, mut dead, mut written_bytes) = (HashMap::new(), HashMap::new(), 0);
        for (name, query) in &job.queries {
            let mut written = ManifestQuery {
                plan: query.plan.clone(),
                in_full: true,
                reads: query.reads.clone(),
                refusal_rules: query.refusal_rules.clone(),
                durable_epoch: query.durable_epoch,
                operators: Vec::new(),
                unwritten: None,
                sink: query.sink.clone(),
            };
            let states = query.operators.iter().enumerate().map(|(index, state)| (Some(index), state));
            for (index, state) in states.chain(query.unwritten.iter().map(|state| (None, state))) {
                let key = (name.clone(), index);
                let (operator, kept, bytes) = self.write_operator(&key, state, manifest.number).await?;
                written_bytes += bytes;
                if let Some(file) = &operator.dead {
                    dead.insert(key.clone(), file.clone());
                }
                stored.insert(key, kept);
                match index {
                    Some(_) => written.operators.push(operator),
                    None => written.unwritten = Some(operator),
                }
            }
            manifest.queries.insert(name.clone(), written);
        }
        written_bytes += self.publish(&manifest).await?;
        (self.stored, self.dead) = (stored, dead);
        Ok(Committed { number: manifest.number, written_bytes, total_bytes: manifest.bytes() })
    }

    /// A manifest with the next number and nothing in it.
    pub(super) fn next_manifest(&self, epoch: u64, log_after: u64, stamp: Stamp) -> Manifest {
        Manifest {
            version: MANIFEST_VERSION,
            program: format!("tidemill {}", env!("CARGO_PKG_VERSION")),
            number: self.number + 1,
            nonce: self.nonce.clone(),
            generation: stamp.generation,
            time_ms: stamp.time_ms,
            epoch,
            log_after,
            from: None,
            tables: BTreeMap::new(),
            reread: None,
            references: BTreeMap::new(),
            queries: BTreeMap::new(),
        }
    }

    /// Writes what is new of an operator's state. Answers what the manifest says of it, and bytes written.
    async fn write_operator(
        &mut self,
        key: &StateKey,
        state: &OperatorState,
        number: u64,
    ) -> Result<(ManifestOperator, Vec<KeptFile>, u64)> {
        let before = self.stored.get(key).map(Vec::as_slice).unwrap_or_default();
        let increment = increment(before, &state.pieces, self.file_bytes());
        let (mut kept, mut bytes) = (increment.kept, 0);
        let pieces = increment.written.into_iter().map(|piece| (piece.id, piece.rows)).collect();
        let (at_once, file_bytes) = (self.files_at_once(), self.file_bytes());
        let mut names = |count: usize| -> Vec<String> {
            let first = self.named;
            self.named += count as u64;
            (first..self.named).map(|n| format!("{STATE}/{number}-{}-{n}.arrow", self.nonce)).collect()
        };
        let files = arrange(pieces, file_bytes);
        let names_of_files = names(files.len());
        let writes = files.into_iter().zip(names_of_files);
        let writes: Vec<_> = writes.map(|(batches, name)| write_file(&self.storage, name, batches).boxed()).collect();
        let written: Vec<KeptFile> = futures::stream::iter(writes).buffered(at_once).try_collect().await?;
        bytes += written.iter().map(|file| file.file.bytes).sum::<u64>();
        kept.extend(written);
        let with_dead: Vec<(u64, &arrow::buffer::BooleanBuffer)> =
            state.pieces.iter().filter_map(|piece| Some((piece.id, piece.dead.as_ref()?))).collect();
        let dead = if with_dead.is_empty() {
            None
        } else {
            let encoded = encode(&[(0, dead_rows(&with_dead)?.into())], Packing::Lz4)?;
            match self.dead.get(key) {
                Some(same) if same.sha256 == encoded.sha256 => Some(same.clone()),
                _ => {
                    let name = names(1).remove(0);
                    bytes += encoded.content.len() as u64;
                    Some(put(&self.storage, name, encoded, Default::default()).await?)
                }
            }
        };
        let operator = ManifestOperator {
            fingerprint: state.fingerprint.clone(),
            watermark_ms: state.watermark.map(|watermark| watermark.0),
            rows: state.live_rows(),
            files: kept.iter().map(|kept| kept.file.clone()).collect(),
            dead,
        };
        Ok((operator, kept, bytes))
    }

    /// Creates the manifest, which makes it the newest checkpoint. Answers its length.
    pub(super) async fn publish(&mut self, manifest: &Manifest) -> Result<u64> {
        let (name, text) = (manifest_name(manifest.number), Bytes::from(manifest.text()?));
        let bytes = text.len() as u64;
        crash_point("manifest.before");
        let created = self.storage.create(&name, text).await?;
        crash_point("manifest.after");
        if created == Created::Taken {
            let other = self.read_manifest(&name).await;
            if let Ok(Some(own)) = &other
                && own.nonce == self.nonce
            {
                // An attempt of this run whose answer was lost has taken the number.
                self.number = own.number;
                self.references.reached(own.number);
                let again = Error::unavailable(format!("checkpoint {} was written twice", own.number));
                return Err(again.hint("the next one goes on from there"));
            }
            return Err(fenced(&self.storage.place(), manifest.number, other.ok().flatten().as_ref()));
        }
        // The number is taken, whatever comes of the look: who tries again takes the next one.
        self.number = manifest.number;
        self.references.reached(manifest.number);
        // It was free because it has been removed again: the job has gone on without this run.
        if self.numbers().await?.last().is_some_and(|newest| *newest > manifest.number) {
            self.storage.remove(&name).await?;
            let newest = self.latest().await.ok().flatten();
            return Err(fenced(&self.storage.place(), manifest.number, newest.as_ref()));
        }
        self.references.committed(manifest);
        Ok(bytes)
    }

    /// Forgets all checkpoints before the one that this run has committed last, or all where it has none, which a lock must then keep
    /// for it alone; savepoints stay. Numbers are counted on.
    ///
    /// # Errors
    /// `fenced` when another run has gone on from this one's: what is there is that run's.
    pub async fn clear(&mut self) -> Result<()> {
        let (own, mut numbers) = (self.number, self.numbers().await?);
        let newest = numbers.last().copied().unwrap_or(0);
        if own == 0 {
            // A run that was killed while it did this may have left files of which the manifests are gone; with lower numbers they would stay.
            self.number = newest.max(self.highest_number_of_files().await?);
            self.references.reached(self.number);
        } else if newest > own {
            let other = self.latest().await.ok().flatten();
            return Err(fenced(&self.storage.place(), own + 1, other.as_ref()));
        } else {
            numbers.retain(|number| *number < own);
        }
        for number in numbers {
            self.storage.remove(&manifest_name(number)).await?;
        }
        self.sweep().await?;
        (self.stored, self.dead) = (HashMap::new(), HashMap::new());
        Ok(())
    }
}

fn fenced(place: &str, number: u64, other: Option<&Manifest>) -> Error {
    let who = other
        .map_or_else(String::new, |other| format!(" (run {} is at checkpoint {})", other.generation, other.number));
    Error::new(
        ErrorKind::Fenced,
        format!("another run has taken over: checkpoint {number} in '{place}' is not this run's{who}"),
    )
    .hint("stop one of the two, or give them different names: SET 'pipeline.name' = '…'")
}

pub(super) fn manifest_name(number: u64) -> String {
    format!("{MANIFESTS}/{number:010}.json")
}

pub(super) fn savepoint_name(name: &str) -> String {
    format!("{SAVEPOINTS}/{name}.json")
}

pub(super) fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix(MANIFESTS)?.strip_prefix('/')?.strip_suffix(".json")?.parse().ok()
}
