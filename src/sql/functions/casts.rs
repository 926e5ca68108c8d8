//! CAST and TRY_CAST with Flink's meaning: integers wrap, decimals that do not fit are NULL, texts are read
//! and printed as `java.time` and `java.lang` do, numbers and timestamps do not mix.
//!
//! The parser makes `cast_to(x, 'TYPE')` of `CAST(x AS TYPE)`, for Arrow's types know no CHAR(n). Where
//! Arrow's own cast does the same, planning replaces the call by it again ([`Cast::simplify`]), so that
//! DataFusion's rules about casts (comparison with literals, pruning) still see one.
//!
//! | from | to | rule |
//! |---|---|---|
//! | integer | a smaller integer | wraps: CAST(300 AS TINYINT) is 44 |
//! | DOUBLE | INT, BIGINT | cut towards zero, saturates; NaN is 0 |
//! | number | DECIMAL(p, s) | half up; NULL if it needs more than p digits |
//! | STRING | number | blanks around are dropped, '12.7' as INT is 12; else an error, NULL for TRY_CAST |
//! | STRING | BOOLEAN | t, true, y, yes, 1 and f, false, n, no, 0 |
//! | STRING | TIMESTAMP | `yyyy-M-d[ H:m:s[.f]]`, no `T`; 30 February is its last day |
//! | STRING | DATE | `y[-M[-d]]`, what follows a blank is ignored; the day must exist |
//! | TIMESTAMP(p) | STRING | a blank between date and time, the digits of the unit |
//! | DOUBLE | STRING | as Java prints: `1.0`, `1.0E10` |
//! | any | CHAR(n), VARCHAR(n) | cut, and padded for CHAR |
//! | ARRAY, MAP, ROW | STRING | `[1, 2]`, `{a=1}`, `(1, a)` |
//! | number | TIMESTAMP, DATE, and back | refused while planning, with the function to use |
//!
//! TIMESTAMP and TIMESTAMP_LTZ convert through the session's wall clock.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, ListArray, MapArray, StringViewBuilder, StructArray, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::{Cast as ExprCast, TryCast};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::calendar::{Moment, instant_of};
use super::cast_number::{number_to_number, text_to_value};
use super::cast_text::{TextOf, fit};
use super::function::Context;
use super::time_arith::moments_of;
use super::times::Times;
use super::types::{Length, TypeSpec, parse_type, type_text, unit_digits};

/// The function behind CAST, or behind TRY_CAST.
struct Cast {
    lenient: bool,
    signature: Signature,
    context: Arc<Context>,
}

/// `cast_to` and `try_cast_to`.
pub(crate) fn udfs(context: &Arc<Context>) -> [ScalarUDF; 2] {
    [false, true].map(|lenient| {
        ScalarUDF::new_from_impl(Cast {
            lenient,
            signature: Signature::user_defined(Volatility::Immutable),
            context: Arc::clone(context),
        })
    })
}

impl std::fmt::Debug for Cast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cast").field("lenient", &self.lenient).finish_non_exhaustive()
    }
}

impl PartialEq for Cast {
    fn eq(&self, other: &Self) -> bool {
        self.lenient == other.lenient && self.context.time_zone == other.context.time_zone
    }
}

impl Eq for Cast {}

impl Hash for Cast {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.lenient.hash(state);
    }
}

fn target(value: Option<&ScalarValue>) -> Result<TypeSpec> {
    match value {
        Some(
            ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)),
        ) => parse_type(text),
        _ => plan_err!("a cast needs a type's name"),
    }
}

impl ScalarUDFImpl for Cast {
    fn name(&self) -> &str {
        if self.lenient { "try_cast_to" } else { "cast_to" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        if arguments.len() != 2 {
            return plan_err!("function {} takes a value and a type's name", self.name());
        }
        Ok(arguments.to_vec())
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let type_name = match &args[1] {
            Expr::Literal(ScalarValue::Utf8(Some(text)), _) => text.clone(),
            other => other.to_string(),
        };
        let try_ = if self.lenient { "TRY_" } else { "" };
        Ok(format!("{try_}CAST({} AS {type_name})", args[0].schema_name()))
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        plan_err!("function {} needs its arguments to know its type", self.name())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let spec = target(args.scalar_arguments[1])?;
        let from = args.arg_fields[0].data_type();
        castable(from, &spec.data_type)?;
        let makes_nulls =
            self.lenient || matches!(spec.data_type, DataType::Decimal128(..)) && !native(from, &spec.data_type);
        let nullable = makes_nulls || args.arg_fields[0].is_nullable();
        Ok(Arc::new(Field::new(self.name(), spec.data_type, nullable)))
    }

    fn simplify(&self, mut args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let Expr::Literal(text, _) = &args[1] else { return Ok(ExprSimplifyResult::Original(args)) };
        let spec = target(Some(text))?;
        let from = info.get_data_type(&args[0])?;
        if from == DataType::Null {
            return Ok(ExprSimplifyResult::Simplified(Expr::Literal(ScalarValue::try_from(&spec.data_type)?, None)));
        }
        if spec.length.is_some() || !native(&from, &spec.data_type) {
            return Ok(ExprSimplifyResult::Original(args));
        }
        let value = args.swap_remove(0);
        Ok(ExprSimplifyResult::Simplified(if self.lenient {
            Expr::TryCast(TryCast::new(Box::new(value), spec.data_type))
        } else if from == spec.data_type {
            value
        } else {
            Expr::Cast(ExprCast::new(Box::new(value), spec.data_type))
        }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ColumnarValue::Scalar(type_name) = &args.args[1] else { return plan_err!("a cast needs a type's name") };
        let spec = target(Some(type_name))?;
        let converter = Converter { lenient: self.lenient, zone: self.context.time_zone };
        match &args.args[0] {
            ColumnarValue::Array(array) => Ok(ColumnarValue::Array(converter.top(array, &spec)?)),
            ColumnarValue::Scalar(value) => {
                let array = converter.top(&value.to_array()?, &spec)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
            }
        }
    }
}

/// True if Arrow's cast gives Flink's answer and cannot fail.
fn native(from: &DataType, to: &DataType) -> bool {
    use DataType::{Boolean, Date32, Decimal128, Float32, Float64, Timestamp};
    if from == to {
        return true;
    }
    match (from, to) {
        (from, to) if from.is_signed_integer() && to.is_signed_integer() => {
            to.primitive_width() > from.primitive_width()
        }
        (from, Float32 | Float64) => from.is_signed_integer() || from.is_floating(),
        (Boolean, to) => to.is_signed_integer(),
        (from, Boolean) => from.is_signed_integer(),
        (from, to) if from.is_string() => to.is_string(),
        (Decimal128(p1, s1), Decimal128(p2, s2)) => {
            s2 >= s1 && i16::from(*p2) - i16::from(*s2) >= i16::from(*p1) - i16::from(*s1)
        }
        (from, Decimal128(p, s)) if from.is_signed_integer() => super::decimal::digits_of(from)
            .is_some_and(|(digits, _)| i16::from(*p) - i16::from(*s) >= i16::from(digits)),
        (from, to) if to.is_string() => from.is_integer() || matches!(from, Decimal128(..)),
        (Date32, Timestamp(_, None)) => true,
        (Timestamp(a, za), Timestamp(b, zb)) => za == zb && unit_digits(*a) <= unit_digits(*b),
        _ => false,
    }
}

/// Says why a cast does not exist, if it does not.
fn castable(from: &DataType, to: &DataType) -> Result<()> {
    use DataType::{Binary, Boolean, Date32, Interval, List, Map, Null, Struct, Time32, Timestamp};
    let time = |data_type: &DataType| matches!(data_type, Date32 | Time32(_) | Timestamp(..));
    let possible = match (from, to) {
        (Null, _) => true,
        (from, to) if from == to || to.is_string() => true,
        (from, Binary) => from.is_string() || from.is_binary(),
        (from, Interval(_)) => matches!(from, Interval(_)),
        (from, to) if from.is_string() => to.is_numeric() || *to == Boolean || time(to),
        (from, to) if from.is_numeric() => to.is_numeric() || *to == Boolean,
        (Boolean, to) => to.is_numeric(),
        (Date32, Timestamp(..))
        | (Timestamp(..), Date32 | Time32(_) | Timestamp(..))
        | (Time32(_) | DataType::Time64(_), Time32(_) | Timestamp(..)) => true,
        (List(a), List(b)) => castable(a.data_type(), b.data_type()).is_ok(),
        (Struct(a), Struct(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| castable(a.data_type(), b.data_type()).is_ok())
        }
        (Map(a, _), Map(b, _)) => castable(a.data_type(), b.data_type()).is_ok(),
        _ => false,
    };
    if possible {
        return Ok(());
    }
    let hint = if from.is_numeric() && matches!(to, Timestamp(_, Some(_))) {
        "; use TO_TIMESTAMP_LTZ(number, 0 or 3)"
    } else if from.is_numeric() && time(to) {
        "; use TO_TIMESTAMP(FROM_UNIXTIME(seconds)) or TO_TIMESTAMP_LTZ(number, 0 or 3)"
    } else if time(from) && to.is_numeric() {
        "; use UNIX_TIMESTAMP(CAST(… AS STRING)) or EXTRACT(EPOCH FROM …)"
    } else {
        ""
    };
    plan_err!("{} cannot be cast to {}{hint}", type_text(from), type_text(to))
}

/// Casts arrays, and what is in them.
struct Converter {
    lenient: bool,
    zone: chrono_tz::Tz,
}

impl Converter {
    fn top(&self, array: &ArrayRef, spec: &TypeSpec) -> Result<ArrayRef> {
        match spec.length {
            Some(length) => self.text(array, Some(length)),
            None => self.convert(array, &spec.data_type),
        }
    }

    fn text(&self, array: &ArrayRef, length: Option<Length>) -> Result<ArrayRef> {
        let values = TextOf::new(array, self.zone)?;
        let mut builder = StringViewBuilder::with_capacity(array.len());
        let mut text = String::new();
        for row in 0..array.len() {
            if values.is_null(row) {
                builder.append_null();
                continue;
            }
            text.clear();
            values.write(row, &mut text)?;
            if let Some(length) = length {
                fit(&mut text, length)?;
            }
            builder.append_value(&text);
        }
        Ok(Arc::new(builder.finish()))
    }

    fn convert(&self, array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
        let from = array.data_type();
        if *from == DataType::Null {
            return Ok(new_null_array(to, array.len()));
        }
        if native(from, to) {
            return Ok(cast(array, to)?);
        }
        match (from, to) {
            (_, to) if to.is_string() => Ok(cast(&self.text(array, None)?, to)?),
            (from, DataType::Binary) if from.is_binary() => Ok(cast(array, to)?),
            (from, DataType::Binary) if from.is_string() => Ok(cast(&cast(array, &DataType::Utf8)?, to)?),
            (from, to) if from.is_string() => text_to_value(array, to, self.lenient, self.zone),
            (from, to)
                if (from.is_numeric() || *from == DataType::Boolean)
                    && (to.is_numeric() || *to == DataType::Boolean) =>
            {
                number_to_number(array, to)
            }
            (DataType::List(_), DataType::List(item)) => {
                let list = array.as_list::<i32>();
                let (values, offsets) = own_values(list.values(), list.offsets(), list.nulls())?;
                let values = self.convert(&values, item.data_type())?;
                Ok(Arc::new(ListArray::try_new(Arc::clone(item), offsets, values, list.nulls().cloned())?))
            }
            (DataType::Struct(_), DataType::Struct(fields)) => {
                let row = array.as_struct();
                let columns =
                    row.columns().iter().zip(fields).map(|(column, field)| self.convert(column, field.data_type()));
                Ok(Arc::new(StructArray::try_new(
                    fields.clone(),
                    columns.collect::<Result<_>>()?,
                    row.nulls().cloned(),
                )?))
            }
            (DataType::Map(..), DataType::Map(entries, ordered)) => {
                let map = array.as_map();
                let own = Arc::new(map.entries().clone()) as ArrayRef;
                let (own, offsets) = own_values(&own, map.offsets(), map.nulls())?;
                let converted = self.convert(&own, entries.data_type())?;
                let converted = converted.as_struct().clone();
                Ok(Arc::new(MapArray::try_new(
                    Arc::clone(entries),
                    offsets,
                    converted,
                    map.nulls().cloned(),
                    *ordered,
                )?))
            }
            _ => self.time(array, to),
        }
    }

    /// Between dates, times and timestamps: on the wall clock, unless both are instants.
    fn time(&self, array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
        let times = Times::new(array, false, self.zone)?;
        let to_instant = matches!(to, DataType::Timestamp(_, Some(_)));
        moments_of(to, array.len(), |row| {
            if to_instant && times.zone().is_some() {
                return times.instant(row);
            }
            let local = times.local(row)?;
            Some(if to_instant { Moment { seconds: instant_of(local.seconds, self.zone), ..local } } else { local })
        })
    }
}

/// The values that the rows of a list or map have, and where each row's begin: a slice shares those of all rows, and a
/// NULL may have some that nobody sees. One that cannot be cast must fail its own row only.
fn own_values(
    values: &ArrayRef,
    offsets: &OffsetBuffer<i32>,
    nulls: Option<&NullBuffer>,
) -> Result<(ArrayRef, OffsetBuffer<i32>)> {
    let is_null = |row: usize| nulls.is_some_and(|nulls| nulls.is_null(row));
    if (0..offsets.len() - 1).any(|row| is_null(row) && offsets[row] < offsets[row + 1]) {
        let seen = |row: &usize| !is_null(*row);
        let indices = (0..offsets.len() - 1).filter(seen).flat_map(|row| offsets[row]..offsets[row + 1]);
        let values = take(values, &indices.collect::<Int32Array>(), None)?;
        let lengths = offsets.lengths().enumerate().map(|(row, length)| if is_null(row) { 0 } else { length });
        return Ok((values, OffsetBuffer::from_lengths(lengths)));
    }
    let (first, end) = (offsets[0], offsets[offsets.len() - 1]);
    let values = values.slice(first as usize, (end - first) as usize);
    Ok((values, OffsetBuffer::new(offsets.iter().map(|offset| offset - first).collect())))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Builder, ListBuilder, MapBuilder, StringViewBuilder};

    use super::*;

    const STRICT: Converter = Converter { lenient: false, zone: chrono_tz::Tz::UTC };

    #[test]
    fn a_slice_of_lists_casts_its_own_values_only() {
        let mut lists = ListBuilder::new(StringViewBuilder::new());
        for item in ["x", "1", "2"] {
            lists.values().append_value(item);
            lists.append(true);
        }
        let lists: ArrayRef = Arc::new(lists.finish());
        let to = DataType::new_list(DataType::Int32, true);
        assert!(STRICT.convert(&lists, &to).is_err());
        let cast = STRICT.convert(&lists.slice(1, 2), &to).expect("numbers");
        let mut expected = ListBuilder::new(Int32Builder::new());
        expected.append_value([Some(1)]);
        expected.append_value([Some(2)]);
        assert_eq!(cast.as_list::<i32>(), &expected.finish());
        assert_eq!(STRICT.convert(&lists.slice(1, 0), &to).expect("nothing").len(), 0);
    }

    #[test]
    fn a_slice_of_maps_casts_its_own_values_only() {
        let mut maps = MapBuilder::new(None, StringViewBuilder::new(), StringViewBuilder::new());
        for value in ["x", "1"] {
            maps.keys().append_value("k");
            maps.values().append_value(value);
            maps.append(true).expect("keys and values");
        }
        let maps: ArrayRef = Arc::new(maps.finish());
        let to = super::super::types::map(DataType::Utf8View, DataType::Int32);
        assert!(STRICT.convert(&maps, &to).is_err());
        let cast = STRICT.convert(&maps.slice(1, 1), &to).expect("a number");
        assert_eq!(cast.as_map().values().as_primitive::<arrow::datatypes::Int32Type>().values(), &[1]);
    }

    #[test]
    fn values_below_a_null_are_not_cast() {
        let mut items = StringViewBuilder::new();
        ["1", "x", "2"].iter().for_each(|item| items.append_value(item));
        let lists = ListArray::new(
            Arc::new(Field::new_list_field(DataType::Utf8View, true)),
            OffsetBuffer::from_lengths([1, 1, 1]),
            Arc::new(items.finish()),
            Some(NullBuffer::from(vec![true, false, true])),
        );
        let cast = STRICT.convert(&(Arc::new(lists) as ArrayRef), &DataType::new_list(DataType::Int32, true));
        let cast = cast.expect("the text is below a NULL");
        let mut expected = ListBuilder::new(Int32Builder::new());
        expected.append_value([Some(1)]);
        expected.append(false);
        expected.append_value([Some(2)]);
        assert_eq!(cast.as_list::<i32>(), &expected.finish());
    }
}
