//! The text of a `.sql` file: places in it, parameters, hints, and the tokens that the parser sees.
//!
//! Positions shown to people must be those of the file as they wrote it. So `${NAME:-default}` is
//! never pasted into the text: inside a string literal it is replaced in the token's value, elsewhere
//! by a literal token, and in both cases the other tokens keep their places. A value can therefore
//! never change the structure of a statement.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Span, Token, TokenWithSpan, Tokenizer, Whitespace, Word};

use super::dialect::FlinkDialect;
use super::secrets::without_secrets;
use crate::contracts::{Error, Location, Result};
pub(crate) use crate::runtime::HINT_MARK;

/// Values for `${NAME}`: from `--param` first, then from the environment.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    given: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
}

impl Parameters {
    /// Values given on the command line, before those of the environment.
    pub fn new(given: BTreeMap<String, String>, environment: BTreeMap<String, String>) -> Self {
        Self { given, environment }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.given.get(name).or_else(|| self.environment.get(name)).map(String::as_str)
    }
}

/// One file, with what is needed to point into it.
#[derive(Debug)]
pub struct SqlText {
    /// Path as it is shown.
    pub file: Arc<str>,
    /// As they are shown: without secrets.
    lines: Vec<Arc<str>>,
    text: String,
}

/// Options of the `/*+ OPTIONS(…) */` of all files, by the number in the marked name. The same options have one number, so that a table
/// which is named twice with them is one, read once and from one position.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    options: BTreeMap<usize, BTreeMap<String, String>>,
    found: usize,
}

impl Hints {
    /// The options of a number.
    pub(crate) fn get(&self, number: usize) -> Option<&BTreeMap<String, String>> {
        self.options.get(&number)
    }

    /// The number of the first hint with these options, among all hints: earlier versions of the program had it in what they hashed.
    fn number(&mut self, options: BTreeMap<String, String>) -> usize {
        let own = self.found;
        self.found += 1;
        let known = self.options.iter().find(|(_, known)| **known == options).map(|(number, _)| *number);
        known.unwrap_or_else(|| {
            self.options.insert(own, options);
            own
        })
    }
}

impl SqlText {
    /// Takes the text of a file.
    pub fn new(file: impl Into<Arc<str>>, text: impl Into<String>) -> Self {
        let text = text.into();
        let text = text.split('\n').map(|line| line.trim_end_matches('\r')).collect::<Vec<_>>().join("\n");
        let text = without_paragraph_marks(&text);
        let lines = without_secrets(&text).split('\n').map(Arc::from).collect();
        Self { file: file.into(), lines, text }
    }

    /// The place of a span. An empty span points at the start of the file.
    pub fn location(&self, span: Span) -> Location {
        let line = span.start.line.max(1);
        let column = span.start.column.max(1);
        let text = self.lines.get(line as usize - 1).cloned().unwrap_or_else(|| "".into());
        let rest = (text.chars().count() as u64 + 1).saturating_sub(column).max(1);
        let length = if span.end.line == span.start.line { span.end.column.saturating_sub(column) } else { rest };
        Location { file: Arc::clone(&self.file), line, column, length: length.clamp(1, rest), text }
    }

    /// Whether a secret, or the quote before one, stands where the span begins.
    pub(crate) fn is_secret(&self, span: Span) -> bool {
        let (line, column) = (span.start.line.max(1) as usize - 1, span.start.column.max(1) as usize - 1);
        // One that is quoted may begin on a later line.
        let from = |lines: &mut dyn Iterator<Item = &str>| {
            let text: String = lines.skip(line).take(8).collect();
            text.chars().skip(column).take(2).collect::<String>()
        };
        from(&mut self.text.split('\n')) != from(&mut self.lines.iter().map(|line| &**line))
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Splits the file into tokens, with parameters and hints taken care of.
    pub(crate) fn tokens(&self, parameters: &Parameters, hints: &mut Hints) -> Result<Vec<TokenWithSpan>> {
        let (text, outside) = self.lift_parameters()?;
        let dialect = FlinkDialect;
        let mut tokens = Tokenizer::new(&dialect, &text).tokenize_with_location().map_err(|error| {
            let span = Span::new(error.location, error.location);
            let hint = if error.message.contains("string literal") { "close the string with '" } else { "" };
            let problem = Error::sql(lower_first(&error.message)).at(self.location(span));
            if hint.is_empty() { problem } else { problem.hint(hint) }
        })?;
        for token in &mut tokens {
            self.resolve(token, &outside, parameters)?;
        }
        self.splice_hints(split_shifts(tokens), hints, parameters)
    }

    /// Replaces each `${…}` outside strings and comments by a word of the same length.
    fn lift_parameters(&self) -> Result<(String, BTreeMap<String, String>)> {
        let mut out = String::with_capacity(self.text.len());
        let mut found = BTreeMap::new();
        let mut rest = self.text.as_str();
        while let Some(c) = rest.chars().next() {
            let taken = match c {
                '$' if rest.starts_with("${") => {
                    let Some(end) = rest.find('}') else {
                        return Err(Error::sql("'${' is not closed by '}'").at(self.location_at(out.len(), 2)));
                    };
                    let body = &rest[2..end];
                    let width = rest[..=end].chars().count();
                    // `${A}` has four characters, so a base-36 number behind two underscores fits.
                    let number = base36(found.len());
                    if number.len() + 2 > width {
                        return Err(Error::sql("too many parameters in one file"));
                    }
                    let word = format!("__{number:_>width$}", width = width - 2);
                    out.push_str(&word);
                    found.insert(word, body.to_owned());
                    rest = &rest[end + 1..];
                    continue;
                }
                _ => stretch_length(rest, c),
            };
            out.push_str(&rest[..taken]);
            rest = &rest[taken..];
        }
        Ok((out, found))
    }

    fn location_at(&self, byte: usize, length: u64) -> Location {
        let before = &self.text[..byte.min(self.text.len())];
        let line = before.matches('\n').count() as u64 + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() as u64 + 1;
        let start = sqlparser::tokenizer::Location::new(line, column);
        self.location(Span::new(start, sqlparser::tokenizer::Location::new(line, column + length)))
    }

    fn resolve(&self, token: &mut TokenWithSpan, outside: &BTreeMap<String, String>, p: &Parameters) -> Result<()> {
        match &mut token.token {
            Token::SingleQuotedString(text) if text.contains("${") => {
                *text = self.resolved(text, p, token.span)?;
            }
            Token::Word(word) if word.quote_style.is_none() => {
                if let Some(body) = outside.get(&word.value) {
                    let value = self.parameter(body, p, token.span)?;
                    token.token = literal(&value);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The text of a string with its parameters replaced.
    fn resolved(&self, text: &str, parameters: &Parameters, span: Span) -> Result<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let Some(length) = rest[start..].find('}') else {
                return Err(Error::sql("'${' is not closed by '}'").at(self.location(span)));
            };
            out.push_str(&rest[..start]);
            out.push_str(&self.parameter(&rest[start + 2..start + length], parameters, span)?);
            rest = &rest[start + length + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    fn parameter(&self, body: &str, parameters: &Parameters, span: Span) -> Result<String> {
        let (name, default) = match body.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (body, None),
        };
        parameters.get(name).or(default).map(str::to_owned).ok_or_else(|| {
            Error::sql(format!("parameter '{name}' has no value"))
                .at(self.location(span))
                .hint(format!("give it with --param {name}=…, in the environment, or write a default: ${{{name}:-…}}"))
        })
    }

    /// Turns `t /*+ OPTIONS('k'='v') */` into a table of its own name with the options beside it.
    /// Other hints are dropped; they change no result.
    fn splice_hints(
        &self,
        tokens: Vec<TokenWithSpan>,
        hints: &mut Hints,
        parameters: &Parameters,
    ) -> Result<Vec<TokenWithSpan>> {
        let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
        let mut iterator = tokens.into_iter().peekable();
        while let Some(token) = iterator.next() {
            let Token::Whitespace(Whitespace::MultiLineComment(comment)) = &token.token else {
                out.push(token);
                continue;
            };
            let Some(body) = comment.strip_prefix('+') else { continue };
            let Some(options) = self.options_hint(body, token.span, parameters)? else { continue };
            let Some(at) = out.iter().rposition(|t| !matches!(t.token, Token::Whitespace(_))) else { continue };
            let Token::Word(word) = out[at].token.clone() else {
                return Err(Error::sql("an OPTIONS hint must stand after a table's name").at(self.location(token.span)));
            };
            let marked = format!("{}{HINT_MARK}{}", word.value, hints.number(options));
            out[at].token = Token::make_word(&marked, Some('`'));
            let next = iterator.clone().find(|t| !matches!(t.token, Token::Whitespace(_)));
            let has_alias = next.as_ref().is_some_and(|t| match &t.token {
                Token::Word(w) => w.keyword == Keyword::AS || w.keyword == Keyword::NoKeyword,
                _ => false,
            });
            let is_insert = out[..at]
                .iter()
                .rfind(|t| !matches!(t.token, Token::Whitespace(_)))
                .is_some_and(|t| matches!(&t.token, Token::Word(Word { keyword: Keyword::INTO | Keyword::TABLE, .. })));
            if !has_alias && !is_insert {
                let span = out[at].span;
                for spliced in [Token::make_keyword("AS"), Token::make_word(&word.value, Some('`'))] {
                    out.push(TokenWithSpan::new(Token::Whitespace(Whitespace::Space), span));
                    out.push(TokenWithSpan::new(spliced, span));
                }
            }
        }
        Ok(out)
    }

    fn options_hint(
        &self,
        body: &str,
        span: Span,
        parameters: &Parameters,
    ) -> Result<Option<BTreeMap<String, String>>> {
        let body = body.trim();
        if !body.get(..7).is_some_and(|word| word.eq_ignore_ascii_case("OPTIONS")) {
            return Ok(None);
        }
        let problem =
            || Error::sql("an OPTIONS hint is written /*+ OPTIONS('key'='value', …) */").at(self.location(span));
        let inside = body[7..].trim().strip_prefix('(').and_then(|b| b.strip_suffix(')')).ok_or_else(problem)?;
        let dialect = FlinkDialect;
        let tokens: Vec<Token> = Tokenizer::new(&dialect, inside)
            .tokenize()
            .map_err(|_| problem())?
            .into_iter()
            .filter(|t| !matches!(t, Token::Whitespace(_)))
            .collect();
        let mut options = BTreeMap::new();
        for pair in tokens.split(|t| *t == Token::Comma) {
            match pair {
                [Token::SingleQuotedString(key), Token::Eq, Token::SingleQuotedString(value)] => {
                    options.insert(key.clone(), self.resolved(value, parameters, span)?);
                }
                _ => return Err(problem()),
            }
        }
        Ok(Some(options))
    }
}

/// `>>` as two tokens: Flink SQL has no shift, but types end so (`ROW<a ROW<b INT>>`).
fn split_shifts(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out = Vec::with_capacity(tokens.len());
    for token in tokens {
        if token.token != Token::ShiftRight {
            out.push(token);
            continue;
        }
        let Span { start, end } = token.span;
        let middle = sqlparser::tokenizer::Location::new(start.line, start.column + 1);
        out.push(TokenWithSpan::new(Token::Gt, Span::new(start, middle)));
        out.push(TokenWithSpan::new(Token::Gt, Span::new(middle, end)));
    }
    out
}

/// Bytes at the start of `rest` that are one: a quoted stretch with both quotes, a comment, or else its first character.
fn stretch_length(rest: &str, first: char) -> usize {
    match first {
        '\'' | '`' | '"' => rest[1..].find(first).map_or(rest.len(), |i| i + 2),
        '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
        '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |i| i + 2),
        _ => first.len_utf8(),
    }
}

/// Notebook exports open paragraphs with `%flink.ssql(…)`: the rest of the line is blanked, not removed, so that line numbers stay. Where a
/// statement has begun, a line may begin with `%`, too: the operator, or a part of a text.
fn without_paragraph_marks(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut in_statement) = (text, false);
    while let Some(c) = rest.chars().next() {
        let is_mark = c == '%' && !in_statement && rest[1..].starts_with(char::is_alphabetic);
        let taken = if is_mark { rest.find('\n').unwrap_or(rest.len()) } else { stretch_length(rest, c) };
        if !is_mark {
            let is_comment = ["--", "/*"].iter().any(|opens| rest.starts_with(opens));
            in_statement = c != ';' && (in_statement || !(is_comment || c.is_whitespace()));
            out.push_str(&rest[..taken]);
        }
        rest = &rest[taken..];
    }
    out
}

fn base36(mut n: usize) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[n % 36]);
        n /= 36;
        if n == 0 {
            break;
        }
    }
    digits.iter().rev().map(|b| *b as char).collect()
}

/// The literal that a parameter's value stands for outside a string.
fn literal(value: &str) -> Token {
    let numeric = value.parse::<f64>().is_ok() && value.chars().all(|c| c.is_ascii_digit() || c == '.');
    match value {
        _ if numeric => Token::Number(value.to_owned(), false),
        "TRUE" | "true" | "FALSE" | "false" | "NULL" | "null" => Token::make_keyword(&value.to_uppercase()),
        _ => Token::SingleQuotedString(value.to_owned()),
    }
}

pub(crate) fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    let second_is_lower = text.chars().nth(1).is_some_and(|c| c.is_lowercase() || c == ' ');
    match chars.next() {
        Some(first) if second_is_lower => first.to_lowercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str, given: &[(&str, &str)]) -> Vec<String> {
        let given = given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let parameters = Parameters::new(given, BTreeMap::new());
        let tokens = SqlText::new("a.sql", text).tokens(&parameters, &mut Hints::default()).expect("tokens");
        let shown = tokens.iter().filter(|t| !matches!(t.token, Token::Whitespace(_)));
        shown.map(|t| t.token.to_string().replace(HINT_MARK, "#")).collect()
    }

    #[test]
    fn parameters_become_literals_and_never_structure() {
        assert_eq!(words("x > ${N:-5}", &[]), ["x", ">", "5"]);
        assert_eq!(words("x = ${N}", &[("N", "1 OR 1=1")]), ["x", "=", "'1 OR 1=1'"]);
        assert_eq!(words("'a/${B:-c}/${D}'", &[("D", "e'f")]), ["'a/c/e'f'"]);
        assert_eq!(words("-- ${NOPE}\n1", &[]), ["1"]);
    }

    #[test]
    fn a_missing_parameter_is_pointed_at() {
        let error =
            SqlText::new("a.sql", "SELECT\n  ${NOPE}").tokens(&Parameters::default(), &mut Hints::default()).err();
        let error = error.expect("no value");
        assert!(error.to_string().starts_with("a.sql:2:3: parameter 'NOPE' has no value"), "{error}");
    }

    #[test]
    fn option_hints_make_a_table_of_their_own() {
        assert_eq!(words("FROM t /*+ OPTIONS('a'='b') */ WHERE", &[]), ["FROM", "`t#0`", "AS", "`t`", "WHERE"]);
        assert_eq!(words("FROM t /*+ OPTIONS('a'='b') */ e", &[]), ["FROM", "`t#0`", "e"]);
    }

    #[test]
    fn the_same_hint_has_one_number() {
        let text =
            "t /*+ OPTIONS('a'='b', 'c'='d') */ x, t /*+ OPTIONS('c'='d', 'a'='b') */ y, t /*+ OPTIONS('a'='c') */ z";
        assert_eq!(words(text, &[]), ["`t#0`", "x", ",", "`t#0`", "y", ",", "`t#2`", "z"]);
    }

    #[test]
    fn a_percent_sign_opens_a_paragraph_only_between_statements() {
        let blanked = |text: &str| SqlText::new("a.sql", text).text().to_owned();
        let notebook = "%flink.ssql(type=update)\n-- it's\n  %md\nSELECT 1;\r\n/* ' */ %sql\nSELECT 2";
        assert_eq!(blanked(notebook), "\n-- it's\n  \nSELECT 1;\n/* ' */ \nSELECT 2");
        for kept in ["SELECT a\n  % 10", "SELECT a\n  %b", "SELECT '\n%flink\n;'\n%c", "% 5", "SELECT 1 -- ;\n%b"] {
            assert_eq!(blanked(kept), kept);
        }
    }
}
