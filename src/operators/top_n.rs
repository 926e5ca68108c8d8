//! The rows of closing windows that a top-N above them can need.
//!
//! A plan `WHERE ROW_NUMBER() OVER (PARTITION BY p ORDER BY o) <= n` sorts all rows of a window, to throw most of them away. Where
//! these are more than memory is to have, they are thrown away part by part: a row that is not among the first n of its
//! partition in some of the rows is not among them in all. The plan is then run over those that are left, and numbers them
//! as it would have among all.
//!
//! Known is the form that DataFusion 55 makes of such a query (`explain --physical` shows it): a filter that compares the number, above
//! a window function, above a sort, with projections between them, above the rows; a filter of these may lie below.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::window::StandardWindowExpr;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowUDFExpr};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::compute::failure;
use super::groups::column_below;
use super::guarded::Guarded;
use super::slot::SlotExec;
use crate::contracts::{Error, Result};

/// How rows of a partition are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// One after the other.
    RowNumber,
    /// Equal rows have one number, that of the first of them.
    Rank,
    /// Equal rows have one number, without gaps.
    DenseRank,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct TopN {
    /// Which columns of the rows the rest is about; a `SlotExec`.
    leaf: Arc<dyn ExecutionPlan>,
    /// What a row must fulfil to be numbered.
    condition: Option<Arc<dyn PhysicalExpr>>,
    /// Partition first, then the order in it.
    ordering: LexOrdering,
    /// So many of them are the partition.
    partition: usize,
    numbers: Numbers,
    /// The last number that is wanted.
    most: u64,
}

impl TopN {
    /// The top-N of a plan, if it is one.
    pub(super) fn of(plan: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        let filter = through(plan, &|plan| plan.downcast_ref::<FilterExec>().is_some())?;
        let filter = filter.downcast_ref::<FilterExec>()?;
        // The number's column, on its way down to the window function.
        let window = through(filter.input(), &|plan| plan.downcast_ref::<BoundedWindowAggExec>().is_some())?;
        let functions = window.downcast_ref::<BoundedWindowAggExec>()?;
        let [function] = functions.window_expr() else { return None };
        let number = functions.schema().fields().len() - 1;
        let most = conjuncts(filter.predicate()).filter_map(|test| {
            let (column, most) = bound(test)?;
            (column_at(window, filter.input(), column)? == number).then_some(most)
        });
        let most = most.min()?;
        let standard = function.as_any().downcast_ref::<StandardWindowExpr>()?.get_standard_func_expr();
        let numbers = match standard.as_any().downcast_ref::<WindowUDFExpr>()?.fun().name() {
            "row_number" => Numbers::RowNumber,
            "rank" => Numbers::Rank,
            "dense_rank" => Numbers::DenseRank,
            _ => return None,
        };
        let sort = through(functions.input(), &|plan| plan.downcast_ref::<SortExec>().is_some())?;
        let sort = sort.downcast_ref::<SortExec>()?;
        let partition = function.partition_by().len();
        // Of what is already in order the sort says nothing; rows of closing windows are in none.
        if sort.expr().len() != partition + function.order_by().len() || sort.fetch().is_some() {
            return None;
        }
        let mut below = uncovered(sort.input());
        let mut condition = None;
        if let Some(filter) = below.downcast_ref::<FilterExec>().filter(|filter| filter.projection().is_none()) {
            condition = Some(Arc::clone(filter.predicate()));
            below = uncovered(filter.input());
        }
        below.downcast_ref::<SlotExec>()?;
        let leaf = Arc::clone(below);
        Some(Self { leaf, condition, ordering: sort.expr().clone(), partition, numbers, most })
    }

    /// The rows that are needed, in the order in which they came.
    pub(super) fn needed(&self, rows: &[RecordBatch]) -> Result<Option<RecordBatch>> {
        let Some(first) = rows.first() else { return Ok(None) };
        let mut all = concat_batches(first.schema_ref(), rows)?;
        if let Some(condition) = &self.condition {
            let passes = evaluated(condition, &self.view(&all)?)?;
            all = filter_record_batch(&all, passes.as_boolean())?;
        }
        let view = self.view(&all)?;
        let keys: Vec<ArrayRef> = self.ordering.iter().map(|key| evaluated(&key.expr, &view)).collect::<Result<_>>()?;
        let encoded = |from: usize, to: usize| {
            let fields = self.ordering[from..to].iter().zip(&keys[from..to]);
            let fields = fields.map(|(key, array)| SortField::new_with_options(array.data_type().clone(), key.options));
            RowConverter::new(fields.collect())?.convert_columns(&keys[from..to])
        };
        let whole = encoded(0, keys.len())?;
        let partitions = if self.partition == 0 { None } else { Some(encoded(0, self.partition)?) };
        let mut order: Vec<u32> = (0..all.num_rows() as u32).collect();
        order.sort_by(|a, b| whole.row(*a as usize).cmp(&whole.row(*b as usize)));
        let mut kept = BTreeSet::new();
        let (mut before, mut place, mut number) = (None, 0_u64, 0_u64);
        for row in order {
            let at = row as usize;
            let same_partition = |before: usize| partitions.as_ref().is_none_or(|p| p.row(before) == p.row(at));
            match before.filter(|before| same_partition(*before)) {
                None => (place, number) = (1, 1),
                Some(before) => {
                    place += 1;
                    let equal = whole.row(before) == whole.row(at);
                    number = match self.numbers {
                        Numbers::RowNumber => place,
                        Numbers::Rank if !equal => place,
                        Numbers::DenseRank if !equal => number + 1,
                        Numbers::Rank | Numbers::DenseRank => number,
                    };
                }
            }
            before = Some(at);
            if number <= self.most {
                kept.insert(row);
            }
        }
        Ok(Some(take_record_batch(&all, &UInt32Array::from_iter_values(kept))?))
    }

    /// The rows as the plan sees them.
    fn view(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let leaf = self.leaf.downcast_ref::<SlotExec>().ok_or_else(|| Error::internal("a top-N above another leaf"))?;
        leaf.view(rows).map_err(failure)
    }
}

fn evaluated(expression: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ArrayRef> {
    expression.evaluate(rows).and_then(|value| value.into_array(rows.num_rows())).map_err(failure)
}

/// The plan without what changes nothing in rows.
fn uncovered(plan: &Arc<dyn ExecutionPlan>) -> &Arc<dyn ExecutionPlan> {
    match plan.downcast_ref::<CooperativeExec>() {
        Some(cooperative) => uncovered(cooperative.input()),
        None => plan,
    }
}

/// The first node that is wanted, below projections alone.
fn through<'a>(
    plan: &'a Arc<dyn ExecutionPlan>,
    wanted: &dyn Fn(&Arc<dyn ExecutionPlan>) -> bool,
) -> Option<&'a Arc<dyn ExecutionPlan>> {
    let plan = uncovered(plan);
    if wanted(plan) {
        return Some(plan);
    }
    through(plan.downcast_ref::<ProjectionExec>()?.input(), wanted)
}

/// Which column of `bottom` a column of `plan` is, where what lies between only passes it on.
fn column_at(bottom: &Arc<dyn ExecutionPlan>, plan: &Arc<dyn ExecutionPlan>, column: usize) -> Option<usize> {
    let (mut plan, mut column) = (plan, column);
    while !Arc::ptr_eq(plan, bottom) {
        (plan, column) = column_below(plan, column)?;
    }
    Some(column)
}

/// What must all be true.
fn conjuncts(test: &Arc<dyn PhysicalExpr>) -> Box<dyn Iterator<Item = &Arc<dyn PhysicalExpr>> + '_> {
    let test = Guarded::condition(test);
    match test.downcast_ref::<BinaryExpr>() {
        Some(both) if *both.op() == Operator::And => Box::new(conjuncts(both.left()).chain(conjuncts(both.right()))),
        _ => Box::new(std::iter::once(test)),
    }
}

/// The column that a test compares with a number, and the largest value that passes.
fn bound(test: &Arc<dyn PhysicalExpr>) -> Option<(usize, u64)> {
    let test = test.downcast_ref::<BinaryExpr>()?;
    let (left, right) = (test.left(), test.right());
    let (column, number, operator) = match (left.downcast_ref::<Column>(), right.downcast_ref::<Column>()) {
        (Some(column), None) => (column, right, *test.op()),
        (None, Some(column)) => (column, left, test.op().swap()?),
        _ => return None,
    };
    let number = match number.downcast_ref::<Literal>()?.value() {
        ScalarValue::UInt64(Some(number)) => *number,
        ScalarValue::Int64(Some(number)) => u64::try_from(*number).ok()?,
        _ => return None,
    };
    match operator {
        Operator::LtEq | Operator::Eq => Some((column.index(), number)),
        Operator::Lt => Some((column.index(), number.saturating_sub(1))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, StringViewArray};
    use datafusion::arrow::datatypes::Int64Type;
    use datafusion::physical_expr::PhysicalSortExpr;
    use datafusion::physical_expr::expressions::col;

    use super::super::slot::Slot;
    use super::*;

    /// Columns p (partition), o (order) and id (the place of the row).
    fn rows(values: &[(&str, i64)], from: usize) -> RecordBatch {
        let p: StringViewArray = values.iter().map(|(p, _)| Some(*p)).collect();
        let o: Int64Array = values.iter().map(|(_, o)| (*o >= 0).then_some(*o)).collect();
        let id: Int64Array = (from..from + values.len()).map(|id| Some(id as i64)).collect();
        let columns: [(&str, ArrayRef); 3] = [("p", Arc::new(p)), ("o", Arc::new(o)), ("id", Arc::new(id))];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).expect("a batch")
    }

    fn needed(top: &TopN, batches: &[RecordBatch]) -> RecordBatch {
        top.needed(batches).expect("it sorts").expect("rows")
    }

    #[test]
    fn parts_give_what_the_whole_gives() {
        let mut random = 7_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        // Negative orders are NULL.
        let values: Vec<(&str, i64)> =
            (0..600).map(|_| (["a", "b", "a longer one than that"][next(3) as usize], next(30) as i64 - 1)).collect();
        let schema = rows(&values, 0).schema();
        // As in plans, the leaf has the columns in another order.
        let leaf = SlotExec::try_new(Slot::stream(schema, 1), Some(&vec![1, 0])).expect("a leaf");
        let leaf: Arc<dyn ExecutionPlan> = Arc::new(leaf);
        let key = |name| PhysicalSortExpr::new_default(col(name, &leaf.schema()).expect("a column"));
        for numbers in [Numbers::RowNumber, Numbers::Rank, Numbers::DenseRank] {
            for (partition, most) in [(1, 1), (1, 3), (1, 17), (0, 5)] {
                let keys: Vec<_> = if partition == 1 { vec![key("p"), key("o").desc()] } else { vec![key("o")] };
                let ordering = LexOrdering::new(keys).expect("an order");
                let top = TopN { leaf: Arc::clone(&leaf), condition: None, ordering, partition, numbers, most };
                let whole = needed(&top, &[rows(&values, 0)]);
                let mut parts: Vec<RecordBatch> = Vec::new();
                for (number, part) in values.chunks(90).enumerate() {
                    parts.push(rows(part, number * 90));
                    parts = vec![needed(&top, &parts)];
                }
                assert_eq!(parts[0], whole, "{numbers:?}, {partition}, {most}");
                // By the definition: those that have fewer than `most` before them.
                let is_before = |a: &(&str, i64), b: &(&str, i64)| match partition {
                    // NULL comes first, then the largest; or the smallest.
                    1 => a.0 == b.0 && b.1 >= 0 && (a.1 < 0 || a.1 > b.1),
                    _ => b.1 >= 0 && a.1 < b.1,
                };
                let equal =
                    |a: &(&str, i64), b: &(&str, i64)| (partition == 0 || a.0 == b.0) && a.1.max(-1) == b.1.max(-1);
                let number = |at: usize| {
                    let before: BTreeSet<usize> =
                        (0..values.len()).filter(|b| is_before(&values[*b], &values[at])).collect();
                    let distinct: BTreeSet<i64> = before.iter().map(|b| values[*b].1).collect();
                    let ties = (0..at).filter(|b| equal(&values[*b], &values[at])).count();
                    match numbers {
                        Numbers::RowNumber => before.len() + ties,
                        Numbers::Rank => before.len(),
                        Numbers::DenseRank => distinct.len(),
                    }
                };
                let wanted: Vec<i64> =
                    (0..values.len()).filter(|at| (number(*at) as u64) < most).map(|at| at as i64).collect();
                let found = whole.column(2).as_primitive::<Int64Type>().values().to_vec();
                assert_eq!(found, wanted, "{numbers:?}, {partition}, {most}");
            }
        }
    }
}
