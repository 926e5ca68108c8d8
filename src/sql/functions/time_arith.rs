//! Arithmetic and parts of times: TIMESTAMPADD, TIMESTAMPDIFF, EXTRACT and its short forms, FLOOR and CEIL
//! to a unit. Rules: Calcite's `DateTimeUtils` and `SqlFunctions`, with Flink's answers as the judge
//! (days of a week count from Sunday = 1, weeks of FLOOR start on Sunday, weeks of EXTRACT are ISO).
//!
//! ```text
//! TIMESTAMPDIFF(MONTH, 31 January, 28 February) = 1      a shorter month's last day completes the month
//! TIMESTAMPDIFF(SECOND, 10:00:00.9, 10:00:02.1) = 1      whole units, cut towards zero
//! FLOOR(Thursday 12 February TO WEEK)           = Sunday 8 February
//! CEIL(12 February TO MONTH)                    = 1 March, and of 1 February itself
//! EXTRACT(WEEK FROM 1 January 2023)             = 52     the ISO week of a Sunday in the old year
//! ```
//!
//! TIMESTAMP_LTZ is taken apart on the session's wall clock; differences of fixed units are between instants.
//! A unit is a constant, in any case, singular or plural, with or without `SQL_TSI_`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};

use super::calendar::{
    Moment, SECONDS_PER_DAY, add_months, civil_from_days, day_of_year, days_from_civil, instant_of, iso_week,
    iso_weekday, months_between,
};
use super::call::Call;
use super::function::{Definition, Nulls, Returns, define};
use super::times::{Times, per_second};

pub(crate) const DEFINITIONS: &[Definition] = &[
    define("timestampdiff", "stt", Returns::With(difference_type), Nulls::Propagate, timestampdiff),
    define("timestampadd", "sit", Returns::With(add_type), Nulls::Propagate, timestampadd),
    define("time_part", "st", Returns::BigInt, Nulls::Propagate, |call| parts(call, &unit_of(call)?, 1)),
    define("floor_time", "ts", Returns::Same(0), Nulls::Propagate, |call| round_time(call, false)),
    define("ceil_time", "ts", Returns::Same(0), Nulls::Propagate, |call| round_time(call, true)),
    define("year", "t", Returns::BigInt, Nulls::Propagate, |call| parts(call, "YEAR", 0)),
    define("quarter", "t", Returns::BigInt, Nulls::Propagate, |call| parts(call, "QUARTER", 0)),
    define("month", "t", Returns::BigInt, Nulls::Propagate, |call| parts(call, "MONTH", 0)),
    define("week", "t", Returns::BigInt, Nulls::Propagate, |call| parts(call, "WEEK", 0)),
    define("dayofyear", "t", Returns::BigInt, Nulls::Propagate, |call| parts(call, "DOY", 0)),
    define("dayofmonth", "t", Returns::BigInt, Nulls::Propagate, |call| parts(call, "DAY", 0)),
    define("dayofweek", "t", Returns::BigInt, Nulls::Propagate, |call| parts(call, "DOW", 0)),
    define("hour", "t", Returns::BigInt, Nulls::Propagate, |call| parts(call, "HOUR", 0)),
    define("minute", "t", Returns::BigInt, Nulls::Propagate, |call| parts(call, "MINUTE", 0)),
    define("second", "t", Returns::BigInt, Nulls::Propagate, |call| parts(call, "SECOND", 0)),
];

/// The unit, in capitals and the singular, that the first argument names.
fn unit_of(call: &Call) -> Result<String> {
    match call.constant_text(0)? {
        Some(unit) => Ok(normal_unit(&unit)),
        None => exec_err!("function {} needs a unit such as DAY", call.name),
    }
}

/// `days` and `SQL_TSI_DAY` are DAY.
pub(crate) fn normal_unit(unit: &str) -> String {
    let unit = unit.to_ascii_uppercase();
    let unit = unit.strip_prefix("SQL_TSI_").unwrap_or(&unit);
    unit.strip_suffix('S').unwrap_or(unit).to_string()
}

/// Nanoseconds of a unit of fixed length.
fn unit_nanos(unit: &str) -> Option<i64> {
    Some(match unit {
        "NANOSECOND" => 1,
        "MICROSECOND" | "FRAC_SECOND" => 1_000,
        "MILLISECOND" => 1_000_000,
        "SECOND" => 1_000_000_000,
        "MINUTE" => 60_000_000_000,
        "HOUR" => 3_600_000_000_000,
        "DAY" => 86_400_000_000_000,
        "WEEK" => 604_800_000_000_000,
        _ => return None,
    })
}

/// Months of a unit of calendar length.
fn unit_months(unit: &str) -> Option<i64> {
    Some(match unit {
        "MONTH" => 1,
        "QUARTER" => 3,
        "YEAR" => 12,
        "DECADE" => 120,
        "CENTURY" => 1_200,
        "MILLENNIUM" => 12_000,
        _ => return None,
    })
}

/// INT as in Flink, but BIGINT for parts of a second: an INT of microseconds is full after 36 minutes.
fn difference_type(_: &[FieldRef], constants: &[Option<&ScalarValue>]) -> Result<DataType> {
    let unit = literal_unit("timestampdiff", constants)?;
    let small = unit_nanos(&unit).is_some_and(|nanos| nanos < 1_000_000_000);
    Ok(if small { DataType::Int64 } else { DataType::Int32 })
}

/// `TIMESTAMPDIFF(unit, a, b)`: whole units from a to b.
fn timestampdiff(call: &Call) -> Result<ArrayRef> {
    let unit = unit_of(call)?;
    let (from, to) = (call.times(1)?, call.times(2)?);
    if let Some(months) = unit_months(&unit) {
        return call.ints(|row| {
            let (from, to) = (from.local(row)?, to.local(row)?);
            Some((months_between(to, from) / months) as i32)
        });
    }
    let Some(nanos) = unit_nanos(&unit) else {
        return exec_err!(
            "function timestampdiff: '{unit}' is not a unit; use SECOND, MINUTE, HOUR, DAY, WEEK, MONTH, QUARTER or YEAR"
        );
    };
    // Beside an instant, the wall clock is that of the session.
    let beside_instants = from.zone().is_some() != to.zone().is_some();
    let instant = |times: &Times, row: usize| {
        let moment = times.instant(row)?;
        Some(match times.zone() {
            None if beside_instants => Moment { seconds: instant_of(moment.seconds, call.context.time_zone), ..moment },
            _ => moment,
        })
    };
    let difference = |row: usize| {
        let (from, to) = (instant(&from, row)?, instant(&to, row)?);
        let seconds = i128::from(to.seconds) - i128::from(from.seconds);
        let difference = seconds * 1_000_000_000 + i128::from(to.nanos) - i128::from(from.nanos);
        Some(difference / i128::from(nanos))
    };
    match call.return_type {
        DataType::Int64 => call.bigints(|row| difference(row).map(|units| units as i64)),
        _ => call.ints(|row| difference(row).map(|units| units as i32)),
    }
}

/// The unit that a call's first argument names, while planning.
fn literal_unit(name: &str, constants: &[Option<&ScalarValue>]) -> Result<String> {
    match constants.first() {
        Some(Some(ScalarValue::Utf8(Some(unit)) | ScalarValue::Utf8View(Some(unit)))) => Ok(normal_unit(unit)),
        _ => plan_err!("function {name} needs a unit such as DAY as its first argument"),
    }
}

/// A date stays a date for whole days, and becomes a timestamp for parts of one.
fn add_type(fields: &[FieldRef], constants: &[Option<&ScalarValue>]) -> Result<DataType> {
    let unit = literal_unit("timestampadd", constants)?;
    Ok(match fields[2].data_type() {
        DataType::Date32 if matches!(unit.as_str(), "SECOND" | "MINUTE" | "HOUR") => {
            DataType::Timestamp(TimeUnit::Second, None)
        }
        DataType::Date32 if unit.ends_with("SECOND") => DataType::Timestamp(TimeUnit::Millisecond, None),
        other => other.clone(),
    })
}

/// `TIMESTAMPADD(unit, n, t)`.
fn timestampadd(call: &Call) -> Result<ArrayRef> {
    let unit = unit_of(call)?;
    let (counts, times) = (call.integers(1)?, call.times(2)?);
    let (months, nanos) = (unit_months(&unit), unit_nanos(&unit));
    if months.is_none() && nanos.is_none() {
        return exec_err!(
            "function timestampadd: '{unit}' is not a unit; use SECOND, MINUTE, HOUR, DAY, WEEK, MONTH, QUARTER or YEAR"
        );
    }
    moments(call, |row| {
        let (count, moment) = (counts.get(row)?, times.instant(row)?);
        if let Some(months) = months {
            let days = add_months(moment.days(), count.checked_mul(months)?);
            return Some(Moment { seconds: days * SECONDS_PER_DAY + moment.second_of_day(), nanos: moment.nanos });
        }
        let nanos = i128::from(nanos?) * i128::from(count) + i128::from(moment.nanos);
        Some(Moment {
            seconds: moment.seconds.checked_add(i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?)?,
            nanos: nanos.rem_euclid(1_000_000_000) as u32,
        })
    })
}

/// Builds the call's result type from moments on that type's own line.
pub(crate) fn moments(call: &Call, value: impl Fn(usize) -> Option<Moment>) -> Result<ArrayRef> {
    moments_of(call.return_type, call.rows, value)
}

pub(crate) fn moments_of(
    data_type: &DataType,
    rows: usize,
    value: impl Fn(usize) -> Option<Moment>,
) -> Result<ArrayRef> {
    let rows = 0..rows;
    match data_type {
        DataType::Timestamp(unit, _) => {
            let per_second = per_second(*unit);
            let ticks: Int64Array = rows.map(|row| value(row).and_then(|moment| moment.to_units(per_second))).collect();
            Ok(cast(&ticks, data_type)?)
        }
        DataType::Date32 => {
            let days = rows.map(|row| value(row).and_then(|moment| i32::try_from(moment.days()).ok()));
            Ok(Arc::new(days.collect::<arrow::array::Date32Array>()))
        }
        DataType::Time32(TimeUnit::Millisecond) => {
            let millis = rows.map(|row| {
                value(row).map(|moment| (moment.second_of_day() * 1_000 + i64::from(moment.nanos) / 1_000_000) as i32)
            });
            Ok(Arc::new(millis.collect::<arrow::array::Time32MillisecondArray>()))
        }
        other => exec_err!("{other} is not a date or timestamp"),
    }
}

/// EXTRACT: a part of the wall-clock time as BIGINT.
fn parts(call: &Call, unit: &str, argument: usize) -> Result<ArrayRef> {
    let times = call.times(argument)?;
    type Part = fn(Moment) -> i64;
    let part: Part = match unit {
        "YEAR" => |t| civil_from_days(t.days()).0,
        "QUARTER" => |t| (civil_from_days(t.days()).1 + 2) / 3,
        "MONTH" => |t| civil_from_days(t.days()).1,
        "WEEK" | "ISOWEEK" => |t| iso_week(t.days()).1,
        "ISOYEAR" => |t| iso_week(t.days()).0,
        "DAY" | "DAYOFMONTH" => |t| civil_from_days(t.days()).2,
        "DOY" | "DAYOFYEAR" => |t| day_of_year(t.days()),
        "DOW" | "DAYOFWEEK" => |t| iso_weekday(t.days()) % 7 + 1,
        "ISODOW" => |t| iso_weekday(t.days()),
        "HOUR" => |t| t.second_of_day() / 3_600,
        "MINUTE" => |t| t.second_of_day() / 60 % 60,
        "SECOND" => |t| t.second_of_day() % 60,
        "MILLISECOND" => |t| t.second_of_day() % 60 * 1_000 % 1_000 + i64::from(t.nanos) / 1_000_000,
        "MICROSECOND" => |t| i64::from(t.nanos) / 1_000,
        "NANOSECOND" => |t| i64::from(t.nanos),
        "DECADE" => |t| civil_from_days(t.days()).0.div_euclid(10),
        "CENTURY" => |t| (civil_from_days(t.days()).0 + 99).div_euclid(100),
        "MILLENNIUM" => |t| (civil_from_days(t.days()).0 + 999).div_euclid(1_000),
        // Seconds since 1970 of the instant, so not of the wall clock.
        "EPOCH" => return call.bigints(|row| times.instant(row).map(|moment| moment.seconds)),
        other => {
            return exec_err!(
                "'{other}' is not a part of a time; use YEAR, MONTH, DAY, HOUR, MINUTE, SECOND, DOW, DOY, WEEK, QUARTER or EPOCH"
            );
        }
    };
    call.bigints(|row| times.local(row).map(part))
}

/// `FLOOR(t TO unit)` and `CEIL(t TO unit)` on the wall clock.
fn round_time(call: &Call, up: bool) -> Result<ArrayRef> {
    let unit = match call.constant_text(1)? {
        Some(unit) => normal_unit(&unit),
        None => return exec_err!("function {} needs a unit such as DAY", call.name),
    };
    let times = call.times(0)?;
    let zone = times.zone();
    if unit_months(&unit).is_none() && unit_nanos(&unit).is_none() {
        return exec_err!(
            "FLOOR or CEIL TO '{unit}': use YEAR, QUARTER, MONTH, WEEK, DAY, HOUR, MINUTE, SECOND or MILLISECOND"
        );
    }
    let within_hours = unit_nanos(&unit).is_some_and(|nanos| nanos <= 3_600_000_000_000);
    moments(call, |row| {
        let (moment, offset) = times.local_and_offset(row)?;
        let floor = floor_moment(moment, &unit);
        let rounded = if up && floor < moment { next_moment(floor, &unit) } else { floor };
        Some(match zone {
            // Of an hour that occurs twice, in the one that the instant lies in.
            Some(_) if within_hours => Moment { seconds: rounded.seconds - offset, ..rounded },
            Some(zone) => Moment { seconds: instant_of(rounded.seconds, zone), ..rounded },
            None => rounded,
        })
    })
}

fn floor_moment(moment: Moment, unit: &str) -> Moment {
    let (year, month, _) = civil_from_days(moment.days());
    let day = |days: i64| Moment { seconds: days * SECONDS_PER_DAY, nanos: 0 };
    match unit {
        "MONTH" => day(days_from_civil(year, month, 1)),
        "QUARTER" => day(days_from_civil(year, (month - 1) / 3 * 3 + 1, 1)),
        "YEAR" => day(days_from_civil(year, 1, 1)),
        "DECADE" => day(days_from_civil(year.div_euclid(10) * 10, 1, 1)),
        "CENTURY" => day(days_from_civil((year - 1).div_euclid(100) * 100 + 1, 1, 1)),
        "MILLENNIUM" => day(days_from_civil((year - 1).div_euclid(1_000) * 1_000 + 1, 1, 1)),
        "WEEK" => day(moment.days() - iso_weekday(moment.days()) % 7),
        unit => match unit_nanos(unit) {
            Some(nanos) if nanos >= 1_000_000_000 => {
                let seconds = nanos / 1_000_000_000;
                Moment { seconds: moment.seconds.div_euclid(seconds) * seconds, nanos: 0 }
            }
            Some(nanos) => Moment { nanos: moment.nanos / nanos as u32 * nanos as u32, ..moment },
            None => moment,
        },
    }
}

fn next_moment(moment: Moment, unit: &str) -> Moment {
    if let Some(months) = unit_months(unit) {
        return Moment { seconds: add_months(moment.days(), months) * SECONDS_PER_DAY, nanos: 0 };
    }
    let nanos = i64::from(moment.nanos) + unit_nanos(unit).unwrap_or(0);
    Moment { seconds: moment.seconds + nanos / 1_000_000_000, nanos: (nanos % 1_000_000_000) as u32 }
}
