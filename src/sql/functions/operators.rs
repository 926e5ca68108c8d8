//! Operators whose result type Flink defines otherwise than DataFusion, decided while planning, when the
//! operands' types are known: decimal arithmetic, the remainder of integers, `||`.

use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::sqlparser::ast::BinaryOperator;
use datafusion::logical_expr::{Expr, ExprSchemable, ScalarUDF};

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, IntervalMonthDayNanoArray};
use arrow::datatypes::{DataType, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit};

use super::call::Call;
use super::decimal::{Operation, digits_of, exact_digits};
use super::function::{Definition, Nulls, Returns, define};

/// Plans `+ - * / %` of exact numbers by Flink's rules.
#[derive(Debug)]
pub(crate) struct Operators {
    /// In the order of [`Operation`].
    pub decimal: [Arc<ScalarUDF>; 5],
    pub interval: Arc<ScalarUDF>,
    /// `||` of texts: as an operator it would repeat a constant side for each row.
    pub concat: Arc<ScalarUDF>,
}

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let operation = match expr.op {
            BinaryOperator::Plus => Operation::Add,
            BinaryOperator::Minus => Operation::Subtract,
            BinaryOperator::Multiply => Operation::Multiply,
            BinaryOperator::Divide => Operation::Divide,
            BinaryOperator::Modulo => Operation::Remainder,
            BinaryOperator::StringConcat => return Ok(self.concat(expr, schema)),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let (Ok(left), Ok(right)) = (expr.left.get_type(schema), expr.right.get_type(schema)) else {
            return Ok(PlannerResult::Original(expr));
        };
        if operation == Operation::Remainder && left.is_signed_integer() && right.is_signed_integer() && left != right {
            // The remainder has the divisor's type.
            let remainder = datafusion::logical_expr::binary_expr(
                expr.left,
                datafusion::logical_expr::Operator::Modulo,
                expr.right,
            );
            return Ok(PlannerResult::Planned(cast(remainder, right)));
        }
        let interval = |data_type: &DataType| matches!(data_type, DataType::Interval(IntervalUnit::MonthDayNano));
        if operation == Operation::Multiply
            && (interval(&left) && right.is_integer() || left.is_integer() && interval(&right))
        {
            let (count, length) = if interval(&left) { (expr.right, expr.left) } else { (expr.left, expr.right) };
            return Ok(PlannerResult::Planned(self.interval.call(vec![count, length])));
        }
        let mixed = |a: &DataType, b: &DataType| *a == DataType::Float32 && matches!(b, DataType::Decimal128(..));
        if mixed(&left, &right) || mixed(&right, &left) {
            let (left, right) = (cast(expr.left, DataType::Float64), cast(expr.right, DataType::Float64));
            return Ok(PlannerResult::Original(RawBinaryExpr { op: expr.op, left, right }));
        }
        let decimal = |data_type: &DataType| matches!(data_type, DataType::Decimal128(..));
        let (Some(p1), Some(p2), true) = (digits_of(&left), digits_of(&right), decimal(&left) || decimal(&right))
        else {
            return Ok(PlannerResult::Original(expr));
        };
        let (left, right) = (as_decimal(expr.left, &left, p1), as_decimal(expr.right, &right, p2));
        let native =
            !matches!(operation, Operation::Divide | Operation::Remainder) && exact_digits(operation, p1, p2).0 <= 38;
        if native {
            return Ok(PlannerResult::Original(RawBinaryExpr { op: expr.op, left, right }));
        }
        Ok(PlannerResult::Planned(self.decimal[operation as usize].call(vec![left, right])))
    }
}

impl Operators {
    fn concat(&self, expr: RawBinaryExpr, schema: &DFSchema) -> PlannerResult<RawBinaryExpr> {
        let is_text = |side: &Expr| side.get_type(schema).is_ok_and(|data_type| data_type.is_string());
        if is_text(&expr.left) && is_text(&expr.right) {
            return PlannerResult::Planned(self.concat.call(vec![expr.left, expr.right]));
        }
        PlannerResult::Original(expr)
    }
}

/// `n * INTERVAL …`; NULL where a part does not fit.
pub(crate) const TIMES_INTERVAL: Definition = define(
    "times_interval",
    "ia",
    Returns::With(|_, _| Ok(DataType::Interval(IntervalUnit::MonthDayNano))),
    Nulls::Possible,
    times_interval,
);

fn times_interval(call: &Call) -> Result<ArrayRef> {
    let counts = call.integers(0)?;
    let lengths = call.array(1)?;
    let lengths = lengths.as_primitive::<IntervalMonthDayNanoType>();
    let product = |row: usize| {
        let (count, length) = (counts.get(row)?, lengths.is_valid(row).then(|| lengths.value(row))?);
        let small = i32::try_from(count).ok();
        let times = |part: i32| if part == 0 { Some(0) } else { part.checked_mul(small?) };
        Some(IntervalMonthDayNano::new(
            times(length.months)?,
            times(length.days)?,
            length.nanoseconds.checked_mul(count)?,
        ))
    };
    Ok(Arc::new((0..call.rows).map(product).collect::<IntervalMonthDayNanoArray>()))
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr), data_type))
}

fn as_decimal(expr: Expr, data_type: &DataType, (precision, scale): (u8, i8)) -> Expr {
    let wanted = DataType::Decimal128(precision, scale);
    if *data_type == wanted {
        return expr;
    }
    // Fold literals at once: plans and column names stay readable.
    match &expr {
        Expr::Literal(value, _) => match value.cast_to(&wanted) {
            Ok(value @ ScalarValue::Decimal128(..)) => Expr::Literal(value, None),
            _ => cast(expr, wanted),
        },
        _ => cast(expr, wanted),
    }
}

/// The decimal that holds all values of exact types of which one is a decimal: `DECIMAL(11, 1)` for INT and 2.5.
pub(crate) fn common_decimal(types: &[DataType]) -> Option<DataType> {
    if !types.iter().any(|data_type| matches!(data_type, DataType::Decimal128(..))) {
        return None;
    }
    let mut whole = 0;
    let mut scale = 0;
    for data_type in types.iter().filter(|data_type| **data_type != DataType::Null) {
        let (p, s) = digits_of(data_type)?;
        whole = whole.max(p - s as u8);
        scale = scale.max(s as u8);
    }
    let scale = scale.min(38 - whole.min(38)).max(scale.min(6));
    Some(DataType::Decimal128((whole + scale).min(38), scale as i8))
}
