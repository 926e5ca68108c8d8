//! Values as Flink's `print` shows them, which is Java's `toString` of each.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, TimeUnit};

use crate::contracts::Result;
use crate::formats::datetime::{TimestampStyle, per_second};
use crate::formats::write_json::{JsonColumn, JsonStyle};

const STYLE: JsonStyle = JsonStyle { timestamps: TimestampStyle::Iso8601, skip_nulls: false };

/// One column.
pub(super) enum PrintColumn {
    Text(ArrayRef),
    Binary(ArrayRef),
    Float32(ArrayRef),
    Float64(ArrayRef),
    Timestamp(ArrayRef, JsonColumn, TimeUnit, bool),
    Time(JsonColumn),
    List(ArrayRef, Box<PrintColumn>),
    Map(ArrayRef, Box<PrintColumn>, Box<PrintColumn>),
    Row(ArrayRef, Vec<PrintColumn>),
    /// Booleans, integers, decimals, dates: as in JSON, without quotes.
    Plain(JsonColumn),
}

impl PrintColumn {
    pub(super) fn try_new(array: &ArrayRef) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text(cast(array, &DataType::Utf8)?),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Self::Binary(cast(array, &DataType::Binary)?)
            }
            DataType::Float32 => Self::Float32(array.clone()),
            DataType::Float64 => Self::Float64(array.clone()),
            DataType::Timestamp(unit, zone) => {
                let millis = cast(array, &DataType::Int64)?;
                Self::Timestamp(millis, JsonColumn::try_new(array)?, *unit, zone.is_some())
            }
            DataType::Time32(_) | DataType::Time64(_) => Self::Time(JsonColumn::try_new(array)?),
            DataType::List(_) => {
                let items = Self::try_new(array.as_list::<i32>().values())?;
                Self::List(array.clone(), Box::new(items))
            }
            DataType::Map(_, _) => {
                let map = array.as_map();
                let (keys, values) = (Self::try_new(map.keys())?, Self::try_new(map.values())?);
                Self::Map(array.clone(), Box::new(keys), Box::new(values))
            }
            DataType::Struct(_) => {
                let columns = array.as_struct().columns().iter().map(Self::try_new).collect::<Result<_>>()?;
                Self::Row(array.clone(), columns)
            }
            DataType::Dictionary(_, value) => return Self::try_new(&cast(array, value)?),
            _ => Self::Plain(JsonColumn::try_new(array)?),
        })
    }

    pub(super) fn write(&self, row: usize, out: &mut String) {
        let json = |column: &JsonColumn| {
            let mut text = Vec::new();
            column.write_value(row, STYLE, &mut text);
            String::from_utf8_lossy(&text).trim_matches('"').to_owned()
        };
        match self {
            Self::Text(a)
            | Self::Binary(a)
            | Self::Float32(a)
            | Self::Float64(a)
            | Self::Timestamp(a, ..)
            | Self::List(a, _)
            | Self::Map(a, ..)
            | Self::Row(a, _)
                if a.is_null(row) =>
            {
                out.push_str("null");
            }
            Self::Text(a) => out.push_str(a.as_string::<i32>().value(row)),
            Self::Binary(a) => {
                // A Java byte[] in a row: signed numbers.
                let bytes = a.as_binary::<i32>().value(row).iter().map(|b| (*b as i8).to_string());
                out.push_str(&format!("[{}]", bytes.collect::<Vec<_>>().join(", ")));
            }
            Self::Float32(a) => {
                let value = a.as_primitive::<Float32Type>().value(row);
                out.push_str(&java_double(value.into(), &format!("{value:e}")));
            }
            Self::Float64(a) => {
                let value = a.as_primitive::<Float64Type>().value(row);
                out.push_str(&java_double(value, &format!("{value:e}")));
            }
            Self::Timestamp(values, column, unit, _) => {
                let value = values.as_primitive::<arrow::datatypes::Int64Type>().value(row);
                out.push_str(&java_time(
                    &json(column),
                    value.rem_euclid(per_second(*unit) * 60) == 0,
                    self.is_instant(),
                ));
            }
            Self::Time(column) => {
                let text = json(column);
                out.push_str(if text.len() == 8 { text.strip_suffix(":00").unwrap_or(&text) } else { &text });
            }
            Self::List(a, items) => {
                let offsets = a.as_list::<i32>().offsets();
                out.push('[');
                for item in offsets[row]..offsets[row + 1] {
                    if item > offsets[row] {
                        out.push_str(", ");
                    }
                    items.write(item as usize, out);
                }
                out.push(']');
            }
            Self::Map(a, keys, values) => {
                let offsets = a.as_map().offsets();
                out.push('{');
                for item in offsets[row]..offsets[row + 1] {
                    if item > offsets[row] {
                        out.push_str(", ");
                    }
                    keys.write(item as usize, out);
                    out.push('=');
                    values.write(item as usize, out);
                }
                out.push('}');
            }
            Self::Row(_, columns) => {
                out.push_str("+I[");
                for (at, column) in columns.iter().enumerate() {
                    if at > 0 {
                        out.push_str(", ");
                    }
                    column.write(row, out);
                }
                out.push(']');
            }
            Self::Plain(column) => out.push_str(&json(column)),
        }
    }

    fn is_instant(&self) -> bool {
        matches!(self, Self::Timestamp(_, _, _, true))
    }
}

/// `LocalDateTime.toString` and `Instant.toString`: the fraction in groups of three digits; a LocalDateTime leaves
/// out seconds that are zero.
fn java_time(text: &str, whole_minute: bool, instant: bool) -> String {
    let bare = text.trim_end_matches('Z');
    let (clock, fraction) = bare.split_once('.').unwrap_or((bare, ""));
    let mut out = match (whole_minute, instant) {
        (true, false) => clock.strip_suffix(":00").unwrap_or(clock).to_owned(),
        _ => clock.to_owned(),
    };
    if !fraction.is_empty() {
        let digits = fraction.len().div_ceil(3) * 3;
        out.push_str(&format!(".{fraction:0<digits$}"));
    }
    if instant {
        out.push('Z');
    }
    out
}

/// `Double.toString`: plain between 10^-3 and 10^7, else with an exponent. `shortest` is the value as Rust's `{:e}`
/// prints it.
fn java_double(value: f64, shortest: &str) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let size = value.abs();
    if size == 0.0 || (1e-3..1e7).contains(&size) {
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if mantissa.starts_with('-') { "-" } else { "" };
        let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        let point = exponent + 1;
        return match usize::try_from(point) {
            Ok(whole) if whole >= 1 => {
                let padded = format!("{digits:0<whole$}");
                let (before, after) = padded.split_at(whole);
                format!("{sign}{before}.{}", if after.is_empty() { "0" } else { after })
            }
            _ => format!("{sign}0.{}{digits}", "0".repeat(point.unsigned_abs() as usize)),
        };
    }
    let mantissa = if mantissa.contains('.') { mantissa.to_owned() } else { format!("{mantissa}.0") };
    format!("{mantissa}E{exponent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_as_java_prints_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (100.0, "100.0"),
            (1234567.0, "1234567.0"),
            (1e7, "1.0E7"),
            (1.5e10, "1.5E10"),
            (0.001, "0.001"),
            (0.00015, "1.5E-4"),
            (-2.25, "-2.25"),
        ] {
            assert_eq!(java_double(value, &format!("{value:e}")), text);
        }
    }

    #[test]
    fn rows_as_flink_prints_them() {
        use arrow::array::{Float64Array, ListArray, StringViewArray, StructArray, TimestampMillisecondArray};
        use arrow::datatypes::{Field, Int32Type};
        use std::sync::Arc;

        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None])]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("s", Arc::new(StringViewArray::from(vec!["it's \"quoted\""]))),
            ("t", Arc::new(TimestampMillisecondArray::from(vec![1_770_890_400_000]))),
            ("z", Arc::new(TimestampMillisecondArray::from(vec![1_770_890_400_120]).with_timezone("UTC"))),
            ("d", Arc::new(Float64Array::from(vec![1e10]))),
            ("l", Arc::new(list)),
            ("n", Arc::new(StringViewArray::from(vec![None::<&str>]))),
        ];
        let fields: arrow::datatypes::Fields =
            columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        let row = StructArray::new(fields, columns.into_iter().map(|c| c.1).collect(), None);
        let mut out = String::new();
        PrintColumn::try_new(&(Arc::new(row) as ArrayRef)).unwrap().write(0, &mut out);
        assert_eq!(out, "+I[it's \"quoted\", 2026-02-12T10:00, 2026-02-12T10:00:00.120Z, 1.0E10, [1, null], null]");
    }

    #[test]
    fn times_as_java_prints_them() {
        assert_eq!(java_time("2026-02-12T10:00:00", true, false), "2026-02-12T10:00");
        assert_eq!(java_time("2026-02-12T10:00:01.5", false, false), "2026-02-12T10:00:01.500");
        assert_eq!(java_time("2026-02-12T10:00:00Z", true, true), "2026-02-12T10:00:00Z");
    }
}
