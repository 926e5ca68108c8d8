//! The functions to which window table functions are lowered. They are made by the planner only and
//! never registered under a name.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, PrimitiveArray, TimestampMillisecondArray,
};
use datafusion::arrow::buffer::{OffsetBuffer, ScalarBuffer};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, TimeUnit, TimestampMillisecondType};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::window_spec::WindowSpec;

/// Which bound of the window (or pane) of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Bound {
    /// Start of the pane; of the window, for TUMBLE.
    Start,
    /// For a pane: the end of the first window of the row that its watermark has not closed; NULL when
    /// all are closed. Takes the watermark as second argument.
    FirstOpenEnd,
    /// The argument plus a distance, e.g. a window's end from its start.
    Plus(i64),
    /// Start of the pane plus a distance: the window's end, for TUMBLE.
    StartPlus(i64),
}

/// `(time [, watermark]) -> TIMESTAMP(3)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WindowBound {
    spec: WindowSpec,
    bound: Bound,
    signature: Signature,
}

impl WindowBound {
    /// Start of the pane.
    pub fn start(spec: WindowSpec) -> Self {
        Self { spec, bound: Bound::Start, signature: Signature::any(1, Volatility::Immutable) }
    }

    /// End of the first window of the row that its watermark has not closed; NULL when all are closed.
    pub fn first_open_end(spec: WindowSpec) -> Self {
        Self { spec, bound: Bound::FirstOpenEnd, signature: Signature::any(2, Volatility::Immutable) }
    }

    /// `ms` after the start of the pane. As an expression of its own, not of the start: what two columns share the planner
    /// computes in a step below them, and through such a step it does not push the reading of single fields.
    pub fn start_plus(spec: WindowSpec, ms: i64) -> Self {
        Self { spec, bound: Bound::StartPlus(ms), signature: Signature::any(1, Volatility::Immutable) }
    }

    /// `ms` after the argument.
    pub fn plus(spec: WindowSpec, ms: i64) -> Self {
        Self { spec, bound: Bound::Plus(ms), signature: Signature::any(1, Volatility::Immutable) }
    }
}

fn millis(value: &ColumnarValue, rows: usize) -> Result<TimestampMillisecondArray> {
    let array = value.to_array(rows)?;
    let array = cast(&array, &DataType::Timestamp(TimeUnit::Millisecond, None))?;
    Ok(array.as_primitive::<TimestampMillisecondType>().clone())
}

fn watermarks(value: &ColumnarValue, rows: usize) -> Result<Int64Array> {
    Ok(value.to_array(rows)?.as_primitive::<Int64Type>().clone())
}

impl ScalarUDFImpl for WindowBound {
    fn name(&self) -> &str {
        match self.bound {
            Bound::Start => "tm_window_start",
            Bound::FirstOpenEnd => "tm_first_open_end",
            Bound::Plus(_) => "tm_plus",
            Bound::StartPlus(_) => "tm_window_end",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Millisecond, None))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let times = millis(&args.args[0], rows)?;
        let out: TimestampMillisecondArray = match self.bound {
            Bound::Start | Bound::StartPlus(_) => {
                let plus = if let Bound::StartPlus(ms) = self.bound { ms } else { 0 };
                // Rows of one batch mostly share their window: one division each run of equal panes.
                let (mut start, mut end) = (0, 0);
                let pane = self.spec.pane_ms();
                let starts = times.values().iter().map(|&time| {
                    if time < start || time >= end {
                        start = self.spec.pane_start(time);
                        end = start + pane;
                    }
                    start + plus
                });
                TimestampMillisecondArray::new(starts.collect(), times.nulls().cloned())
            }
            Bound::Plus(ms) => times.unary(|time| time + ms),
            Bound::FirstOpenEnd => {
                let watermarks = watermarks(&args.args[1], rows)?;
                let pairs = times.iter().zip(watermarks.iter());
                pairs.map(|(t, w)| self.spec.first_open_end(t?, w.unwrap_or(i64::MIN))).collect()
            }
        };
        Ok(ColumnarValue::Array(Arc::new(out)))
    }
}

/// `(time) -> ARRAY<TIMESTAMP(3)>`: the ends (CUMULATE) or starts (HOP) of all windows of a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WindowStarts {
    spec: WindowSpec,
    ends: bool,
    signature: Signature,
}

impl WindowStarts {
    /// Starts of the windows of a time.
    pub fn starts(spec: WindowSpec) -> Self {
        Self { spec, ends: false, signature: Signature::any(1, Volatility::Immutable) }
    }

    /// Ends of the windows of a time.
    pub fn ends(spec: WindowSpec) -> Self {
        Self { spec, ends: true, signature: Signature::any(1, Volatility::Immutable) }
    }

    fn element() -> Arc<Field> {
        Arc::new(Field::new("item", DataType::Timestamp(TimeUnit::Millisecond, None), true))
    }
}

impl ScalarUDFImpl for WindowStarts {
    fn name(&self) -> &str {
        if self.ends { "tm_window_ends" } else { "tm_window_starts" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Self::element()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let times = millis(&args.args[0], args.number_rows)?;
        let mut values: Vec<i64> = Vec::new();
        let mut offsets: Vec<i32> = vec![0];
        for time in &times {
            if let Some(time) = time {
                let windows = self.spec.windows_of_pane(self.spec.pane_start(time));
                values.extend(windows.map(|(start, end)| if self.ends { end } else { start }));
            }
            let Ok(offset) = i32::try_from(values.len()) else {
                return exec_err!("a batch holds more than 2^31 rows once each is in all of its windows");
            };
            offsets.push(offset);
        }
        let values: PrimitiveArray<TimestampMillisecondType> = values.into();
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let list: ArrayRef = Arc::new(ListArray::new(Self::element(), offsets, Arc::new(values), None));
        Ok(ColumnarValue::Array(list))
    }
}

/// `(window_end, watermark) -> BOOLEAN`: whether the row's own split had not yet passed the window.
///
/// A row is late when the window's end minus 1 ms is at or before the split's watermark ("Decisions",
/// 7): lateness so depends neither on how epochs were cut nor on other splits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NotLate {
    /// Milliseconds that the limit lies before the first argument: 1 for a window's end.
    before_ms: i64,
    signature: Signature,
}

impl NotLate {
    /// For a window's end.
    pub fn window() -> Self {
        Self { before_ms: 1, signature: Signature::any(2, Volatility::Immutable) }
    }

    /// For a row's time and a state time-to-live: late when `time < watermark - ttl`.
    pub fn time_to_live(ttl_ms: i64) -> Self {
        // time >= watermark - ttl  <=>  time + ttl + 1 > watermark
        Self { before_ms: -(ttl_ms + 1), signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for NotLate {
    fn name(&self) -> &str {
        "tm_not_late"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ends = millis(&args.args[0], args.number_rows)?;
        let watermarks = watermarks(&args.args[1], args.number_rows)?;
        let (ends, nulls) = (ends.values(), ends.nulls());
        let marks = watermarks.values();
        // A row without a time belongs to no window; it is not late but dropped by the window itself.
        let late = |i: usize| ends[i].saturating_sub(self.before_ms) <= marks[i];
        let values = (0..ends.len()).map(|i| nulls.is_some_and(|n| n.is_null(i)) || !late(i));
        Ok(ColumnarValue::Array(Arc::new(values.map(Some).collect::<BooleanArray>())))
    }
}
