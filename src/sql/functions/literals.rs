//! Number and time literals with Flink's types.

use sqlparser::ast::{CastKind, DataType, ExactNumberInfo, Expr, TypedString, UnaryOperator, Value, ValueWithSpan};
use sqlparser::tokenizer::Span;

use super::syntax::{call, text};

/// Gives an integer literal Flink's type: INT if it fits, else BIGINT.
pub(super) fn typed(expr: &mut Expr) {
    let (digits, negative) = match &*expr {
        Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) => (digits, false),
        Expr::UnaryOp { op: op @ (UnaryOperator::Minus | UnaryOperator::Plus), expr } => match &**expr {
            Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) => (digits, *op == UnaryOperator::Minus),
            _ => return,
        },
        _ => return,
    };
    let Ok(value) = digits.parse::<i64>() else { return };
    if i32::try_from(if negative { -value } else { value }).is_ok() {
        let literal = std::mem::replace(expr, Expr::value(Value::Null));
        *expr = plain_cast(literal, DataType::Int(None));
    }
}

/// A cast that DataFusion plans itself.
fn plain_cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

/// `1e3` is a DOUBLE; `0.5` has two digits, though DataFusion counts one.
pub(super) fn typed_fraction(digits: &str, span: Span) -> Option<Expr> {
    if digits.contains(['e', 'E']) {
        let literal = Expr::Value(Value::SingleQuotedString(digits.to_string()).with_span(span));
        return Some(plain_cast(literal, DataType::Double(ExactNumberInfo::None)));
    }
    let (whole, fraction) = digits.split_once('.')?;
    let precision = (whole.len() + fraction.len()) as u64;
    if !whole.starts_with('0') || precision > 38 {
        return None;
    }
    let literal = Expr::Value(Value::Number(digits.to_string(), false).with_span(span));
    Some(plain_cast(literal, DataType::Decimal(ExactNumberInfo::PrecisionAndScale(precision, fraction.len() as i64))))
}

/// `TIMESTAMP '…'` has the precision of its text, `TIME '…'` is one of milliseconds.
pub(super) fn time_literal(literal: &TypedString) -> Option<Expr> {
    let value = literal.value.clone().into_string()?;
    let type_name = match literal.data_type {
        DataType::Timestamp(None, _) => {
            let digits = value.split_once('.').map_or(0, |(_, fraction)| fraction.trim_end().len());
            format!("TIMESTAMP({})", digits.min(9))
        }
        DataType::Time(None, _) => "TIME".to_string(),
        _ => return None,
    };
    Some(call("cast_to", literal.value.span, vec![text(value), text(type_name)]))
}
