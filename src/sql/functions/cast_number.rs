//! CAST between numbers, and from text to other types.
//!
//! Integers wrap and doubles saturate as in Java (`(int) x`); a decimal that needs more digits than its type
//! has is NULL; a text that cannot be read is an error for CAST and NULL for TRY_CAST.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, i256,
};
use chrono_tz::Tz;
use datafusion::common::{Result, exec_err};

use super::calendar::{Moment, instant_of};
use super::decimal::{power_of_ten, rescale};
use super::time_arith::moments_of;
use super::time_parse;
use super::types::type_text;

/// A number or boolean to another.
pub(crate) fn number_to_number(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let from = array.data_type();
    if *from == DataType::Boolean {
        return Ok(cast(&cast(array, &DataType::Int32)?, to)?);
    }
    match to {
        DataType::Boolean => {
            let flags: BooleanArray = match from {
                DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().iter().map(|value| value.map(|value| value != 0)).collect(),
                _ => cast(array, &DataType::Float64)?.as_primitive::<Float64Type>().iter().map(|value| value.map(|value| value != 0.0)).collect(),
            };
            Ok(Arc::new(flags))
        }
        DataType::Decimal128(p, s) => to_decimal(array, *p, *s),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => narrow(&to_whole(array, to)?, to),
        DataType::Float64 if matches!(from, DataType::Decimal128(..)) => {
            // By its text, which is the nearest double; scaling by a power of ten may be off by one place.
            let DataType::Decimal128(_, scale) = *from else { return Ok(cast(array, to)?) };
            let values = array.as_primitive::<Decimal128Type>().iter();
            Ok(Arc::new(values.map(|value| value.and_then(|value| format!("{value}e{}", -i32::from(scale)).parse().ok())).collect::<Float64Array>()))
        }
        DataType::Float32 if matches!(from, DataType::Decimal128(..)) => {
            let DataType::Decimal128(_, scale) = *from else { return Ok(cast(array, to)?) };
            let values = array.as_primitive::<Decimal128Type>().iter();
            Ok(Arc::new(values.map(|value| value.and_then(|value| format!("{value}e{}", -i32::from(scale)).parse().ok())).collect::<Float32Array>()))
        }
        _ => Ok(cast(array, to)?),
    }
}

/// The whole part, as wide as it takes for [`narrow`] to wrap as Java does.
fn to_whole(array: &ArrayRef, to: &DataType) -> Result<Int64Array> {
    // A double becomes a long by saturation, but an int (and from it a short or byte) by saturation at int.
    let long = *to == DataType::Int64;
    let from_double = |value: f64| if long { value as i64 } else { i64::from(value as i32) };
    Ok(match array.data_type() {
        DataType::Float64 => array.as_primitive::<Float64Type>().unary::<_, Int64Type>(from_double),
        DataType::Float32 => array.as_primitive::<Float32Type>().unary::<_, Int64Type>(|value| from_double(f64::from(value))),
        DataType::Decimal128(_, scale) => {
            let unit = power_of_ten(scale.unsigned_abs().into()).as_i128();
            array.as_primitive::<Decimal128Type>().unary::<_, Int64Type>(|value| (value / unit) as i64)
        }
        _ => cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone(),
    })
}

fn narrow(values: &Int64Array, to: &DataType) -> Result<ArrayRef> {
    Ok(match to {
        DataType::Int8 => Arc::new(values.unary::<_, Int8Type>(|value| value as i8)),
        DataType::Int16 => Arc::new(values.unary::<_, Int16Type>(|value| value as i16)),
        DataType::Int32 => Arc::new(values.unary::<_, Int32Type>(|value| value as i32)),
        _ => Arc::new(values.clone()),
    })
}

fn to_decimal(array: &ArrayRef, precision: u8, scale: i8) -> Result<ArrayRef> {
    let wanted = i32::from(scale);
    let from_text = |text: String| read_decimal(&text).and_then(|(value, scale)| rescale(value, scale, wanted, precision));
    let values: Decimal128Array = match array.data_type() {
        DataType::Decimal128(_, from) => {
            let from = i32::from(*from);
            array.as_primitive::<Decimal128Type>().iter().map(|value| rescale(i256::from_i128(value?), from, wanted, precision)).collect()
        }
        DataType::Float64 => array.as_primitive::<Float64Type>().iter().map(|value| from_text(format!("{:e}", value?))).collect(),
        DataType::Float32 => array.as_primitive::<Float32Type>().iter().map(|value| from_text(format!("{:e}", value?))).collect(),
        _ => {
            let wide = cast(array, &DataType::Int64)?;
            wide.as_primitive::<Int64Type>().iter().map(|value| rescale(i256::from_i128(value?.into()), 0, wanted, precision)).collect()
        }
    };
    Ok(Arc::new(values.with_precision_and_scale(precision, scale)?))
}

/// Reads `[+-]digits[.digits][e[+-]digits]` as an unscaled value and a scale.
pub(crate) fn read_decimal(text: &str) -> Option<(i256, i32)> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().ok().filter(|exponent| (-1_000..=1_000).contains(exponent))?;
    let (sign, digits) = match mantissa.as_bytes().first()? {
        b'-' => (-1, &mantissa[1..]),
        b'+' => (1, &mantissa[1..]),
        _ => (1, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() + fraction.len() == 0 || !whole.bytes().chain(fraction.bytes()).all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let mut value = i256::ZERO;
    let mut scale = -exponent;
    let mut room = 60; // digits that matter to a result of at most 38, with the rest still right for rounding
    for (i, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
        if room == 0 {
            // Further whole digits only shift the value; further fraction digits are dropped.
            scale -= i32::from(i < whole.len());
            continue;
        }
        value = value.wrapping_mul(i256::from_i128(10)).wrapping_add(i256::from_i128(i128::from(digit - b'0')));
        room -= i32::from(value != i256::ZERO);
        scale += i32::from(i >= whole.len());
    }
    Some((if sign < 0 { value.wrapping_neg() } else { value }, scale))
}

/// A column of text to any other type that text can be cast to.
pub(crate) fn text_to_value(array: &ArrayRef, to: &DataType, lenient: bool, zone: Tz) -> Result<ArrayRef> {
    let views = cast(array, &DataType::Utf8View)?;
    let texts = views.as_string_view();
    // Reads each text; what cannot be read is NULL or the first error.
    macro_rules! read {
        ($read:expr) => {{
            let mut values = Vec::with_capacity(texts.len());
            for text in texts.iter() {
                let value = text.map(|text| ($read)(text));
                if let (Some(None), Some(text), false) = (&value, text, lenient) {
                    return exec_err!("the text '{text}' cannot be cast to {}; TRY_CAST gives NULL instead", type_text(to));
                }
                values.push(value.flatten());
            }
            values
        }};
    }
    Ok(match to {
        DataType::Boolean => Arc::new(BooleanArray::from(read!(read_boolean))),
        DataType::Int8 => integers::<Int8Type>(read!(|text| read_integer(text).and_then(|value| i8::try_from(value).ok()))),
        DataType::Int16 => integers::<Int16Type>(read!(|text| read_integer(text).and_then(|value| i16::try_from(value).ok()))),
        DataType::Int32 => integers::<Int32Type>(read!(|text| read_integer(text).and_then(|value| i32::try_from(value).ok()))),
        DataType::Int64 => integers::<Int64Type>(read!(|text| read_integer(text).and_then(|value| i64::try_from(value).ok()))),
        DataType::Float32 => Arc::new(Float32Array::from(read!(|text| read_double(text).map(|value: f32| value)))),
        DataType::Float64 => Arc::new(Float64Array::from(read!(|text| read_double(text).map(|value: f64| value)))),
        DataType::Decimal128(p, s) => {
            // Too many digits are NULL even for CAST, as from other decimals.
            let values = read!(|text: &str| read_decimal(text.trim()).map(|(value, scale)| rescale(value, scale, i32::from(*s), *p)));
            let values: Decimal128Array = values.into_iter().map(Option::flatten).collect();
            Arc::new(values.with_precision_and_scale(*p, *s)?)
        }
        DataType::Date32 => Arc::new(Date32Array::from(read!(|text| time_parse::date(text).and_then(|days| i32::try_from(days).ok())))),
        DataType::Time32(TimeUnit::Millisecond) => {
            let values: Vec<Option<i64>> = read!(time_parse::time);
            moments_of(to, values.len(), |row| values[row].map(|millis| Moment::from_units(millis, 1_000)))?
        }
        DataType::Timestamp(_, with_zone) => {
            let values: Vec<Option<Moment>> = read!(time_parse::timestamp);
            moments_of(to, values.len(), |row| {
                let moment = values[row]?;
                Some(if with_zone.is_some() { Moment { seconds: instant_of(moment.seconds, zone), ..moment } } else { moment })
            })?
        }
        other => return exec_err!("text cannot be cast to {}", type_text(other)),
    })
}

fn integers<T: ArrowPrimitiveType>(values: Vec<Option<T::Native>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<PrimitiveArray<T>>())
}

fn read_boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "1" => Some(true),
        "f" | "false" | "n" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// White space around is dropped, and so are digits after a point.
fn read_integer(text: &str) -> Option<i128> {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    whole.parse().ok()
}

/// As `Double.parseDouble`: `NaN` and `Infinity` in exactly this spelling.
fn read_double<F: std::str::FromStr>(text: &str) -> Option<F> {
    let text = text.trim();
    let text = text.strip_suffix(['d', 'D', 'f', 'F']).filter(|rest| rest.ends_with(|c: char| c.is_ascii_digit() || c == '.')).unwrap_or(text);
    let named = matches!(text.trim_start_matches(['+', '-']), "NaN" | "Infinity");
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    if named || plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_exactly() {
        let read = |text: &str, scale, precision| read_decimal(text).and_then(|(value, from)| rescale(value, from, scale, precision));
        assert_eq!(read("1.005", 2, 10), Some(101));
        assert_eq!(read("1e2", 2, 10), Some(10_000));
        assert_eq!(read("-0.1", 18, 38), Some(-100_000_000_000_000_000));
        assert_eq!(read("123456", 2, 4), None);
        assert_eq!(read(&"9".repeat(80), 0, 38), None);
        assert_eq!(read(&format!("0.{}", "3".repeat(200)), 3, 38), Some(333));
        for wrong in ["", "x", "1.2.3", "+", "1e", "1e99999"] {
            assert_eq!(read_decimal(wrong), None, "{wrong}");
        }
    }
}
