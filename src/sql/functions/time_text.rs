//! Times to text and back: DATE_FORMAT, TO_TIMESTAMP, TO_TIMESTAMP_LTZ, TO_DATE, FROM_UNIXTIME,
//! UNIX_TIMESTAMP, CONVERT_TZ. Patterns are Java's (`time_pattern`), zones the session's (`FLINK_SQL.md`, 11). Those that
//! TO_DATE, FROM_UNIXTIME and UNIX_TIMESTAMP take, and DATE_FORMAT of a text, are of `SimpleDateFormat`.
//!
//! | function | unreadable text | zone |
//! |---|---|---|
//! | DATE_FORMAT(t or text, p) | NULL | the session's for TIMESTAMP_LTZ, none for TIMESTAMP and text |
//! | TO_TIMESTAMP(text[, p]) | NULL | none; an offset in the text is read over |
//! | TO_TIMESTAMP_LTZ(number, 0 or 3) | | the number is an instant |
//! | TO_TIMESTAMP_LTZ(text[, p[, zone]]) | NULL | the text's offset, else the argument, else UTC |
//! | TO_DATE(text[, p]) | NULL | none; with an offset in the text, the day in UTC |
//! | FROM_UNIXTIME(seconds[, p]) | | the session's |
//! | UNIX_TIMESTAMP(text[, p]) | -2^63 | the session's |
//! | CONVERT_TZ(text, from, to) | NULL | the arguments; an unknown one is UTC, or an error where it is constant |
//!
//! TO_TIMESTAMP with a pattern that does not fit tries the plain form `yyyy-MM-dd[ HH:mm:ss[.f]]` as well, as
//! Flink does. A pattern that means nothing is an error, where Flink may answer NULL.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{
    ArrayRef, Date32Array, Int64Array, StringViewBuilder, TimestampMicrosecondArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, FieldRef, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err};

use super::calendar::{Moment, Zone, later_instant_of, offset_at};
use super::call::{Call, Column};
use super::function::{Definition, Nulls, Returns, define};
use super::time_parse::{Mode, Read, date, read, timestamp};
use super::time_pattern::{Pattern, Printer};
use super::times::Times;
use super::types::LTZ_ZONE;

/// The pattern of FROM_UNIXTIME, UNIX_TIMESTAMP and CONVERT_TZ where none is given.
const SECONDS_PATTERN: &str = "yyyy-MM-dd HH:mm:ss";

pub(crate) const DEFINITIONS: &[Definition] = &[
    define("date_format", "us", Returns::Text, Nulls::Possible, date_format),
    define("to_timestamp", "s[s", Returns::With(timestamp_type), Nulls::Possible, to_timestamp),
    define("to_timestamp_ltz", "a[as", Returns::With(ltz_type), Nulls::Possible, to_timestamp_ltz),
    define("to_date", "s[s", Returns::With(|_, _| Ok(DataType::Date32)), Nulls::Possible, to_date),
    define("from_unixtime", "i[s", Returns::Text, Nulls::Propagate, from_unixtime),
    define("convert_tz", "sss", Returns::Text, Nulls::Possible, convert_tz),
];

/// UNIX_TIMESTAMP is volatile without arguments, so it stands apart.
pub(crate) const UNIX_TIMESTAMP: Definition =
    define("unix_timestamp", "[ss", Returns::BigInt, Nulls::Propagate, unix_timestamp);

fn timestamp_type(_: &[FieldRef], _: &[Option<&ScalarValue>]) -> Result<DataType> {
    Ok(DataType::Timestamp(TimeUnit::Millisecond, None))
}

/// TIMESTAMP_LTZ(3), or (6) where the precision asks for more than milliseconds.
fn ltz_type(fields: &[FieldRef], constants: &[Option<&ScalarValue>]) -> Result<DataType> {
    let text = fields[0].data_type().is_string();
    let precision = match constants.get(1) {
        Some(Some(value)) if !text => value.cast_to(&DataType::Int64).ok(),
        _ => None,
    };
    let unit = match precision {
        Some(ScalarValue::Int64(Some(4..))) => TimeUnit::Microsecond,
        _ => TimeUnit::Millisecond,
    };
    Ok(DataType::Timestamp(unit, Some(LTZ_ZONE.into())))
}

/// The compiled pattern for each row: once for a constant, again where a column's text changes.
struct Patterns {
    text: Option<Column<arrow::array::StringViewArray>>,
    last: Option<(String, Arc<Pattern>)>,
    parse: fn(&str) -> Result<Pattern>,
}

impl Patterns {
    fn new(call: &Call, i: usize, default: &str, parse: fn(&str) -> Result<Pattern>) -> Result<Self> {
        let text = if call.has(i) { Some(call.strings(i)?) } else { None };
        let last = if text.is_none() { Some((default.to_string(), Arc::new(parse(default)?))) } else { None };
        Ok(Patterns { text, last, parse })
    }

    fn is_constant(&self) -> bool {
        self.text.as_ref().is_none_or(|text| text.constant)
    }

    fn get(&mut self, row: usize) -> Result<Option<Arc<Pattern>>> {
        let wanted = match (&self.text, &self.last) {
            (None, Some((_, pattern))) => return Ok(Some(Arc::clone(pattern))),
            (Some(text), _) => text.get(row),
            (None, None) => None,
        };
        let Some(wanted) = wanted else { return Ok(None) };
        if let Some((text, pattern)) = &self.last
            && text == wanted
        {
            return Ok(Some(Arc::clone(pattern)));
        }
        let pattern = Arc::new((self.parse)(wanted)?);
        self.last = Some((wanted.to_string(), Arc::clone(&pattern)));
        Ok(Some(pattern))
    }
}

/// Prints one row at a time where the pattern is a column, and with a memory where it is constant. `time` gives the
/// wall-clock time of a row, and by how many seconds it is ahead of UTC.
fn print_all(
    call: &Call,
    patterns: &mut Patterns,
    zone: Option<chrono_tz::Tz>,
    time: impl Fn(usize) -> Option<(Moment, i64)>,
) -> Result<ArrayRef> {
    let mut builder = StringViewBuilder::with_capacity(call.rows);
    if patterns.is_constant() {
        let Some(pattern) = patterns.get(0)? else {
            return call.text(|_| None::<&str>);
        };
        let mut printer = Printer::new(&pattern, zone);
        for row in 0..call.rows {
            match time(row) {
                Some(time) => builder.append_value(printer.print(time)?),
                None => builder.append_null(),
            }
        }
    } else {
        for row in 0..call.rows {
            match (time(row), patterns.get(row)?) {
                (Some(time), Some(pattern)) => builder.append_value(Printer::new(&pattern, zone).print(time)?),
                _ => builder.append_null(),
            }
        }
    }
    Ok(Arc::new(builder.finish()))
}

/// Prints by a pattern of days, hours or minutes: a row in the stretch of the one before costs two comparisons. When all
/// rows lie in one stretch, as those of a live stream do, the answer is one value for all.
fn print_stretches(
    call: &Call,
    pattern: &Pattern,
    times: &Times,
    ticks: &[i64],
    per_second: i64,
    seconds: i64,
) -> Result<ArrayRef> {
    let mut builder = StringViewBuilder::with_capacity(call.rows);
    let mut printer = Printer::new(pattern, times.zone());
    let mut text = String::new();
    let length = per_second * seconds;
    if times.has_no_nulls()
        && let (Some(least), Some(most)) = (ticks.iter().min(), ticks.iter().max())
        && least.div_euclid(length) == most.div_euclid(length)
    {
        builder.append_value(printer.print((Moment::from_units(*least, per_second), 0))?);
        return Ok(Arc::new(builder.finish()));
    }
    let (mut from, mut to_exclusive) = (0, 0);
    for (row, tick) in ticks.iter().enumerate() {
        if times.is_null(row) {
            builder.append_null();
            continue;
        }
        if !(from..to_exclusive).contains(tick) {
            printer.print((Moment::from_units(*tick, per_second), 0))?.clone_into(&mut text);
            from = tick.div_euclid(length).saturating_mul(length);
            to_exclusive = from.saturating_add(length);
        }
        builder.append_value(&text);
    }
    Ok(Arc::new(builder.finish()))
}

/// `DATE_FORMAT(timestamp or string, pattern)`.
fn date_format(call: &Call) -> Result<ArrayRef> {
    if call.args[0].data_type().is_string() {
        let texts = call.strings(0)?;
        let source = Pattern::parse_simple(SECONDS_PATTERN)?;
        let mut patterns = Patterns::new(call, 1, "", Pattern::parse_simple)?;
        return print_all(call, &mut patterns, None, |row| {
            Some((read(&source, texts.get(row)?, Mode::Lenient)?.local, 0))
        });
    }
    let mut patterns = Patterns::new(call, 1, "", Pattern::parse)?;
    let times = call.times(0)?;
    if let (Some((ticks, per_second)), true) = (times.ticks(), patterns.is_constant())
        && let Some(pattern) = patterns.get(0)?
        && let Some(seconds) = pattern.stable_seconds()
    {
        return print_stretches(call, &pattern, &times, ticks, per_second, seconds);
    }
    print_all(call, &mut patterns, times.zone(), |row| times.local_and_offset(row))
}

/// Reads a text by the row's pattern, and in the plain form if that does not fit (as Flink does).
fn read_or_plain(pattern: Option<&Pattern>, text: &str) -> Option<Read> {
    if let Some(pattern) = pattern
        && let Some(found) = read(pattern, text, Mode::Strict)
    {
        return Some(found);
    }
    let local = timestamp(text.trim())?;
    Some(Read { local, offset: None })
}

/// `TO_TIMESTAMP(text[, pattern])`: the wall-clock time that the text shows; an offset in it is read over.
fn to_timestamp(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let mut patterns = Patterns::new(call, 1, SECONDS_PATTERN, Pattern::parse)?;
    let plain = !call.has(1);
    let mut values = Vec::with_capacity(call.rows);
    for row in 0..call.rows {
        let value = match texts.get(row) {
            None => None,
            Some(text) if plain => timestamp(text),
            Some(text) => match patterns.get(row)? {
                Some(pattern) => read_or_plain(Some(&pattern), text).map(|read| read.local),
                None => None,
            },
        };
        values.push(value.and_then(|moment| moment.to_units(1_000)));
    }
    Ok(Arc::new(TimestampMillisecondArray::from(values)))
}

/// `TO_TIMESTAMP_LTZ(number[, 0 | 3])` and `TO_TIMESTAMP_LTZ(text[, pattern[, zone]])`.
fn to_timestamp_ltz(call: &Call) -> Result<ArrayRef> {
    if call.args[0].data_type().is_string() {
        return text_to_ltz(call);
    }
    let precision =
        if call.has(1) { call.integers(1)? } else { Column { array: Int64Array::from(vec![3]), constant: true } };
    let micros = *call.return_type == DataType::Timestamp(TimeUnit::Microsecond, Some(LTZ_ZONE.into()));
    let per_second = if micros { 1_000_000 } else { 1_000 };
    let fractional = call.args[0].data_type().is_floating(); // a DECIMAL loses its fraction, a DOUBLE does not
    let (numbers, doubles) = if fractional { (None, Some(call.doubles(0)?)) } else { (Some(call.integers(0)?), None) };
    let mut values = Vec::with_capacity(call.rows);
    for row in 0..call.rows {
        let Some(precision) = precision.get(row) else {
            values.push(None);
            continue;
        };
        let ticks = match precision {
            0..=9 => 10i64.pow(precision as u32),
            other => {
                return exec_err!(
                    "function to_timestamp_ltz: precision {other} is not one of 0 (seconds), 3 (milliseconds), 6, 9"
                );
            }
        };
        values.push(match (&numbers, &doubles) {
            (Some(numbers), _) => {
                numbers.get(row).and_then(|value| Moment::from_units(value, ticks).to_units(per_second))
            }
            (_, Some(doubles)) => doubles.get(row).map(|value| (value * (per_second as f64 / ticks as f64)) as i64),
            _ => None,
        });
    }
    Ok(ltz_array(values, micros))
}

fn ltz_array(values: Vec<Option<i64>>, micros: bool) -> ArrayRef {
    if micros {
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone(LTZ_ZONE))
    } else {
        Arc::new(TimestampMillisecondArray::from(values).with_timezone(LTZ_ZONE))
    }
}

fn text_to_ltz(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let mut patterns = Patterns::new(call, 1, SECONDS_PATTERN, Pattern::parse)?;
    let zones = if call.has(2) { Some(call.strings(2)?) } else { None };
    let mut values = Vec::with_capacity(call.rows);
    for row in 0..call.rows {
        let found = match texts.get(row) {
            None => None,
            Some(text) if !call.has(1) => read_or_plain(None, text),
            Some(text) => match patterns.get(row)? {
                Some(pattern) => read_or_plain(Some(&pattern), text),
                None => None,
            },
        };
        let zone = match &zones {
            None => Some(Zone::Named(chrono_tz::Tz::UTC)),
            Some(zones) => zones.get(row).and_then(Zone::parse),
        };
        values.push(found.zip(zone).and_then(|(read, zone)| {
            let seconds = match read.offset {
                Some(offset) => read.local.seconds - offset,
                None => zone.instant_of(read.local.seconds),
            };
            Moment { seconds, nanos: read.local.nanos }.to_units(1_000)
        }));
    }
    Ok(ltz_array(values, false))
}

/// `TO_DATE(text[, pattern])`.
fn to_date(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let mut patterns = Patterns::new(call, 1, "yyyy-MM-dd", Pattern::parse_simple)?;
    let mut values = Vec::with_capacity(call.rows);
    for row in 0..call.rows {
        let days = match texts.get(row) {
            None => None,
            Some(text) if !call.has(1) => date(text),
            Some(text) => match patterns.get(row)? {
                Some(pattern) => read(&pattern, text, Mode::Lenient).map(|read| {
                    let seconds = read.local.seconds - read.offset.unwrap_or(0);
                    Moment { seconds, ..read.local }.days()
                }),
                None => None,
            },
        };
        values.push(days.and_then(|days| i32::try_from(days).ok()));
    }
    Ok(Arc::new(Date32Array::from(values)))
}

/// `FROM_UNIXTIME(seconds[, pattern])`: text in the session's zone.
fn from_unixtime(call: &Call) -> Result<ArrayRef> {
    let seconds = call.integers(0)?;
    let zone = call.context.time_zone;
    let mut patterns = Patterns::new(call, 1, SECONDS_PATTERN, Pattern::parse_simple)?;
    print_all(call, &mut patterns, Some(zone), |row| {
        let seconds = seconds.get(row)?;
        let offset = offset_at(seconds, zone);
        Some((Moment { seconds: seconds + offset, nanos: 0 }, offset))
    })
}

/// `UNIX_TIMESTAMP()`, the epoch's time, and `UNIX_TIMESTAMP(text[, pattern])`, -2^63 if unreadable.
fn unix_timestamp(call: &Call) -> Result<ArrayRef> {
    if call.args.is_empty() {
        let now = call.context.epoch_time_ms.load(Ordering::Relaxed).div_euclid(1_000);
        return Ok(Arc::new(Int64Array::from_value(now, call.rows)));
    }
    let texts = call.strings(0)?;
    let zone = call.context.time_zone;
    let mut patterns = Patterns::new(call, 1, SECONDS_PATTERN, Pattern::parse_simple)?;
    let mut values = Vec::with_capacity(call.rows);
    for row in 0..call.rows {
        values.push(match (texts.get(row), patterns.get(row)?) {
            (Some(text), Some(pattern)) => Some(match read(&pattern, text, Mode::Lenient) {
                Some(Read { local, offset: Some(offset) }) => local.seconds - offset,
                Some(Read { local, offset: None }) => later_instant_of(local.seconds, zone),
                None => i64::MIN,
            }),
            _ => None,
        });
    }
    Ok(Arc::new(Int64Array::from(values)))
}

/// `CONVERT_TZ(text, from, to)`, texts as `yyyy-MM-dd HH:mm:ss`.
fn convert_tz(call: &Call) -> Result<ArrayRef> {
    let (texts, from, to) = (call.strings(0)?, call.strings(1)?, call.strings(2)?);
    let pattern = Pattern::parse_simple(SECONDS_PATTERN)?;
    let mut printer = Printer::new(&pattern, None);
    // Zones that do not exist read as UTC, as `java.util.TimeZone` has it; of constants they are refused while planning.
    let zone = |name: &str| Zone::parse(name).unwrap_or(Zone::Fixed(0));
    call.try_text(|row| {
        let (Some(text), Some(from), Some(to)) = (texts.get(row), from.get(row), to.get(row)) else { return Ok(None) };
        let Some(found) = read(&pattern, text, Mode::Lenient) else { return Ok(None) };
        let instant = zone(from).later_instant_of(found.local.seconds);
        let local = Moment { seconds: instant + zone(to).offset_at(instant), nanos: 0 };
        Ok(Some(printer.print((local, 0))?.to_string()))
    })
}
