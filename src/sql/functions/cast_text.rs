//! CAST to STRING: the text of each type as Flink prints it.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, TimeUnit};
use chrono_tz::Tz;
use datafusion::common::{Result, exec_err};

use super::calendar::civil_from_days;
use super::time_pattern::{fraction, number};
use super::times::Times;
use super::types::{Length, unit_digits};

/// Prints the values of one array; rows that are NULL are not asked for.
pub(crate) struct TextOf {
    array: ArrayRef,
    kind: Kind,
}

enum Kind {
    /// The array has been cast to Utf8View.
    Text,
    Boolean,
    Float,
    Double,
    /// With the digits of a second to print.
    Timestamp(Times, usize),
    Date(Times),
    Time(Times),
    Bytes,
    List(Box<TextOf>),
    Map(Box<TextOf>, Box<TextOf>),
    Row(Vec<TextOf>),
}

impl TextOf {
    pub fn new(array: &ArrayRef, zone: Tz) -> Result<TextOf> {
        let mut array = ArrayRef::clone(array);
        let times = |array: &ArrayRef| Times::new(array, false, zone);
        let kind = match array.data_type() {
            DataType::Boolean => Kind::Boolean,
            DataType::Float32 => Kind::Float,
            DataType::Float64 => Kind::Double,
            DataType::Timestamp(unit, _) => Kind::Timestamp(times(&array)?, unit_digits(*unit) as usize),
            DataType::Date32 => Kind::Date(times(&array)?),
            DataType::Time32(TimeUnit::Second | TimeUnit::Millisecond) | DataType::Time64(_) => Kind::Time(times(&array)?),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                array = cast(&array, &DataType::Binary)?;
                Kind::Bytes
            }
            DataType::List(_) => Kind::List(Box::new(TextOf::new(array.as_list::<i32>().values(), zone)?)),
            DataType::Map(..) => {
                let map = array.as_map();
                Kind::Map(Box::new(TextOf::new(map.keys(), zone)?), Box::new(TextOf::new(map.values(), zone)?))
            }
            DataType::Struct(_) => {
                let fields = array.as_struct().columns().iter().map(|column| TextOf::new(column, zone));
                Kind::Row(fields.collect::<Result<_>>()?)
            }
            DataType::Null | DataType::Utf8View => Kind::Text,
            _ => {
                array = cast(&array, &DataType::Utf8View)?;
                Kind::Text
            }
        };
        Ok(TextOf { array, kind })
    }

    pub fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row) || *self.array.data_type() == DataType::Null
    }

    /// Appends the text of a row that is not NULL.
    pub fn write(&self, row: usize, out: &mut String) -> Result<()> {
        match &self.kind {
            Kind::Text => out.push_str(self.array.as_string_view().value(row)),
            Kind::Boolean => out.push_str(if self.array.as_boolean().value(row) { "TRUE" } else { "FALSE" }),
            Kind::Float => write_float(self.array.as_primitive::<Float32Type>().value(row), out),
            Kind::Double => write_double(self.array.as_primitive::<Float64Type>().value(row), out),
            Kind::Timestamp(times, digits) => {
                let Some(moment) = times.local(row) else { return Ok(()) };
                write_date(moment.days(), out);
                out.push(' ');
                write_clock(moment.second_of_day(), out);
                if *digits > 0 {
                    out.push('.');
                    fraction(moment.nanos, *digits, out);
                }
            }
            Kind::Date(times) => {
                if let Some(moment) = times.local(row) {
                    write_date(moment.days(), out);
                }
            }
            Kind::Time(times) => {
                let Some(moment) = times.local(row) else { return Ok(()) };
                write_clock(moment.second_of_day(), out);
                if moment.nanos > 0 {
                    out.push('.');
                    fraction(moment.nanos, 3, out);
                }
            }
            Kind::Bytes => out.push_str(&String::from_utf8_lossy(self.array.as_binary::<i32>().value(row))),
            Kind::List(values) => {
                let offsets = self.array.as_list::<i32>().value_offsets();
                out.push('[');
                for i in offsets[row]..offsets[row + 1] {
                    separate(i > offsets[row], out);
                    values.write_or_null(i as usize, out)?;
                }
                out.push(']');
            }
            Kind::Map(keys, values) => {
                let offsets = self.array.as_map().value_offsets();
                out.push('{');
                for i in offsets[row]..offsets[row + 1] {
                    separate(i > offsets[row], out);
                    keys.write_or_null(i as usize, out)?;
                    out.push('=');
                    values.write_or_null(i as usize, out)?;
                }
                out.push('}');
            }
            Kind::Row(fields) => {
                out.push('(');
                for (i, field) in fields.iter().enumerate() {
                    separate(i > 0, out);
                    field.write_or_null(row, out)?;
                }
                out.push(')');
            }
        }
        Ok(())
    }

    fn write_or_null(&self, row: usize, out: &mut String) -> Result<()> {
        if self.is_null(row) {
            out.push_str("NULL");
            return Ok(());
        }
        self.write(row, out)
    }
}

fn separate(needed: bool, out: &mut String) {
    if needed {
        out.push_str(", ");
    }
}

pub(crate) fn write_date(days: i64, out: &mut String) {
    let (year, month, day) = civil_from_days(days);
    number(year, 4, out);
    out.push('-');
    number(month, 2, out);
    out.push('-');
    number(day, 2, out);
}

pub(crate) fn write_clock(second_of_day: i64, out: &mut String) {
    number(second_of_day / 3_600, 2, out);
    out.push(':');
    number(second_of_day / 60 % 60, 2, out);
    out.push(':');
    number(second_of_day % 60, 2, out);
}

/// Java's `Double.toString`: at least one digit after the point, an exponent from 1E7 and below 1E-3.
pub(crate) fn write_double(value: f64, out: &mut String) {
    if !write_special(value, out) {
        write_java(&format!("{value:e}"), out);
    }
}

/// Java's `Float.toString`.
pub(crate) fn write_float(value: f32, out: &mut String) {
    if !write_special(f64::from(value), out) {
        write_java(&format!("{value:e}"), out);
    }
}

fn write_special(value: f64, out: &mut String) -> bool {
    let text = match value {
        value if value.is_nan() => "NaN",
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        value if value == 0.0 && value.is_sign_negative() => "-0.0",
        _ => return false,
    };
    out.push_str(text);
    true
}

/// From `d.ddde±x`, the shortest digits that read back as the number.
fn write_java(scientific: &str, out: &mut String) {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    out.push_str(sign);
    match exponent {
        -3..0 => {
            out.push_str("0.");
            out.extend(std::iter::repeat_n('0', (-exponent - 1) as usize));
            out.push_str(whole);
            out.push_str(rest);
        }
        0..7 => {
            let digits = format!("{rest:0<width$}", width = exponent as usize);
            let (left, right) = digits.split_at(exponent as usize);
            out.push_str(whole);
            out.push_str(left);
            out.push('.');
            out.push_str(if right.is_empty() { "0" } else { right });
        }
        _ => {
            let rest = if rest.is_empty() { "0" } else { rest };
            let _ = write!(out, "{whole}.{rest}E{exponent}");
        }
    }
}

/// Cuts to VARCHAR(n), pads to CHAR(n).
pub(crate) fn fit(text: &mut String, length: Length) -> Result<()> {
    let n = match length {
        Length::AtMost(n) | Length::Exactly(n) => n,
    };
    let mut characters = 0;
    match text.char_indices().inspect(|_| characters += 1).nth(n) {
        Some((end, _)) => text.truncate(end),
        None if matches!(length, Length::Exactly(_)) => {
            if n > 1 << 20 {
                return exec_err!("CHAR({n}) is longer than values may be padded to; use STRING");
            }
            text.extend(std::iter::repeat_n(' ', n - characters));
        }
        None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_print_as_in_java() {
        for (value, text) in [
            (1.0, "1.0"), (0.1, "0.1"), (1e10, "1.0E10"), (1e7, "1.0E7"), (9_999_999.5, "9999999.5"), (0.001, "0.001"),
            (0.0001, "1.0E-4"), (-1234.5, "-1234.5"), (100.0, "100.0"), (2e300, "2.0E300"), (0.0, "0.0"), (0.012, "0.012"),
        ] {
            let mut out = String::new();
            write_double(value, &mut out);
            assert_eq!(out, text);
        }
        let mut out = String::new();
        write_float(123_456_789.125, &mut out);
        assert_eq!(out, "1.23456792E8");
    }

    #[test]
    fn lengths_cut_and_pad() {
        for (text, length, fitted) in [("abc", Length::AtMost(2), "ab"), ("a", Length::Exactly(3), "a  "), ("äöü", Length::AtMost(2), "äö"), ("a", Length::AtMost(2), "a")] {
            let mut text = text.to_string();
            fit(&mut text, length).expect("a short length");
            assert_eq!(text, fitted);
        }
    }
}
