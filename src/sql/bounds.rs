//! How deep and how large a query may be.
//!
//! A query is a tree, and what walks a tree needs stack, here, in the parser and in DataFusion: a chain of 50,000 `OR` would end the
//! program without a word. A view or WITH query is planned again wherever it is named, so thirty of them, each named twice by the
//! next, would take all memory. Both are refused with their place, before anything is built.
//!
//! It counts words, and not exactly: what it counts is never less than what the tree will have. (How deep parentheses and the
//! like may be nested, the parser bounds itself.)
//!
//! Invariant: a text that has passed is planned on a stack of [`STACK_BYTES`], in a build without optimisation too (`tests/fuzz`).

use std::collections::BTreeMap;

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::catalog::Catalog;
use super::statement::Statement;
use super::text::SqlText;
use crate::contracts::{Error, Result};

/// Stack that planning needs for the largest query that is taken. It is only reserved, not used, by others.
pub const STACK_BYTES: usize = 64 << 20;

/// Operators in an expression and those around it.
const OPERATORS: usize = 500;
/// Types within types: `ROW<a ARRAY<…>>`.
const TYPES: usize = 32;
/// Relations, joins and set operations of a query, with those of the views that it uses, as often as it names them.
const STEPS: u64 = 256;

fn keyword(token: &Token) -> Keyword {
    match token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    }
}

/// Whether a token makes the expression that it stands in deeper.
fn is_operator(token: &Token) -> bool {
    use Keyword::{AND, AT, BETWEEN, COLLATE, ILIKE, IN, IS, LIKE, NOT, OR, RLIKE, SIMILAR};
    match token {
        Token::Word(_) => {
            matches!(keyword(token), AND | AT | BETWEEN | COLLATE | ILIKE | IN | IS | LIKE | NOT | OR | RLIKE | SIMILAR)
        }
        // Strings that follow each other are one; a number, name, separator or bracket makes nothing deeper.
        Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::Comma
        | Token::Period
        | Token::LParen
        | Token::RParen
        | Token::RBracket
        | Token::LBrace
        | Token::RBrace => false,
        _ => true,
    }
}

/// Refuses a statement whose expressions or types are too deep.
pub(super) fn check_depth(text: &SqlText, tokens: &[TokenWithSpan]) -> Result<()> {
    // Operators so far in each expression that is open, from the outermost in.
    let (mut open, mut types) = (vec![0_usize], 0_usize);
    for (at, TokenWithSpan { token, span }) in tokens.iter().enumerate() {
        match (token, keyword(token)) {
            (Token::LParen | Token::LBrace, _) | (_, Keyword::CASE) => open.push(0),
            (Token::RParen | Token::RBrace, _) | (_, Keyword::END) if open.len() > 1 => drop(open.pop()),
            (Token::Comma, _) | (_, Keyword::SELECT | Keyword::WHERE | Keyword::HAVING) => {
                open.last_mut().into_iter().for_each(|operators| *operators = 0);
            }
            _ if is_operator(token) => open.last_mut().into_iter().for_each(|operators| *operators += 1),
            _ => {}
        }
        let begins_type = at > 0
            && matches!(&tokens[at - 1].token, Token::Word(word)
                if ["ROW", "ARRAY", "MAP", "MULTISET"].iter().any(|kind| word.value.eq_ignore_ascii_case(kind)));
        match token {
            Token::Lt if begins_type => types += 1,
            Token::Gt => types = types.saturating_sub(1),
            _ => {}
        }
        if types > TYPES {
            let error = Error::sql(format!("types are nested more than {TYPES} deep"));
            return Err(error.at(text.location(*span)).hint("declare a part of it as STRING"));
        }
        if open.iter().sum::<usize>() > OPERATORS {
            let error = Error::sql(format!("an expression has more than {OPERATORS} operators"));
            return Err(error
                .at(text.location(*span))
                .hint("write IN (…) instead of many OR, join a reference table, or compute parts of it in a view"));
        }
    }
    Ok(())
}

/// Refuses queries that would be planned with more than [`STEPS`] steps.
pub(super) fn check_sizes(catalog: &Catalog, errors: &mut Vec<Error>) {
    let mut weights = Weights { catalog, known: BTreeMap::new() };
    let mut check = |statement: &Statement, steps: u64| {
        if steps > STEPS {
            let error =
                Error::sql(format!("the query has more than {STEPS} relations and joins, with those of its views"));
            errors.push(error.at(statement.at(statement.span)).hint(
                "a view is computed wherever it is named: write what it gives to a stream or table, and read that",
            ));
        }
    };
    for insert in &catalog.inserts {
        check(&insert.statement, weights.of(&insert.statement, 0));
    }
    for view in catalog.views.values() {
        check(&view.statement, weights.of_view(&view.name, 0));
    }
}

struct Weights<'a> {
    catalog: &'a Catalog,
    known: BTreeMap<&'a str, u64>,
}

impl<'a> Weights<'a> {
    /// Steps of a statement's query.
    fn of(&mut self, statement: &Statement, depth: u64) -> u64 {
        // Queries of WITH that have been read, and those that are being read: where they began, their names and steps.
        let mut named: BTreeMap<String, u64> = BTreeMap::new();
        let mut reading: Vec<(usize, String, u64)> = Vec::new();
        let (mut steps, mut level) = (1_u64, 0_usize);
        let tokens = &statement.tokens;
        for (at, TokenWithSpan { token, .. }) in tokens.iter().enumerate() {
            let mut found = 0;
            match token {
                Token::LParen => {
                    let name = match (at.checked_sub(2).map(|n| &tokens[n].token), at.checked_sub(1)) {
                        (Some(Token::Word(name)), Some(before)) if keyword(&tokens[before].token) == Keyword::AS => {
                            Some(name.value.clone())
                        }
                        _ => None,
                    };
                    reading.extend(name.map(|name| (level, name, 1)));
                    level += 1;
                }
                Token::RParen => {
                    level = level.saturating_sub(1);
                    if let Some((_, name, steps)) = reading.pop_if(|(began, ..)| *began == level) {
                        named.insert(name, steps);
                    }
                }
                Token::Word(word) => {
                    use Keyword::{EXCEPT, INTERSECT, JOIN, MINUS, SELECT, UNION};
                    let counts = matches!(keyword(token), EXCEPT | INTERSECT | JOIN | MINUS | SELECT | UNION);
                    found = u64::from(counts);
                    found = found.saturating_add(match named.get(&word.value) {
                        Some(steps) => *steps,
                        None => self.of_view(&word.value, depth),
                    });
                }
                _ => {}
            }
            let steps = reading.last_mut().map_or(&mut steps, |(_, _, steps)| steps);
            *steps = steps.saturating_add(found);
        }
        steps
    }

    fn of_view(&mut self, name: &str, depth: u64) -> u64 {
        if let Some(steps) = self.known.get(name) {
            return *steps;
        }
        let catalog: &'a Catalog = self.catalog;
        let Some((name, view)) = catalog.views.get_key_value(name) else { return 0 };
        // A circle of views is told elsewhere; here it ends.
        if depth > STEPS {
            return STEPS;
        }
        // Its own name stands in its statement.
        self.known.insert(name, 0);
        let steps = self.of(&view.statement, depth + 1);
        self.known.insert(name, steps);
        steps
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sql::statement::parse_file;
    use crate::sql::text::{Hints, Parameters};

    /// The first error of a text, if there is one.
    fn first_error(sql: &str) -> Option<String> {
        let text = Arc::new(SqlText::new("a.sql", sql));
        let parsed = parse_file(&text, &Parameters::default(), &mut Hints::default());
        let mut errors = Vec::new();
        check_sizes(&Catalog::build(vec![parsed], Hints::default(), &mut errors), &mut errors);
        errors.first().map(|error| error.message().to_owned())
    }

    #[test]
    fn chains_count_and_lists_do_not() {
        let select = |expression: &str| first_error(&format!("INSERT INTO o SELECT {expression} FROM t"));
        assert_eq!(select(&vec!["a"; 450].join(" + ")), None);
        assert!(select(&vec!["a"; 1_100].join(" + ")).is_some_and(|e| e.contains("500 operators")));
        assert!(select(&"x IS DISTINCT FROM y AND ".repeat(600)).is_some_and(|e| e.contains("operators")));
        let case = "CASE WHEN a > 1 THEN 2 ELSE b END";
        assert!(select(&vec![case; 1_100].join(" + ")).is_some_and(|e| e.contains("operators")));
        assert_eq!(select(&vec!["a + b"; 5_000].join(", ")), None);
        assert_eq!(select(&format!("a IN ({})", vec!["1"; 5_000].join(", "))), None);
        assert_eq!(select("'it''s' || ${A:-'x'}"), None);
    }

    #[test]
    fn types_within_types() {
        let table = |depth: usize| {
            let of = format!("{}INT{}", "ROW<y INT, x ".repeat(depth), ">".repeat(depth));
            first_error(&format!("CREATE TABLE n (a {of}, b BOOLEAN) WITH ('connector' = 'print')"))
        };
        assert_eq!(table(30), None);
        assert!(table(33).is_some_and(|e| e.contains("nested")));
    }

    #[test]
    fn what_is_named_twice_counts_twice() {
        let views = |count: usize, from: &dyn Fn(usize) -> String| {
            let views: String = (1..count).map(|n| format!("CREATE VIEW v{n} AS {};", from(n - 1))).collect();
            first_error(&format!(
                "CREATE VIEW v0 AS SELECT a FROM t; {views} INSERT INTO o SELECT a FROM v{};",
                count - 1
            ))
        };
        let twice = |n: usize| format!("SELECT a FROM v{n} UNION ALL SELECT a FROM v{n}");
        assert_eq!(views(5, &twice), None);
        assert!(views(30, &twice).is_some_and(|e| e.contains("256 relations")));
        assert!(views(1_000, &|n| format!("SELECT a FROM v{n}")).is_some_and(|e| e.contains("256 relations")));
        let with = |count: usize| {
            let each =
                (1..count).map(|n| format!(", c{n} AS (SELECT x.a FROM c{0} AS x JOIN c{0} AS y ON x.a = y.a)", n - 1));
            first_error(&format!(
                "INSERT INTO o WITH c0 AS (SELECT a FROM t){} SELECT a FROM c{}",
                each.collect::<String>(),
                count - 1
            ))
        };
        assert_eq!(with(4), None);
        assert!(with(30).is_some_and(|e| e.contains("256 relations")));
    }
}
