//! Flink's data types and the Arrow types that carry them.
//!
//! | Flink | Arrow |
//! |---|---|
//! | STRING, VARCHAR, CHAR | Utf8View |
//! | TIMESTAMP(p) | Timestamp(ms for p ≤ 3, µs for p ≤ 6, else ns), no zone |
//! | TIMESTAMP_LTZ(p) | the same with the zone UTC |
//! | DECIMAL(p, s) | Decimal128(p, s), p ≤ 38, default (10, 0) |
//! | ROW, ARRAY, MAP | Struct, List, Map |

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, Word};

/// A parsed type and whether NULL is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SqlType {
    pub(crate) data_type: DataType,
    pub(crate) nullable: bool,
}

/// Arrow type of TIMESTAMP(`precision`) or, with `local`, TIMESTAMP_LTZ(`precision`).
pub(crate) fn timestamp(precision: u64, local: bool) -> DataType {
    let unit = match precision {
        0..=3 => TimeUnit::Millisecond,
        4..=6 => TimeUnit::Microsecond,
        _ => TimeUnit::Nanosecond,
    };
    DataType::Timestamp(unit, local.then(|| "UTC".into()))
}

/// Parses a type with its `[NOT] NULL`.
pub(crate) fn parse_type(parser: &mut Parser) -> Result<SqlType, ParserError> {
    let data_type = parse_bare(parser)?;
    let mut data_type = data_type;
    while parser.parse_keyword(Keyword::ARRAY) {
        data_type = DataType::List(Arc::new(Field::new("element", data_type, true)));
    }
    let nullable = if parser.parse_keywords(&[Keyword::NOT, Keyword::NULL]) {
        false
    } else {
        let _ = parser.parse_keyword(Keyword::NULL);
        true
    };
    Ok(SqlType { data_type, nullable })
}

fn parse_bare(parser: &mut Parser) -> Result<DataType, ParserError> {
    let token = parser.next_token();
    let Token::Word(Word { value, quote_style: None, .. }) = &token.token else {
        return parser.expected("a data type", token);
    };
    Ok(match value.to_uppercase().as_str() {
        "STRING" => DataType::Utf8View,
        "CHAR" | "CHARACTER" | "VARCHAR" => {
            let _ = parser.parse_keyword(Keyword::VARYING);
            numbers(parser)?;
            DataType::Utf8View
        }
        "BOOLEAN" => DataType::Boolean,
        "TINYINT" => DataType::Int8,
        "SMALLINT" => DataType::Int16,
        "INT" | "INTEGER" => DataType::Int32,
        "BIGINT" => DataType::Int64,
        "FLOAT" | "REAL" => DataType::Float32,
        "DOUBLE" => {
            let _ = parser.parse_keyword(Keyword::PRECISION);
            DataType::Float64
        }
        "DECIMAL" | "DEC" | "NUMERIC" => {
            let given = numbers(parser)?;
            let precision = given.first().copied().unwrap_or(10);
            let scale = given.get(1).copied().unwrap_or(0);
            if !(1..=38).contains(&precision) || scale > precision {
                let message =
                    format!("DECIMAL({precision}, {scale}) is out of range: 1 to 38 digits, scale up to that");
                return Err(ParserError::ParserError(format!("{message}{}", token.span.start)));
            }
            DataType::Decimal128(precision as u8, scale as i8)
        }
        "DATE" => DataType::Date32,
        "TIME" => {
            numbers(parser)?;
            let _ = parser.parse_keywords(&[Keyword::WITHOUT, Keyword::TIME, Keyword::ZONE]);
            DataType::Time32(TimeUnit::Millisecond)
        }
        "TIMESTAMP" => {
            let precision = numbers(parser)?.first().copied().unwrap_or(6);
            let local = if parser.parse_keyword(Keyword::WITH) {
                if !parser.parse_keyword(Keyword::LOCAL) {
                    let message = "TIMESTAMP WITH TIME ZONE does not exist here; write TIMESTAMP_LTZ";
                    return Err(ParserError::ParserError(format!("{message}{}", token.span.start)));
                }
                parser.expect_keyword_is(Keyword::TIME)?;
                parser.expect_keyword_is(Keyword::ZONE)?;
                true
            } else {
                let _ = parser.parse_keywords(&[Keyword::WITHOUT, Keyword::TIME, Keyword::ZONE]);
                false
            };
            timestamp(precision, local)
        }
        "TIMESTAMP_LTZ" => timestamp(numbers(parser)?.first().copied().unwrap_or(6), true),
        "BYTES" | "BINARY" | "VARBINARY" => {
            numbers(parser)?;
            DataType::Binary
        }
        "ARRAY" => {
            let element = enclosed(parser, parse_type)?;
            DataType::List(Arc::new(Field::new("element", element.data_type, element.nullable)))
        }
        "MAP" => {
            let (key, value) = enclosed(parser, |p| {
                let key = parse_type(p)?;
                p.expect_token(&Token::Comma)?;
                Ok((key, parse_type(p)?))
            })?;
            let fields = Fields::from(vec![
                Field::new("key", key.data_type, false),
                Field::new("value", value.data_type, value.nullable),
            ]);
            DataType::Map(Arc::new(Field::new("entries", DataType::Struct(fields), false)), false)
        }
        "ROW" => DataType::Struct(row_fields(parser)?),
        _ => return parser.expected("a data type", token),
    })
}

fn row_fields(parser: &mut Parser) -> Result<Fields, ParserError> {
    let fields = |p: &mut Parser| {
        p.parse_comma_separated(|p| {
            let name = p.parse_identifier()?;
            let ty = parse_type(p)?;
            if p.parse_keyword(Keyword::COMMENT) {
                p.next_token();
            }
            Ok(Field::new(name.value, ty.data_type, ty.nullable))
        })
    };
    if parser.consume_token(&Token::LParen) {
        let fields = fields(parser)?;
        parser.expect_token(&Token::RParen)?;
        return Ok(fields.into());
    }
    enclosed(parser, fields).map(Fields::from)
}

/// Something between `<` and `>`. The tokens of a file have no `>>`: it is taken apart there.
fn enclosed<T>(
    parser: &mut Parser,
    inside: impl FnOnce(&mut Parser) -> Result<T, ParserError>,
) -> Result<T, ParserError> {
    parser.expect_token(&Token::Lt)?;
    let value = inside(parser)?;
    parser.expect_token(&Token::Gt)?;
    Ok(value)
}

fn numbers(parser: &mut Parser) -> Result<Vec<u64>, ParserError> {
    if !parser.consume_token(&Token::LParen) {
        return Ok(Vec::new());
    }
    let numbers = parser.parse_comma_separated(Parser::parse_literal_uint)?;
    parser.expect_token(&Token::RParen)?;
    Ok(numbers)
}

/// The type as Flink writes it, for messages.
pub(crate) fn flink_name(data_type: &DataType) -> String {
    let precision = |unit: &TimeUnit| match unit {
        TimeUnit::Second | TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    match data_type {
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "STRING".into(),
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 | DataType::UInt64 => "BIGINT".into(),
        DataType::Float32 => "FLOAT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Decimal128(p, s) => format!("DECIMAL({p}, {s})"),
        DataType::Date32 => "DATE".into(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".into(),
        DataType::Timestamp(unit, None) => format!("TIMESTAMP({})", precision(unit)),
        DataType::Timestamp(unit, Some(_)) => format!("TIMESTAMP_LTZ({})", precision(unit)),
        DataType::Binary | DataType::BinaryView => "BYTES".into(),
        DataType::List(element) => format!("ARRAY<{}>", flink_name(element.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<_> = fields.iter().map(|f| format!("{} {}", f.name(), flink_name(f.data_type()))).collect();
            format!("ROW<{}>", fields.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(f) if f.len() == 2 => {
                format!("MAP<{}, {}>", flink_name(f[0].data_type()), flink_name(f[1].data_type()))
            }
            other => format!("{other}"),
        },
        DataType::Interval(_) => "INTERVAL".into(),
        DataType::Null => "NULL".into(),
        other => format!("{other}"),
    }
}
