//! CAST and TRY_CAST with Flink's meaning: integers wrap, decimals that do not fit are NULL, texts are read
//! and printed as `java.time` and `java.lang` do, numbers and timestamps do not mix.
//!
//! The parser makes `cast_to(x, 'TYPE')` of `CAST(x AS TYPE)`, for Arrow's types know no CHAR(n). Where
//! Arrow's own cast does the same, planning replaces the call by it again ([`Cast::simplify`]), so that
//! DataFusion's rules about casts (comparison with literals, pruning) still see one.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StringViewBuilder, StructArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::{Cast as ExprCast, TryCast};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::cast_number::{number_to_number, text_to_value};
use super::cast_text::{TextOf, fit};
use super::calendar::{Moment, instant_of};
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
pub(crate) fn udfs(context: &Arc<Context>) -> Vec<ScalarUDF> {
    [false, true]
        .into_iter()
        .map(|lenient| {
            ScalarUDF::new_from_impl(Cast { lenient, signature: Signature::user_defined(Volatility::Immutable), context: Arc::clone(context) })
        })
        .collect()
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
        Some(ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text))) => parse_type(text),
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
        let makes_nulls = self.lenient || matches!(spec.data_type, DataType::Decimal128(..)) && !native(from, &spec.data_type);
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
        (from, to) if from.is_signed_integer() && to.is_signed_integer() => to.primitive_width() > from.primitive_width(),
        (from, Float32 | Float64) => from.is_signed_integer() || from.is_floating(),
        (Boolean, to) => to.is_signed_integer(),
        (from, Boolean) => from.is_signed_integer(),
        (from, to) if from.is_string() => to.is_string(),
        (Decimal128(p1, s1), Decimal128(p2, s2)) => s2 >= s1 && i16::from(*p2) - i16::from(*s2) >= i16::from(*p1) - i16::from(*s1),
        (from, Decimal128(p, s)) if from.is_signed_integer() => {
            super::decimal::digits_of(from).is_some_and(|(digits, _)| i16::from(*p) - i16::from(*s) >= i16::from(digits))
        }
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
        (Date32, Timestamp(..)) | (Timestamp(..), Date32 | Time32(_) | Timestamp(..)) | (Time32(_) | DataType::Time64(_), Time32(_) | Timestamp(..)) => true,
        (List(a), List(b)) => castable(a.data_type(), b.data_type()).is_ok(),
        (Struct(a), Struct(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| castable(a.data_type(), b.data_type()).is_ok()),
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
            (from, to) if (from.is_numeric() || *from == DataType::Boolean) && (to.is_numeric() || *to == DataType::Boolean) => {
                number_to_number(array, to)
            }
            (DataType::List(_), DataType::List(item)) => {
                let list = array.as_list::<i32>();
                let values = self.convert(list.values(), item.data_type())?;
                Ok(Arc::new(ListArray::try_new(Arc::clone(item), list.offsets().clone(), values, list.nulls().cloned())?))
            }
            (DataType::Struct(_), DataType::Struct(fields)) => {
                let row = array.as_struct();
                let columns = row.columns().iter().zip(fields).map(|(column, field)| self.convert(column, field.data_type()));
                Ok(Arc::new(StructArray::try_new(fields.clone(), columns.collect::<Result<_>>()?, row.nulls().cloned())?))
            }
            (DataType::Map(..), DataType::Map(entries, ordered)) => {
                let map = array.as_map();
                let converted = self.convert(&(Arc::new(map.entries().clone()) as ArrayRef), entries.data_type())?;
                let converted = converted.as_struct().clone();
                Ok(Arc::new(MapArray::try_new(Arc::clone(entries), map.offsets().clone(), converted, map.nulls().cloned(), *ordered)?))
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
