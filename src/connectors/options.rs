//! Values of table options as Flink spells them, and the check of option names.
//!
//! The SQL layer uses the same parsers for `SET`. Names are checked against what a connector says of
//! itself ([`ConnectorDescription`]); an unknown name is answered with the nearest known one.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::contracts::{Error, Result, TableSpec};

use super::aws::{check_credential, credential_keys, is_credential};
use super::describe::{ConnectorDescription, OptionKind, Role, SOURCE_OPTIONS, format_options};

/// Parses a duration as Flink does: `300 s`, `5min`, `1 h`, `100ms`, `3 d`. Without a unit it is in milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let (number, unit) = split_unit(text).ok_or_else(|| not_a_duration(text))?;
    let nanos_each: u64 = match unit.to_ascii_lowercase().as_str() {
        "d" | "day" | "days" => 86_400_000_000_000,
        "h" | "hour" | "hours" => 3_600_000_000_000,
        "m" | "min" | "minute" | "minutes" => 60_000_000_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
        "" | "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
        "µs" | "us" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
        "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
        _ => return Err(not_a_duration(text)),
    };
    number.checked_mul(nanos_each).map(Duration::from_nanos).ok_or_else(|| not_a_duration(text))
}

/// Parses a size in bytes as Flink does: `64MB`, `128 kb`, `1g`. Units are powers of 1024; without a unit it is bytes.
pub fn parse_size(text: &str) -> Result<u64> {
    let (number, unit) = split_unit(text).ok_or_else(|| not_a_size(text))?;
    let each: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" | "bytes" => 1,
        "k" | "kb" | "kib" | "kibibytes" => 1 << 10,
        "m" | "mb" | "mib" | "mebibytes" => 1 << 20,
        "g" | "gb" | "gib" | "gibibytes" => 1 << 30,
        "t" | "tb" | "tib" | "tebibytes" => 1 << 40,
        _ => return Err(not_a_size(text)),
    };
    number.checked_mul(each).ok_or_else(|| not_a_size(text))
}

/// Parses `true` or `false` in any case.
pub fn parse_bool(text: &str) -> Result<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Error::config(format!("'{text}' is not a boolean")).hint("write 'true' or 'false'")),
    }
}

/// Parses a whole number.
pub fn parse_number(text: &str) -> Result<i64> {
    text.trim().parse().map_err(|_| Error::config(format!("'{text}' is not a whole number")))
}

/// Parses a point in time to milliseconds since 1970: RFC 3339, `yyyy-MM-dd HH:mm:ss[.SSS]` (UTC), or
/// seconds since 1970 with a fraction, as the Kinesis connector takes them.
pub fn parse_timestamp_ms(text: &str) -> Result<i64> {
    let text = text.trim();
    if let Ok(t) = chrono::DateTime::parse_from_rfc3339(text) {
        return Ok(t.timestamp_millis());
    }
    for pattern in ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"] {
        if let Ok(t) = chrono::NaiveDateTime::parse_from_str(text, pattern) {
            return Ok(t.and_utc().timestamp_millis());
        }
    }
    if let Ok(seconds) = text.parse::<f64>()
        && seconds.is_finite()
        && seconds.abs() < 1e12
    {
        return Ok((seconds * 1000.0).round() as i64);
    }
    Err(Error::config(format!("'{text}' is not a point in time"))
        .hint("write '2026-02-12T10:00:00Z', or seconds since 1970"))
}

/// Whole number and unit of `300 s`.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim()))
}

fn not_a_duration(text: &str) -> Error {
    Error::config(format!("'{text}' is not a duration"))
        .hint("write a whole number and a unit, e.g. '300 s', '5 min', '100 ms'")
}

fn not_a_size(text: &str) -> Error {
    Error::config(format!("'{text}' is not a size")).hint("write a whole number and a unit, e.g. '64MB', '128 kb'")
}

/// Typed access to the options of a table; a wrong value is an error that names table and option.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a>(pub &'a TableSpec);

impl<'a> Options<'a> {
    /// Text of the first of `keys` that is set. Several keys are spellings of one option.
    pub fn text(&self, keys: &[&str]) -> Option<&'a str> {
        keys.iter().find_map(|key| self.0.option(key))
    }

    /// Text of an option that must be set.
    pub fn require(&self, keys: &[&str]) -> Result<&'a str> {
        match self.text(keys) {
            Some(text) => Ok(text),
            None => self.0.require(keys.first().copied().unwrap_or_default()),
        }
    }

    /// A duration.
    pub fn duration(&self, key: &str, default: Duration) -> Result<Duration> {
        self.parsed(key, parse_duration).map(|v| v.unwrap_or(default))
    }

    /// A size in bytes.
    pub fn size(&self, key: &str, default: u64) -> Result<u64> {
        self.parsed(key, parse_size).map(|v| v.unwrap_or(default))
    }

    /// A boolean.
    pub fn bool(&self, key: &str, default: bool) -> Result<bool> {
        self.parsed(key, parse_bool).map(|v| v.unwrap_or(default))
    }

    /// A whole number, if set.
    pub fn number(&self, key: &str) -> Result<Option<i64>> {
        self.parsed(key, parse_number)
    }

    fn parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T>) -> Result<Option<T>> {
        let Some(text) = self.0.option(key) else { return Ok(None) };
        parse(text).map(Some).map_err(|e| e.context(format!("option '{key}' of table '{}'", self.0.name)))
    }
}

/// How bad a finding about an option is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The job must not start.
    Error,
    /// The option has no effect here; said once.
    Note,
}

/// A finding about one option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionProblem {
    /// The option; for a missing one, its first spelling.
    pub key: String,
    /// What is wrong, lower case, without a final stop.
    pub message: String,
    /// What to do, where that is likely.
    pub hint: Option<String>,
    /// Whether the job may start all the same.
    pub severity: Severity,
}

impl OptionProblem {
    fn error(key: &str, message: String, hint: Option<String>) -> Self {
        Self { key: key.to_owned(), message, hint, severity: Severity::Error }
    }
}

/// The nearest of `known` to `name`, when it is near enough to be meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    known
        .into_iter()
        .map(|k| (strsim::jaro_winkler(&lower, &k.to_ascii_lowercase()), k))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// Checks all options of a table against what its connector and format know.
pub fn check(connector: &ConnectorDescription, options: &BTreeMap<String, String>, role: Role) -> Vec<OptionProblem> {
    let mut problems = Vec::new();
    let format = options.get("format").or_else(|| options.get("value.format")).map(String::as_str);
    let known: Vec<_> =
        connector.options.iter().chain(SOURCE_OPTIONS).chain(format.map(format_options).unwrap_or_default()).collect();
    for alternatives in connector.required {
        if !alternatives.iter().any(|key| options.contains_key(*key)) {
            let names: Vec<String> = alternatives.iter().map(|k| format!("'{k}'")).collect();
            let message = format!("connector '{}' needs the option {}", connector.name, names.join(" or "));
            problems.push(OptionProblem::error(
                alternatives[0],
                message,
                Some(format!("add '{}' = '…'", alternatives[0])),
            ));
        }
    }
    for (key, value) in options {
        if key == "connector" || key == "property-version" {
            continue;
        }
        if key == "format" || key == "value.format" {
            if !connector.formats.contains(&value.as_str()) {
                let hint = match (nearest(value, connector.formats.iter().copied()), connector.formats) {
                    (Some(near), _) => format!("did you mean '{near}'?"),
                    (None, []) => "leave the option out".to_owned(),
                    (None, formats) => format!("it takes {}", formats.join(", ")),
                };
                let message = format!("connector '{}' does not take the format '{value}'", connector.name);
                problems.push(OptionProblem::error(key, message, Some(hint)));
            }
            continue;
        }
        let Some(option) = known.iter().find(|o| o.key == key) else {
            if connector.prefixes.iter().any(|prefix| key.starts_with(prefix)) {
                problems.extend(aws_problem(connector, key, value, options));
                continue;
            }
            let hint = nearest(key, known.iter().map(|o| o.key)).map(|near| format!("did you mean '{near}'?"));
            problems.push(OptionProblem::error(
                key,
                format!("connector '{}' has no option '{key}'", connector.name),
                hint,
            ));
            continue;
        };
        if let Err(error) = check_value(option.kind, value) {
            let hint = error.hint_text().map(str::to_owned);
            problems.push(OptionProblem::error(key, format!("option '{key}': {}", error.message()), hint));
        }
        let is_of_files = connector.options.iter().any(|option| option.key == "path");
        if key == "csv.header" && role == Role::Source && !is_of_files && parse_bool(value).is_ok_and(|is_set| is_set) {
            let message = "option 'csv.header': only a file has a first record that names the columns".to_owned();
            let hint = "leave it out: of a stream's records, fields are taken by their place".to_owned();
            problems.push(OptionProblem::error(key, message, Some(hint)));
        }
        let wrong_role = option.role.is_some_and(|r| r != role);
        if option.ignored || wrong_role {
            let why = if wrong_role { "the table is not used that way" } else { "Tidemill does not need it" };
            let message = format!("option '{key}' has no effect: {why}");
            problems.push(OptionProblem { key: key.clone(), message, hint: None, severity: Severity::Note });
        }
    }
    if !connector.formats.is_empty() && format.is_none() {
        let message = format!("connector '{}' needs the option 'format'", connector.name);
        problems.push(OptionProblem::error(
            "format",
            message,
            Some(format!("it takes {}", connector.formats.join(", "))),
        ));
    }
    problems
}

/// What is wrong with an option of credentials. Of other options of AWS, any is taken.
fn aws_problem(
    connector: &ConnectorDescription,
    key: &str,
    value: &str,
    options: &BTreeMap<String, String>,
) -> Option<OptionProblem> {
    if !is_credential(key) {
        return None;
    }
    match check_credential(key, value, options) {
        Some(Ok(())) => None,
        Some(Err(error)) => {
            let hint = error.hint_text().map(str::to_owned);
            Some(OptionProblem::error(key, format!("option '{key}': {}", error.message()), hint))
        }
        None => {
            let known: Vec<String> = credential_keys().collect();
            let hint = nearest(key, known.iter().map(String::as_str)).map(|near| format!("did you mean '{near}'?"));
            Some(OptionProblem::error(key, format!("connector '{}' has no option '{key}'", connector.name), hint))
        }
    }
}

fn check_value(kind: OptionKind, value: &str) -> Result<()> {
    match kind {
        OptionKind::Text => Ok(()),
        OptionKind::Number => parse_number(value).map(drop),
        OptionKind::Duration => parse_duration(value).map(drop),
        OptionKind::Size => parse_size(value).map(drop),
        OptionKind::Bool => parse_bool(value).map(drop),
        OptionKind::Timestamp => parse_timestamp_ms(value).map(drop),
        OptionKind::Enum(allowed) if allowed.iter().any(|a| a.eq_ignore_ascii_case(value)) => Ok(()),
        OptionKind::Enum(allowed) => {
            let hint = match nearest(value, allowed.iter().copied()) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("it takes {}", allowed.join(", ")),
            };
            Err(Error::config(format!("'{value}' is not one of its values")).hint(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_as_flink_spells_them() {
        for (text, ms) in
            [("300 s", 300_000), ("5min", 300_000), ("1 h", 3_600_000), ("100ms", 100), ("3 d", 259_200_000), ("7", 7)]
        {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["", "s", "-1 s", "1.5 s", "5 fortnights", "99999999999 d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for (text, bytes) in [("64MB", 64 << 20), ("128 kb", 128 << 10), ("1g", 1 << 30), ("5", 5)] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        assert!(parse_size("64 parsecs").is_err());
    }

    #[test]
    fn times() {
        for text in ["2026-02-12T10:00:00Z", "2026-02-12T11:00:00+01:00", "2026-02-12 10:00:00", "1770890400"] {
            assert_eq!(parse_timestamp_ms(text).unwrap(), 1_770_890_400_000, "{text}");
        }
    }
}
