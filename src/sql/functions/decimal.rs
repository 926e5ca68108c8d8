//! DECIMAL arithmetic with Flink's result types.
//!
//! Arrow and Flink agree on `+`, `-` and `*` while the result needs at most 38 digits; past that Flink gives
//! up scale (never below 6) and Arrow keeps it and overflows. They differ always on `/` and `%`. The rules are
//! Flink's `LogicalTypeMerging` (`findDivisionDecimalType` and its kin); a result that still does not fit is
//! NULL, as in Flink's `DecimalData.fromBigDecimal`. Rounding is half up (away from zero).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array};
use arrow::datatypes::{DataType, Decimal128Type, FieldRef, i256};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};

use super::call::Call;
use super::function::{Definition, Nulls, Returns, define};

/// Precision and scale.
pub(crate) type Digits = (u8, i8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// Called by the expression planner (`operators`), not by people.
pub(crate) const DEFINITIONS: &[Definition] = &[
    define("decimal_add", "nn", Returns::With(|f, _| result_field(f, Operation::Add)), Nulls::Possible, |call| {
        compute(call, Operation::Add)
    }),
    define(
        "decimal_subtract",
        "nn",
        Returns::With(|f, _| result_field(f, Operation::Subtract)),
        Nulls::Possible,
        |call| compute(call, Operation::Subtract),
    ),
    define(
        "decimal_multiply",
        "nn",
        Returns::With(|f, _| result_field(f, Operation::Multiply)),
        Nulls::Possible,
        |call| compute(call, Operation::Multiply),
    ),
    define("decimal_divide", "nn", Returns::With(|f, _| result_field(f, Operation::Divide)), Nulls::Possible, |call| {
        compute(call, Operation::Divide)
    }),
    define(
        "decimal_remainder",
        "nn",
        Returns::With(|f, _| result_field(f, Operation::Remainder)),
        Nulls::Possible,
        |call| compute(call, Operation::Remainder),
    ),
];

/// The decimal that an exact number takes part in arithmetic as.
pub(crate) fn digits_of(data_type: &DataType) -> Option<Digits> {
    Some(match data_type {
        DataType::Int8 => (3, 0),
        DataType::Int16 => (5, 0),
        DataType::Int32 => (10, 0),
        DataType::Int64 => (19, 0),
        DataType::UInt64 => (20, 0),
        DataType::Decimal128(p, s) => (*p, *s),
        _ => return None,
    })
}

/// The result's digits before they are fitted into 38.
pub(crate) fn exact_digits(operation: Operation, (p1, s1): Digits, (p2, s2): Digits) -> (i32, i32) {
    let (p1, s1, p2, s2) = (i32::from(p1), i32::from(s1), i32::from(p2), i32::from(s2));
    match operation {
        Operation::Add | Operation::Subtract => {
            let scale = s1.max(s2);
            ((p1 - s1).max(p2 - s2) + scale + 1, scale)
        }
        Operation::Multiply => (p1 + p2 + 1, s1 + s2),
        Operation::Divide => {
            let scale = (s1 + p2 + 1).max(6);
            (p1 - s1 + s2 + scale, scale)
        }
        Operation::Remainder => {
            let scale = s1.max(s2);
            ((p1 - s1).min(p2 - s2) + scale, scale)
        }
    }
}

/// Fits digits into 38: whole digits come first, but a scale of 6 (or the exact one, if less) is kept.
pub(crate) fn fit((precision, scale): (i32, i32)) -> Digits {
    if precision <= 38 {
        return (precision.max(1) as u8, scale as i8);
    }
    let scale = (38 - (precision - scale)).max(scale.min(6));
    (38, scale as i8)
}

fn result_field(fields: &[FieldRef], operation: Operation) -> Result<DataType> {
    match (digits_of(fields[0].data_type()), digits_of(fields[1].data_type())) {
        (Some(left), Some(right)) => {
            let (precision, scale) = fit(exact_digits(operation, left, right));
            Ok(DataType::Decimal128(precision, scale))
        }
        _ => {
            plan_err!("decimal arithmetic wants decimals, not {} and {}", fields[0].data_type(), fields[1].data_type())
        }
    }
}

pub(crate) fn power_of_ten(exponent: u32) -> i256 {
    if exponent <= 38 {
        return i256::from_i128(10i128.pow(exponent));
    }
    // 76 digits are the most that 256 bits hold.
    i256::from_i128(10).wrapping_pow(exponent.min(76))
}

/// Divides, rounding half away from zero. `divisor` is not zero.
pub(crate) fn divide_half_up(value: i256, divisor: i256) -> i256 {
    let quotient = value.wrapping_div(divisor);
    let remainder = value.wrapping_rem(divisor).wrapping_abs();
    if remainder >= divisor.wrapping_abs().wrapping_sub(remainder) {
        let away = if (value < i256::ZERO) == (divisor < i256::ZERO) { i256::ONE } else { i256::MINUS_ONE };
        return quotient.wrapping_add(away);
    }
    quotient
}

/// Brings a value from one scale to another, half up; `None` if it has more digits than `precision`.
pub(crate) fn rescale(value: i256, from: i32, to: i32, precision: u8) -> Option<i128> {
    if let Some(small) = value.to_i128()
        && let Some(answer) = rescale_small(small, from, to, precision)
    {
        return Some(answer);
    }
    let value = if to >= from {
        value.checked_mul(power_of_ten((to - from) as u32))?
    } else if from - to > 76 {
        i256::ZERO
    } else {
        divide_half_up(value, power_of_ten((from - to) as u32))
    };
    let value = value.to_i128()?;
    (value.unsigned_abs() < 10u128.pow(u32::from(precision))).then_some(value)
}

/// The same for values that 64 or 128 bits are enough for, which most are; `None` if unsure.
fn rescale_small(value: i128, from: i32, to: i32, precision: u8) -> Option<i128> {
    let limit = 10u128.pow(u32::from(precision));
    let answer = if to >= from {
        value.checked_mul(10i128.checked_pow((to - from) as u32)?)?
    } else {
        let drop = (from - to) as u32;
        match (i64::try_from(value), 10i64.checked_pow(drop)) {
            (Ok(value), Some(unit)) => {
                let (quotient, remainder) = (value / unit, value % unit);
                i128::from(
                    quotient + if remainder.unsigned_abs() * 2 >= unit.unsigned_abs() { value.signum() } else { 0 },
                )
            }
            _ => {
                let unit = 10i128.checked_pow(drop)?;
                let (quotient, remainder) = (value / unit, value % unit);
                quotient + if remainder.unsigned_abs() * 2 >= unit.unsigned_abs() { value.signum() } else { 0 }
            }
        }
    };
    (answer.unsigned_abs() < limit).then_some(answer)
}

/// The values of a number argument as unscaled integers.
fn unscaled(call: &Call, i: usize) -> Result<(Decimal128Array, i8, bool)> {
    let column = call.raw(i)?;
    let Some((precision, scale)) = digits_of(column.array.data_type()) else {
        return exec_err!("decimal arithmetic wants decimals, not {}", column.array.data_type());
    };
    let array = arrow::compute::cast(&column.array, &DataType::Decimal128(precision, scale))?;
    Ok((array.as_primitive::<Decimal128Type>().clone(), scale, column.constant))
}

fn compute(call: &Call, operation: Operation) -> Result<ArrayRef> {
    let ((left, s1, left_constant), (right, s2, right_constant)) = (unscaled(call, 0)?, unscaled(call, 1)?);
    let DataType::Decimal128(precision, scale) = *call.return_type else {
        return exec_err!("decimal arithmetic does not give {}", call.return_type);
    };
    let mut values = Vec::with_capacity(call.rows);
    for row in 0..call.rows {
        let (l, r) = (if left_constant { 0 } else { row }, if right_constant { 0 } else { row });
        if left.is_null(l) || right.is_null(r) {
            values.push(None);
            continue;
        }
        let (a, b) = (left.value(l), right.value(r));
        if b == 0 && matches!(operation, Operation::Divide | Operation::Remainder) {
            return exec_err!("division by zero; guard it with NULLIF(divisor, 0)");
        }
        let result = (precision, scale);
        let small = operate_small(operation, (a, s1), (b, s2), result);
        let wide = || operate(operation, (i256::from_i128(a), s1), (i256::from_i128(b), s2), result);
        values.push(small.or_else(wide));
    }
    let array = Decimal128Array::from(values).with_precision_and_scale(precision, scale)?;
    Ok(Arc::new(array))
}

/// The same for values that 128 bits are enough for, which most are; `None` if unsure.
fn operate_small(
    operation: Operation,
    (a, s1): (i128, i8),
    (b, s2): (i128, i8),
    (precision, scale): Digits,
) -> Option<i128> {
    let (s1, s2, scale) = (i32::from(s1), i32::from(s2), i32::from(scale));
    let common = s1.max(s2);
    let aligned = |value: i128, own: i32| match common - own {
        0 => Some(value),
        more => value.checked_mul(10i128.checked_pow(more as u32)?),
    };
    let (value, from) = match operation {
        Operation::Multiply => (a.checked_mul(b)?, s1 + s2),
        Operation::Add => (aligned(a, s1)?.checked_add(aligned(b, s2)?)?, common),
        Operation::Subtract => (aligned(a, s1)?.checked_sub(aligned(b, s2)?)?, common),
        Operation::Divide => {
            // a·10^-s1 / b·10^-s2 at `scale`: shift the dividend. Where the divisor would be shifted, the wide way is taken.
            let a = a.checked_mul(10i128.checked_pow(u32::try_from(scale - s1 + s2).ok()?)?)?;
            let (quotient, remainder) = (a / b, (a % b).unsigned_abs());
            let away = if (a < 0) == (b < 0) { 1 } else { -1 };
            let half = remainder >= b.unsigned_abs() - remainder;
            (if half { quotient + away } else { quotient }, scale)
        }
        Operation::Remainder => return None,
    };
    rescale_small(value, from, scale, precision)
}

fn operate(operation: Operation, (a, s1): (i256, i8), (b, s2): (i256, i8), (precision, scale): Digits) -> Option<i128> {
    let (s1, s2, scale) = (i32::from(s1), i32::from(s2), i32::from(scale));
    match operation {
        Operation::Add | Operation::Subtract | Operation::Remainder => {
            let common = s1.max(s2);
            let a = a.wrapping_mul(power_of_ten((common - s1) as u32));
            let b = b.wrapping_mul(power_of_ten((common - s2) as u32));
            let value = match operation {
                Operation::Add => a.wrapping_add(b),
                Operation::Subtract => a.wrapping_sub(b),
                _ => a.wrapping_rem(b),
            };
            rescale(value, common, scale, precision)
        }
        Operation::Multiply => rescale(a.wrapping_mul(b), s1 + s2, scale, precision),
        Operation::Divide => {
            // a·10^-s1 / b·10^-s2 at `scale`: shift the dividend, or the divisor if that is the other way.
            let shift = scale - s1 + s2;
            let value = if shift >= 0 {
                divide_half_up(a.checked_mul(power_of_ten(shift as u32))?, b)
            } else {
                divide_half_up(a, b.checked_mul(power_of_ten(-shift as u32))?)
            };
            rescale(value, scale, scale, precision)
        }
    }
}

/// True for a constant that the planner may use as a literal.
pub(crate) fn literal_integer(value: Option<&ScalarValue>) -> Option<i64> {
    match value?.cast_to(&DataType::Int64) {
        Ok(ScalarValue::Int64(value)) => value,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_types_are_flinks() {
        let of = |operation, left, right| fit(exact_digits(operation, left, right));
        assert_eq!(of(Operation::Divide, (2, 1), (10, 0)), (13, 12));
        assert_eq!(of(Operation::Divide, (38, 10), (38, 10)), (38, 6));
        assert_eq!(of(Operation::Multiply, (38, 18), (10, 0)), (38, 7));
        assert_eq!(of(Operation::Add, (38, 18), (38, 18)), (38, 17));
        assert_eq!(of(Operation::Remainder, (2, 1), (10, 0)), (2, 1));
    }

    /// What fits 128 bits is answered as 256 bits answer it, and what does not is left to them.
    #[test]
    fn small_values_are_as_large_ones() {
        let limit = 10i128.pow(38) - 1;
        let values = [0, 1, -1, 5, -5, 49, 50, -50, 51, 1999, -1999, i128::from(i64::MAX), 10i128.pow(20) + 5, limit];
        let types: [(Digits, Digits); 4] =
            [((38, 18), (10, 0)), ((12, 2), (12, 4)), ((38, 0), (38, 18)), ((5, 2), (5, 2))];
        for operation in [Operation::Add, Operation::Subtract, Operation::Multiply, Operation::Divide] {
            for (left, right) in types {
                let result = fit(exact_digits(operation, left, right));
                let pairs = values.iter().flat_map(|a| values.iter().map(move |b| (*a, *b)));
                for (a, b) in pairs.filter(|(_, b)| *b != 0 || operation != Operation::Divide) {
                    let wide = operate(operation, (i256::from_i128(a), left.1), (i256::from_i128(b), right.1), result);
                    let small = operate_small(operation, (a, left.1), (b, right.1), result);
                    assert!(small.is_none() || small == wide, "{operation:?} {a} {b}: {small:?}, {wide:?}");
                }
            }
        }
        assert_eq!(operate_small(Operation::Multiply, (1999, 2), (100, 0), (38, 2)), Some(199_900));
    }

    #[test]
    fn halves_go_away_from_zero() {
        let half =
            |value: i128, divisor: i128| divide_half_up(i256::from_i128(value), i256::from_i128(divisor)).to_i128();
        assert_eq!(half(5, 2), Some(3));
        assert_eq!(half(-5, 2), Some(-3));
        assert_eq!(half(4, 3), Some(1));
        assert_eq!(half(-1, 3), Some(0));
    }
}
