//! One epoch on its way through a query: stages are run over what tables and operators give.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::ExecutionPlan;

use super::bisect::{Poison, run_sound};
use super::compute::{Compute, run_partitions};
use super::gate::GateReport;
use super::graph::{EpochInputs, Operator, QueryOutput, SlotSource, Stage, StageInput, fill_reference};
use super::shared_rows::SharedRows;
use crate::contracts::{ErrorKind, Result, Watermark};

/// An epoch on its way through a query.
pub(super) struct EpochRun<'a> {
    pub(super) epoch: &'a EpochInputs,
    pub(super) compute: &'a Compute,
    pub(super) report: &'a GateReport,
    pub(super) poison: Poison,
    /// Rows and watermark of each operator so far.
    pub(super) outputs: Vec<(Vec<RecordBatch>, Watermark)>,
    /// What stages have given already: those of the operators, then the root.
    pub(super) ready: Vec<Option<Vec<RecordBatch>>>,
    pub(super) output: QueryOutput,
}

impl EpochRun<'_> {
    /// The least watermark of what a stage reads.
    pub(super) fn watermark_of(&self, stage: &Stage) -> Watermark {
        let watermarks = stage.inputs.iter().filter_map(|input| match input.source {
            SlotSource::Table(table) => Some(self.epoch.watermarks[table]),
            SlotSource::Operator(operator) => Some(self.outputs[operator].1),
            SlotSource::Reference(_) => None,
        });
        watermarks.min().unwrap_or(Watermark::MAX)
    }

    /// The rows of the epoch for one input of a stage.
    fn given(&self, input: &StageInput) -> Result<Vec<Arc<SharedRows>>> {
        match input.source {
            SlotSource::Table(table) => Ok(self.epoch.tables[table].under(input.slot.test())?.to_vec()),
            SlotSource::Operator(operator) => {
                Ok(self.outputs[operator].0.iter().cloned().map(SharedRows::all).collect())
            }
            SlotSource::Reference(_) => Ok(Vec::new()),
        }
    }

    /// Runs a stage, unless it has been run. Rows that make it fail are left out.
    pub(super) async fn stage(&mut self, number: usize, stage: &mut Stage) -> Result<Vec<RecordBatch>> {
        if let Some(ready) = self.ready[number].take() {
            return Ok(ready);
        }
        let mut any = false;
        for number in 0..stage.inputs.len() {
            fill_reference(stage, number, self.epoch)?;
            let input = &stage.inputs[number];
            if input.is_streamed() {
                let rows = self.given(input)?;
                any |= rows.iter().any(|rows| !rows.is_empty());
                input.slot.fill_shared(&rows);
            }
        }
        // Nothing in, nothing out: a stage has no state, and aggregates above it have their own.
        if !any {
            return Ok(Vec::new());
        }
        self.report.keep();
        let error = match run_partitions(&stage.plan, self.compute).await {
            Err(error) if error.kind() == ErrorKind::Data && self.poison.bisects => error,
            done => return done,
        };
        let streamed = stage.inputs.iter().enumerate().filter(|(_, input)| input.is_streamed());
        let rows = streamed.map(|(number, input)| Ok((number, self.given(input)?))).collect::<Result<_>>()?;
        let sound = run_sound(stage, rows, self.compute, self.report, self.poison).await?;
        if sound.failed.is_empty() {
            // It has gone by itself, which data do not do.
            tracing::warn!("a failure did not come again: {error}");
        }
        let of_records = stage.inputs.iter().all(|input| !matches!(input.source, SlotSource::Operator(_)));
        let failed = if of_records { &mut self.output.failed } else { &mut self.output.failed_results };
        failed.extend(sound.failed);
        Ok(sound.rows)
    }
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
    pub(super) async fn take(&mut self, rows: Vec<RecordBatch>, compute: &Compute) -> Result<Vec<RecordBatch>> {
        match self {
            Self::Operator(operator) => operator.kind.take(rows, compute).await,
            Self::Root(_) => Ok(rows),
        }
    }
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

/// Rows under the names that the plan above expects.
pub(super) fn relabelled(rows: Vec<RecordBatch>, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    rows.into_iter().map(|batch| relabel(batch, schema)).collect()
}

fn relabel(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    Ok(RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec())?)
}
