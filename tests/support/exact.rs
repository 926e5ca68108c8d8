//! JSON compared by value, numbers digit by digit.

use std::collections::BTreeMap;

use serde_json::{Number, Value};

/// Equal values have equal texts: members sorted, numbers without needless digits.
pub(crate) fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => plain(number),
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Object(members) => {
            let sorted: BTreeMap<&String, String> = members.iter().map(|(k, v)| (k, canonical(v))).collect();
            format!("{sorted:?}")
        }
        other => other.to_string(),
    }
}

/// A number as `digits e exponent`, both without needless zeros.
fn plain(number: &Number) -> String {
    let text = number.to_string().to_ascii_lowercase();
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut exponent: i64 = exponent.parse().unwrap_or(0);
    exponent -= fraction.len() as i64;
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let kept = digits.trim_end_matches('0');
    exponent += (digits.len() - kept.len()) as i64;
    if kept.is_empty() { "0".to_owned() } else { format!("{sign}{kept}e{exponent}") }
}
