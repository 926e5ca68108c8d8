//! GREATEST and LEAST: NULL if any argument is (DataFusion's skip NULLs), else DataFusion's.
//!
//! IF and IFNULL need no function: `rewrite` makes CASE and COALESCE of them.

use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray};
use arrow::buffer::NullBuffer;
use arrow::compute::nullif;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::function::{Definition, Nulls, Returns, define};

/// GREATEST or LEAST around DataFusion's function of that name.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    inner: Arc<ScalarUDF>,
    signature: Signature,
}

/// The two functions.
pub(crate) fn udfs() -> Vec<ScalarUDF> {
    [datafusion::functions::core::greatest(), datafusion::functions::core::least()]
        .into_iter()
        .map(|inner| ScalarUDF::new_from_impl(Extreme { inner, signature: Signature::user_defined(Volatility::Immutable) }))
        .collect()
}

impl ScalarUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match super::operators::common_decimal(arguments) {
            Some(decimal) => Ok(vec![decimal; arguments.len()]),
            None => self.inner.coerce_types(arguments),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<_> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.inner.return_type(&types)?, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let null = args.args.iter().any(|arg| matches!(arg, ColumnarValue::Scalar(value) if value.is_null()));
        if null {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from(args.return_field.data_type())?));
        }
        let nulls = args.args.iter().fold(None, |nulls, arg| match arg {
            ColumnarValue::Array(array) => NullBuffer::union(nulls.as_ref(), array.logical_nulls().as_ref()),
            ColumnarValue::Scalar(_) => nulls,
        });
        let answer = self.inner.invoke_with_args(args)?;
        match (answer, nulls) {
            (ColumnarValue::Array(array), Some(nulls)) => {
                let unwanted = BooleanArray::new(!nulls.inner(), None);
                Ok(ColumnarValue::Array(nullif(&array, &unwanted)?))
            }
            (answer, _) => Ok(answer),
        }
    }
}

/// A LIKE pattern with the given escape (or none), rewritten to the one whose escape is the backslash.
pub(crate) fn backslash_pattern(pattern: &str, escape: Option<char>) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            match chars.next() {
                Some(next @ ('%' | '_' | '\\')) => out.extend(['\\', next]),
                Some(next) => out.push(next),
                None => out.push(c),
            }
        } else if c == '\\' {
            out.push_str("\\\\");
        } else {
            out.push(c);
        }
    }
    out
}

/// `like_pattern(pattern[, escape])`, which a LIKE with a pattern from a column is rewritten to.
pub(crate) const LIKE_PATTERN: Definition = define("like_pattern", "s[s", Returns::Text, Nulls::Propagate, |call| {
    let patterns = call.strings(0)?;
    let escape = if call.has(1) { call.strings(1)?.get(0).and_then(|text| text.chars().next()) } else { None };
    call.text(|row| Some(backslash_pattern(patterns.get(row)?, escape)))
});
