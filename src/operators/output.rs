//! Rows that an operator or a stage gives in an epoch: in memory, and on the local disk from where they are too many.
//!
//! ```text
//!   closing windows ─► Output ─► [ block │ block │ block │ … ] ─► leaf of the plan above: reads a block at a time
//!                        │         on disk, in order
//!                        ├ a fifth of the memory is not reached: batches, as they came
//!                        └ the reader is a top-N: only the rows that it can need (`top_n.rs`)
//! ```
//!
//! Whatever stands above a window takes the rows as a stream then. What must have all of them (a sort, an aggregation) takes its
//! memory from DataFusion's pool and spills by itself: how such a plan is run stands in `large_plans.rs`. What the root stage gives goes to
//! the sink's writer in the same form.
//!
//! Invariant: rows come out in the order in which they were added, wherever they were meanwhile, so results do not depend on
//! how much memory there is. Without a limit nothing is copied and nothing is counted.
//!
//! What may be in memory is shared by all queries, which close their windows at the same time, and by what waits for their sinks. So rows carry
//! what they have taken of it ([`Room`]) until they go. Whoever sees that all together have too much puts its own on disk; nobody waits.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::physical_plan::ExecutionPlan;

use super::compute::{Compute, StateLimit};
use super::large_windows::needs_partitions;
use super::panes::own_text;
use super::shared_bytes::BytesPart;
use super::stored_rows::{Room, SpilledRows, StoredRows};
use super::top_n::TopN;
use crate::contracts::{Error, ErrorKind, Result, batch_bytes};
use crate::state::{SpillWriter, SpilledFile};

/// Rows of a block: as many as DataFusion's operators have in a batch …
pub(super) const BLOCK_ROWS: usize = 8_192;
/// … but fewer where rows are wide. A sort must have room for a few blocks: 32 of these are the least that plans have
/// (`job/memory.rs`).
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// Rows for a top-N are cut down from this part of what an operator may have in memory on: the sort by which that is done has as much
/// again, twice.
const CUT_PART: usize = 8;
/// A look is taken at what rows really are whenever so much more has come: below that they count for nothing.
const LOOK_PART: usize = 64;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Output {
    /// What is settled: on disk, or given from elsewhere.
    rows: Vec<StoredRows>,
    /// Follows: the file that is being written. Then nothing is held.
    file: Option<SpillWriter>,
    /// Follows: what is in memory.
    held: Vec<RecordBatch>,
    /// Bytes of the first `counted` batches held; of the others, at most how many they can be.
    bytes: usize,
    counted: usize,
    /// So many bytes may be held before a look is taken at what they really are.
    look_above: usize,
    /// … and at what reads them.
    cut_above: usize,
    /// What is taken of the room that all share.
    room: Option<BytesPart>,
    /// More than memory is to have has come.
    spills: bool,
    limit: Option<StateLimit>,
    /// The only plan that reads them, where it is known.
    reader: Option<Arc<dyn ExecutionPlan>>,
    /// Some have been dropped because it is a top-N.
    is_cut: bool,
    /// Nobody wants them.
    drops: bool,
}

impl Output {
    /// None yet. Where they are too many, those go that the plan that reads them cannot need.
    pub(super) fn new(compute: &Compute, reader: Option<&Arc<dyn ExecutionPlan>>) -> Self {
        Self::within(compute.limit.clone(), reader)
    }

    /// The same with a limit of its own.
    pub(super) fn within(limit: Option<StateLimit>, reader: Option<&Arc<dyn ExecutionPlan>>) -> Self {
        Self {
            look_above: limit.as_ref().map_or(0, |limit| limit.output_bytes / LOOK_PART),
            cut_above: limit.as_ref().map_or(0, |limit| limit.output_bytes / CUT_PART),
            room: limit.as_ref().map(|limit| limit.given.part()),
            rows: Vec::new(),
            file: None,
            held: Vec::new(),
            bytes: 0,
            counted: 0,
            spills: false,
            limit,
            reader: reader.cloned(),
            is_cut: false,
            drops: false,
        }
    }

    /// The same of rows that all go to disk, where there is a limit.
    pub(super) fn on_disk(compute: &Compute) -> Self {
        Self { spills: compute.limit.is_some(), ..Self::new(compute, None) }
    }

    /// The same within a limit.
    pub(super) fn all_on_disk(limit: &StateLimit) -> Self {
        Self { spills: true, ..Self::within(Some(limit.clone()), None) }
    }

    /// Of a trial, whose rows nobody wants.
    pub(super) fn nothing() -> Self {
        Self { drops: true, ..Self::within(None, None) }
    }

    /// Adds rows.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn add(&mut self, batch: RecordBatch) -> Result<()> {
        if self.drops {
            return Ok(());
        }
        if self.spills {
            return self.write(&batch);
        }
        let Some(limit) = &self.limit else {
            self.held.push(batch);
            return Ok(());
        };
        let most = limit.output_bytes;
        self.bytes += batch.get_array_memory_size();
        self.held.push(batch);
        if self.bytes <= self.look_above {
            return Ok(());
        }
        let mut all = self.count();
        // A partition that some function needs as a whole must be in memory, whatever others have there.
        let needs_partitions = || self.reader.as_ref().is_some_and(needs_partitions);
        let mut fits = all <= most || (self.bytes <= most && needs_partitions());
        if !fits || self.bytes > self.cut_above {
            if self.cut()? {
                all = self.count();
                // What is hardly fewer would be sorted again with each part that comes.
                self.cut_above = (2 * self.bytes).max(self.cut_above);
                // Others may have all of the room: what a top-N needs is little beside all that would go to disk in its place.
                fits = self.cut_above <= most && (all <= most || self.bytes <= most / CUT_PART / 2);
            } else {
                self.cut_above = usize::MAX;
            }
        }
        if fits {
            self.look_above = self.bytes + most / LOOK_PART;
            return Ok(());
        }
        self.spills = true;
        self.write_held()
    }

    /// Takes a look at how many bytes are held: batches may be parts of one, so only what they show counts. To know that takes a look at
    /// each text. Answers how many there are of all queries.
    fn count(&mut self) -> usize {
        let uncounted = &self.held[self.counted..];
        self.bytes -= uncounted.iter().map(RecordBatch::get_array_memory_size).sum::<usize>();
        self.bytes += uncounted.iter().map(batch_bytes).sum::<usize>();
        self.counted = self.held.len();
        self.room.as_mut().map_or(0, |room| room.set(self.bytes))
    }

    /// Drops what a top-N cannot need, if it is one that reads. A row that makes it fail is found where the plan itself is run, which
    /// is given all of them then.
    fn cut(&mut self) -> Result<bool> {
        let Some(top) = self.reader.as_ref().and_then(TopN::of) else { return Ok(false) };
        let needed = match top.needed(&self.held) {
            Err(error) if error.kind() == ErrorKind::Data => return Ok(false),
            needed => needed?,
        };
        self.held = needed.map(own_text).transpose()?.into_iter().collect();
        (self.bytes, self.counted) = (self.held.iter().map(batch_bytes).sum(), self.held.len());
        self.is_cut = true;
        Ok(true)
    }

    /// Adds batches.
    pub(super) fn extend(&mut self, rows: Vec<RecordBatch>) -> Result<()> {
        rows.into_iter().try_for_each(|batch| self.add(batch))
    }

    /// Adds rows that may be on disk already: then they stay there, unless only few of them are going to be needed.
    pub(super) fn add_stored(&mut self, rows: StoredRows) -> Result<()> {
        match rows {
            StoredRows::Held(batch, _) => self.add(batch),
            StoredRows::Spilled(rows) if self.reader.as_ref().is_some_and(|plan| TopN::of(plan).is_some()) => {
                self.add(rows.load()?)
            }
            StoredRows::Spilled(rows) => {
                // What came before is no more to be in memory than this.
                if self.limit.is_some() {
                    self.write_held()?;
                    self.end_file()?;
                } else {
                    self.rows.extend(self.held.drain(..).map(StoredRows::held));
                }
                self.rows.push(StoredRows::Spilled(rows));
                Ok(())
            }
        }
    }

    fn write_held(&mut self) -> Result<()> {
        (self.bytes, self.counted) = (0, 0);
        self.look_above = self.limit.as_ref().map_or(0, |limit| limit.output_bytes / LOOK_PART);
        let written = std::mem::take(&mut self.held).iter().try_for_each(|batch| self.write(batch));
        if let Some(room) = &mut self.room {
            room.set(0);
        }
        written
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let Some(limit) = &self.limit else { return Err(Error::internal("rows were put on disk without a limit")) };
        let folder = Arc::clone(&limit.folder);
        for block in blocks(batch) {
            let mut file = match self.file.take() {
                Some(file) => file,
                None => folder.file(batch.schema_ref())?,
            };
            let is_full = file.write(&block)?;
            self.file = Some(file);
            if is_full {
                self.end_file()?;
            }
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<()> {
        if let Some(file) = self.file.take() {
            let file: Arc<SpilledFile> = file.finish()?;
            let schema = Arc::clone(file.schema());
            self.rows.extend(SpilledRows::of(&file, &schema).map(StoredRows::Spilled));
        }
        Ok(())
    }

    /// All of them. Batches that are parts of one would each be counted as the whole by the plan that reads them; so where that is
    /// much, they get their own text.
    pub(super) fn finish(mut self) -> Result<Vec<StoredRows>> {
        self.end_file()?;
        if self.is_cut && !self.spills {
            // Memory is short: the plan is not to sort what has come since.
            self.cut()?;
        }
        let Some(limit) = &self.limit else {
            self.rows.extend(self.held.into_iter().map(StoredRows::held));
            return Ok(self.rows);
        };
        let counted: usize = self.held.iter().map(RecordBatch::get_array_memory_size).sum();
        let is_much = counted > limit.output_bytes / 2;
        self.count();
        let room: Room = self.room.map(Arc::new);
        for batch in self.held {
            self.rows.push(StoredRows::Held(if is_much { own_text(batch)? } else { batch }, room.clone()));
        }
        Ok(self.rows)
    }
}

/// A batch in blocks as they are written.
pub(super) fn blocks(batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> + '_ {
    let rows = batch.num_rows();
    let wide = batch_bytes(batch).div_ceil(rows.max(1)).max(1);
    let step = (BLOCK_BYTES / wide).clamp(1, BLOCK_ROWS);
    (0..rows).step_by(step).map(move |from| batch.slice(from, step.min(rows - from)))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, StringViewArray};
    use datafusion::arrow::datatypes::Int64Type;

    use super::super::shared_rows::{ColumnPath, SharedRows};
    use super::super::slot::{Slot, SlotExec};
    use super::super::stored_rows::StoredRows;
    use super::*;
    use crate::state::SpillFolder;

    fn batch(numbers: std::ops::Range<i64>) -> RecordBatch {
        let texts: StringViewArray = numbers.clone().map(|n| Some(format!("a text of some length {n}"))).collect();
        let numbers = Int64Array::from_iter_values(numbers);
        let columns: [(&str, ArrayRef); 2] = [("n", Arc::new(numbers)), ("t", Arc::new(texts))];
        RecordBatch::try_from_iter(columns).expect("a batch")
    }

    fn limit(output_bytes: usize) -> (tempfile::TempDir, StateLimit) {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 32 << 20).expect("created");
        (parent, StateLimit::new(folder, 1 << 30, output_bytes, 1 << 30))
    }

    fn numbers(rows: impl IntoIterator<Item = StoredRows>) -> Vec<i64> {
        let loaded = rows.into_iter().map(|rows| rows.load().expect("read"));
        loaded.flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
    }

    #[test]
    fn what_is_too_much_goes_to_disk_and_comes_back_in_order() {
        let (_parent, limit) = limit(100_000);
        let all = batch(0..20_000);
        let parts = || (0..20_000).step_by(1_000).map(|from| all.slice(from, 1_000));
        // Each part holds the text of all: what it shows is what counts.
        let mut few = Output::within(Some(limit.clone()), None);
        few.extend(parts().take(2).collect()).expect("added");
        let few = few.finish().expect("finished");
        assert!(few.iter().all(|rows| !rows.is_spilled()), "{few:?}");
        assert_eq!(limit.folder.bytes(), (0, 0));

        let mut many = Output::within(Some(limit.clone()), None);
        many.extend(parts().collect()).expect("added");
        let many = many.finish().expect("finished");
        assert!(many.iter().all(StoredRows::is_spilled), "{many:?}");
        assert_eq!(many.iter().map(StoredRows::len).sum::<usize>(), 20_000);
        assert_eq!(numbers(many.clone()), (0..20_000).collect::<Vec<_>>());

        // What comes from disk stays there, between what does not.
        let mut mixed = Output::within(Some(limit.clone()), None);
        mixed.add(batch(90_000..90_010)).expect("added");
        many[..2].iter().for_each(|rows| mixed.add_stored(rows.clone()).expect("added"));
        mixed.add(batch(90_010..90_020)).expect("added");
        let mixed = mixed.finish().expect("finished");
        let first_two = 0..many[..2].iter().map(StoredRows::len).sum::<usize>() as i64;
        let expected: Vec<i64> = (90_000..90_010).chain(first_two).chain(90_010..90_020).collect();
        assert_eq!(numbers(mixed), expected);
        drop(many);
        assert_eq!(limit.folder.bytes().1, 0, "files go with their last reader");
    }

    #[test]
    fn what_all_hold_together_is_within_the_limit_until_it_goes() {
        let (_parent, limit) = limit(1_000_000);
        // Each has 0.3 MB, of which nobody has too much by itself.
        let of_one = || {
            let mut output = Output::within(Some(limit.clone()), None);
            (0..6).for_each(|n| output.add(batch(n * 1_000..(n + 1) * 1_000)).expect("added"));
            output.finish().expect("finished")
        };
        let mut all: Vec<Vec<StoredRows>> = (0..8).map(|_| of_one()).collect();
        let held = |all: &[Vec<StoredRows>]| {
            let batches = all.iter().flatten().filter_map(|rows| match rows {
                StoredRows::Held(batch, _) => Some(batch_bytes(batch)),
                StoredRows::Spilled(_) => None,
            });
            batches.sum::<usize>()
        };
        assert!(held(&all) > 800_000 && held(&all) <= 1_000_000, "{} bytes", held(&all));
        assert_eq!(limit.given.sum(), held(&all));
        for rows in &all {
            assert_eq!(numbers(rows.clone()), (0..6_000).collect::<Vec<_>>());
        }
        // A reader that has a copy of the last of them has its room.
        let copy = all[0].last().cloned().expect("rows");
        all.remove(0);
        assert!(limit.given.sum() > held(&all));
        drop(copy);
        assert_eq!(limit.given.sum(), held(&all));
        assert!(of_one().iter().all(|rows| !rows.is_spilled()), "there is room again");
        drop(all);
        assert_eq!(limit.given.sum(), 0);
    }

    #[test]
    fn blocks_have_a_bound_in_bytes_too() {
        let wide: StringViewArray = (0..100).map(|n| Some(format!("{n:0>50000}"))).collect();
        let wide = RecordBatch::try_from_iter([("t", Arc::new(wide) as ArrayRef)]).expect("a batch");
        assert!(blocks(&wide).all(|block| batch_bytes(&block) <= BLOCK_BYTES));
        assert_eq!(blocks(&wide).map(|block| block.num_rows()).sum::<usize>(), 100);
        assert_eq!(blocks(&batch(0..20_000)).map(|b| b.num_rows()).collect::<Vec<_>>(), [8_192, 8_192, 3_616]);
    }

    #[tokio::test]
    async fn leaves_read_blocks_and_parts_of_them_as_often_as_they_are_asked() {
        let (_parent, limit) = limit(1_000);
        let mut output = Output::within(Some(limit.clone()), None);
        output.extend(vec![batch(0..10_000)]).expect("added");
        let rows: Vec<Arc<SharedRows>> =
            output.finish().expect("finished").into_iter().map(SharedRows::stored).collect();
        assert_eq!(rows.iter().map(|rows| rows.len()).collect::<Vec<_>>(), [8_192, 1_808]);
        let number = rows[1].column(&ColumnPath::column(0)).expect("read");
        assert_eq!(number.as_primitive::<Int64Type>().value(0), 8_192);
        // Two tasks: the first block is cut, and read by both.
        let slot = Slot::stream(batch(0..1).schema(), 2);
        let leaf: Arc<dyn ExecutionPlan> =
            Arc::new(SlotExec::try_new(Arc::clone(&slot), Some(&vec![1, 0])).expect("a leaf"));
        for _ in 0..2 {
            slot.fill_shared(&rows);
            let read = super::super::run_partitions(&leaf, &Compute::new(2)).await.expect("it runs");
            let own = |batch: &RecordBatch| batch.column(1).as_primitive::<Int64Type>().values().to_vec();
            assert_eq!(read.iter().flat_map(own).collect::<Vec<_>>(), (0..10_000).collect::<Vec<_>>());
            assert_eq!(read[0].num_rows(), 5_000);
        }
        assert!(limit.folder.bytes().1 > 0);
        drop((slot, rows));
        assert_eq!(limit.folder.bytes().1, 0);
    }
}
