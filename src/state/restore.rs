//! What a checkpoint names is read again: files of all operators side by side, as many as there is room for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::checkpoints::{CheckpointStore, FILES_AT_ONCE, StateKey};
use super::checksum::hex_digest;
use super::files::{RESTORE, decode, parse_dead_rows};
use super::increments::KeptFile;
use super::loaded_pieces::LoadedPieces;
use super::manifest::{Manifest, ManifestOperator, ManifestQuery, StateFile};
use super::saved::{OperatorState, SavedJob, SavedQuery, StatePiece};
use crate::contracts::{Error, Result, Watermark, off_the_runtime};

/// Operators that are loaded side by side. Their files share the [`Room`].
const OPERATORS_AT_ONCE: usize = 8;

/// Files of the usual size that there is room for. Each is in memory twice, as bytes and as rows; with a limit of memory, a file has a
/// 32nd of that: a quarter of it all in all, at a time when nothing but loaded rows needs any.
const ROOM_OF_FILES: usize = 2 * FILES_AT_ONCE;

/// Room for files that are being read, whoever reads them.
struct Room {
    free: Arc<Semaphore>,
    kibibytes: u32,
}

impl Room {
    fn new(bytes: usize) -> Self {
        let kibibytes = u32::try_from(bytes / 1_024).unwrap_or(u32::MAX >> 3).max(1);
        Self { free: Arc::new(Semaphore::new(kibibytes as usize)), kibibytes }
    }

    /// Waits until a file may be read, the first one first: no file that comes later in its operator can have the room of one before it.
    async fn of(&self, file: &StateFile) -> Result<OwnedSemaphorePermit> {
        let bytes = file.bytes.saturating_add(file.unpacked_bytes());
        let kibibytes = u32::try_from(bytes / 1_024).unwrap_or(u32::MAX).clamp(1, self.kibibytes);
        let room = Arc::clone(&self.free).acquire_many_owned(kibibytes).await;
        room.map_err(|e| Error::internal("there is no room to read state any more").caused_by(e))
    }
}

/// An operator's state, and the files that it is in.
struct Loaded {
    key: StateKey,
    state: OperatorState,
    kept: Vec<KeptFile>,
    dead: Option<StateFile>,
}

impl CheckpointStore {
    /// Everything that a manifest names, and takes it as what is stored: the next checkpoint writes what is new since.
    ///
    /// # Errors
    /// `corrupt` where a file is missing or not what was written, with its name.
    pub async fn load(&mut self, manifest: &Manifest) -> Result<SavedJob> {
        self.number = self.number.max(manifest.number);
        self.references.reached(self.number);
        let room = self.room();
        let loads = manifest.queries.iter().flat_map(|(name, query)| states(name, query));
        let loads: Vec<_> = loads.map(|(key, operator)| self.load_operator(&room, key, operator).boxed()).collect();
        let mut loaded = HashMap::new();
        let mut loads = futures::stream::iter(loads).buffered(OPERATORS_AT_ONCE);
        let (mut stored, mut dead) = (HashMap::new(), HashMap::new());
        while let Some(operator) = loads.try_next().await? {
            if let Some(file) = operator.dead {
                dead.insert(operator.key.clone(), file);
            }
            stored.insert(operator.key.clone(), operator.kept);
            loaded.insert(operator.key, operator.state);
        }
        drop(loads);
        self.stored.extend(stored);
        self.dead.extend(dead);
        let mut queries = BTreeMap::new();
        for (name, query) in &manifest.queries {
            let missing = || Error::internal(format!("state of query '{name}' was not loaded"));
            let mut of = |index| loaded.remove(&(name.clone(), index)).ok_or_else(missing);
            let operators = (0..query.operators.len()).map(|index| of(Some(index))).collect::<Result<Vec<_>>>()?;
            let unwritten = query.unwritten.as_ref().map(|_| of(None)).transpose()?;
            let (plan, reads, refusal_rules) = (query.plan.clone(), query.reads.clone(), query.refusal_rules.clone());
            let (durable_epoch, sink) = (query.durable_epoch, query.sink.clone());
            let saved = SavedQuery { plan, reads, refusal_rules, durable_epoch, operators, unwritten, sink };
            queries.insert(name.clone(), saved);
        }
        let (epoch, tables, reread) = (manifest.epoch, manifest.tables.clone(), manifest.reread.clone());
        Ok(SavedJob { epoch, tables, queries, reread })
    }

    /// Reads every state file that a manifest names, and compares it with its checksum.
    ///
    /// # Errors
    /// `corrupt` where one is missing or damaged.
    pub async fn verify(&self, manifest: &Manifest) -> Result<()> {
        let operators = manifest.queries.values().flat_map(ManifestQuery::states);
        self.verify_files(operators.flat_map(ManifestOperator::all_files)).await
    }

    /// The same, with the files of reference tables: all that a copy has.
    ///
    /// # Errors
    /// `corrupt` where one is missing or damaged.
    pub async fn verify_all(&self, manifest: &Manifest) -> Result<()> {
        self.verify_files(manifest.files()).await
    }

    async fn verify_files(&self, files: impl Iterator<Item = &StateFile>) -> Result<()> {
        let room = self.room();
        let files = files.map(async |file| {
            let _room = room.of(file).await?;
            self.read_intact(file, |_| ()).await
        });
        let files: Vec<_> = files.collect();
        futures::stream::iter(files).buffered(FILES_AT_ONCE).try_collect::<()>().await
    }

    /// Gives the rows of an operator that are not dead to `take`, a batch after the other: one file is in memory at a time.
    ///
    /// # Errors
    /// `corrupt` where a file is missing or not what was written; that may be seen after rows have been given.
    pub async fn for_each_live(
        &self,
        operator: &ManifestOperator,
        take: &mut (dyn FnMut(RecordBatch) -> Result<()> + Send),
    ) -> Result<()> {
        let dead = self.dead_rows(operator).await?;
        // A large piece lies in several files, or batches.
        let mut seen: HashMap<u64, usize> = HashMap::new();
        let mut live = 0;
        for file in &operator.files {
            let batches = self.read_file(file).await?.into_iter();
            for (id, batch) in batches.filter(|(id, _)| file.pieces.contains(*id)) {
                let from = seen.entry(id).or_default();
                let rows = match dead.get(&id) {
                    Some(dead) if *from + batch.num_rows() > dead.len() => {
                        return Err(others_dead(id, *from + batch.num_rows()));
                    }
                    Some(dead) => {
                        filter_record_batch(&batch, &BooleanArray::from(!&dead.slice(*from, batch.num_rows())))?
                    }
                    None => batch.clone(),
                };
                *from += batch.num_rows();
                live += rows.num_rows() as u64;
                take(rows)?;
            }
        }
        match dead.iter().find(|(id, dead)| seen.get(id).is_some_and(|rows| *rows != dead.len())) {
            Some((id, _)) => Err(others_dead(*id, seen[id])),
            None => rows_as_said(live, operator),
        }
    }

    async fn dead_rows(&self, operator: &ManifestOperator) -> Result<HashMap<u64, BooleanBuffer>> {
        match &operator.dead {
            Some(file) => parse_dead_rows(&self.read_file(file).await?, &file.name),
            None => Ok(HashMap::new()),
        }
    }

    fn room(&self) -> Room {
        Room::new(ROOM_OF_FILES * self.file_bytes())
    }

    async fn load_operator(&self, room: &Room, key: StateKey, operator: &ManifestOperator) -> Result<Loaded> {
        let context = format!("state of query '{}'", key.0);
        let loaded = self.load_pieces(room, operator).await;
        let (state, kept) = loaded.map_err(|e| e.context(context))?;
        Ok(Loaded { key, state, kept, dead: operator.dead.clone() })
    }

    async fn load_pieces(&self, room: &Room, operator: &ManifestOperator) -> Result<(OperatorState, Vec<KeptFile>)> {
        let mut dead = match &operator.dead {
            Some(file) => {
                let _room = room.of(file).await?;
                self.dead_rows(operator).await?
            }
            None => HashMap::new(),
        };
        let read = async |file: &StateFile| {
            let room = room.of(file).await?;
            Ok::<_, Error>((room, self.read_file(file).await?))
        };
        let reads: Vec<_> = operator.files.iter().map(read).collect();
        let mut reads = futures::stream::iter(reads).buffered(FILES_AT_ONCE);
        let (mut kept, mut loading) = (Vec::new(), LoadedPieces::new(self.spill.as_ref(), &self.held));
        for file in &operator.files {
            let Some((_room, batches)) = reads.try_next().await? else { break };
            let all = batches.iter().map(|(_, batch)| batch.num_rows()).sum();
            let mut rows = Vec::new();
            for (id, batch) in batches.into_iter().filter(|(id, _)| file.pieces.contains(*id)) {
                rows.push((id, batch.num_rows()));
                loading.add(id, batch)?;
            }
            kept.push(KeptFile { file: file.clone(), batches: rows, rows: all });
        }
        drop(reads);
        let loaded = loading.finish()?;
        let mut pieces = Vec::with_capacity(loaded.len());
        for (id, rows) in loaded {
            let dead = dead.remove(&id);
            if dead.as_ref().is_some_and(|dead| dead.len() != rows.num_rows()) {
                return Err(others_dead(id, rows.num_rows()));
            }
            pieces.push(StatePiece { id, rows, dead });
        }
        let watermark = operator.watermark_ms.map(Watermark);
        let state = OperatorState { fingerprint: operator.fingerprint.clone(), watermark, pieces };
        rows_as_said(state.live_rows(), operator)?;
        Ok((state, kept))
    }

    async fn read_file(&self, file: &StateFile) -> Result<Vec<(u64, RecordBatch)>> {
        let shown = self.shown(file);
        self.read_intact(file, move |content| decode(content, &shown)).await?
    }

    fn shown(&self, file: &StateFile) -> String {
        format!("{}/{}", self.storage.place(), file.name)
    }

    /// What `work` makes of a file's bytes, if they are those that were written.
    async fn read_intact<T: Send + 'static>(
        &self,
        file: &StateFile,
        work: impl FnOnce(Bytes) -> T + Send + 'static,
    ) -> Result<T> {
        let damaged = |what: &str| Error::corrupt(format!("state file '{}' {what}", self.shown(file))).hint(RESTORE);
        let content = self.storage.read(&file.name).await?.ok_or_else(|| damaged("is missing"))?;
        let wanted = file.sha256.clone();
        let checked = off_the_runtime(move || (hex_digest(&content) == wanted).then(|| work(content)));
        checked.await?.ok_or_else(|| damaged("is damaged: its checksum is not the one in its manifest"))
    }
}

fn others_dead(piece: u64, rows: usize) -> Error {
    Error::corrupt(format!("piece {piece} has {rows} rows, and others are said to be dead")).hint(RESTORE)
}

fn rows_as_said(live: u64, operator: &ManifestOperator) -> Result<()> {
    match operator.rows {
        said if said == live => Ok(()),
        said => Err(Error::corrupt(format!("there are {live} rows, the manifest says {said}")).hint(RESTORE)),
    }
}

/// The states of a query, and where each belongs.
fn states<'a>(name: &'a str, query: &'a ManifestQuery) -> impl Iterator<Item = (StateKey, &'a ManifestOperator)> {
    let operators = query.operators.iter().enumerate().map(|(index, operator)| (Some(index), operator));
    operators
        .chain(query.unwritten.iter().map(|operator| (None, operator)))
        .map(move |(index, operator)| ((name.to_owned(), index), operator))
}
