//! One Flink function as a DataFusion scalar function.
//!
//! A [`Definition`] is a line of a table: name, kinds of parameters, result, body. [`Function`] turns it
//! into a `ScalarUDFImpl`, so that a body is plain code over columns and never meets DataFusion's planning
//! interface. What the scaffold promises to a body:
//!
//! - each argument has the kind that the definition asks for (checked at planning, with a message that says
//!   what to cast), strings may come as `Utf8`, `LargeUtf8` or `Utf8View` and are read as views;
//! - constants are one-row columns (`Column::get` answers them for each row), and when *all* arguments are
//!   constant the body sees one row and the answer is a scalar again;
//! - the body returns an array of `Call::rows` rows of the declared type.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::call::Call;
use super::types::type_text;

/// What functions take from the job: its zone, the epoch's time, and a counter for random values.
#[derive(Debug)]
pub(crate) struct Context {
    pub time_zone: chrono_tz::Tz,
    pub epoch_time_ms: Arc<AtomicI64>,
    /// The epoch time at which `calls` was last set to zero.
    pub calls_epoch: AtomicI64,
    /// How many batches of random values this epoch has drawn.
    pub calls: AtomicU64,
}

/// How the result type follows from the arguments.
#[derive(Clone, Copy)]
pub(crate) enum Returns {
    Text,
    Boolean,
    Int,
    BigInt,
    Double,
    Bytes,
    /// `ARRAY<STRING>`
    Texts,
    /// The type of that argument.
    Same(usize),
    /// Computed from types and constants of the arguments.
    With(fn(&[FieldRef], &[Option<&ScalarValue>]) -> Result<DataType>),
}

/// When the result may be NULL (a promise that the check of NOT NULL sinks relies on).
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Nulls {
    /// Only if an argument is.
    Propagate,
    /// The function itself makes NULLs.
    Possible,
    Never,
}

pub(crate) type Body = fn(&Call) -> Result<ArrayRef>;

/// A function of Flink in one line. Parameter kinds: `s` string, `i` integer, `n` number, `f` number taken as
/// DOUBLE, `b` boolean, `t` date or timestamp, `u` time or string, `x` bytes, `l` array, `m` map, `a` anything;
/// `[` starts the optional ones, a final `*` repeats the last.
#[derive(Clone, Copy)]
pub(crate) struct Definition {
    pub name: &'static str,
    pub parameters: &'static str,
    pub returns: Returns,
    pub nulls: Nulls,
    pub body: Body,
}

/// Shorthand for tables of definitions.
pub(crate) const fn define(
    name: &'static str,
    parameters: &'static str,
    returns: Returns,
    nulls: Nulls,
    body: Body,
) -> Definition {
    Definition { name, parameters, returns, nulls, body }
}

impl Definition {
    pub(super) fn udf(self, context: &Arc<Context>) -> ScalarUDF {
        self.with_volatility(context, Volatility::Immutable)
    }

    /// A function whose value changes between epochs: never folded while planning.
    pub(super) fn volatile(self, context: &Arc<Context>) -> ScalarUDF {
        self.with_volatility(context, Volatility::Volatile)
    }

    fn with_volatility(self, context: &Arc<Context>, volatility: Volatility) -> ScalarUDF {
        ScalarUDF::new_from_impl(Function {
            definition: self,
            signature: Signature::user_defined(volatility),
            context: Arc::clone(context),
        })
    }

    /// Kinds, how many are required, and whether the last repeats.
    fn kinds(&self) -> (Vec<char>, usize, bool) {
        let repeats = self.parameters.ends_with('*');
        let required = self.parameters.split('[').next().unwrap_or("");
        let count = |text: &str| text.chars().filter(char::is_ascii_lowercase).count();
        (self.parameters.chars().filter(char::is_ascii_lowercase).collect(), count(required), repeats)
    }
}

struct Function {
    definition: Definition,
    signature: Signature,
    context: Arc<Context>,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Function").field("name", &self.definition.name).finish_non_exhaustive()
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.definition.name == other.definition.name && self.context.time_zone == other.context.time_zone
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.definition.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.definition.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.definition.name;
        let (kinds, required, repeats) = self.definition.kinds();
        let most = if repeats { usize::MAX } else { kinds.len() };
        if arguments.len() < required || arguments.len() > most {
            let wanted = if repeats {
                format!("{required} or more")
            } else if required == kinds.len() {
                required.to_string()
            } else {
                format!("{required} to {}", kinds.len())
            };
            return plan_err!("function {name} takes {wanted} arguments, not {}", arguments.len());
        }
        let last = kinds.last().copied().unwrap_or('a');
        (arguments.iter().enumerate())
            .map(|(i, argument)| coerce(name, i, kinds.get(i).copied().unwrap_or(last), argument))
            .collect()
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        plan_err!("function {} needs its arguments to know its type", self.definition.name)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let data_type = match self.definition.returns {
            Returns::Text => DataType::Utf8View,
            Returns::Boolean => DataType::Boolean,
            Returns::Int => DataType::Int32,
            Returns::BigInt => DataType::Int64,
            Returns::Double => DataType::Float64,
            Returns::Bytes => DataType::Binary,
            Returns::Texts => DataType::new_list(DataType::Utf8View, true),
            Returns::Same(i) => args.arg_fields[i].data_type().clone(),
            Returns::With(compute) => compute(args.arg_fields, args.scalar_arguments)?,
        };
        let nullable = match self.definition.nulls {
            Nulls::Propagate => args.arg_fields.iter().any(|field| field.is_nullable()),
            Nulls::Possible => true,
            Nulls::Never => false,
        };
        Ok(Arc::new(Field::new(self.definition.name, data_type, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let volatile = self.signature.volatility == Volatility::Volatile;
        let constant = !volatile && args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let call = Call {
            name: self.definition.name,
            args: &args.args,
            rows,
            fields: &args.arg_fields,
            return_type: args.return_field.data_type(),
            context: &self.context,
        };
        let array = (self.definition.body)(&call)?;
        // One value for many rows: all of them have it (a day's text, mostly), and what is above works on it once.
        if array.len() == 1 && (constant || rows > 1) {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?));
        }
        Ok(ColumnarValue::Array(array))
    }
}

/// The type an argument is taken as, or why it cannot be.
fn coerce(name: &str, i: usize, kind: char, argument: &DataType) -> Result<DataType> {
    use DataType::{
        Binary, BinaryView, Boolean, Date32, Float64, Int32, Int64, LargeBinary, LargeUtf8, Map, Null, Timestamp, Utf8,
        Utf8View,
    };
    let fitting = match (kind, argument) {
        ('a', other) => Some(other.clone()),
        ('s' | 'u', Utf8 | LargeUtf8 | Utf8View) => Some(argument.clone()),
        ('s' | 'u', DataType::Dictionary(_, value)) if value.is_string() => Some(Utf8View),
        ('s' | 'u', Null) => Some(Utf8View),
        ('t' | 'u', Timestamp(..) | Date32 | DataType::Time32(_) | DataType::Time64(_)) => Some(argument.clone()),
        ('t', Null) => Some(Timestamp(TimeUnit::Millisecond, None)),
        ('i', other) if other.is_integer() || *other == Null => Some(Int64),
        ('f', other) if other.is_numeric() || *other == Null => Some(Float64),
        ('n', other) if other.is_numeric() => Some(other.clone()),
        ('n', Null) => Some(Int32),
        ('b', Boolean | Null) => Some(Boolean),
        ('x', Binary | LargeBinary | BinaryView | DataType::FixedSizeBinary(_) | Null) => Some(Binary),
        ('l', DataType::List(_)) => Some(argument.clone()),
        ('l', DataType::LargeList(field) | DataType::FixedSizeList(field, _)) => {
            Some(DataType::List(Arc::clone(field)))
        }
        ('l', Null) => Some(DataType::new_list(Null, true)),
        ('m', Map(..)) => Some(argument.clone()),
        _ => None,
    };
    if let Some(data_type) = fitting {
        return Ok(data_type);
    }
    let (wanted, hint) = match kind {
        's' => ("a string", "; write CAST(… AS STRING)"),
        't' => ("a date or timestamp", "; convert strings with TO_TIMESTAMP, numbers with TO_TIMESTAMP_LTZ"),
        'u' => ("a timestamp or a string", "; convert numbers with TO_TIMESTAMP_LTZ"),
        'i' => ("an integer", "; write CAST(… AS BIGINT)"),
        'f' | 'n' => ("a number", "; write CAST(… AS DOUBLE) or CAST(… AS DECIMAL(p, s))"),
        'b' => ("a boolean", ""),
        'x' => ("bytes", "; write ENCODE(…, 'UTF-8')"),
        'l' => ("an array", ""),
        _ => ("a map", ""),
    };
    plan_err!("argument {} of function {name} is {}, but {wanted} is wanted{hint}", i + 1, type_text(argument))
}
