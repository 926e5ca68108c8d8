//! INTERVAL literals in all of SQL's forms, put into the one that DataFusion reads.
//!
//! `INTERVAL '1 02:03:04.5' DAY TO SECOND` and `INTERVAL '1-2' YEAR TO MONTH` become lists of units,
//! `INTERVAL '1' QUARTER` three months.

use sqlparser::ast::{DateTimeField, Expr, Interval, Value, ValueWithSpan};

/// Changes the literal in place if it needs it; what cannot be read stays, for DataFusion to refuse.
pub(crate) fn normal_interval(interval: &mut Interval) {
    let Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) = interval.value.as_mut() else { return };
    let Some(field) = &interval.leading_field else { return };
    let plain = interval.last_field.is_none();
    let converted = match (field, plain) {
        (DateTimeField::Quarter, true) => text.trim().parse::<i64>().ok().map(|count| format!("{} months", count * 3)),
        (_, true) if interval.leading_precision.is_none() => return,
        (field, true) => unit(field).map(|unit| format!("{text} {unit}")),
        (DateTimeField::Year | DateTimeField::Years, false) => years_to_months(text),
        (field, false) => days_to_seconds(text, field),
    };
    if let Some(converted) = converted {
        *text = converted;
        interval.leading_field = None;
        interval.leading_precision = None;
        interval.last_field = None;
        interval.fractional_seconds_precision = None;
    }
}

fn unit(field: &DateTimeField) -> Option<&'static str> {
    Some(match field {
        DateTimeField::Year | DateTimeField::Years => "years",
        DateTimeField::Month | DateTimeField::Months => "months",
        DateTimeField::Week(_) | DateTimeField::Weeks => "weeks",
        DateTimeField::Day | DateTimeField::Days => "days",
        DateTimeField::Hour | DateTimeField::Hours => "hours",
        DateTimeField::Minute | DateTimeField::Minutes => "minutes",
        DateTimeField::Second | DateTimeField::Seconds => "seconds",
        _ => return None,
    })
}

/// A leading sign holds for all parts.
fn signed(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.strip_prefix('-').map_or(("", text.trim_start_matches('+')), |rest| ("-", rest))
}

fn years_to_months(text: &str) -> Option<String> {
    let (sign, text) = signed(text);
    let (years, months) = text.split_once('-')?;
    Some(format!("{sign}{} years {sign}{} months", years.parse::<u32>().ok()?, months.parse::<u32>().ok()?))
}

/// `D H:M:S`, starting with any of the units.
fn days_to_seconds(text: &str, first: &DateTimeField) -> Option<String> {
    let (sign, text) = signed(text);
    let units = ["days", "hours", "minutes", "seconds"];
    let start = units.iter().position(|name| Some(*name) == unit(first))?;
    let parts = text.split([' ', ':']).filter(|part| !part.is_empty());
    let parts: Option<Vec<String>> = parts
        .zip(&units[start..])
        .map(|(part, unit)| part.parse::<f64>().is_ok().then(|| format!("{sign}{part} {unit}")))
        .collect();
    parts.map(|parts| parts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_become_units() {
        assert_eq!(days_to_seconds("1 02:03:04.5", &DateTimeField::Day).as_deref(), Some("1 days 02 hours 03 minutes 04.5 seconds"));
        assert_eq!(days_to_seconds("-10:30", &DateTimeField::Minute).as_deref(), Some("-10 minutes -30 seconds"));
        assert_eq!(years_to_months("1-2").as_deref(), Some("1 years 2 months"));
    }
}
