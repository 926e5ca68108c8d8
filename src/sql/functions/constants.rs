//! Patterns, paths and zones that are written as literals are checked at planning, not at the first row.

use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::Expr;

use super::calendar::Zone;
use super::json_path::Path;
use super::time_pattern::Pattern;

/// Refuses a call whose pattern (its second argument) or zone is a literal that means nothing.
pub(crate) fn check_constants(expr: &Expr) -> Result<()> {
    let Expr::ScalarFunction(call) = expr else { return Ok(()) };
    let zones = match call.func.name() {
        "convert_tz" => &call.args[1..],
        "to_timestamp_ltz" => call.args.get(2..).unwrap_or_default(),
        _ => &[],
    };
    for name in zones.iter().filter_map(text) {
        if Zone::parse(name).is_none() {
            return exec_err!(
                "'{name}' is no time zone; write a name such as 'Europe/Berlin' or an offset such as 'GMT+02:00'"
            );
        }
    }
    let Some(pattern) = call.args.get(1).and_then(text) else { return Ok(()) };
    match call.func.name() {
        "date_format" | "to_timestamp" => Pattern::parse(pattern).map(|_| ()),
        "to_date" | "from_unixtime" | "unix_timestamp" => Pattern::parse_simple(pattern).map(|_| ()),
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
