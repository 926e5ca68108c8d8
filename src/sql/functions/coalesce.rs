//! COALESCE that looks at a batch as a whole.
//!
//! DataFusion makes a CASE of it, which computes its arguments row by row as they are needed. That is right where an
//! argument is costly or can fail, and there it stays so. But most defaults are constants or columns: then the first
//! argument, if it has no NULL in the batch, is the answer as it is, and otherwise its gaps are filled.

use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{interleave, is_not_null};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

#[derive(Debug, PartialEq, Eq, Hash)]
struct Coalesce {
    inner: Arc<ScalarUDF>,
    signature: Signature,
}

/// The function, around DataFusion's of the same name.
pub(crate) fn udf() -> ScalarUDF {
    let signature = Signature::user_defined(Volatility::Immutable);
    ScalarUDF::new_from_impl(Coalesce { inner: datafusion::functions::core::coalesce(), signature })
}

/// Whether computing `expr` for rows that do not need it costs nothing and cannot fail.
fn is_free(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(..) | Expr::Column(_) => true,
        Expr::Alias(alias) => is_free(&alias.expr),
        Expr::ScalarFunction(function) => function.func.name() == "get_field" && function.args.iter().all(is_free),
        _ => false,
    }
}

impl ScalarUDFImpl for Coalesce {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let has_free_defaults = args.len() > 1 && args[1..].iter().all(is_free);
        if has_free_defaults { Ok(ExprSimplifyResult::Original(args)) } else { self.inner.simplify(args, context) }
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner.conditional_arguments(args)
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut values = args.args.into_iter();
        let mut answer = match values.next() {
            Some(first) => first,
            None => return self.inner.invoke_with_args(ScalarFunctionArgs { args: Vec::new(), ..args }),
        };
        for default in values {
            answer = match answer {
                ColumnarValue::Scalar(value) if value.is_null() => default,
                ColumnarValue::Array(array) if array.logical_null_count() > 0 => {
                    ColumnarValue::Array(filled(&array, &default)?)
                }
                complete => return Ok(complete),
            };
        }
        Ok(answer)
    }
}

/// `array` with the values of `default` in its gaps.
fn filled(array: &ArrayRef, default: &ColumnarValue) -> Result<ArrayRef> {
    if array.data_type() == &DataType::Utf8View {
        // Kernels that copy runs of rows are slow where gaps are scattered; views are copied one by one anyway.
        let (default, step) = match default {
            ColumnarValue::Array(default) => (Arc::clone(default), 1),
            ColumnarValue::Scalar(value) => (value.to_array()?, 0),
        };
        let gaps = array.logical_nulls();
        let source = |row| if gaps.as_ref().is_some_and(|gaps| gaps.is_null(row)) { (1, row * step) } else { (0, row) };
        let rows: Vec<(usize, usize)> = (0..array.len()).map(source).collect();
        return Ok(interleave(&[array.as_ref(), default.as_ref()], &rows)?);
    }
    let present = is_not_null(array)?;
    Ok(match default {
        ColumnarValue::Array(default) => zip(&present, array, default)?,
        ColumnarValue::Scalar(value) => zip(&present, array, &value.to_scalar()?)?,
    })
}
