//! The lexical and grammatical side of Flink SQL, as one sqlparser [`Dialect`].

use sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName, Query,
    SelectItem, SetExpr, TableFactor,
};
use sqlparser::dialect::Dialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, Word};

use super::functions;

/// Name of the function call that `TABLE t` and `TABLE (query)` become as an argument.
pub(crate) const TABLE_ARGUMENT: &str = "__table";

/// Flink SQL: back-quoted identifiers, case kept, `TABLE t` as an argument of a table function.
#[derive(Debug, Clone, Copy)]
pub struct FlinkDialect;

impl Dialect for FlinkDialect {
    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '`' || ch == '"'
    }

    fn identifier_quote_style(&self, _identifier: &str) -> Option<char> {
        Some('`')
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_' || ch == '$'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_' || ch == '$'
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }

    fn supports_named_fn_args_with_rarrow_operator(&self) -> bool {
        true
    }

    fn supports_window_function_null_treatment_arg(&self) -> bool {
        true
    }

    fn supports_match_recognize(&self) -> bool {
        true
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }

    fn supports_try_convert(&self) -> bool {
        true
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        table_argument(parser).or_else(|| functions::parse_prefix(parser))
    }

    fn parse_infix(&self, parser: &mut Parser, expr: &Expr, precedence: u8) -> Option<Result<Expr, ParserError>> {
        functions::parse_infix(parser, expr, precedence)
    }
}

/// `SELECT * FROM table`: a table as an argument stands as a query, so that the planner's search for the
/// tables of a statement finds it.
pub(crate) fn all_of(table: Ident) -> Query {
    let mut query = super::planner::template(table);
    if let SetExpr::Select(select) = query.body.as_mut() {
        select.projection.push(SelectItem::Wildcard(Default::default()));
    }
    query
}

/// The table of a query that [`all_of`] made, or that says the same.
pub(crate) fn is_all_of(query: &Query) -> Option<&TableFactor> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let plain = query.with.is_none() && query.limit_clause.is_none() && query.order_by.is_none();
    match (select.projection.as_slice(), select.from.as_slice(), &select.selection) {
        ([SelectItem::Wildcard(_)], [from], None) if plain && from.joins.is_empty() && select.distinct.is_none() => {
            match &from.relation {
                table @ TableFactor::Table { alias: None, args: None, .. } => Some(table),
                _ => None,
            }
        }
        _ => None,
    }
}

/// `TABLE t`, `TABLE db.t` or `TABLE (SELECT …)` where an expression is expected.
fn table_argument(parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
    let is_table =
        matches!(&parser.peek_token_ref().token, Token::Word(Word { keyword: Keyword::TABLE, quote_style: None, .. }));
    let after = &parser.peek_nth_token_ref(1).token;
    if !is_table || !matches!(after, Token::Word(_) | Token::LParen) {
        return None;
    }
    let table = parser.next_token();
    let argument = if matches!(parser.peek_token_ref().token, Token::LParen) {
        parser.parse_expr()
    } else {
        super::statement::last_part(parser).map(|name| Expr::Subquery(Box::new(all_of(name))))
    };
    Some(argument.map(|argument| {
        let name = Ident { value: TABLE_ARGUMENT.to_owned(), quote_style: None, span: table.span };
        Expr::Function(Function {
            name: ObjectName::from(vec![name]),
            uses_odbc_syntax: false,
            parameters: FunctionArguments::None,
            args: FunctionArguments::List(FunctionArgumentList {
                duplicate_treatment: None,
                args: vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))],
                clauses: vec![],
            }),
            filter: None,
            null_treatment: None,
            over: None,
            within_group: vec![],
        })
    }))
}
