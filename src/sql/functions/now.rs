//! The time now and random values. Both come from the epoch clock, never from the machine's: a replay of an
//! epoch gives the same answers (design, decision 1). All are volatile, so planning does not fold them.
//! DataFusion's `today` and `random`, which Flink has not, are replaced as well: they read the machine's clock
//! and an unseeded generator.
//!
//! | function | type | value |
//! |---|---|---|
//! | NOW, CURRENT_TIMESTAMP, CURRENT_ROW_TIMESTAMP, PROCTIME | TIMESTAMP_LTZ(3) | the epoch's time |
//! | LOCALTIMESTAMP | TIMESTAMP(3) | the same on the session's wall clock |
//! | CURRENT_DATE, CURRENT_TIME, LOCALTIME | DATE, TIME | parts of that |
//! | UNIX_TIMESTAMP (in `time_text`) | BIGINT | seconds since 1970 |
//! | RAND, RAND_INTEGER, UUID | DOUBLE, INT, STRING | drawn from the epoch's time and a count of batches |

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{
    ArrayRef, Date32Array, Float64Array, Int32Array, StringViewArray, Time32MillisecondArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Result, exec_err};

use super::calendar::{Moment, SECONDS_PER_DAY, offset_at};
use super::call::Call;
use super::function::{Definition, Nulls, Returns, define};
use super::types::LTZ_ZONE;
use crate::contracts::{SPLITMIX64_STEP, splitmix64};

const LTZ: Returns = Returns::With(|_, _| Ok(DataType::Timestamp(TimeUnit::Millisecond, Some(LTZ_ZONE.into()))));
const TIMESTAMP: Returns = Returns::With(|_, _| Ok(DataType::Timestamp(TimeUnit::Millisecond, None)));
const DATE: Returns = Returns::With(|_, _| Ok(DataType::Date32));
const TIME: Returns = Returns::With(|_, _| Ok(DataType::Time32(TimeUnit::Millisecond)));

pub(crate) const DEFINITIONS: &[Definition] = &[
    define("now", "", LTZ, Nulls::Never, instant),
    define("current_timestamp", "", LTZ, Nulls::Never, instant),
    define("current_row_timestamp", "", LTZ, Nulls::Never, instant),
    define("proctime", "", LTZ, Nulls::Never, instant),
    define("localtimestamp", "", TIMESTAMP, Nulls::Never, local),
    define("current_date", "", DATE, Nulls::Never, date),
    define("today", "", DATE, Nulls::Never, date),
    define("current_time", "", TIME, Nulls::Never, time),
    define("localtime", "", TIME, Nulls::Never, time),
    define("rand", "[i", Returns::Double, Nulls::Never, rand),
    define("random", "", Returns::Double, Nulls::Never, rand),
    define("rand_integer", "i[i", Returns::Int, Nulls::Propagate, rand_integer),
    define("uuid", "", Returns::Text, Nulls::Never, uuid),
];

fn epoch_ms(call: &Call) -> i64 {
    call.context.epoch_time_ms.load(Ordering::Relaxed)
}

/// The epoch's time on the session's wall clock.
fn wall(call: &Call) -> Moment {
    let now = Moment::from_units(epoch_ms(call), 1_000);
    Moment { seconds: now.seconds + offset_at(now.seconds, call.context.time_zone), ..now }
}

fn instant(call: &Call) -> Result<ArrayRef> {
    Ok(Arc::new(TimestampMillisecondArray::from_value(epoch_ms(call), call.rows).with_timezone(LTZ_ZONE)))
}

fn local(call: &Call) -> Result<ArrayRef> {
    let value = wall(call).to_units(1_000).unwrap_or(0);
    Ok(Arc::new(TimestampMillisecondArray::from_value(value, call.rows)))
}

fn date(call: &Call) -> Result<ArrayRef> {
    Ok(Arc::new(Date32Array::from_value(i32::try_from(wall(call).days()).unwrap_or(0), call.rows)))
}

fn time(call: &Call) -> Result<ArrayRef> {
    let now = wall(call);
    let millis = now.seconds.rem_euclid(SECONDS_PER_DAY) * 1_000 + i64::from(now.nanos) / 1_000_000;
    Ok(Arc::new(Time32MillisecondArray::from_value(millis as i32, call.rows)))
}

/// A stream of 64-bit values (SplitMix64, Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    /// Seeded by the epoch's time and the number of batches drawn in it, or by the user's seed instead of the time.
    fn new(call: &Call, seed: Option<i64>) -> Self {
        let context = call.context;
        let epoch = epoch_ms(call);
        if context.calls_epoch.swap(epoch, Ordering::Relaxed) != epoch {
            context.calls.store(0, Ordering::Relaxed);
        }
        let batch = context.calls.fetch_add(1, Ordering::Relaxed);
        let start = seed.unwrap_or(0).rotate_left(32) ^ epoch;
        let mut random = Random(start as u64);
        Random(random.next() ^ batch.wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn next(&mut self) -> u64 {
        let number = splitmix64(self.0);
        self.0 = self.0.wrapping_add(SPLITMIX64_STEP);
        number
    }
}

/// `RAND([seed])` in [0, 1).
fn rand(call: &Call) -> Result<ArrayRef> {
    let seed = if call.has(0) { call.integers(0)?.get(0) } else { None };
    let mut random = Random::new(call, seed);
    let values = (0..call.rows).map(|_| (random.next() >> 11) as f64 / (1u64 << 53) as f64);
    Ok(Arc::new(Float64Array::from_iter_values(values)))
}

/// `RAND_INTEGER([seed,] bound)` in [0, bound).
fn rand_integer(call: &Call) -> Result<ArrayRef> {
    let seed = if call.has(1) { call.integers(0)?.get(0) } else { None };
    let bounds = call.integers(call.args.len() - 1)?;
    let mut random = Random::new(call, seed);
    let mut values = Vec::with_capacity(call.rows);
    for row in 0..call.rows {
        values.push(match bounds.get(row) {
            None => None,
            Some(bound @ 1..=0x7fff_ffff) => Some((random.next() % bound as u64) as i32),
            Some(bound) => {
                return exec_err!("function rand_integer: the bound {bound} is not between 1 and 2147483647");
            }
        });
    }
    Ok(Arc::new(Int32Array::from(values)))
}

/// A version 4 UUID from the epoch's stream.
fn uuid(call: &Call) -> Result<ArrayRef> {
    let mut random = Random::new(call, None);
    let values = (0..call.rows).map(|_| {
        let (high, low) = (random.next(), random.next());
        let (high, low) = (high & !0xf000 | 0x4000, low & !(0b11 << 62) | 1 << 63);
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    });
    Ok(Arc::new(StringViewArray::from_iter_values(values)))
}
