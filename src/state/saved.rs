//! What a checkpoint holds, as the runtime knows it: positions and time of tables, state of operators.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::BooleanBuffer;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use super::spill::SpilledFile;
use crate::contracts::{Position, Result, SourceProgress, SplitId, SplitProgress, Watermark, batch_bytes};

/// State of a job between two epochs.
#[derive(Debug, Clone, Default)]
pub struct SavedJob {
    /// The last epoch that is in it.
    pub epoch: u64,
    /// By source table.
    pub tables: BTreeMap<String, SavedTable>,
    /// By query.
    pub queries: BTreeMap<String, SavedQuery>,
    /// Where reading begins again, when a query needs records of epochs before `epoch` once more; `None` when it goes on
    /// behind `epoch`.
    pub reread: Option<Reread>,
}

impl SavedJob {
    /// Takes where reading begins.
    pub fn take_reread(&mut self) -> Reread {
        let after_epoch = self.epoch;
        self.reread.take().unwrap_or_else(|| Reread {
            after_epoch,
            tables: std::mem::take(&mut self.tables),
            oldest_ms: None,
            catch_up: None,
        })
    }

    /// Positions and time of a table at all points from which it is read.
    pub fn read_from(&self, table: &str) -> impl Iterator<Item = &SavedTable> {
        let first = self.reread.as_ref().map_or(&self.tables, |reread| &reread.tables);
        let second = self.reread.iter().filter_map(|reread| Some(&reread.catch_up.as_ref()?.tables));
        std::iter::once(first).chain(second).filter_map(move |tables| tables.get(table))
    }

    /// The same states as `manifest` says: it names the files that these were loaded from, and may count epochs anew.
    #[must_use]
    pub fn of(mut self, manifest: &Manifest) -> Self {
        for (name, query) in &mut self.queries {
            query.durable_epoch = manifest.queries.get(name).map_or(query.durable_epoch, |of| of.durable_epoch);
        }
        let (epoch, tables, reread) = (manifest.epoch, manifest.tables.clone(), manifest.reread.clone());
        Self { epoch, tables, reread, ..self }
    }

    /// The last epoch that is not repeated by a run that goes on from it.
    pub fn repeats_after(&self) -> u64 {
        Reread::repeats_after(self.reread.as_ref(), self.epoch)
    }
}

/// An earlier point, from which logged epochs are cut again, or new ones when a job has gone back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Reread {
    /// The last epoch that nobody needs again.
    pub after_epoch: u64,
    /// Positions and time of all tables then.
    pub tables: BTreeMap<String, SavedTable>,
    /// Records that arrived before were too old for the first epoch behind it, milliseconds since 1970; those that went on to other epochs
    /// may have grown too old for these, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<i64>,
    /// The job has gone back: what is read from there on is for some queries only, up to where the others stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CatchUp>,
}

/// Which queries catch up with the others, and up to where.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CatchUp {
    /// Positions and time of all tables from which on every query is given their records.
    pub tables: BTreeMap<String, SavedTable>,
    /// Those that are given what comes before: they keep no state, and had rows in open files.
    pub queries: BTreeSet<String>,
}

impl Reread {
    /// The last epoch that is not repeated by a run that goes on from a state as of `epoch`.
    pub(crate) fn repeats_after(reread: Option<&Self>, epoch: u64) -> u64 {
        reread.map_or(epoch, |reread| reread.after_epoch)
    }
}

/// State of a query.
#[derive(Debug, Clone, Default)]
pub struct SavedQuery {
    /// What the query computes, in its normal form.
    pub plan: String,
    /// The source tables that it reads, by their names in [`SavedJob::tables`].
    pub reads: Vec<String>,
    /// A hash of what decides which records are refused; empty in states of earlier versions of the program.
    pub refusal_rules: String,
    /// The last epoch whose rows are durable in its sink.
    pub durable_epoch: u64,
    /// Its operators, each after those that feed it.
    pub operators: Vec<OperatorState>,
    /// Rows that its sink holds in open files, where they cannot be computed again.
    pub unwritten: Option<OperatorState>,
    /// What the sink itself wants to be kept.
    pub sink: Option<String>,
}

/// State of one operator.
#[derive(Debug, Clone, Default)]
pub struct OperatorState {
    /// What the operator computes, in its normal form; another one cannot take this state.
    pub fingerprint: String,
    /// Its event time, in milliseconds; `None` before the first.
    pub watermark: Option<Watermark>,
    /// Its rows.
    pub pieces: Vec<StatePiece>,
}

/// A batch of state rows that never changes, but that its rows may die.
#[derive(Debug, Clone)]
pub struct StatePiece {
    /// Its name within the operator: never given twice, and growing with age.
    pub id: u64,
    /// The rows.
    pub rows: PieceRows,
    /// Which rows are dead, where some are.
    pub dead: Option<BooleanBuffer>,
}

/// The rows of a piece.
#[derive(Debug, Clone)]
pub enum PieceRows {
    /// In memory.
    Held(RecordBatch),
    /// In memory, and more than one batch may have.
    Parts(Arc<[RecordBatch]>),
    /// On disk.
    Spilled(Arc<SpilledFile>),
    /// On disk, a block of a file that has rows of others too.
    Block(Arc<SpilledFile>, usize),
}

impl PieceRows {
    /// How many there are, dead ones included.
    pub fn num_rows(&self) -> usize {
        match self {
            Self::Held(batch) => batch.num_rows(),
            Self::Parts(batches) => batches.iter().map(RecordBatch::num_rows).sum(),
            Self::Spilled(file) => file.num_rows(),
            Self::Block(file, block) => file.block_rows()[*block],
        }
    }

    /// Their schema.
    pub fn schema(&self) -> &SchemaRef {
        match self {
            Self::Held(batch) => batch.schema_ref(),
            // There are several.
            Self::Parts(batches) => batches[0].schema_ref(),
            Self::Spilled(file) | Self::Block(file, _) => file.schema(),
        }
    }

    /// Number of batches that [`Self::for_each`] gives.
    pub(super) fn batches(&self) -> usize {
        match self {
            Self::Held(_) | Self::Block(..) => 1,
            Self::Parts(batches) => batches.len(),
            Self::Spilled(file) => file.block_rows().len(),
        }
    }

    /// Bytes of them, about.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Held(batch) => batch_bytes(batch),
            Self::Parts(batches) => batches.iter().map(batch_bytes).sum(),
            Self::Spilled(file) => usize::try_from(file.bytes()).unwrap_or(usize::MAX),
            Self::Block(file, block) => file.block_bytes()[*block],
        }
    }

    /// The rows, batch by batch, of which one is in memory at a time if they are not there already.
    pub(super) fn for_each(&self, take: &mut impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        self.parts().try_for_each(|batch| take(batch?))
    }

    /// The same: a batch is read when it is asked for.
    pub fn parts(&self) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
        let blocks = |file: &Arc<SpilledFile>, blocks: std::ops::Range<usize>| {
            let (file, mut reader) = (Arc::clone(file), None);
            blocks.map(move |block| {
                let open = match reader.take() {
                    Some(open) => open,
                    None => file.reader()?,
                };
                reader.insert(open).read(block)
            })
        };
        let (held, spilled) = match self {
            Self::Held(batch) => (vec![batch.clone()], None),
            Self::Parts(batches) => (batches.to_vec(), None),
            Self::Spilled(file) => (Vec::new(), Some(blocks(file, 0..file.block_rows().len()))),
            Self::Block(file, block) => (Vec::new(), Some(blocks(file, *block..*block + 1))),
        };
        held.into_iter().map(Ok).chain(spilled.into_iter().flatten())
    }

    /// The same in batches of about `bytes`, where they are on disk. What is one batch in memory stays it.
    pub fn groups(&self, bytes: usize) -> impl Iterator<Item = Result<RecordBatch>> + Send + use<> {
        let mut parts = self.parts();
        let mut next = None;
        std::iter::from_fn(move || {
            let first = match next.take().or_else(|| parts.next())? {
                Ok(first) => first,
                Err(error) => return Some(Err(error)),
            };
            let (mut size, mut group) = (batch_bytes(&first), vec![first]);
            for part in parts.by_ref() {
                let more = part.as_ref().map_or(usize::MAX, batch_bytes);
                size = size.saturating_add(more);
                match part {
                    Ok(part) if size <= bytes => group.push(part),
                    part => {
                        next = Some(part);
                        break;
                    }
                }
            }
            Some(match group.len() {
                1 => Ok(group.remove(0)),
                _ => concat_batches(group[0].schema_ref(), &group).map_err(Into::into),
            })
        })
    }

    /// Whether [`Self::groups`] of so many bytes may be several.
    pub fn has_groups(&self, bytes: usize) -> bool {
        match self {
            Self::Held(_) | Self::Block(..) => false,
            Self::Parts(_) => true,
            Self::Spilled(file) => file.block_bytes().iter().sum::<usize>() > bytes,
        }
    }

    /// All rows as one batch, read if they are not in memory.
    pub fn load(&self) -> Result<RecordBatch> {
        match self {
            Self::Held(batch) => Ok(batch.clone()),
            _ => Ok(concat_batches(self.schema(), &self.parts().collect::<Result<Vec<_>>>()?)?),
        }
    }
}

impl From<RecordBatch> for PieceRows {
    fn from(batch: RecordBatch) -> Self {
        Self::Held(batch)
    }
}

/// Gives names to pieces.
#[derive(Debug, Clone, Copy, Default)]
pub struct PieceIds {
    last: u64,
}

impl PieceIds {
    /// A name that no other piece has had.
    pub fn take(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Takes note of a restored piece.
    pub fn known(&mut self, id: u64) {
        self.last = self.last.max(id);
    }

    /// Takes note of all that are restored, and puts them in the order of their age.
    pub fn restored(&mut self, pieces: &mut [StatePiece]) {
        pieces.sort_by_key(|piece| piece.id);
        pieces.iter().for_each(|piece| self.known(piece.id));
    }
}

impl OperatorState {
    /// Rows that are not dead.
    pub fn live_rows(&self) -> u64 {
        self.pieces.iter().map(StatePiece::live_rows).sum()
    }
}

impl StatePiece {
    /// Rows that are not dead.
    pub fn live_rows(&self) -> u64 {
        let dead = self.dead.as_ref().map_or(0, BooleanBuffer::count_set_bits);
        (self.rows.num_rows() - dead) as u64
    }
}

/// Positions and time of a source table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedTable {
    /// By split.
    pub splits: BTreeMap<String, SavedSplit>,
    /// Windows up to here have fired whatever the splits say, in milliseconds.
    pub floor: i64,
    /// What the source itself wants to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl SavedTable {
    /// The same as the source knows it.
    pub fn progress(&self) -> SourceProgress {
        let split = |(id, saved): (&String, &SavedSplit)| {
            let (after_exclusive, finished, version) = (saved.position(), saved.finished, saved.version.clone());
            let progress = SplitProgress { after_exclusive, finished, version };
            (SplitId(id.as_str().into()), progress)
        };
        SourceProgress { splits: self.splits.iter().map(split).collect(), state: self.source.clone() }
    }
}

/// Where reading stands in a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedSplit {
    /// Name of the last record that counted; reading resumes after it.
    pub after_exclusive: Option<String>,
    /// Where it has no such record and does not begin with its oldest one: from this time of arrival on, in milliseconds
    /// since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<i64>,
    /// The split's watermark, in milliseconds.
    pub watermark_ms: i64,
    /// Whether the split has ended.
    pub finished: bool,
    /// The version of what is to be read on, where the source can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Since when its source does not name it any more, milliseconds since 1970: it may come back, and is then known for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_ms: Option<i64>,
}

impl SavedSplit {
    /// The position as the source knows it.
    pub fn position(&self) -> Option<Position> {
        self.after_exclusive.as_deref().map(|text| Position(text.into()))
    }
}
