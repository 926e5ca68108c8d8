//! Patterns and paths that are written as literals are checked at planning, not at the first row.

use datafusion::common::Result;
use datafusion::logical_expr::Expr;

use super::json_path::Path;
use super::time_pattern::Pattern;

/// Refuses a call whose pattern (its second argument) is a literal that means nothing.
pub(crate) fn check_constants(expr: &Expr) -> Result<()> {
    let Expr::ScalarFunction(call) = expr else { return Ok(()) };
    let Some(pattern) = call.args.get(1).and_then(text) else { return Ok(()) };
    match call.func.name() {
        "date_format" | "to_timestamp" | "to_date" | "from_unixtime" => Pattern::parse(pattern).map(|_| ()),
        "json_value" | "json_query" | "json_query_array" | "json_exists" => Path::parse(pattern).map(|_| ()),
        name if name.starts_with("regexp") => super::regex::check(pattern),
        _ => Ok(()),
    }
}

fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten(),
        Expr::Cast(cast) => text(&cast.expr),
        Expr::Alias(alias) => text(&alias.expr),
        _ => None,
    }
}
