//! An aggregation taken apart: partial states of an epoch, merging of states, final values.
//!
//! The state of every aggregate is the output of DataFusion's own `AggregateExec` in mode `Partial`;
//! `PartialReduce` merges such rows and `Final` reads them out. So any aggregate function works in any
//! window, and no accumulator is ever serialised by hand.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::compute::{Compute, failure, run_partitions};
use super::slot::{Slot, SlotExec};
use crate::contracts::Result;

/// A plan over state rows, and the slot that feeds it.
#[derive(Debug)]
struct MergePlan {
    slot: Arc<Slot>,
    plan: Arc<dyn ExecutionPlan>,
}

/// The three plans of one aggregation.
#[derive(Debug)]
pub struct AggregateParts {
    group_by: Arc<PhysicalGroupBy>,
    aggregates: Vec<Arc<AggregateFunctionExpr>>,
    filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    input_schema: SchemaRef,
    state_schema: SchemaRef,
    reduce: MergePlan,
    finish: MergePlan,
}

impl AggregateParts {
    /// Takes the parts of a planned aggregation, whatever its mode. `partitions` is the number of
    /// tasks among which rows of *disjoint* groups may be spread when they are read out.
    pub fn try_new(planned: &AggregateExec, partitions: usize) -> Result<Self> {
        let group_by = Arc::new(planned.group_expr().clone());
        let aggregates = planned.aggr_expr().to_vec();
        let filters = planned.filter_expr().to_vec();
        let input_schema = planned.input_schema();
        let leaf = Slot::stream(Arc::clone(&input_schema), 1);
        let partial = Self::plan(
            AggregateMode::Partial,
            Arc::clone(&group_by),
            &aggregates,
            filters.clone(),
            Arc::new(SlotExec::try_new(leaf, None).map_err(failure)?),
            &input_schema,
        )?;
        let state_schema = partial.schema();
        let merged = Arc::new(group_by.as_final());
        let merge = |mode, partitions| -> Result<MergePlan> {
            let slot = Slot::stream(Arc::clone(&state_schema), partitions);
            let leaf = Arc::new(SlotExec::try_new(Arc::clone(&slot), None).map_err(failure)?);
            let none = vec![None; aggregates.len()];
            let plan = Self::plan(mode, Arc::clone(&merged), &aggregates, none, leaf, &input_schema)?;
            Ok(MergePlan { slot, plan })
        };
        let reduce = merge(AggregateMode::PartialReduce, 1)?;
        let finish = if partitions > 1 && !group_by.is_true_no_grouping() {
            merge(AggregateMode::FinalPartitioned, partitions)?
        } else {
            merge(AggregateMode::Final, 1)?
        };
        Ok(Self { group_by, aggregates, filters, input_schema, state_schema, reduce, finish })
    }

    fn plan(
        mode: AggregateMode,
        group_by: Arc<PhysicalGroupBy>,
        aggregates: &[Arc<AggregateFunctionExpr>],
        filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
        input: Arc<dyn ExecutionPlan>,
        input_schema: &SchemaRef,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let make = |input| {
            let (group_by, filters) = (Arc::clone(&group_by), filters.clone());
            AggregateExec::try_new(mode, group_by, aggregates.to_vec(), filters, input, Arc::clone(input_schema))
                .map_err(failure)
        };
        let plan = make(Arc::clone(&input))?;
        // Aggregates such as ARRAY_AGG(x ORDER BY y) want their input sorted.
        let wanted = plan.required_input_ordering().into_iter().next().flatten();
        if mode == AggregateMode::Partial
            && let Some(ordering) = wanted
        {
            let ordering = ordering.into_single().into_iter().map(Into::into);
            if let Some(ordering) = datafusion::physical_expr::LexOrdering::new(ordering) {
                let sorted = SortExec::new(ordering, input).with_preserve_partitioning(true);
                return Ok(Arc::new(make(Arc::new(sorted))?));
            }
        }
        Ok(Arc::new(plan))
    }

    /// Schema of the state rows: group columns, then the partial states.
    pub fn state_schema(&self) -> &SchemaRef {
        &self.state_schema
    }

    /// Schema of the final rows.
    pub fn output_schema(&self) -> SchemaRef {
        self.finish.plan.schema()
    }

    /// Number of leading key columns of a state row, the grouping id of GROUPING SETS included.
    pub fn key_columns(&self) -> usize {
        self.group_by.as_final().expr().len()
    }

    /// Whether final rows begin with the key columns of state rows, as they are: so it is but for GROUPING SETS.
    pub(super) fn has_plain_groups(&self) -> bool {
        self.group_by.is_single()
    }

    /// The plan that turns rows of `input` into state rows.
    pub fn partial(&self, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let group_by = Arc::clone(&self.group_by);
        Self::plan(AggregateMode::Partial, group_by, &self.aggregates, self.filters.clone(), input, &self.input_schema)
    }

    /// Merges state rows: one row for each key.
    pub async fn reduce(&self, states: &[RecordBatch], compute: &Compute) -> Result<Vec<RecordBatch>> {
        self.reduce.slot.fill(states);
        run_partitions(&self.reduce.plan, &compute.merging()).await
    }

    /// Final values of state rows, in one task.
    pub async fn finish(&self, states: &[RecordBatch], compute: &Compute) -> Result<Vec<RecordBatch>> {
        self.finish.slot.fill_lists(vec![states.to_vec()]);
        run_partitions(&self.finish.plan, &compute.merging()).await
    }

    /// Final values of lists of state rows that have no key in common, each list by its own task.
    pub async fn finish_disjoint(&self, lists: Vec<Vec<RecordBatch>>, compute: &Compute) -> Result<Vec<RecordBatch>> {
        self.finish.slot.fill_lists(lists);
        run_partitions(&self.finish.plan, &compute.merging()).await
    }

    /// Number of lists that [`Self::finish_disjoint`] takes.
    pub fn finish_partitions(&self) -> usize {
        self.finish.slot.partitions()
    }
}
