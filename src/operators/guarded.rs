//! `a AND b`, where `b` fails for rows that `a` leaves out.
//!
//! ```text
//!   WHERE kind = 'order' AND CAST(value AS INT) > 5        value of other kinds is no number
//! ```
//!
//! DataFusion asks both sides of all rows of a batch (unless few pass the first one), so it would depend on a row's neighbours whether it
//! makes the query fail. Here a row fails only if nothing else says what becomes of it: if no side of an AND is false for it, no side of an OR is
//! true. The order of the sides does not matter: the optimizer puts the condition of a query before that of its view.
//!
//! Each batch is asked as DataFusion does first. Only where that fails are the parts asked one by one: those that fail, of the rows alone
//! that the others leave open, and where they still fail, of halves of these. So each part is asked once or twice of most rows, however many parts
//! there are.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayBuilder, BooleanArray, BooleanBuilder, RecordBatch};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::{and_kleene, filter_record_batch, not, or_kleene};
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::{DataFusionError, Result, internal_datafusion_err};
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::{
    BinaryExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr,
};
use datafusion::physical_expr::split_conjunction;
use datafusion::physical_expr::utils::split_disjunction;
use datafusion::physical_plan::PhysicalExpr;

type Expression = Arc<dyn PhysicalExpr>;

/// A condition of which no row fails that another part of it decides.
#[derive(Debug, Clone, Eq)]
pub struct Guarded {
    condition: Expression,
}

/// An expression with its conditions guarded, where something in them may fail.
///
/// # Errors
/// Those of an expression that does not take its own children again.
pub fn guard(expr: &Expression) -> Result<Expression> {
    if !may_fail(expr) {
        return Ok(Arc::clone(expr));
    }
    let inner = guard_inner(expr)?;
    Ok(if junction(expr).is_some() { Arc::new(Guarded { condition: inner }) } else { inner })
}

/// The same of what an expression is made of.
fn guard_inner(expr: &Expression) -> Result<Expression> {
    let is_junction = junction(expr).is_some();
    let of = |child: &Expression| {
        // One that is a part of a larger one is guarded there.
        if is_junction && junction(child).is_some() { guard_inner(child) } else { guard(child) }
    };
    let own = expr.children();
    let children = own.iter().map(|child| of(child)).collect::<Result<Vec<_>>>()?;
    if own.iter().zip(&children).all(|(own, child)| Arc::ptr_eq(own, child)) {
        return Ok(Arc::clone(expr));
    }
    Arc::clone(expr).with_new_children(children)
}

/// AND or OR, where that puts an expression together.
fn junction(expr: &Expression) -> Option<Operator> {
    let operator = *expr.downcast_ref::<BinaryExpr>()?.op();
    matches!(operator, Operator::And | Operator::Or).then_some(operator)
}

/// Whether an operator fails for no values: it compares, or puts conditions together.
pub fn is_safe_operator(operator: Operator) -> bool {
    use Operator::{And, Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq, Or};
    matches!(operator, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom | And | Or)
}

/// Whether an expression may fail for a row. Only of what is known to be safe it says no.
fn may_fail(expr: &Expression) -> bool {
    let is_safe = expr.downcast_ref::<BinaryExpr>().is_some_and(|binary| is_safe_operator(*binary.op()))
        || expr.downcast_ref::<Column>().is_some()
        || expr.downcast_ref::<Literal>().is_some()
        || expr.downcast_ref::<NotExpr>().is_some()
        || expr.downcast_ref::<IsNullExpr>().is_some()
        || expr.downcast_ref::<IsNotNullExpr>().is_some()
        || expr.downcast_ref::<InListExpr>().is_some()
        || expr.downcast_ref::<LikeExpr>().is_some();
    !is_safe || expr.children().into_iter().any(may_fail)
}

impl Guarded {
    /// The condition of an expression, for who looks into it.
    pub(super) fn condition(expr: &Expression) -> &Expression {
        expr.downcast_ref::<Self>().map_or(expr, |guarded| &guarded.condition)
    }
}

/// What a condition is for each row.
fn asked(condition: &Expression, rows: &RecordBatch) -> Result<BooleanArray> {
    let values = condition.evaluate(rows)?.into_array(rows.num_rows())?;
    Ok(as_boolean_array(&values)?.clone())
}

/// What a condition is for each row that does not fail.
struct Known {
    /// NULL where it fails.
    values: BooleanArray,
    /// For which rows it fails, and why for one of them.
    failed: Option<(BooleanBuffer, DataFusionError)>,
}

impl Known {
    /// Asks the parts of a condition that has failed.
    fn of(condition: &Expression, rows: &RecordBatch, failure: DataFusionError) -> Result<Self> {
        let condition = Guarded::condition(condition);
        match junction(condition) {
            Some(Operator::Or) => return Self::of_parts(&split_disjunction(condition), Operator::Or, rows),
            Some(and) => return Self::of_parts(&split_conjunction(condition), and, rows),
            None => {}
        }
        if let Some(inverted) = condition.downcast_ref::<NotExpr>() {
            let Self { values, failed } = Self::of(inverted.arg(), rows, failure)?;
            return Ok(Self { values: not(&values)?, failed });
        }
        let mut found = Halves { values: BooleanBuilder::with_capacity(rows.num_rows()), failed: Vec::new() };
        found.divide(condition, rows, failure);
        let Halves { mut values, failed } = found;
        let values = values.finish();
        let is_failed = |row: usize| failed.binary_search_by_key(&row, |(row, _)| *row).is_ok();
        let mask = BooleanBuffer::collect_bool(rows.num_rows(), is_failed);
        Ok(Self { values, failed: failed.into_iter().next().map(|(_, failure)| (mask, failure)) })
    }

    fn of_parts(parts: &[&Expression], operator: Operator, rows: &RecordBatch) -> Result<Self> {
        let decides = operator == Operator::Or;
        let together = |a: &BooleanArray, b: &BooleanArray| if decides { or_kleene(a, b) } else { and_kleene(a, b) };
        let mut all = BooleanArray::from(vec![!decides; rows.num_rows()]);
        let mut failing = Vec::new();
        for part in parts {
            match asked(part, rows) {
                Ok(values) => all = together(&all, &values)?,
                Err(_) => failing.push(*part),
            }
        }
        let mut failed: Option<(BooleanBuffer, DataFusionError)> = None;
        for part in failing {
            let open = open(&all, decides);
            let left = filter_record_batch(rows, &open)?;
            if left.num_rows() == 0 {
                break;
            }
            let own = match asked(part, &left) {
                Ok(values) => Self { values, failed: None },
                Err(failure) => Self::of(part, &left, failure)?,
            };
            all = together(&all, &scattered(&own.values, &open))?;
            if let Some((of, failure)) = own.failed {
                let mut of = of.iter();
                let of: BooleanBuffer =
                    open.values().iter().map(|is_open| is_open && of.next() == Some(true)).collect();
                failed = Some(match failed {
                    None => (of, failure),
                    Some((before, failure)) => (&before | &of, failure),
                });
            }
        }
        let undecided = open(&all, decides);
        let failed = failed.map(|(rows, failure)| (&rows & undecided.values(), failure));
        Ok(Self { values: all, failed: failed.filter(|(rows, _)| rows.count_set_bits() > 0) })
    }
}

/// Rows that values do not decide.
fn open(values: &BooleanArray, decides: bool) -> BooleanArray {
    let is_open = |row: usize| !(values.is_valid(row) && values.value(row) == decides);
    BooleanBuffer::collect_bool(values.len(), is_open).into()
}

/// Values of the rows that `of` says; NULL for the others.
fn scattered(values: &BooleanArray, of: &BooleanArray) -> BooleanArray {
    let mut values = values.iter();
    of.values().iter().map(|is_of| if is_of { values.next().flatten() } else { None }).collect()
}

/// A part of a condition that is no condition of others, asked of ever fewer rows.
struct Halves {
    /// Of the rows so far.
    values: BooleanBuilder,
    /// Rows for which it fails.
    failed: Vec<(usize, DataFusionError)>,
}

impl Halves {
    /// Takes `rows`, for which it has failed.
    fn divide(&mut self, condition: &Expression, rows: &RecordBatch, failure: DataFusionError) {
        let half = rows.num_rows() / 2;
        if half == 0 {
            self.failed.push((self.values.len(), failure));
            self.values.append_null();
            return;
        }
        for part in [rows.slice(0, half), rows.slice(half, rows.num_rows() - half)] {
            match asked(condition, &part) {
                Ok(values) => self.values.append_array(&values),
                Err(failure) => self.divide(condition, &part, failure),
            }
        }
    }
}

impl PartialEq for Guarded {
    fn eq(&self, other: &Self) -> bool {
        self.condition.eq(&other.condition)
    }
}

impl Hash for Guarded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.condition.hash(state);
    }
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.condition.fmt(f)
    }
}

impl PhysicalExpr for Guarded {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.condition.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.condition.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.condition.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        match self.condition.evaluate(batch) {
            Err(failure) if batch.num_rows() > 0 => match Known::of(&self.condition, batch, failure)? {
                Known { failed: Some((_, failure)), .. } => Err(failure),
                Known { values, failed: None } => Ok(ColumnarValue::Array(Arc::new(values))),
            },
            evaluated => evaluated,
        }
    }

    fn children(&self) -> Vec<&Expression> {
        vec![&self.condition]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Expression>) -> Result<Expression> {
        let condition = children.into_iter().next().ok_or_else(|| internal_datafusion_err!("a guard of nothing"))?;
        Ok(Arc::new(Self { condition }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.condition.fmt_sql(f)
    }
}

#[cfg(test)]
#[path = "guarded_tests.rs"]
mod tests;
