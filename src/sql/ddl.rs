//! `CREATE TABLE` in Flink's form.

use datafusion::arrow::datatypes::DataType;
use sqlparser::ast::{Expr, Ident};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Span, Token};

use super::statement::{Failure, last_part};
use super::text::SqlText;
use super::types::{SqlType, parse_type};
use crate::contracts::Error;

/// A parsed `CREATE TABLE`.
#[derive(Debug, Clone)]
pub(crate) struct CreateTable {
    pub(crate) name: Ident,
    pub(crate) if_not_exists: bool,
    pub(crate) columns: Vec<DeclaredColumn>,
    pub(crate) watermark: Option<DeclaredWatermark>,
    pub(crate) primary_key: Vec<Ident>,
    pub(crate) partitioned_by: Vec<Ident>,
    pub(crate) options: Vec<OptionPair>,
}

#[derive(Debug, Clone)]
pub(crate) struct DeclaredColumn {
    pub(crate) name: Ident,
    pub(crate) kind: ColumnKind,
}

#[derive(Debug, Clone)]
pub(crate) enum ColumnKind {
    Physical { data_type: DataType, nullable: bool },
    Computed(Box<Expr>),
    Metadata { data_type: DataType, nullable: bool, key: String, is_virtual: bool },
}

#[derive(Debug, Clone)]
pub(crate) struct DeclaredWatermark {
    pub(crate) column: Ident,
    pub(crate) expression: Expr,
    pub(crate) span: Span,
}

/// `'key' = 'value'` with the places of both.
#[derive(Debug, Clone)]
pub(crate) struct OptionPair {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) key_span: Span,
    pub(crate) value_span: Span,
}

/// Parses what follows `CREATE [TEMPORARY] TABLE`.
pub(crate) fn parse_create_table(parser: &mut Parser, text: &SqlText) -> Result<CreateTable, Failure> {
    let if_not_exists = parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = last_part(parser)?;
    let mut table = CreateTable {
        name,
        if_not_exists,
        columns: Vec::new(),
        watermark: None,
        primary_key: Vec::new(),
        partitioned_by: Vec::new(),
        options: Vec::new(),
    };
    if parser.consume_token(&Token::LParen) {
        loop {
            parse_element(parser, text, &mut table)?;
            if !parser.consume_token(&Token::Comma) {
                break;
            }
        }
        parser.expect_token(&Token::RParen)?;
    }
    if parser.parse_keyword(Keyword::COMMENT) {
        parser.next_token();
    }
    if parser.parse_keyword(Keyword::PARTITIONED) {
        parser.expect_keyword_is(Keyword::BY)?;
        parser.expect_token(&Token::LParen)?;
        table.partitioned_by = parser.parse_comma_separated(Parser::parse_identifier)?;
        parser.expect_token(&Token::RParen)?;
    }
    if parser.parse_keyword(Keyword::WITH) {
        parser.expect_token(&Token::LParen)?;
        table.options = parser.parse_comma_separated(parse_option)?;
        parser.expect_token(&Token::RParen)?;
    }
    let next = parser.peek_token();
    for (keyword, what) in [(Keyword::LIKE, "CREATE TABLE … LIKE"), (Keyword::AS, "CREATE TABLE … AS SELECT")] {
        if parser.parse_keyword(keyword) {
            let error = Error::sql(format!("{what} is not supported yet")).at(text.location(next.span));
            return Err(Failure::Own(error.hint("write the columns out")));
        }
    }
    Ok(table)
}

fn parse_option(parser: &mut Parser) -> Result<OptionPair, ParserError> {
    let key = parser.next_token();
    let Token::SingleQuotedString(key_text) = key.token.clone() else {
        return parser.expected("an option in quotes: 'key' = 'value'", key);
    };
    parser.expect_token(&Token::Eq)?;
    let value = parser.next_token();
    let Token::SingleQuotedString(value_text) = value.token.clone() else {
        return parser.expected("an option's value in quotes", value);
    };
    Ok(OptionPair { key: key_text, value: value_text, key_span: key.span, value_span: value.span })
}

fn parse_element(parser: &mut Parser, text: &SqlText, table: &mut CreateTable) -> Result<(), Failure> {
    let start = parser.peek_token().span;
    if parser.parse_keywords(&[Keyword::PRIMARY, Keyword::KEY]) {
        return parse_primary_key(parser, text, table, start);
    }
    if parser.parse_keyword(Keyword::CONSTRAINT) {
        parser.parse_identifier()?;
        parser.expect_keyword_is(Keyword::PRIMARY)?;
        parser.expect_keyword_is(Keyword::KEY)?;
        return parse_primary_key(parser, text, table, start);
    }
    let is_watermark = matches!(&parser.peek_token_ref().token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case("WATERMARK"))
        && matches!(&parser.peek_nth_token_ref(1).token, Token::Word(w) if w.keyword == Keyword::FOR);
    if is_watermark {
        parser.next_token();
        parser.next_token();
        let column = parser.parse_identifier()?;
        parser.expect_keyword_is(Keyword::AS)?;
        let expression = parser.parse_expr()?;
        let span = Span::new(start.start, parser.get_current_token().span.end);
        if table.watermark.is_some() {
            let error = Error::sql(format!("table '{}' has two watermarks", table.name.value)).at(text.location(span));
            return Err(Failure::Own(error.hint("a table has one time column")));
        }
        table.watermark = Some(DeclaredWatermark { column, expression, span });
        return Ok(());
    }
    let column = parse_column(parser, text, table)?;
    if let Some(first) = table.columns.iter().find(|c| c.name.value == column.name.value) {
        let error = Error::sql(format!("column '{}' is declared twice", column.name.value));
        return Err(Failure::Own(error.at(text.location(column.name.span)).at(text.location(first.name.span))));
    }
    table.columns.push(column);
    Ok(())
}

fn parse_primary_key(parser: &mut Parser, text: &SqlText, table: &mut CreateTable, start: Span) -> Result<(), Failure> {
    parser.expect_token(&Token::LParen)?;
    table.primary_key = parser.parse_comma_separated(Parser::parse_identifier)?;
    parser.expect_token(&Token::RParen)?;
    not_enforced(parser, text, start)
}

fn not_enforced(parser: &mut Parser, text: &SqlText, start: Span) -> Result<(), Failure> {
    if parser.parse_keywords(&[Keyword::NOT, Keyword::ENFORCED]) {
        return Ok(());
    }
    let _ = parser.parse_keyword(Keyword::ENFORCED);
    let span = Span::new(start.start, parser.get_current_token().span.end);
    let error = Error::sql("a primary key must be NOT ENFORCED").at(text.location(span));
    Err(Failure::Own(
        error.hint("write PRIMARY KEY (…) NOT ENFORCED: Tidemill does not own the data and cannot check it"),
    ))
}

fn parse_column(parser: &mut Parser, text: &SqlText, table: &mut CreateTable) -> Result<DeclaredColumn, Failure> {
    let name = parser.parse_identifier()?;
    if parser.parse_keyword(Keyword::AS) {
        let expression = parser.parse_expr()?;
        comment(parser);
        return Ok(DeclaredColumn { name, kind: ColumnKind::Computed(Box::new(expression)) });
    }
    let SqlType { data_type, nullable } = parse_type(parser)?;
    let mut kind = ColumnKind::Physical { data_type: data_type.clone(), nullable };
    loop {
        let at = parser.peek_token();
        let is_metadata =
            matches!(&at.token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case("METADATA"));
        if is_metadata {
            parser.next_token();
            let mut key = name.value.clone();
            if parser.parse_keyword(Keyword::FROM) {
                let token = parser.next_token();
                let Token::SingleQuotedString(text) = token.token else {
                    return Err(parser
                        .expected::<()>("a metadata key in quotes", token)
                        .expect_err("always fails")
                        .into());
                };
                key = text;
            }
            let is_virtual = parser.parse_keyword(Keyword::VIRTUAL);
            kind = ColumnKind::Metadata { data_type: data_type.clone(), nullable, key, is_virtual };
        } else if parser.parse_keywords(&[Keyword::PRIMARY, Keyword::KEY]) {
            not_enforced(parser, text, at.span)?;
            table.primary_key = vec![name.clone()];
        } else if !comment(parser) {
            break;
        }
    }
    Ok(DeclaredColumn { name, kind })
}

fn comment(parser: &mut Parser) -> bool {
    let found = parser.parse_keyword(Keyword::COMMENT);
    if found {
        parser.next_token();
    }
    found
}
