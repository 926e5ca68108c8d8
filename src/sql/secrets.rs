//! Secrets in the text of a file: where a line is shown, the values of such options are stars.
//!
//! It goes by the text alone, so that a statement which cannot be parsed, a comment and a string that is not closed show no more than
//! others.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// A key that names a secret: quoted, or with dots and without one quote or both; what stands between it and its value; the value, quoted, cut
/// off or bare. (A name with one dot and no quote is a column.)
static OPTION: LazyLock<Regex> = LazyLock::new(|| {
    let part = r"[\w${}:-]+\.";
    let rest = r"[\w.${}:-]*(?:secret|passw|token)[\w.${}:-]*\s*";
    let quote = r#"['"`]"#;
    let between = r"(?:\s|--[^\n]*\n|/\*.*?\*/|[=:>,(])*";
    let value = r#"'(?:[^']|'')*'?|"[^"]*"?|`[^`]*`?|[^\s,;()'"`]+"#;
    let key = format!("{quote}{rest}{quote}|{quote}{part}{rest}|{part}{part}{rest}{quote}?");
    Regex::new(&format!("(?is)(?P<key>{key})(?P<between>{between})(?P<value>{value})")).expect("a valid pattern")
});

/// Where in `text` the values of secrets are, without their quotes.
fn secrets(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(option) = OPTION.captures_at(text, from) {
        let (Some(key), Some(value)) = (option.name("key"), option.name("value")) else { break };
        // The value may be another key.
        from = key.end();
        let between = option.name("between").map_or("", |between| between.as_str());
        let is_quoted = value.as_str().starts_with(['\'', '"', '`']);
        // In a list, or before a word of SQL, the key is a text as any other.
        let is_key = text[value.end()..].trim_start().starts_with('=');
        let is_listed = between.contains(',') && (is_key || !key.as_str().contains('.'));
        // Without both its quotes, it may be a part of something else.
        let quotes = key.as_str().matches(['\'', '"', '`']).count();
        if is_listed || !((is_quoted && quotes == 2) || between.contains('=')) {
            continue;
        }
        let quote = usize::from(is_quoted);
        let is_closed = is_quoted && value.len() > 1 && value.as_str().ends_with(&value.as_str()[..1]);
        found.push(value.start() + quote..value.end() - usize::from(is_closed));
    }
    found
}

/// `text` with a star for each character of a secret; lines stay as long as they are.
pub(super) fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut at = 0;
    for secret in secrets(text) {
        let start = secret.start.max(at);
        if secret.end <= start {
            continue;
        }
        shown.push_str(&text[at..start]);
        shown.extend(text[start..secret.end].chars().map(|c| if c == '\n' { '\n' } else { '*' }));
        at = secret.end;
    }
    shown.push_str(&text[at..]);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secrets_are_stars_however_they_are_written() {
        for (text, shown) in [
            (
                "'aws.credentials.basic.secretkey' = 'TOP', 'x' = 'y'",
                "'aws.credentials.basic.secretkey' = '***', 'x' = 'y'",
            ),
            ("'a.secretKey'='it''s', b", "'a.secretKey'='*****', b"),
            ("'a.password'\n  =\n'TOP\nTÖP' x", "'a.password'\n  =\n'***\n***' x"),
            ("'a.token' /* 'why' */ = -- so\n 'TOP'", "'a.token' /* 'why' */ = -- so\n '***'"),
            ("-- don't\n'a.secretkey' 'TOP'", "-- don't\n'a.secretkey' '***'"),
            ("'a.secretkey', 'TOP'", "'a.secretkey', '***'"),
            ("/*+ OPTIONS('a.secretkey'='TOP') */", "/*+ OPTIONS('a.secretkey'='***') */"),
            ("\"a.secretkey\" = \"TOP\"", "\"a.secretkey\" = \"***\""),
            ("'a.secretkey' = TOP)", "'a.secretkey' = ***)"),
            ("'a.secretkey' = 'TOP", "'a.secretkey' = '***"),
            ("'a.secretkey' = ''", "'a.secretkey' = ''"),
            ("'a.secretkey' = '", "'a.secretkey' = '"),
            // Without a quote, or with something too much.
            ("'a.b.secretkey = 'TOP', 'x' = 'y'", "'a.b.secretkey = '***', 'x' = 'y'"),
            ("a.b.secretkey' = 'TOP', 'x' = 'y'", "a.b.secretkey' = '***', 'x' = 'y'"),
            ("SET a.b.secretkey = 'TOP';", "SET a.b.secretkey = '***';"),
            ("'a.secretkey ' = 'TOP'", "'a.secretkey ' = '***'"),
            ("'a.secretkey' = ('TOP')", "'a.secretkey' = ('***')"),
        ] {
            assert_eq!(without_secrets(text), shown);
            assert_eq!(shown.chars().count(), text.chars().count(), "{text}");
        }
    }

    #[test]
    fn other_text_is_as_it_was() {
        for text in [
            "'aws.region' = 'eu-west-1', 'stream' = 'tokens'",
            "SELECT 'token' FROM t",
            "'topic' = 'my.token', 'format' = 'json'",
            "WHERE kind IN ('token', 'other')",
            "JSON_VALUE(data, '$.token') = 'x'",
            "x = 'a' AND token = 'b'",
            "`token` STRING, page STRING",
            "WHERE c.token = 'b' AND c.token IN ('a', 'b')",
        ] {
            assert_eq!(without_secrets(text), text);
        }
    }
}
