//! Regular expressions: REGEXP and its kin, SIMILAR TO.
//!
//! Flink's syntax is Java's, which `java_regex` brings to that of the `regex` crate. That runs in linear time and so
//! has no look-around and no back-references, which are an error. A constant pattern that cannot be read is an error
//! while planning, for it would give no row what it asks for; one of a column answers as Flink does (NULL, or false
//! for REGEXP).
//!
//! | function | rule |
//! |---|---|
//! | REGEXP(s, re) | does it occur anywhere |
//! | REGEXP_EXTRACT(s, re[, g]) | group g of the first match, 0 (all of it) by default; NULL without match or group |
//! | REGEXP_EXTRACT_ALL(s, re[, g]) | of all matches, group 1 by default; NULL if there is no such group |
//! | REGEXP_REPLACE(s, re, r) | all matches; r is plain text, `$1` too |
//! | REGEXP_COUNT, REGEXP_INSTR, REGEXP_SUBSTR | number, position from 1, text of matches |
//! | s SIMILAR TO p | the whole text; `%`, `_` and SQL's operators |
//!
//! A constant pattern is compiled once per batch at most: compiled ones are kept in a bounded cache.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arrow::array::{ArrayRef, ListBuilder, StringViewBuilder};
use datafusion::common::{Result, exec_datafusion_err, exec_err};

use super::call::{Call, Column};
use super::function::{Definition, Nulls, Returns, define};
use super::java_regex::{JavaPattern, from_java};

pub(crate) const DEFINITIONS: &[Definition] = &[
    define("regexp", "ss", Returns::Boolean, Nulls::Propagate, regexp),
    define("regexp_extract", "ss[i", Returns::Text, Nulls::Possible, regexp_extract),
    define("regexp_extract_all", "ss[i", Returns::Texts, Nulls::Possible, regexp_extract_all),
    define("regexp_replace", "sss", Returns::Text, Nulls::Possible, regexp_replace),
    define("regexp_count", "ss", Returns::Int, Nulls::Possible, regexp_count),
    define("regexp_instr", "ss", Returns::Int, Nulls::Possible, regexp_instr),
    define("regexp_substr", "ss", Returns::Text, Nulls::Possible, regexp_substr),
    define("similar_to", "ss[s", Returns::Boolean, Nulls::Propagate, similar_to),
];

/// Patterns kept compiled, over all functions; the whole cache is dropped when it is full.
const CACHED_PATTERNS: usize = 256;

/// A compiled pattern, or why it is none.
type Compiled = std::result::Result<Arc<JavaPattern>, Arc<str>>;

static CACHE: LazyLock<Mutex<HashMap<String, Compiled>>> = LazyLock::new(Mutex::default);

fn compile(pattern: &str) -> Result<Compiled> {
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = cache.get(pattern) {
        return Ok(found.clone());
    }
    let translation = match from_java(pattern) {
        Ok(translation) => translation,
        Err(form) => {
            return exec_err!(
                "regular expression '{pattern}' uses {form}, which is not supported here; write it without"
            );
        }
    };
    let compiled = match JavaPattern::new(&translation) {
        Ok(regex) => Ok(Arc::new(regex)),
        Err(error) => {
            let text = error.to_string();
            if text.contains("look-around") || text.contains("backreferences") {
                return exec_err!(
                    "regular expression '{pattern}' uses look-around or a back-reference, which are not supported here; \
                     write it without, for instance with a group and REGEXP_EXTRACT"
                );
            }
            // A syntax error shows the pattern first, and says what is wrong last.
            Err(text.rsplit("error: ").next().unwrap_or(&text).trim_end().into())
        }
    };
    if cache.len() >= CACHED_PATTERNS {
        cache.clear();
    }
    cache.insert(pattern.to_string(), compiled.clone());
    Ok(compiled)
}

/// Refuses a constant pattern that cannot be run here, or is none at all: Flink gives NULL for each row then.
pub(super) fn check(pattern: &str) -> Result<()> {
    match compile(pattern)? {
        Ok(_) => Ok(()),
        Err(problem) => exec_err!(
            "regular expression '{pattern}' cannot be read: {problem}; \
             write it in the forms of java.util.regex.Pattern that need no look-around"
        ),
    }
}

/// A separator pattern; one that is no regular expression is taken literally.
pub(crate) fn split_pattern(pattern: &str) -> Result<Arc<JavaPattern>> {
    match compile(pattern)? {
        Ok(regex) => Ok(regex),
        Err(_) => compile(&regex::escape(pattern))?
            .map_err(|problem| exec_datafusion_err!("'{pattern}' cannot be a separator: {problem}")),
    }
}

/// The compiled pattern of each row.
struct Patterns {
    texts: Column<arrow::array::StringViewArray>,
    constant: Option<Compiled>,
    last: Option<(String, Compiled)>,
}

impl Patterns {
    fn new(call: &Call, i: usize) -> Result<Self> {
        let texts = call.strings(i)?;
        let constant = match (texts.constant, texts.get(0)) {
            (true, Some(pattern)) => Some(compile(pattern)?),
            _ => None,
        };
        Ok(Patterns { texts, constant, last: None })
    }

    /// `None` for a NULL pattern.
    fn get(&mut self, row: usize) -> Result<Option<Compiled>> {
        if let Some(constant) = &self.constant {
            return Ok(Some(constant.clone()));
        }
        let Some(pattern) = self.texts.get(row) else { return Ok(None) };
        if let Some((text, compiled)) = &self.last
            && text == pattern
        {
            return Ok(Some(compiled.clone()));
        }
        let compiled = compile(pattern)?;
        self.last = Some((pattern.to_string(), compiled.clone()));
        Ok(Some(compiled))
    }
}

/// `REGEXP(s, pattern)`: does it occur; false for a pattern that cannot be read, or is empty.
fn regexp(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let mut patterns = Patterns::new(call, 1)?;
    let values = (0..call.rows).map(|row| {
        Ok(match (texts.get(row), patterns.get(row)?) {
            (Some(text), Some(pattern)) => {
                Some(pattern.is_ok_and(|pattern| !pattern.regex().as_str().is_empty() && pattern.is_match(text)))
            }
            _ => None,
        })
    });
    Ok(Arc::new(values.collect::<Result<arrow::array::BooleanArray>>()?))
}

/// `REGEXP_EXTRACT(s, pattern[, group])`: the first match, or a group of it.
fn regexp_extract(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let mut patterns = Patterns::new(call, 1)?;
    let groups = if call.has(2) { Some(call.integers(2)?) } else { None };
    call.try_text(|row| {
        let group =
            groups.as_ref().map_or(Some(0), |groups| groups.get(row)).and_then(|group| usize::try_from(group).ok());
        Ok(match (texts.get(row), patterns.get(row)?.and_then(Result::ok), group) {
            (Some(text), Some(pattern), Some(0)) => pattern.find(text).map(|found| found.as_str()),
            (Some(text), Some(pattern), Some(group)) => {
                pattern.captures(text).and_then(|captures| Some(captures.get(group)?.as_str()))
            }
            _ => None,
        })
    })
}

/// `REGEXP_EXTRACT_ALL(s, pattern[, group])`, group 1 by default; NULL if there is no such group.
fn regexp_extract_all(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let mut patterns = Patterns::new(call, 1)?;
    let groups = if call.has(2) { Some(call.integers(2)?) } else { None };
    let mut lists = ListBuilder::new(StringViewBuilder::new());
    for row in 0..call.rows {
        let group =
            groups.as_ref().map_or(Some(1), |groups| groups.get(row)).and_then(|group| usize::try_from(group).ok());
        match (texts.get(row), patterns.get(row)?.and_then(Result::ok), group) {
            (Some(text), Some(pattern), Some(group)) if group < pattern.regex().captures_len() => {
                for captures in pattern.all_captures(text) {
                    lists.values().append_option(captures.get(group).map(|found| found.as_str()));
                }
                lists.append(true);
            }
            _ => lists.append(false),
        }
    }
    Ok(Arc::new(lists.finish()))
}

/// `REGEXP_REPLACE(s, pattern, replacement)`: all matches; the replacement is plain text, `$1` too.
fn regexp_replace(call: &Call) -> Result<ArrayRef> {
    let (texts, replacements) = (call.strings(0)?, call.strings(2)?);
    let mut patterns = Patterns::new(call, 1)?;
    call.try_text(|row| {
        Ok(match (texts.get(row), patterns.get(row)?.and_then(Result::ok), replacements.get(row)) {
            (Some(text), Some(pattern), Some(replacement)) => Some(pattern.replace_all(text, replacement)),
            _ => None::<Cow<str>>,
        })
    })
}

fn counted(call: &Call, count: impl Fn(&JavaPattern, &str) -> usize) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let mut patterns = Patterns::new(call, 1)?;
    let values = (0..call.rows).map(|row| {
        Ok(match (texts.get(row), patterns.get(row)?.and_then(Result::ok)) {
            (Some(text), Some(pattern)) => Some(count(&pattern, text) as i32),
            _ => None,
        })
    });
    Ok(Arc::new(values.collect::<Result<arrow::array::Int32Array>>()?))
}

fn regexp_count(call: &Call) -> Result<ArrayRef> {
    counted(call, |pattern, text| pattern.matches(text).count())
}

/// Position of the first match from 1, or 0.
fn regexp_instr(call: &Call) -> Result<ArrayRef> {
    counted(call, |pattern, text| pattern.find(text).map_or(0, |found| text[..found.start()].chars().count() + 1))
}

fn regexp_substr(call: &Call) -> Result<ArrayRef> {
    let texts = call.strings(0)?;
    let mut patterns = Patterns::new(call, 1)?;
    call.try_text(|row| {
        Ok(match (texts.get(row), patterns.get(row)?.and_then(Result::ok)) {
            (Some(text), Some(pattern)) => pattern.find(text).map(|found| found.as_str()),
            _ => None,
        })
    })
}

/// `s SIMILAR TO pattern [ESCAPE c]`.
fn similar_to(call: &Call) -> Result<ArrayRef> {
    let (texts, patterns) = (call.strings(0)?, call.strings(1)?);
    let escape = if call.has(2) { call.constant_text(2)?.and_then(|text| text.chars().next()) } else { None };
    let mut last: Option<(String, Arc<JavaPattern>)> = None;
    let values = (0..call.rows).map(|row| {
        let (Some(text), Some(pattern)) = (texts.get(row), patterns.get(row)) else { return Ok(None) };
        let regex = match &last {
            Some((known, regex)) if known == pattern => Arc::clone(regex),
            _ => {
                let regex = compile(&similar_pattern(pattern, escape))?
                    .map_err(|problem| exec_datafusion_err!("'{pattern}' is not a pattern of SIMILAR TO: {problem}"))?;
                last = Some((pattern.to_string(), Arc::clone(&regex)));
                regex
            }
        };
        Ok(Some(regex.is_match(text)))
    });
    Ok(Arc::new(values.collect::<Result<arrow::array::BooleanArray>>()?))
}

/// SQL's regular expressions: `%` and `_` are wildcards, `| * + ? {} () []` are as ever, the rest is literal.
fn similar_pattern(pattern: &str, escape: Option<char>) -> String {
    let mut out = String::from("(?s)^(?:");
    let mut chars = pattern.chars();
    let mut class = false;
    while let Some(c) = chars.next() {
        match c {
            c if Some(c) == escape => out.push_str(&regex::escape(&chars.next().map(String::from).unwrap_or_default())),
            '[' => {
                class = true;
                out.push('[');
            }
            ']' => {
                class = false;
                out.push(']');
            }
            c if class => out.push(c),
            '%' => out.push_str(".*"),
            '_' => out.push('.'),
            '|' | '*' | '+' | '?' | '(' | ')' | '{' | '}' => out.push(c),
            c => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    out.push_str(r")\z");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn javas_forms_are_read() {
        for (java, text, matches) in [
            (r"^\d++$", "12", true),
            (r"\Qa.b\E", "a.b", true),
            (r"\Qa.b\E", "axb", false),
            (r"^\w$", "é", false),
            (r"^[\d-]+$", "1-2", true),
            (r"^\p{L}+$", "héllo", true),
            (r"^a\}+$", "a}}", true),
            (r"^\x{61}+$", "aaa", true),
            (r"^\x61+$", "aaa", true),
            (r"^a{2}+$", "aa", true),
            (r"^[^\p{Alnum}]+$", "-é", true),
            (r"^\p{Punct}{32}$", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", true),
            (r"^\P{Alpha}$", "é", true),
            (r"\<br\>", "br", false),
            (r"^[^\>]$", "<", true),
            (r"^[]~]+$", "]~", true),
            (r"^\0101\cA\e\R$", "A\u{1}\u{1b}\r\n", true),
            (r"^\H\v\V$", "a\u{2028}b", true),
            ("^a.b$", "a\rb", false),
            ("(?s)^a.b$", "a\rb", true),
            ("^a$", "a\r\n", true),
            ("^a$", "a\n\n", false),
            (r"^a\Z", "a\n", true),
            (r"^a\z", "a\n", false),
            ("(?m)^a$", "a\rb", true),
        ] {
            let regex = compile(java).expect("no error").expect("a pattern");
            assert_eq!(regex.is_match(text), matches, "{java} on {text}");
        }
        assert!(compile("(?=a)b").expect_err("look-around").to_string().contains("look-around"));
        assert!(compile("(?>a)b").expect_err("an atomic group").to_string().contains("atomic"));
        assert_eq!(&*compile("[").expect("no error").expect_err("no pattern"), "unclosed character class");
        assert!(check(r"\p{javaLetter}").expect_err("an unknown property").to_string().contains("cannot be read"));
    }
}
