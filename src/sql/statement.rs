//! Statements of a file: what each says, before anything is looked up.
//!
//! A file is cut at its semicolons first, so that one wrong statement hides no other.

use std::sync::Arc;

use sqlparser::ast::{Expr, Ident, Query};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location as SqlLocation, Span, Token, TokenWithSpan, Word};

use super::ddl::parse_create_table;
pub(crate) use super::ddl::{ColumnKind, CreateTable, OptionPair};
use super::dialect::FlinkDialect;
use super::text::{Hints, Parameters, SqlText, lower_first};
use crate::contracts::{Error, Result};

/// A statement and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) text: Arc<SqlText>,
    /// From its first to its last token.
    pub(crate) span: Span,
    pub(crate) kind: StatementKind,
    /// Tokens, to find a word again that an error names.
    pub(crate) tokens: Arc<[TokenWithSpan]>,
}

#[derive(Debug, Clone)]
pub(crate) enum StatementKind {
    CreateTable(Box<CreateTable>),
    CreateView(CreateView),
    Insert(Box<Insert>),
    Set {
        key: String,
        value: String,
    },
    /// Accepted and without effect here (`USE`, `DROP … IF EXISTS`, `RESET`, `BEGIN STATEMENT SET`).
    Nothing,
}

#[derive(Debug, Clone)]
pub(crate) struct CreateView {
    pub(crate) name: Ident,
    pub(crate) columns: Vec<Ident>,
    pub(crate) query: Box<Query>,
    pub(crate) if_not_exists: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Insert {
    pub(crate) table: Ident,
    pub(crate) columns: Vec<Ident>,
    /// Static partition values: `PARTITION (day='2026-01-01')`.
    pub(crate) partition: Vec<(Ident, Expr)>,
    pub(crate) query: Box<Query>,
}

/// All statements of a file, and every error in it.
pub(crate) struct ParsedFile {
    pub(crate) statements: Vec<Statement>,
    pub(crate) errors: Vec<Error>,
}

pub(crate) fn parse_file(text: &Arc<SqlText>, parameters: &Parameters, hints: &mut Hints) -> ParsedFile {
    let mut parsed = ParsedFile { statements: Vec::new(), errors: Vec::new() };
    let tokens = match text.tokens(parameters, hints) {
        Ok(tokens) => tokens,
        Err(error) => {
            parsed.errors.push(error);
            return parsed;
        }
    };
    let significant: Vec<TokenWithSpan> =
        tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF)).collect();
    let mut open: Option<Span> = None;
    for statement in significant.split(|t| t.token == Token::SemiColon) {
        let whole = statement;
        let statement = strip_statement_set(whole);
        if let (Some(first), true) = (whole.first(), whole.len() >= statement.len() + 3) {
            open = Some(first.span);
        } else if whole.len() == 1 && is_word(whole.first(), "END") {
            open = None;
        }
        let (Some(first), Some(last)) = (statement.first(), statement.last()) else { continue };
        let span = Span::new(first.span.start, last.span.end);
        match parse_statement(text, statement) {
            Ok(kind) => {
                parsed.statements.push(Statement { text: Arc::clone(text), span, kind, tokens: statement.into() })
            }
            Err(error) => parsed.errors.push(error),
        }
    }
    if let Some(span) = open {
        let error = Error::sql("the statement set is not closed").at(text.location(span));
        parsed.errors.push(error.hint("write END; after its last INSERT"));
    }
    parsed
}

fn is_word(token: Option<&TokenWithSpan>, word: &str) -> bool {
    token.is_some_and(
        |t| matches!(&t.token, Token::Word(w) if w.value.eq_ignore_ascii_case(word) && w.quote_style.is_none()),
    )
}

/// Removes what only groups statements: a folder is one job in any case.
fn strip_statement_set(tokens: &[TokenWithSpan]) -> &[TokenWithSpan] {
    let words = |list: &[&str]| list.iter().enumerate().all(|(i, word)| is_word(tokens.get(i), word));
    if words(&["EXECUTE", "STATEMENT", "SET", "BEGIN"]) {
        &tokens[4..]
    } else if words(&["BEGIN", "STATEMENT", "SET"]) {
        &tokens[3..]
    } else if words(&["EXECUTE", "INSERT"]) {
        &tokens[1..]
    } else if tokens.len() == 1 && words(&["END"]) {
        &[]
    } else {
        tokens
    }
}

fn parse_statement(text: &SqlText, tokens: &[TokenWithSpan]) -> Result<StatementKind> {
    super::bounds::check_depth(text, tokens)?;
    let end = tokens.last().map_or(Span::empty(), |t| Span::new(t.span.end, t.span.end));
    let dialect = FlinkDialect;
    let mut parser = Parser::new(&dialect).with_tokens_with_locations(tokens.to_vec());
    let kind = parse_kind(&mut parser, text, tokens).map_err(|error| match error {
        Failure::Parser(error) => locate(&error, text, end),
        Failure::Own(error) => error,
    })?;
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        let message = format!("unexpected '{}' after the end of the statement", rest.token);
        return Err(Error::sql(message).at(text.location(rest.span)).hint("separate statements with ';'"));
    }
    Ok(kind)
}

/// An error of sqlparser's, or one of ours that has its place already.
pub(crate) enum Failure {
    Parser(ParserError),
    Own(Error),
}

impl From<ParserError> for Failure {
    fn from(error: ParserError) -> Self {
        Self::Parser(error)
    }
}

fn parse_kind(parser: &mut Parser, text: &SqlText, tokens: &[TokenWithSpan]) -> Result<StatementKind, Failure> {
    let first = parser.peek_token();
    let Token::Word(Word { value, quote_style: None, .. }) = &first.token else {
        return Err(parser.expected::<()>("a statement", first).expect_err("expected always fails").into());
    };
    let unsupported = |what: String, hint: &str| {
        Failure::Own(Error::sql(format!("{what} is not supported")).at(text.location(first.span)).hint(hint))
    };
    match value.to_uppercase().as_str() {
        "CREATE" => {
            parser.next_token();
            let _ = parser.parse_keyword(Keyword::TEMPORARY);
            if parser.parse_keyword(Keyword::TABLE) {
                return Ok(StatementKind::CreateTable(Box::new(parse_create_table(parser, text)?)));
            }
            if parser.parse_keyword(Keyword::VIEW) {
                return Ok(parse_create_view(parser)?);
            }
            if parser.parse_keyword(Keyword::DATABASE) || parser.parse_keyword(Keyword::CATALOG) {
                skip(parser);
                return Ok(StatementKind::Nothing);
            }
            let what = parser.peek_token();
            let hint = match what.token.to_string().to_uppercase().as_str() {
                "FUNCTION" | "SYSTEM" => {
                    "there is no JVM here: write the function in SQL, or use one of the built-in functions"
                }
                _ => "CREATE TABLE and CREATE VIEW are",
            };
            Err(unsupported(format!("CREATE {}", what.token.to_string().to_uppercase()), hint))
        }
        "INSERT" => parse_insert(parser, text),
        "SET" => {
            parser.next_token();
            Ok(parse_set(parser)?)
        }
        "RESET" | "USE" | "DROP" => {
            skip(parser);
            Ok(StatementKind::Nothing)
        }
        "SELECT" | "WITH" | "VALUES" | "TABLE" => {
            let hint =
                "send the rows somewhere: INSERT INTO a_table SELECT …; a table with 'connector' = 'print' shows them";
            Err(Failure::Own(Error::sql("a query alone has no sink").at(text.location(first.span)).hint(hint)))
        }
        "EXPLAIN" | "DESCRIBE" | "DESC" | "SHOW" => Err(unsupported(
            format!("{} in a file", value.to_uppercase()),
            "use the command line: tidemill explain PATH",
        )),
        "ADD" | "REMOVE" => Err(unsupported(value.to_uppercase() + " JAR", "there is no JVM here")),
        "ALTER" | "TRUNCATE" | "DELETE" | "UPDATE" | "ANALYZE" | "CALL" | "LOAD" | "UNLOAD" | "MERGE" => {
            Err(unsupported(value.to_uppercase(), "a job is CREATE TABLE, CREATE VIEW, INSERT INTO and SET"))
        }
        other => {
            let known = ["CREATE", "INSERT", "SET", "SELECT", "EXECUTE", "BEGIN", "DROP", "USE"];
            let near = known.iter().find(|k| strsim::damerau_levenshtein(k, other) <= 2);
            let _ = tokens;
            let error = Error::sql(format!("'{value}' does not begin a statement")).at(text.location(first.span));
            Err(Failure::Own(match near {
                Some(near) => error.hint(format!("did you mean '{near}'?")),
                None => error.hint("a job is CREATE TABLE, CREATE VIEW, INSERT INTO and SET"),
            }))
        }
    }
}

fn skip(parser: &mut Parser) {
    while parser.peek_token_ref().token != Token::EOF {
        parser.next_token();
    }
}

fn parse_create_view(parser: &mut Parser) -> Result<StatementKind, ParserError> {
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = last_part(parser)?;
    let columns = if parser.consume_token(&Token::LParen) {
        let columns = parser.parse_comma_separated(Parser::parse_identifier)?;
        parser.expect_token(&Token::RParen)?;
        columns
    } else {
        Vec::new()
    };
    if parser.parse_keyword(Keyword::COMMENT) {
        parser.next_token();
    }
    parser.expect_keyword_is(Keyword::AS)?;
    let query = parser.parse_query()?;
    Ok(StatementKind::CreateView(CreateView { name, columns, query, if_not_exists }))
}

/// A name of up to three parts; there is one catalog, so the last part counts.
pub(crate) fn last_part(parser: &mut Parser) -> Result<Ident, ParserError> {
    let at = parser.peek_token();
    let name = parser.parse_object_name(false)?;
    match name.0.last().and_then(|part| part.as_ident()) {
        Some(ident) => Ok(ident.clone()),
        None => parser.expected("a name", at),
    }
}

fn parse_insert(parser: &mut Parser, text: &SqlText) -> Result<StatementKind, Failure> {
    parser.next_token();
    if parser.parse_keyword(Keyword::OVERWRITE) {
        let span = parser.get_current_token().span;
        let error = Error::sql("INSERT OVERWRITE is not supported").at(text.location(span));
        return Err(Failure::Own(
            error.hint("use INSERT INTO; a table with a PRIMARY KEY replaces rows of the same key"),
        ));
    }
    parser.expect_keyword_is(Keyword::INTO)?;
    let _ = parser.parse_keyword(Keyword::TABLE);
    let table = last_part(parser)?;
    let mut partition = Vec::new();
    if parser.parse_keyword(Keyword::PARTITION) {
        parser.expect_token(&Token::LParen)?;
        partition = parser.parse_comma_separated(|p| {
            let name = p.parse_identifier()?;
            p.expect_token(&Token::Eq)?;
            Ok((name, p.parse_expr()?))
        })?;
        parser.expect_token(&Token::RParen)?;
    }
    // `INSERT INTO t (a, b) SELECT …` or `INSERT INTO t (SELECT …)`.
    let next = &parser.peek_nth_token_ref(1).token;
    let is_query = matches!(next, Token::Word(Word { keyword: Keyword::SELECT | Keyword::WITH | Keyword::VALUES, .. }));
    let mut columns = Vec::new();
    if parser.peek_token_ref().token == Token::LParen && !is_query {
        parser.expect_token(&Token::LParen)?;
        columns = parser.parse_comma_separated(Parser::parse_identifier)?;
        parser.expect_token(&Token::RParen)?;
    }
    let query = parser.parse_query()?;
    Ok(StatementKind::Insert(Box::new(Insert { table, columns, partition, query })))
}

fn parse_set(parser: &mut Parser) -> Result<StatementKind, ParserError> {
    if parser.peek_token_ref().token == Token::EOF {
        return Ok(StatementKind::Nothing);
    }
    let mut key = String::new();
    loop {
        let token = parser.next_token();
        match token.token {
            Token::Eq => break,
            Token::SingleQuotedString(text) => key.push_str(&text),
            Token::EOF => return parser.expected("'=' and a value", token),
            other => key.push_str(&other.to_string()),
        }
    }
    let mut value = String::new();
    loop {
        let token = parser.peek_token();
        match token.token {
            Token::EOF => break,
            Token::SingleQuotedString(text) => value.push_str(&text),
            other => value.push_str(&other.to_string()),
        }
        parser.next_token();
    }
    Ok(StatementKind::Set { key, value })
}

/// Gives sqlparser's error the place that it names in its text.
fn locate(error: &ParserError, text: &SqlText, end: Span) -> Error {
    let message = match error {
        ParserError::TokenizerError(m) | ParserError::ParserError(m) => m.clone(),
        ParserError::RecursionLimitExceeded => {
            return Error::sql("the statement is nested too deeply").at(text.location(end));
        }
    };
    let (message, span) = split_place(&message);
    let message = match message.split_once("found: ") {
        Some((before, _)) if span.is_some_and(|span| text.is_secret(span)) => format!("{before}found: a secret"),
        _ => message.to_owned(),
    };
    let mut error = Error::sql(lower_first(&message.replace("found: EOF", "found the end of the statement")));
    if message.contains("Expected: )") {
        error = error.hint("a parenthesis is not closed, or a comma is missing");
    }
    error.at(text.location(span.unwrap_or(end)))
}

/// Cuts ` at Line: 3, Column: 8` off a message.
fn split_place(message: &str) -> (&str, Option<Span>) {
    let Some((before, place)) = message.rsplit_once(" at Line: ") else { return (message, None) };
    let mut numbers = place.split(|c: char| !c.is_ascii_digit()).filter(|s| !s.is_empty());
    let mut next = || numbers.next().and_then(|n| n.parse::<u64>().ok());
    match (next(), next()) {
        (Some(line), Some(column)) => {
            let start = SqlLocation::new(line, column);
            (before, Some(Span::new(start, SqlLocation::new(line, column + 1))))
        }
        _ => (before, None),
    }
}
