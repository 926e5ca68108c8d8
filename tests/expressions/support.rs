//! A session with the functions, questions to it, and answers in the oracle's spelling.

use std::collections::BTreeMap;
use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::execution::FunctionRegistry;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as PlannedStatement;
use sqlparser::ast::{Expr, Statement};
use sqlparser::dialect::{Dialect, GenericDialect};
use sqlparser::parser::{Parser, ParserError};
use tidemill::sql::functions::{self, FunctionOptions};

/// A dialect without extensions but for back-quotes and the hooks of `functions`.
#[derive(Debug)]
struct TestDialect;

impl Dialect for TestDialect {
    fn is_identifier_start(&self, c: char) -> bool {
        GenericDialect.is_identifier_start(c)
    }

    fn is_identifier_part(&self, c: char) -> bool {
        GenericDialect.is_identifier_part(c)
    }

    fn is_delimited_identifier_start(&self, c: char) -> bool {
        c == '`'
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        functions::parse_prefix(parser)
    }

    fn parse_infix(&self, parser: &mut Parser, left: &Expr, precedence: u8) -> Option<Result<Expr, ParserError>> {
        functions::parse_infix(parser, left, precedence)
    }
}

/// A session with the functions in it.
pub(crate) fn context(options: &FunctionOptions) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(1);
    functions::configure(config.options_mut());
    let mut context = SessionContext::new_with_config(config);
    functions::register(&mut context as &mut dyn FunctionRegistry, options).expect("functions register");
    functions::analyzer_rules(options).into_iter().for_each(|rule| context.add_analyzer_rule(rule));
    context
}

/// Type and JSON value, or the error.
pub(crate) type Answer = Result<(String, String), String>;

pub(crate) async fn run(context: &SessionContext, statement: Statement) -> Result<RecordBatch, String> {
    let plan = context.state().statement_to_plan(PlannedStatement::Statement(Box::new(statement))).await;
    let frame = context.execute_logical_plan(plan.map_err(|error| error.strip_backtrace())?).await;
    let batches =
        frame.map_err(|error| error.strip_backtrace())?.collect().await.map_err(|error| error.strip_backtrace())?;
    let schema = batches.first().map(|batch| batch.schema()).ok_or("no batch")?;
    arrow::compute::concat_batches(&schema, &batches).map_err(|error| error.to_string())
}

pub(crate) fn parse(sql: &str) -> Result<Statement, String> {
    let mut statements = Parser::parse_sql(&TestDialect, sql).map_err(|error| error.to_string())?;
    let mut statement = statements.pop().ok_or("no statement")?;
    functions::rewrite(&mut statement);
    Ok(statement)
}

pub(crate) async fn ask(context: &SessionContext, sql: &str) -> Answer {
    let batch = run(context, parse(sql)?).await?;
    let column = batch.column(0);
    Ok((functions::type_text(column.data_type()), json(column, 0)))
}

/// A value as the oracle writes it.
pub(crate) fn json(array: &ArrayRef, row: usize) -> String {
    if array.is_null(row) || *array.data_type() == DataType::Null {
        return "null".into();
    }
    let quoted = |text: &str| serde_json::to_string(text).expect("a string");
    let list = |values: &ArrayRef, from: usize, length: usize| {
        let items: Vec<_> = (from..from + length).map(|i| json(values, i)).collect();
        format!("[{}]", items.join(","))
    };
    match array.data_type() {
        data_type if data_type.is_string() => {
            quoted(cast(array, &DataType::Utf8).expect("text").as_string::<i32>().value(row))
        }
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Float32 | DataType::Float64 => {
            let value = cast(&cast(array, &DataType::Utf8).expect("text"), &DataType::Utf8).expect("text");
            let value = value.as_string::<i32>().value(row);
            match value {
                "NaN" => "\"NaN\"".into(),
                "inf" => "\"Infinity\"".into(),
                "-inf" => "\"-Infinity\"".into(),
                value => value.to_string(),
            }
        }
        DataType::Timestamp(_, zone) => {
            let millis = cast(array, &DataType::Timestamp(TimeUnit::Millisecond, zone.clone())).expect("milliseconds");
            let millis = cast(&millis, &DataType::Int64).expect("a number");
            let value = millis.as_primitive::<arrow::datatypes::Int64Type>().value(row);
            let time = chrono::DateTime::from_timestamp_millis(value).expect("a time");
            quoted(&time.format("%Y-%m-%d %H:%M:%S%.3f").to_string())
        }
        DataType::Time32(_) => {
            let text = cast(array, &DataType::Utf8).expect("text");
            let text = text.as_string::<i32>().value(row);
            quoted(text.strip_suffix(":00").unwrap_or(text))
        }
        DataType::Binary => {
            use base64::Engine;
            quoted(&base64::engine::general_purpose::STANDARD.encode(array.as_binary::<i32>().value(row)))
        }
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            list(lists.values(), lists.value_offsets()[row] as usize, lists.value_length(row) as usize)
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let from = map.value_offsets()[row] as usize;
            let entries: BTreeMap<_, _> = (from..from + map.value_length(row) as usize)
                .map(|i| (json(map.keys(), i), json(map.values(), i)))
                .collect();
            let entries: Vec<_> = entries.iter().map(|(key, value)| format!("{key}:{value}")).collect();
            format!("{{{}}}", entries.join(","))
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let fields: Vec<_> =
                columns.map(|(field, column)| format!("{}:{}", quoted(field.name()), json(column, row))).collect();
            format!("{{{}}}", fields.join(","))
        }
        DataType::Date32 => quoted(cast(array, &DataType::Utf8).expect("text").as_string::<i32>().value(row)),
        _ => cast(array, &DataType::Utf8).expect("text").as_string::<i32>().value(row).to_string(),
    }
}

/// A type as far as Arrow can tell it.
pub(crate) fn plain_type(text: &str) -> String {
    let text = text.replace(" NOT NULL", "").replace("MULTISET", "MAP");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        let word_end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end.max(c.len_utf8()));
        let argument = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        match (word, argument) {
            ("CHAR" | "VARCHAR" | "STRING", Some((_, after))) => {
                out.push_str("STRING");
                rest = after;
            }
            ("TIME", Some((_, after))) => {
                out.push_str("TIME");
                rest = after;
            }
            ("TIMESTAMP" | "TIMESTAMP_LTZ", Some((digits, after))) => {
                let digits: u32 = digits.parse().unwrap_or(3);
                let _ = write!(out, "{word}({})", digits.div_ceil(3) * 3);
                rest = after;
            }
            _ => {
                out.push_str(word);
                rest = after;
            }
        }
    }
    out
}

pub(crate) fn same_value(ours: &str, flinks: &str, data_type: &str) -> bool {
    if matches!(data_type, "FLOAT" | "DOUBLE")
        && let (Ok(ours), Ok(flinks)) = (ours.parse::<f64>(), flinks.parse::<f64>())
    {
        let close = (ours - flinks).abs() <= 4.0 * f64::EPSILON * flinks.abs();
        return close || data_type == "FLOAT" && (ours - flinks).abs() <= 2e-7 * flinks.abs();
    }
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    ours == flinks || parsed(ours).is_some() && parsed(ours) == parsed(flinks)
}

/// Whether our answer is Flink's.
pub(crate) fn agrees(ours: &Answer, flinks_type: &str, flinks_value: &str) -> bool {
    let null = flinks_value.contains("however, a null value is being written");
    match ours {
        Err(_) => flinks_type == "ERROR" && !null,
        Ok((_, value)) if null => value == "null",
        Ok((data_type, value)) => {
            plain_type(data_type) == plain_type(flinks_type)
                && same_value(value, flinks_value, &plain_type(flinks_type))
        }
    }
}

pub(crate) fn short(answer: &Answer) -> String {
    match answer {
        Ok((data_type, value)) => format!("{data_type} {value}"),
        Err(error) => format!("ERROR {}", error.lines().next().unwrap_or("").chars().take(160).collect::<String>()),
    }
}
