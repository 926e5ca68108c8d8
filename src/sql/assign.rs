//! What an INSERT may write into a column without a CAST.

use datafusion::arrow::datatypes::DataType;
use datafusion::functions::core::expr_fn::{get_field, named_struct};
use datafusion::logical_expr::{Case, Expr, LogicalPlan};
use datafusion::prelude::{cast, lit};

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

/// A value as a column's type. Fields of rows are taken by place: their names may differ.
pub(crate) fn assigned(value: Expr, from: &DataType, to: &DataType) -> Expr {
    let (DataType::Struct(a), DataType::Struct(b)) = (from, to) else { return cast(value, to.clone()) };
    if a.iter().zip(b).all(|(x, y)| x.name() == y.name()) {
        return cast(value, to.clone());
    }
    let fields = a.iter().zip(b).flat_map(|(x, y)| {
        let field = get_field(value.clone(), x.name());
        [lit(y.name().as_str()), assigned(field, x.data_type(), y.data_type())]
    });
    let row = cast(named_struct(fields.collect()), to.clone());
    Expr::Case(Case::new(None, vec![(Box::new(value.is_not_null()), Box::new(row))], None))
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
