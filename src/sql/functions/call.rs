//! One evaluation of a function over a batch: its arguments as columns, and builders of its answer.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, StringViewArray,
    StringViewBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, exec_datafusion_err, exec_err};
use datafusion::logical_expr::ColumnarValue;

use super::function::Context;

/// One evaluation of a function over a batch.
pub(crate) struct Call<'a> {
    pub name: &'static str,
    pub args: &'a [ColumnarValue],
    /// Rows of the answer: 1 when all arguments are constant.
    pub rows: usize,
    pub fields: &'a [FieldRef],
    pub return_type: &'a DataType,
    pub context: &'a Context,
}

/// An argument's values; a constant has one row, which answers for all.
pub(crate) struct Column<A> {
    pub array: A,
    pub constant: bool,
}

impl<A> Column<A> {
    pub(super) fn index(&self, row: usize) -> usize {
        if self.constant { 0 } else { row }
    }
}

macro_rules! column_get {
    ($array:ty, $value:ty) => {
        impl Column<$array> {
            /// The value of a row, `None` for NULL and past the end of an empty batch.
            pub(super) fn get(&self, row: usize) -> Option<$value> {
                let row = self.index(row);
                (row < self.array.len() && self.array.is_valid(row)).then(|| self.array.value(row))
            }
        }
    };
}
column_get!(Int64Array, i64);
column_get!(Float64Array, f64);
column_get!(BooleanArray, bool);

impl Column<StringViewArray> {
    /// The value of a row, `None` for NULL and past the end of an empty batch.
    pub(super) fn get(&self, row: usize) -> Option<&str> {
        let row = self.index(row);
        (row < self.array.len() && self.array.is_valid(row)).then(|| self.array.value(row))
    }
}

impl Column<BinaryArray> {
    /// The value of a row, `None` for NULL and past the end of an empty batch.
    pub(super) fn get(&self, row: usize) -> Option<&[u8]> {
        let row = self.index(row);
        (row < self.array.len() && self.array.is_valid(row)).then(|| self.array.value(row))
    }
}

impl Call<'_> {
    pub(super) fn has(&self, i: usize) -> bool {
        i < self.args.len()
    }

    /// The argument as one array of its own type: one row if it is constant.
    pub(super) fn raw(&self, i: usize) -> Result<Column<ArrayRef>> {
        Ok(match &self.args[i] {
            ColumnarValue::Array(array) => Column { array: Arc::clone(array), constant: false },
            ColumnarValue::Scalar(value) => Column { array: value.to_array()?, constant: true },
        })
    }

    /// The argument with `rows` rows, constants repeated: for kernels that want arrays of one length.
    pub(super) fn array(&self, i: usize) -> Result<ArrayRef> {
        match &self.args[i] {
            ColumnarValue::Array(array) => Ok(Arc::clone(array)),
            ColumnarValue::Scalar(value) => value.to_array_of_size(self.rows),
        }
    }

    /// A string that must be constant; `None` for NULL.
    pub(super) fn constant_text(&self, i: usize) -> Result<Option<String>> {
        let column = self.strings(i)?;
        if !column.constant && self.rows > 0 {
            return exec_err!("argument {} of function {} must be a constant", i + 1, self.name);
        }
        Ok(column.get(0).map(str::to_owned))
    }

    /// A boolean that must be constant; `None` for NULL.
    pub(super) fn constant_flag(&self, i: usize) -> Result<Option<bool>> {
        let column = self.booleans(i)?;
        if !column.constant && self.rows > 0 {
            return exec_err!("argument {} of function {} must be a constant", i + 1, self.name);
        }
        Ok(column.get(0))
    }

    pub(super) fn strings(&self, i: usize) -> Result<Column<StringViewArray>> {
        self.typed(i, &DataType::Utf8View)
    }

    pub(super) fn integers(&self, i: usize) -> Result<Column<Int64Array>> {
        self.typed(i, &DataType::Int64)
    }

    pub(super) fn doubles(&self, i: usize) -> Result<Column<Float64Array>> {
        self.typed(i, &DataType::Float64)
    }

    pub(super) fn booleans(&self, i: usize) -> Result<Column<BooleanArray>> {
        self.typed(i, &DataType::Boolean)
    }

    pub(super) fn bytes(&self, i: usize) -> Result<Column<BinaryArray>> {
        self.typed(i, &DataType::Binary)
    }

    fn typed<A: Array + Clone + 'static>(&self, i: usize, data_type: &DataType) -> Result<Column<A>> {
        let Column { array, constant } = self.raw(i)?;
        let array = if array.data_type() == data_type { array } else { cast(&array, data_type)? };
        let typed = array.as_any().downcast_ref::<A>().ok_or_else(|| {
            exec_datafusion_err!(
                "argument {} of function {} has an unexpected type {}",
                i + 1,
                self.name,
                array.data_type()
            )
        })?;
        Ok(Column { array: typed.clone(), constant })
    }

    /// A column of text, one row at a time.
    pub(super) fn text<T: AsRef<str>>(&self, mut value: impl FnMut(usize) -> Option<T>) -> Result<ArrayRef> {
        self.try_text(|row| Ok(value(row)))
    }

    pub(super) fn try_text<T: AsRef<str>>(
        &self,
        mut value: impl FnMut(usize) -> Result<Option<T>>,
    ) -> Result<ArrayRef> {
        let mut builder = StringViewBuilder::with_capacity(self.rows);
        for row in 0..self.rows {
            builder.append_option(value(row)?);
        }
        Ok(Arc::new(builder.finish()))
    }

    pub(super) fn flags(&self, value: impl FnMut(usize) -> Option<bool>) -> Result<ArrayRef> {
        Ok(Arc::new((0..self.rows).map(value).collect::<BooleanArray>()))
    }

    /// A column of INT.
    pub(super) fn ints(&self, value: impl FnMut(usize) -> Option<i32>) -> Result<ArrayRef> {
        Ok(Arc::new((0..self.rows).map(value).collect::<Int32Array>()))
    }

    /// A column of BIGINT.
    pub(super) fn bigints(&self, value: impl FnMut(usize) -> Option<i64>) -> Result<ArrayRef> {
        Ok(Arc::new((0..self.rows).map(value).collect::<Int64Array>()))
    }
}
