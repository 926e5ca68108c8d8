//! One epoch on its way through a query: stages are run over what tables and operators give.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};

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

/// The one stage that reads the output of an operator, with its number, if it gives the same when it is run over parts of
/// what it reads. So the results of many closing windows need not all be in memory before they are filtered or counted.
pub(super) fn reader_of<'a>(
    operator: usize,
    above: &'a mut [Operator],
    root: &'a mut Stage,
) -> Option<(usize, &'a mut Stage)> {
    let reads =
        |stage: &Stage| stage.inputs.iter().any(|i| matches!(i.source, SlotSource::Operator(o) if o == operator));
    let numbers = operator + 1..;
    let stages = above.iter_mut().map(|operator| &mut operator.input).chain([root]);
    let mut readers: Vec<_> = numbers.zip(stages).filter(|(_, stage)| reads(stage)).collect();
    let (number, stage) = readers.pop().filter(|_| readers.is_empty())?;
    let alone = stage.inputs.iter().filter(|input| input.is_streamed()).count() == 1;
    (alone && is_distributive(&stage.plan)).then_some((number, stage))
}

/// Whether a plan gives the same rows (or partial states) whether it is run over all of its rows or over parts of them.
fn is_distributive(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let own = match plan.name() {
        "SlotExec"
        | "ProjectionExec"
        | "FilterExec"
        | "GateExec"
        | "CountExec"
        | "CoalesceBatchesExec"
        | "CoalescePartitionsExec"
        | "RepartitionExec"
        | "CooperativeExec" => true,
        "AggregateExec" => {
            plan.downcast_ref::<AggregateExec>().is_some_and(|aggregate| *aggregate.mode() == AggregateMode::Partial)
        }
        _ => false,
    };
    own && plan.children().into_iter().all(is_distributive)
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
