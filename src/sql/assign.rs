//! What an INSERT may write into a column without a CAST.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF};
use datafusion::prelude::{cast, lit};

use super::functions::{parse_type, type_text};
use super::nodes::WindowTvf;

/// Flink's implicit casts on INSERT, by families; whatever loses digits or meaning needs a CAST.
pub(crate) fn assignable(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    let text = |t: &T| matches!(t, T::Utf8 | T::Utf8View | T::LargeUtf8);
    let bytes = |t: &T| matches!(t, T::Binary | T::BinaryView | T::LargeBinary);
    let width = |t: &T| match t {
        T::Int8 | T::UInt8 => Some(1),
        T::Int16 | T::UInt16 => Some(2),
        T::Int32 | T::UInt32 => Some(3),
        T::Int64 | T::UInt64 => Some(4),
        _ => None,
    };
    match (from, to) {
        (T::Null, _) => true,
        (a, b) if a == b || (text(a) && text(b)) || (bytes(a) && bytes(b)) => true,
        (a, b) if width(a).is_some() && width(b).is_some() => width(a) <= width(b),
        (a, T::Decimal128(..)) if width(a).is_some() => true,
        (a, T::Float32 | T::Float64) if width(a).is_some() || matches!(a, T::Decimal128(..) | T::Float32) => true,
        (T::Decimal128(..) | T::Decimal256(..), T::Decimal128(..)) => true,
        (T::Date32, T::Timestamp(..)) | (T::Timestamp(..), T::Timestamp(..)) => true,
        (T::Time32(_) | T::Time64(_), T::Time32(_) | T::Time64(_)) => true,
        (T::List(a) | T::LargeList(a), T::List(b)) => assignable(a.data_type(), b.data_type()),
        (T::Struct(a), T::Struct(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(x, y)| assignable(x.data_type(), y.data_type()))
        }
        (T::Map(a, _), T::Map(b, _)) => assignable(a.data_type(), b.data_type()),
        _ => false,
    }
}

/// A value as a column's type. Fields of rows are taken by place, wherever in it they stand: DataFusion's cast would go
/// by their names. Between the wall clock and instants, `cast_to` knows the session's zone.
pub(crate) fn assigned(value: Expr, from: &DataType, to: &DataType, cast_to: &ScalarUDF) -> Expr {
    if !differs(from, to) {
        return cast(value, to.clone());
    }
    cast(cast_to.call(vec![value, lit(type_text(&bridge(from, to)))]), to.clone())
}

/// Whether fields have other names, or one side is of instants and the other of the wall clock.
fn differs(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    match (from, to) {
        (T::List(a) | T::LargeList(a), T::List(b)) | (T::Map(a, _), T::Map(b, _)) => {
            differs(a.data_type(), b.data_type())
        }
        (T::Struct(a), T::Struct(b)) => {
            a.iter().zip(b).any(|(x, y)| x.name() != y.name() || differs(x.data_type(), y.data_type()))
        }
        (T::Timestamp(_, a), T::Timestamp(_, b)) => a.is_some() != b.is_some(),
        (T::Date32, T::Timestamp(_, zone)) => zone.is_some(),
        _ => false,
    }
}

/// The type of the value with the names of the column's type, and with its times: DataFusion's cast does the rest, and
/// refuses a value that does not fit.
fn bridge(from: &DataType, to: &DataType) -> DataType {
    use DataType as T;
    let field =
        |a: &Field, b: &Field| a.clone().with_name(b.name()).with_data_type(bridge(a.data_type(), b.data_type()));
    match (from, to) {
        (T::List(a) | T::LargeList(a), T::List(b)) => T::List(Arc::new(field(a, b))),
        (T::Struct(a), T::Struct(b)) => T::Struct(a.iter().zip(b).map(|(x, y)| field(x, y)).collect()),
        (T::Map(a, sorted), T::Map(b, _)) => T::Map(Arc::new(field(a, b)), *sorted),
        // What Flink has no name for, such as text that is no view, is as the column has it.
        (a, b) if differs(a, b) || !parse_type(&type_text(a)).is_ok_and(|named| named.data_type == *a) => b.clone(),
        (a, _) => a.clone(),
    }
}

/// The integer type that Flink gives column `index` of a plan, where ours is wider: SUM of an INT is a BIGINT
/// here, and an INT there. So it goes into an INT column; a sum that does not fit is an error, where Flink's
/// would have wrapped around.
pub(crate) fn narrow_sum(plan: &LogicalPlan, index: usize) -> Option<DataType> {
    match plan {
        LogicalPlan::Projection(p) => narrow(p.expr.get(index)?, &p.input),
        LogicalPlan::SubqueryAlias(a) => narrow_sum(&a.input, index),
        LogicalPlan::Filter(f) => narrow_sum(&f.input, index),
        LogicalPlan::Window(w) => narrow_sum(&w.input, index),
        LogicalPlan::Extension(e) => narrow_sum(&e.node.as_any().downcast_ref::<WindowTvf>()?.input, index),
        LogicalPlan::Union(u) => {
            let types: Option<Vec<DataType>> = u.inputs.iter().map(|input| narrow_sum(input, index)).collect();
            types?.into_iter().max_by_key(DataType::primitive_width)
        }
        LogicalPlan::Aggregate(a) => {
            let groups = a.schema.fields().len() - a.aggr_expr.len();
            let Expr::AggregateFunction(call) = plain(a.aggr_expr.get(index.checked_sub(groups)?)?) else {
                return None;
            };
            let argument = call.params.args.first()?;
            matches!(call.func.name(), "sum" | "min" | "max").then(|| narrow(argument, &a.input))?
        }
        _ => None,
    }
}

fn plain(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => plain(&alias.expr),
        Expr::Cast(cast) => plain(&cast.expr),
        other => other,
    }
}

fn narrow(expr: &Expr, input: &LogicalPlan) -> Option<DataType> {
    let Expr::Column(column) = plain(expr) else {
        use datafusion::logical_expr::ExprSchemable;
        return plain(expr).get_type(input.schema()).ok().filter(DataType::is_integer);
    };
    let index = input.schema().maybe_index_of_column(column)?;
    let own = input.schema().field(index).data_type();
    narrow_sum(input, index).or_else(|| own.is_integer().then(|| own.clone()))
}
