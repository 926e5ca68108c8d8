//! What in a job's files is Tidemill's own: `tidemill check --flink`.

use std::path::PathBuf;

use sqlparser::tokenizer::{Token, Tokenizer};

use crate::contracts::Result;
use crate::sql::FlinkDialect;

/// A construct that Flink does not take: words that show it, and what to do.
const OWN: [(&[&str], &str); 6] = [
    (&["REQUIRE", "("], "REQUIRE(condition, 'reason'): in Flink a plain condition, and the rows vanish"),
    (&["'connector'", "=", "'dynamodb'"], "DynamoDB needs the Flink connector of AWS, which writes at least once"),
    (&["'connector'", "=", "'sns'"], "Flink has no SNS connector"),
    (&["METADATA", "FROM", "'raw'"], "the metadata column 'raw' is Tidemill's"),
    (&["METADATA", "FROM", "'watermark'"], "the metadata column 'watermark' is Tidemill's"),
    (&["'connector'", "=", "'s3'"], "in Flink the connector is 'filesystem' with an s3:// path"),
];

/// A line for each place that is not portable.
pub fn not_portable(paths: &[PathBuf]) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for text in super::load(paths)? {
        let Ok(tokens) = Tokenizer::new(&FlinkDialect, text.text()).tokenize_with_location() else { continue };
        let tokens: Vec<_> = tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).collect();
        let mut note = |line: u64, column: u64, what: &str| {
            notes.push(format!("{}:{line}:{column}: {what}", text.file));
        };
        for (at, token) in tokens.iter().enumerate() {
            for (words, what) in OWN {
                let same = words.iter().enumerate().all(|(i, word)| {
                    tokens.get(at + i).is_some_and(|t| t.token.to_string().eq_ignore_ascii_case(word))
                });
                if same {
                    note(token.span.start.line, token.span.start.column, what);
                }
            }
            let is_parameter = match &token.token {
                Token::SingleQuotedString(text) => text.contains("${"),
                Token::Placeholder(text) => text == "$",
                _ => false,
            };
            if is_parameter {
                note(token.span.start.line, token.span.start.column, "${…} is replaced by Tidemill only");
            }
        }
        if text.text().to_uppercase().contains("LAST_VALUE(") && text.text().to_uppercase().contains("ORDER BY") {
            note(1, 1, "an aggregate with ORDER BY inside is DataFusion's; Flink takes the last by arrival");
        }
    }
    Ok(notes)
}
