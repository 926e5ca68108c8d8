//! One epoch on its way through a query: stages are run over what tables and operators give.

use std::sync::Arc;

use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use super::bisect::{Poison, run_sound};
use super::compute::{Compute, failure, is_exhausted, run_into, run_partitions};
use super::event_time::EventTime;
use super::gate::GateReport;
use super::graph::{EpochInputs, Operator, QueryOutput, SlotSource, Stage, StageInput, fill_reference};
use super::large_plans::LargeRun;
use super::output::{BLOCK_BYTES, BLOCK_ROWS, Output};
use super::shared_rows::SharedRows;
use super::stored_rows::StoredRows;
use crate::contracts::{ErrorKind, Result};

/// An epoch on its way through a query.
pub(super) struct EpochRun<'a> {
    pub(super) epoch: &'a EpochInputs,
    pub(super) compute: &'a Compute,
    pub(super) report: &'a GateReport,
    pub(super) poison: Poison,
    /// Rows of each operator so far, and how far it has come.
    pub(super) outputs: Vec<(Vec<StoredRows>, EventTime)>,
    /// What stages have given already: those of the operators, then the root.
    pub(super) ready: Vec<Option<Vec<StoredRows>>>,
    pub(super) output: QueryOutput,
}

impl EpochRun<'_> {
    /// How far what a stage reads has come.
    pub(super) fn time_of(&self, stage: &Stage) -> EventTime {
        let time = |input: &StageInput| match input.source {
            SlotSource::Table(table) => {
                Some(EventTime::of_table(self.epoch.watermarks[table], self.epoch.standings.get(table)))
            }
            SlotSource::Operator(operator) => Some(self.outputs[operator].1),
            SlotSource::Reference(_) => None,
        };
        EventTime::of_stage(&stage.inputs.iter().filter_map(time).collect::<Vec<_>>())
    }

    /// The rows of the epoch for one input of a stage.
    fn given(&self, input: &StageInput) -> Result<Vec<Arc<SharedRows>>> {
        match input.source {
            SlotSource::Table(table) => Ok(self.epoch.tables[table].under(input.slot.test())?.to_vec()),
            SlotSource::Operator(operator) => {
                Ok(self.outputs[operator].0.iter().cloned().map(SharedRows::stored).collect())
            }
            SlotSource::Reference(_) => Ok(Vec::new()),
        }
    }

    /// Lets rows of operators go that no stage after this one reads; `last` are those that read each for the last time.
    pub(super) fn forget(&mut self, stage: usize, last: &[usize]) {
        for ((rows, _), _) in self.outputs.iter_mut().zip(last).filter(|(_, last)| **last <= stage) {
            *rows = Vec::new();
        }
    }

    /// Runs a stage, unless it has been run. Rows that make it fail are left out.
    pub(super) async fn stage(&mut self, number: usize, stage: &mut Stage) -> Result<Vec<StoredRows>> {
        if let Some(ready) = self.ready[number].take() {
            return Ok(ready);
        }
        for number in 0..stage.inputs.len() {
            fill_reference(stage, number, self.epoch)?;
        }
        let Filled { any, spilled } = self.fill(stage)?;
        // Nothing in, nothing out: a stage has no state, and aggregates above it have their own.
        if !any {
            return Ok(Vec::new());
        }
        self.report.keep();
        let mut done = if spilled { self.run_alone(stage).await } else { self.run(stage).await };
        if !spilled && done.as_ref().is_err_and(is_exhausted) {
            // Another plan has had the memory, or the batches are too large.
            self.report.discard();
            self.put_on_disk(stage)?;
            self.fill(stage)?;
            done = self.run_alone(stage).await;
            if done.as_ref().is_err_and(is_exhausted) {
                // A join keeps what came of indexing its reference table, also that there was no memory for it: now there may be.
                self.report.discard();
                stage.plan = reset_plan_states(Arc::clone(&stage.plan)).map_err(failure)?;
                self.fill(stage)?;
                done = self.run_alone(stage).await;
            }
        }
        let error = match done {
            Err(error) if error.kind() == ErrorKind::Data && self.poison.bisects => error,
            done => return done,
        };
        let streamed = stage.inputs.iter().enumerate().filter(|(_, input)| input.is_streamed());
        let rows = streamed.map(|(number, input)| Ok((number, self.given(input)?))).collect::<Result<_>>()?;
        let block_rows = self.block_rows(stage);
        let sound = run_sound(stage, rows, block_rows, self.compute, self.report, self.poison).await?;
        if sound.failed.is_empty() {
            // It has gone by itself, which data do not do.
            tracing::warn!("a failure did not come again: {error}");
        }
        let of_records = stage.inputs.iter().all(|input| !matches!(input.source, SlotSource::Operator(_)));
        let failed = if of_records { &mut self.output.failed } else { &mut self.output.failed_results };
        failed.extend(sound.failed);
        Ok(sound.rows)
    }

    /// Runs a stage that reads no stream, though it may join what it has with reference tables.
    pub(super) async fn still(&self, stage: &mut Stage) -> Result<Vec<StoredRows>> {
        for number in 0..stage.inputs.len() {
            fill_reference(stage, number, self.epoch)?;
        }
        let rows = run_partitions(&stage.plan, self.compute).await?;
        Ok(rows.into_iter().map(StoredRows::held).collect())
    }

    /// Puts the epoch's rows into the slots of a stage.
    fn fill(&self, stage: &Stage) -> Result<Filled> {
        let mut filled = Filled::default();
        for input in stage.inputs.iter().filter(|input| input.is_streamed()) {
            let rows = self.given(input)?;
            filled.any |= rows.iter().any(|rows| !rows.is_empty());
            filled.spilled |= rows.iter().any(|rows| rows.is_spilled());
            input.slot.fill_shared(&rows);
        }
        Ok(filled)
    }

    /// Runs a stage over what its slots have. Rows of a source table are those of an epoch, which is bounded, and so is what a
    /// stage makes of them; what operators give is not.
    async fn run(&self, stage: &Stage) -> Result<Vec<StoredRows>> {
        let _turn = self.compute.turns.read().await;
        if stage.inputs.iter().all(|input| !matches!(input.source, SlotSource::Operator(_))) {
            let rows = run_partitions(&stage.plan, self.compute).await?;
            return Ok(rows.into_iter().map(StoredRows::held).collect());
        }
        let mut given = Output::new(self.compute, None);
        if stage.plan.output_partitioning().partition_count() == 1 {
            run_into(&stage.plan, self.compute, &mut given).await?;
        } else {
            given.extend(run_partitions(&stage.plan, self.compute).await?)?;
        }
        given.finish()
    }

    /// The same over rows on disk.
    async fn run_alone(&self, stage: &Stage) -> Result<Vec<StoredRows>> {
        let run = LargeRun::new(&stage.plan, self.compute, self.block_rows(stage)).await?;
        let mut given = Output::new(self.compute, None);
        run.run_into(&mut given).await?;
        given.finish()
    }

    /// Rows of a batch of a plan over blocks on disk: of the widest that it reads, a block has no more.
    fn block_rows(&self, stage: &Stage) -> usize {
        let mut widest = 1;
        for input in &stage.inputs {
            if let SlotSource::Operator(operator) = input.source {
                let blocks = self.outputs[operator].0.iter().filter(|rows| rows.is_spilled());
                widest = blocks.map(|rows| rows.bytes() / rows.len().max(1)).fold(widest, usize::max);
            }
        }
        (BLOCK_BYTES / widest).clamp(1, BLOCK_ROWS)
    }

    /// Puts what a stage reads of operators on disk.
    fn put_on_disk(&mut self, stage: &Stage) -> Result<()> {
        for input in &stage.inputs {
            if let SlotSource::Operator(operator) = input.source {
                let mut stored = Output::on_disk(self.compute);
                for rows in std::mem::take(&mut self.outputs[operator].0) {
                    stored.add_stored(rows)?;
                }
                self.outputs[operator].0 = stored.finish()?;
            }
        }
        Ok(())
    }
}

/// What the slots of a stage have got.
#[derive(Debug, Default)]
struct Filled {
    /// Rows at all.
    any: bool,
    /// Some of them on disk.
    spilled: bool,
}

/// What reads the output of an operator.
pub(super) enum Reader<'a> {
    /// Another one, by the stage below it.
    Operator(&'a mut Operator),
    /// The stage above all operators.
    Root(&'a mut Stage),
}

impl Reader<'_> {
    /// The stage that reads.
    pub(super) fn stage(&mut self) -> &mut Stage {
        match self {
            Self::Operator(operator) => &mut operator.input,
            Self::Root(stage) => stage,
        }
    }

    /// Its plan.
    pub(super) fn plan(&self) -> &Arc<dyn ExecutionPlan> {
        match self {
            Self::Operator(operator) => &operator.input.plan,
            Self::Root(stage) => &stage.plan,
        }
    }

    /// Passes on what the stage has given for a part of an epoch's rows; answers what must wait for the others.
    pub(super) async fn take(&mut self, rows: Vec<StoredRows>, compute: &Compute) -> Result<Vec<StoredRows>> {
        match self {
            Self::Operator(operator) => operator.kind.take(rows, compute).await,
            Self::Root(_) => Ok(rows),
        }
    }
}

/// For each operator, the last stage that reads what it gives, by number: those of operators, then the root.
pub(super) fn last_readers(operators: &[Operator], root: &Stage) -> Vec<usize> {
    let mut last: Vec<usize> = (0..operators.len()).collect();
    let stages = operators.iter().map(|operator| &operator.input).chain([root]);
    for (number, stage) in stages.enumerate() {
        for input in &stage.inputs {
            if let SlotSource::Operator(operator) = input.source {
                last[operator] = last[operator].max(number);
            }
        }
    }
    last
}

/// The one reader of an operator's output, with the number of its stage, if that reads nothing else of the epoch.
pub(super) fn reader_of<'a>(
    operator: usize,
    above: &'a mut [Operator],
    root: &'a mut Stage,
) -> Option<(usize, Reader<'a>)> {
    let reads =
        |stage: &Stage| stage.inputs.iter().any(|i| matches!(i.source, SlotSource::Operator(o) if o == operator));
    let numbers = operator + 1..;
    let all = above.iter_mut().map(Reader::Operator).chain([Reader::Root(root)]);
    let mut readers: Vec<_> = numbers.zip(all).filter_map(|(n, mut r)| reads(r.stage()).then_some((n, r))).collect();
    let (number, mut reader) = readers.pop().filter(|_| readers.is_empty())?;
    let stage = reader.stage();
    let alone = stage.inputs.iter().filter(|input| input.is_streamed()).count() == 1;
    alone.then_some((number, reader))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
    use datafusion::arrow::datatypes::Int64Type;
    use datafusion::common::{JoinType, NullEquality};
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool};
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::physical_expr::expressions::col;
    use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
    use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
    use datafusion::physical_plan::sorts::sort::SortExec;

    use super::super::compute::StateLimit;
    use super::super::slot::{Slot, SlotExec};
    use super::*;
    use crate::contracts::Watermark;
    use crate::state::SpillFolder;

    #[test]
    fn of_blocks_of_several_widths_the_widest_says_how_many_rows_a_batch_has() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 32 << 20).expect("created");
        let compute = Compute { limit: Some(StateLimit::new(folder, 1 << 20, 8 << 20, 1 << 30)), ..Compute::new(1) };
        let texts = |rows: usize, bytes: usize| {
            let texts: StringViewArray = (0..rows).map(|_| Some("x".repeat(bytes))).collect();
            RecordBatch::try_from_iter([("t", Arc::new(texts) as ArrayRef)]).expect("a batch")
        };
        let (narrow, wide) = (texts(8_192, 4), texts(200, 50_000));
        let slot = Slot::stream(narrow.schema(), 1);
        let leaf = Arc::new(SlotExec::try_new(Arc::clone(&slot), None).expect("a leaf"));
        let stage = Stage { plan: leaf, inputs: vec![StageInput { slot, source: SlotSource::Operator(0) }] };
        let epoch =
            EpochInputs { tables: vec![], watermarks: vec![], standings: vec![], closes: false, references: vec![] };
        let report = GateReport::default();
        for (batches, least, most) in [
            (vec![narrow.clone(), wide.clone()], 15, 21),
            (vec![wide, narrow.clone()], 15, 21),
            // The last block has few rows; that does not count.
            (vec![narrow.clone(), narrow.slice(0, 3)], 8_192, 8_192),
        ] {
            let mut given = Output::on_disk(&compute);
            given.extend(batches).expect("written");
            let run = EpochRun {
                epoch: &epoch,
                compute: &compute,
                report: &report,
                poison: Poison::default(),
                outputs: vec![(given.finish().expect("written"), EventTime::of_table(Watermark::MIN, None))],
                ready: vec![None],
                output: QueryOutput::default(),
            };
            let rows = run.block_rows(&stage);
            assert!((least..=most).contains(&rows), "{rows} rows");
        }
    }

    #[tokio::test]
    async fn a_plan_that_lacks_memory_is_run_again_over_rows_on_disk() {
        let numbers = || (0..4_000_i64).map(|n| n * 7_919 % 4_000);
        let texts: StringViewArray = numbers().map(|n| Some(format!("{n:0>1000}"))).collect();
        let columns: [(&str, ArrayRef); 2] =
            [("n", Arc::new(Int64Array::from_iter_values(numbers()))), ("t", Arc::new(texts))];
        let rows = RecordBatch::try_from_iter(columns).expect("a batch");
        let slot = Slot::stream(rows.schema(), 1);
        let leaf = Arc::new(SlotExec::try_new(Arc::clone(&slot), None).expect("a leaf"));
        let order = PhysicalSortExpr::new_default(col("n", &rows.schema()).expect("a column"));
        let plan = Arc::new(SortExec::new(LexOrdering::new([order]).expect("an order"), leaf));
        let inputs = vec![StageInput { slot, source: SlotSource::Operator(0) }];
        let mut stage = Stage { plan, inputs };

        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 32 << 20).expect("created");
        let limit = StateLimit::new(Arc::clone(&folder), 1 << 20, 8 << 20, 1 << 30);
        let pool = Arc::new(GreedyMemoryPool::new(5 << 20));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc().expect("a runtime");
        let compute = Compute::new(1).within(limit, runtime);
        // The batch has 4 MB, and the sort wants twice that.
        let epoch =
            EpochInputs { tables: vec![], watermarks: vec![], standings: vec![], closes: false, references: vec![] };
        let report = GateReport::default();
        let mut run = EpochRun {
            epoch: &epoch,
            compute: &compute,
            report: &report,
            poison: Poison::default(),
            outputs: vec![(vec![StoredRows::held(rows)], EventTime::of_table(Watermark::MIN, None))],
            ready: vec![None],
            output: QueryOutput::default(),
        };
        run.fill(&stage).expect("filled");
        assert!(is_exhausted(&run.run(&stage).await.expect_err("too much")));
        let sorted = run.stage(0, &mut stage).await.expect("it runs");
        let sorted = sorted.into_iter().flat_map(|rows| {
            let batch = rows.load().expect("read");
            batch.column(0).as_primitive::<Int64Type>().values().to_vec()
        });
        assert_eq!(sorted.collect::<Vec<_>>(), (0..4_000).collect::<Vec<_>>());
        assert!(folder.bytes().0 > 4_000_000, "{:?}", folder.bytes());
    }

    /// A hash join keeps what came of indexing its reference table.
    #[tokio::test]
    async fn a_join_that_had_no_memory_for_its_index_makes_it_when_there_is_some() {
        const ROWS: usize = 2_000;
        let numbers = |name| {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS as i64));
            RecordBatch::try_from_iter([(name, numbers)]).expect("a batch")
        };
        let (table, rows) = (numbers("k"), numbers("n"));
        let (reference, slot) = (Slot::reference(table.schema()), Slot::stream(rows.schema(), 1));
        reference.fill(&[table]);
        let leaf = |slot: &Arc<Slot>| -> Arc<dyn ExecutionPlan> {
            Arc::new(SlotExec::try_new(Arc::clone(slot), None).expect("a leaf"))
        };
        let (left, right) = (leaf(&reference), leaf(&slot));
        let key = |name, side: &Arc<dyn ExecutionPlan>| col(name, &side.schema()).expect("a column");
        let on = vec![(key("k", &left), key("n", &right))];
        let (kind, mode, nulls) = (JoinType::Inner, PartitionMode::CollectLeft, NullEquality::NullEqualsNothing);
        let join = HashJoinExec::try_new(left, right, on, None, &kind, None, mode, nulls, false).expect("a join");
        let sources = [SlotSource::Reference(0), SlotSource::Operator(0)];
        let inputs = [reference, slot].into_iter().zip(sources).map(|(slot, source)| StageInput { slot, source });
        let mut stage = Stage { plan: Arc::new(join), inputs: inputs.collect() };

        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 32 << 20).expect("created");
        let limit = StateLimit::new(Arc::clone(&folder), 1 << 20, 8 << 20, 1 << 30);
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(5 << 20));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::clone(&pool)).build_arc().expect("a runtime");
        let compute = Compute::new(1).within(limit, runtime);
        // Another query has all memory for as long as it has its turn.
        let turn = Arc::clone(&compute.turns).read_owned().await;
        let taken = MemoryConsumer::new("another query").register(&pool);
        taken.try_grow(5 << 20).expect("it is free");
        let epoch = EpochInputs {
            tables: vec![],
            watermarks: vec![],
            standings: vec![],
            closes: false,
            references: vec![None],
        };
        let report = GateReport::default();
        let mut run = EpochRun {
            epoch: &epoch,
            compute: &compute,
            report: &report,
            poison: Poison::default(),
            outputs: vec![(vec![StoredRows::held(rows)], EventTime::of_table(Watermark::MIN, None))],
            ready: vec![None],
            output: QueryOutput::default(),
        };
        let others = async {
            // Then it has failed once, and waits for its turn.
            while folder.bytes().0 == 0 {
                tokio::task::yield_now().await;
            }
            drop((taken, turn));
        };
        let (joined, ()) = tokio::join!(run.stage(0, &mut stage), others);
        assert_eq!(joined.expect("there is memory").iter().map(StoredRows::len).sum::<usize>(), ROWS);
    }
}
