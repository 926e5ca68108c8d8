//! Numbers: ROUND, TRUNCATE, CEIL, FLOOR, SIGN with Flink's result types, and the functions of DOUBLE.
//!
//! ROUND and TRUNCATE of a DOUBLE work on its shortest decimal text, as Java's `BigDecimal.valueOf(x)` does:
//! ROUND(1.005, 2) is 1.01 though the nearest double is below.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, Float32Array, Float64Array, PrimitiveArray,
};
use arrow::compute::{cast, unary};
use arrow::datatypes::{
    DataType, Decimal128Type, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, i256,
};
use datafusion::common::{Result, ScalarValue, exec_err};

use super::call::Call;
use super::decimal::{literal_integer, rescale};
use super::function::{Definition, Nulls, Returns, define};

macro_rules! doubles {
    ($($name:literal => $function:expr),* $(,)?) => {
        &[$(define($name, "f", Returns::Double, Nulls::Propagate, |call| double(call, $function))),*]
    };
}

/// Functions of one DOUBLE. Out of their domain they answer NaN or Infinity as Java does.
pub(crate) const DOUBLES: &[Definition] = doubles! {
    "sqrt" => f64::sqrt, "exp" => f64::exp, "ln" => f64::ln, "log10" => f64::log10,
    "log2" => f64::log2, "sin" => f64::sin, "cos" => f64::cos, "tan" => f64::tan,
    "cot" => |x| 1.0 / x.tan(), "asin" => f64::asin, "acos" => f64::acos, "atan" => f64::atan,
    "sinh" => f64::sinh, "cosh" => f64::cosh, "tanh" => f64::tanh,
    "degrees" => f64::to_degrees, "radians" => f64::to_radians,
};

pub(crate) const DEFINITIONS: &[Definition] = &[
    define("round", "n[i", Returns::With(rounded_type), Nulls::Propagate, |call| round(call, Rounding::HalfUp)),
    define("truncate", "n[i", Returns::With(rounded_type), Nulls::Propagate, |call| round(call, Rounding::TowardsZero)),
    define("ceil", "n", Returns::With(whole_type), Nulls::Propagate, |call| whole(call, Rounding::Up)),
    define("ceiling", "n", Returns::With(whole_type), Nulls::Propagate, |call| whole(call, Rounding::Up)),
    define("floor", "n", Returns::With(whole_type), Nulls::Propagate, |call| whole(call, Rounding::Down)),
    define("sign", "n", Returns::Same(0), Nulls::Propagate, sign),
    define("power", "ff", Returns::Double, Nulls::Propagate, |call| double_2(call, f64::powf)),
    define("atan2", "ff", Returns::Double, Nulls::Propagate, |call| double_2(call, f64::atan2)),
    define("log", "f[f", Returns::Double, Nulls::Propagate, |call| match call.has(1) {
        true => double_2(call, |base, x| x.ln() / base.ln()),
        false => double(call, f64::ln),
    }),
    define("pi", "", Returns::Double, Nulls::Never, |call| constant(call, std::f64::consts::PI)),
    define("e", "", Returns::Double, Nulls::Never, |call| constant(call, std::f64::consts::E)),
];

fn constant(call: &Call, value: f64) -> Result<ArrayRef> {
    Ok(Arc::new(Float64Array::from_value(value, call.rows)))
}

fn double(call: &Call, function: impl Fn(f64) -> f64) -> Result<ArrayRef> {
    let values = call.doubles(0)?;
    Ok(Arc::new(unary::<Float64Type, _, Float64Type>(&values.array, function)))
}

fn double_2(call: &Call, function: impl Fn(f64, f64) -> f64) -> Result<ArrayRef> {
    let (left, right) = (call.doubles(0)?, call.doubles(1)?);
    let values = (0..call.rows).map(|row| Some(function(left.get(row)?, right.get(row)?)));
    Ok(Arc::new(values.collect::<Float64Array>()))
}

#[derive(Clone, Copy, PartialEq)]
enum Rounding {
    HalfUp,
    TowardsZero,
    Up,
    Down,
}

/// DECIMAL(p, s) rounded to r digits is DECIMAL(p - s + r + 1, r): one more for a carry; others keep their type.
fn rounded_type(fields: &[FieldRef], constants: &[Option<&ScalarValue>]) -> Result<DataType> {
    let DataType::Decimal128(p, s) = *fields[0].data_type() else {
        return Ok(fields[0].data_type().clone());
    };
    let digits = match constants.get(1) {
        None => 0,
        // A column of digits: the type can only be the argument's.
        Some(constant) => literal_integer(*constant).unwrap_or(i64::from(s)),
    };
    if digits >= i64::from(s) {
        return Ok(DataType::Decimal128(p, s));
    }
    let digits = digits.max(0) as u8;
    Ok(DataType::Decimal128((p - s as u8 + digits + 1).min(38), digits as i8))
}

fn whole_type(fields: &[FieldRef], _: &[Option<&ScalarValue>]) -> Result<DataType> {
    Ok(match *fields[0].data_type() {
        DataType::Decimal128(p, s) if s > 0 => DataType::Decimal128((p - s as u8 + 1).min(38), 0),
        ref other => other.clone(),
    })
}

fn round(call: &Call, rounding: Rounding) -> Result<ArrayRef> {
    let values = call.array(0)?;
    let digits = if call.has(1) { Some(call.integers(1)?) } else { None };
    let digits = |row: usize| match &digits {
        Some(digits) => digits.get(row),
        None => Some(0),
    };
    round_array(&values, call.return_type, rounding, digits)
}

fn whole(call: &Call, rounding: Rounding) -> Result<ArrayRef> {
    let values = call.array(0)?;
    match values.data_type() {
        DataType::Float64 => {
            let function = if rounding == Rounding::Up { f64::ceil } else { f64::floor };
            Ok(Arc::new(unary::<Float64Type, _, Float64Type>(values.as_primitive(), function)))
        }
        DataType::Float32 => {
            let function = if rounding == Rounding::Up { f32::ceil } else { f32::floor };
            Ok(Arc::new(unary::<Float32Type, _, Float32Type>(values.as_primitive(), function)))
        }
        _ => round_array(&values, call.return_type, rounding, |_| Some(0)),
    }
}

fn round_array(
    values: &ArrayRef,
    result: &DataType,
    rounding: Rounding,
    digits: impl Fn(usize) -> Option<i64>,
) -> Result<ArrayRef> {
    macro_rules! integers {
        ($type:ty) => {
            round_integers::<$type>(values, digits, rounding)
        };
    }
    match values.data_type() {
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::Float64 => {
            let values = values.as_primitive::<Float64Type>();
            let rounded = (0..values.len()).map(|row| match digits(row) {
                Some(digits) if values.is_valid(row) => Some(round_double(values.value(row), digits, rounding)),
                _ => None,
            });
            Ok(Arc::new(rounded.collect::<Float64Array>()))
        }
        DataType::Float32 => {
            let values = values.as_primitive::<Float32Type>();
            let rounded = (0..values.len()).map(|row| match digits(row) {
                Some(digits) if values.is_valid(row) => Some(round_float(values.value(row), digits, rounding)),
                _ => None,
            });
            Ok(Arc::new(rounded.collect::<Float32Array>()))
        }
        DataType::Decimal128(_, scale) => {
            let DataType::Decimal128(p, s) = *result else {
                return exec_err!("a rounded decimal cannot be {result}");
            };
            let values_in = values.as_primitive::<Decimal128Type>();
            let scale = i64::from(*scale);
            let rounded = (0..values_in.len()).map(|row| {
                let digits = digits(row).filter(|_| values_in.is_valid(row))?;
                let value = round_unscaled(values_in.value(row), scale - digits.max(-38), rounding);
                rescale(i256::from_i128(value), scale as i32, i32::from(s), p)
            });
            Ok(Arc::new(rounded.collect::<Decimal128Array>().with_precision_and_scale(p, s)?))
        }
        // Unsigned and other numbers go through DOUBLE.
        other => {
            let doubles = cast(values, &DataType::Float64)?;
            Ok(cast(&round_array(&doubles, &DataType::Float64, rounding, digits)?, other)?)
        }
    }
}

/// Rounds away the last `drop` digits of an integer, leaving zeros there.
fn round_unscaled(value: i128, drop: i64, rounding: Rounding) -> i128 {
    if drop <= 0 {
        return value;
    }
    if drop > 38 {
        return 0;
    }
    let unit = 10i128.pow(drop as u32);
    let (quotient, remainder) = (value / unit, value % unit);
    let step = match rounding {
        Rounding::HalfUp if remainder.unsigned_abs() >= (unit as u128).div_ceil(2) => value.signum(),
        Rounding::Up if remainder > 0 => 1,
        Rounding::Down if remainder < 0 => -1,
        _ => 0,
    };
    (quotient + step).saturating_mul(unit)
}

fn round_integers<T: ArrowPrimitiveType>(
    values: &ArrayRef,
    digits: impl Fn(usize) -> Option<i64>,
    rounding: Rounding,
) -> Result<ArrayRef>
where
    T::Native: Into<i64> + TryFrom<i128>,
{
    let values = values.as_primitive::<T>();
    let rounded = (0..values.len()).map(|row| {
        let digits = digits(row).filter(|_| values.is_valid(row))?;
        let value: i64 = values.value(row).into();
        if digits >= 0 {
            return Some(values.value(row));
        }
        T::Native::try_from(round_unscaled(i128::from(value), -digits, rounding)).ok()
    });
    Ok(Arc::new(rounded.collect::<PrimitiveArray<T>>()))
}

fn round_double(value: f64, digits: i64, rounding: Rounding) -> f64 {
    if !value.is_finite() || value == 0.0 {
        return value;
    }
    // Far from a tie there is no doubt, and a quotient of exact numbers is the nearest double.
    if (0..=15).contains(&digits) && rounding == Rounding::HalfUp {
        let unit = 10f64.powi(digits as i32);
        let scaled = value * unit;
        if scaled.abs() < 1e9 && ((scaled.fract().abs()) - 0.5).abs() > 1e-6 {
            return scaled.round() / unit;
        }
    }
    round_text(&format!("{value:e}"), digits, rounding).parse().unwrap_or(value)
}

fn round_float(value: f32, digits: i64, rounding: Rounding) -> f32 {
    if !value.is_finite() || value == 0.0 {
        return value;
    }
    round_text(&format!("{value:e}"), digits, rounding).parse().unwrap_or(value)
}

/// Rounds a number given as `d.ddde±x` at a digit after the point.
fn round_text(text: &str, digits: i64, rounding: Rounding) -> String {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().unwrap_or(0);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let unscaled: i128 = format!("{whole}{fraction}").parse().unwrap_or(0);
    // The value is unscaled × 10^(exponent - fraction length): at most 17 digits, so nothing overflows.
    let scale = fraction.len() as i64 - exponent;
    format!("{}e{}", round_unscaled(unscaled, scale - digits, rounding), -scale)
}

/// `SIGN(x)`: -1, 0 or 1 in the argument's own type.
fn sign(call: &Call) -> Result<ArrayRef> {
    let values = call.array(0)?;
    match values.data_type() {
        DataType::Float64 => Ok(Arc::new(unary::<Float64Type, _, Float64Type>(values.as_primitive(), |x| {
            if x == 0.0 { x } else { x.signum() }
        }))),
        DataType::Float32 => Ok(Arc::new(unary::<Float32Type, _, Float32Type>(values.as_primitive(), |x| {
            if x == 0.0 { x } else { x.signum() }
        }))),
        DataType::Decimal128(p, s) => {
            let one = 10i128.pow(s.unsigned_abs().into());
            let signs: Decimal128Array =
                unary::<Decimal128Type, _, Decimal128Type>(values.as_primitive(), |x| x.signum() * one);
            Ok(Arc::new(signs.with_precision_and_scale(*p, *s)?))
        }
        other => {
            let wide = cast(&values, &DataType::Int64)?;
            Ok(cast(&unary::<Int64Type, _, Int64Type>(wide.as_primitive(), i64::signum), other)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_round_by_their_text() {
        assert_eq!(round_double(1.005, 2, Rounding::HalfUp), 1.01);
        assert_eq!(round_double(-2.5, 0, Rounding::HalfUp), -3.0);
        assert_eq!(round_double(42.345, 2, Rounding::TowardsZero), 42.34);
        assert_eq!(round_double(1e300, 2, Rounding::HalfUp), 1e300);
        assert_eq!(round_double(1e-300, 2, Rounding::HalfUp), 0.0);
        assert_eq!(round_double(12345.0, -2, Rounding::HalfUp), 12300.0);
    }
}
