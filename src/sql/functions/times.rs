//! Dates and timestamps of any Arrow unit as one kind of value, read on the session's wall clock.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit};
use chrono_tz::Tz;
use datafusion::common::{Result, exec_err};

use super::calendar::{Moment, SECONDS_PER_DAY, offset_at};
use super::call::Call;

/// Ticks of a unit in a second.
pub(crate) fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// A column of dates, times or timestamps.
pub(crate) struct Times {
    values: ScalarBuffer<i64>,
    nulls: Option<NullBuffer>,
    ticks: Ticks,
    /// For TIMESTAMP_LTZ: the zone whose wall clock is read.
    zone: Option<Tz>,
    constant: bool,
}

#[derive(Clone, Copy)]
enum Ticks {
    Days,
    PerSecond(i64),
}

impl Times {
    pub(super) fn new(array: &ArrayRef, constant: bool, zone: Tz) -> Result<Self> {
        let (values, ticks, zone) = match array.data_type() {
            DataType::Date32 => {
                let days = cast(array, &DataType::Int32)?;
                let days = days.as_primitive::<Int32Type>().values().iter().map(|day| i64::from(*day)).collect();
                (days, Ticks::Days, None)
            }
            DataType::Timestamp(unit, tz) => {
                let values = cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().values().clone();
                (values, Ticks::PerSecond(per_second(*unit)), tz.as_ref().map(|_| zone))
            }
            DataType::Time32(unit) => {
                let values = cast(array, &DataType::Int32)?;
                let values = values.as_primitive::<Int32Type>().values().iter().map(|tick| i64::from(*tick)).collect();
                (values, Ticks::PerSecond(per_second(*unit)), None)
            }
            DataType::Time64(unit) => {
                let values = cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().values().clone();
                (values, Ticks::PerSecond(per_second(*unit)), None)
            }
            other => return exec_err!("{other} is not a date or timestamp"),
        };
        Ok(Times { values, nulls: array.logical_nulls(), ticks, zone, constant })
    }

    /// The wall-clock time of a row, `None` for NULL.
    pub(super) fn local(&self, row: usize) -> Option<Moment> {
        let mut moment = self.instant(row)?;
        if let Some(zone) = self.zone {
            moment.seconds += offset_at(moment.seconds, zone);
        }
        Some(moment)
    }

    /// The wall-clock time of a row, and by how many seconds it is ahead of UTC.
    pub(super) fn local_and_offset(&self, row: usize) -> Option<(Moment, i64)> {
        let (local, instant) = (self.local(row)?, self.instant(row)?);
        Some((local, local.seconds - instant.seconds))
    }

    /// The value of a row as stored: an instant for TIMESTAMP_LTZ, else the wall-clock time.
    pub(super) fn instant(&self, row: usize) -> Option<Moment> {
        let row = if self.constant { 0 } else { row };
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return None;
        }
        let value = self.values[row];
        Some(match self.ticks {
            Ticks::Days => Moment { seconds: value * SECONDS_PER_DAY, nanos: 0 },
            Ticks::PerSecond(per_second) => Moment::from_units(value, per_second),
        })
    }

    /// The stored ticks and how many of them a second has, if they read the same on the wall clock.
    pub(super) fn ticks(&self) -> Option<(&[i64], i64)> {
        match (self.ticks, self.zone) {
            (Ticks::PerSecond(per_second), None | Some(Tz::UTC)) if !self.constant => Some((&self.values, per_second)),
            _ => None,
        }
    }

    pub(super) fn has_no_nulls(&self) -> bool {
        self.nulls.as_ref().is_none_or(|nulls| nulls.null_count() == 0)
    }

    pub(super) fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(if self.constant { 0 } else { row }))
    }

    /// The zone if the values are instants.
    pub(super) fn zone(&self) -> Option<Tz> {
        self.zone
    }
}

impl Call<'_> {
    /// An argument of kind `t`.
    pub(super) fn times(&self, i: usize) -> Result<Times> {
        let column = self.raw(i)?;
        Times::new(&column.array, column.constant, self.context.time_zone)
    }
}
