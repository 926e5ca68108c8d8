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
//! Each batch is asked as DataFusion does first. Only where that fails, one side is asked of those rows alone that the other one
//! leaves open.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{and_kleene, concat, or_kleene};
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::{
    BinaryExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr,
};
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
    Ok(if sides(expr).is_some() { Arc::new(Guarded { condition: inner }) } else { inner })
}

/// The same of what an expression is made of.
fn guard_inner(expr: &Expression) -> Result<Expression> {
    let is_junction = sides(expr).is_some();
    let of = |child: &Expression| {
        // One that is a part of a larger one is guarded there.
        if is_junction && sides(child).is_some() { guard_inner(child) } else { guard(child) }
    };
    let own = expr.children();
    let children = own.iter().map(|child| of(child)).collect::<Result<Vec<_>>>()?;
    if own.iter().zip(&children).all(|(own, child)| Arc::ptr_eq(own, child)) {
        return Ok(Arc::clone(expr));
    }
    Arc::clone(expr).with_new_children(children)
}

/// The sides of an AND or an OR.
fn sides(expr: &Expression) -> Option<(&Expression, Operator, &Expression)> {
    let binary = expr.downcast_ref::<BinaryExpr>()?;
    matches!(binary.op(), Operator::And | Operator::Or).then(|| (binary.left(), *binary.op(), binary.right()))
}

/// Whether an expression may fail for a row. Only of what is known to be safe it says no.
fn may_fail(expr: &Expression) -> bool {
    use Operator::{And, Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq, Or};
    let compares = |binary: &BinaryExpr| {
        matches!(binary.op(), Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom | And | Or)
    };
    let is_safe = expr.downcast_ref::<BinaryExpr>().is_some_and(compares)
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

/// The same where no row fails that a part of the condition decides.
fn decided(condition: &Expression, rows: &RecordBatch) -> Result<BooleanArray> {
    let failure = match asked(condition, rows) {
        Ok(values) => return Ok(values),
        Err(failure) => failure,
    };
    let Some((left, operator, right)) = sides(condition) else { return Err(failure) };
    for (first, other) in [(left, right), (right, left)] {
        if let Ok(values) = decided(first, rows) {
            return with_other(&values, operator, other, rows);
        }
    }
    // Each side fails for some row, though perhaps for no row both.
    let half = rows.num_rows() / 2;
    if half == 0 {
        return Err(failure);
    }
    let halves = [rows.slice(0, half), rows.slice(half, rows.num_rows() - half)];
    let [first, second] = halves.map(|half| decided(condition, &half));
    let all = concat(&[&first?, &second?])?;
    Ok(all.as_boolean().clone())
}

/// The condition of which one side is known: the other one is asked of the rows that this leaves open.
fn with_other(
    first: &BooleanArray,
    operator: Operator,
    other: &Expression,
    rows: &RecordBatch,
) -> Result<BooleanArray> {
    let decides = operator == Operator::Or;
    let open: BooleanArray = first.iter().map(|value| Some(value != Some(decides))).collect();
    let other = Guarded { condition: Arc::clone(other) };
    let second = other.evaluate_selection(rows, &open)?.into_array(rows.num_rows())?;
    let second = as_boolean_array(&second)?;
    Ok(if decides { or_kleene(first, second)? } else { and_kleene(first, second)? })
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
            Err(_) if batch.num_rows() > 0 => {
                decided(&self.condition, batch).map(|values| ColumnarValue::Array(Arc::new(values)))
            }
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
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array};
    use datafusion::physical_expr::expressions::{col, lit};

    use super::*;

    fn rows() -> RecordBatch {
        let numbers: ArrayRef = Arc::new((0..10).map(|n| (n != 7).then_some(n)).collect::<Int64Array>());
        RecordBatch::try_from_iter([("n", numbers)]).expect("a batch")
    }

    fn binary(left: Expression, operator: Operator, right: Expression) -> Expression {
        Arc::new(BinaryExpr::new(left, operator, right))
    }

    fn number() -> Expression {
        col("n", &rows().schema()).expect("a column")
    }

    /// True for all numbers, but fails for one.
    fn failing(number_of: i64) -> Expression {
        let divided = binary(lit(100_i64), Operator::Divide, binary(number(), Operator::Minus, lit(number_of)));
        binary(divided, Operator::NotEq, lit(1_000_i64))
    }

    fn is_not(value: i64) -> Expression {
        binary(number(), Operator::NotEq, lit(value))
    }

    fn is(value: i64) -> Expression {
        binary(number(), Operator::Eq, lit(value))
    }

    fn and(left: Expression, right: Expression) -> Expression {
        binary(left, Operator::And, right)
    }

    fn or(left: Expression, right: Expression) -> Expression {
        binary(left, Operator::Or, right)
    }

    fn answer(condition: &Expression) -> Result<Vec<Option<bool>>> {
        let guarded = guard(condition)?;
        assert!(guarded.downcast_ref::<Guarded>().is_some(), "{guarded}");
        Ok(asked(&guarded, &rows())?.iter().collect())
    }

    fn of_each(value: impl Fn(i64) -> bool) -> Vec<Option<bool>> {
        (0..10).map(|n| (n != 7).then(|| value(n))).collect()
    }

    #[test]
    fn a_row_fails_only_where_no_other_part_of_the_condition_decides_it() {
        asked(&and(is_not(3), failing(3)), &rows()).expect_err("else nothing is tested here");
        let all_but_3 = of_each(|n| n != 3);
        for condition in [
            and(is_not(3), failing(3)),
            and(failing(3), is_not(3)),
            and(and(failing(3), is_not(3)), failing(3)),
            and(failing(3), and(failing(3), is_not(3))),
        ] {
            assert_eq!(answer(&condition).expect("it runs"), all_but_3, "{condition}");
        }
        for condition in [or(is(3), failing(3)), or(failing(3), is(3))] {
            assert_eq!(answer(&condition).expect("it runs"), of_each(|_| true), "{condition}");
        }
        // Each fails for a row that the other leaves out: no order of the two would do.
        let crossed = and(and(is_not(3), failing(4)), and(is_not(4), failing(3)));
        assert_eq!(answer(&crossed).expect("it runs"), of_each(|n| n != 3 && n != 4));
        // Below something else, too.
        let inverted: Expression = Arc::new(NotExpr::new(and(is_not(3), failing(3))));
        let guarded = guard(&inverted).expect("guarded");
        let values: Vec<Option<bool>> = asked(&guarded, &rows()).expect("it runs").iter().collect();
        assert_eq!(values, of_each(|n| n == 3));
    }

    #[test]
    fn what_nothing_else_decides_fails() {
        for condition in [and(is_not(4), failing(3)), or(is(4), failing(3)), and(failing(3), failing(3))] {
            let error = answer(&condition).expect_err("it fails").to_string();
            assert!(error.to_lowercase().contains("zero"), "{error}");
        }
    }

    #[test]
    fn what_cannot_fail_is_left_as_it_is() {
        let condition = and(is_not(3), or(is(4), Arc::new(IsNullExpr::new(number()))));
        assert!(Arc::ptr_eq(&guard(&condition).expect("guarded"), &condition));
    }
}
