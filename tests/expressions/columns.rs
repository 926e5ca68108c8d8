//! Each expression again with its literals in columns: functions must not depend on being folded.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, StringViewArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Value, VisitMut, VisitorMut,
};
use tidemill::sql::functions::{self, FunctionOptions};

use super::support::{ask, context, json, parse, plain_type, run, same_value, short};

/// Literals as columns: what is constant in `expressions.tsv` comes from a table of two equal rows instead.
#[derive(Default)]
struct Hoist {
    columns: Vec<ArrayRef>,
}

/// Arguments that must stay literals: names of types, units and fields, and what a result type depends on.
fn stays_literal(function: &str, argument: usize) -> bool {
    match function {
        "cast_to" | "try_cast_to" | "floor_time" | "ceil_time" | "round" | "truncate" | "encode" | "decode"
        | "to_timestamp_ltz" => argument > 0,
        "time_part" | "timestampdiff" | "timestampadd" | "json_object" | "json_array" => argument == 0,
        "named_struct" => argument.is_multiple_of(2),
        "json_value" | "json_query" | "json_query_array" | "json_exists" | "is_json" | "str_to_map" | "array_sort"
        | "similar_to" | "like_pattern" => argument > 0,
        "typeof" | "string_agg" => true,
        _ => false,
    }
}

impl Hoist {
    /// The literal's value, if it is one that a column can have.
    fn value(expr: &Expr) -> Option<ArrayRef> {
        let number = |digits: &str, data_type: DataType| {
            let text: ArrayRef = Arc::new(StringArray::from(vec![digits, digits]));
            cast(&text, &data_type).ok()
        };
        match expr {
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) => {
                    Some(Arc::new(StringViewArray::from(vec![text.as_str(), text.as_str()])))
                }
                Value::Number(digits, _) if digits.contains('.') => {
                    let scale = digits.len() - 1 - digits.find('.').expect("a point");
                    number(digits, DataType::Decimal128(digits.len() as u8 - 1, scale as i8))
                }
                Value::Number(digits, _) => number(digits, DataType::Int64),
                Value::Boolean(flag) => Some(Arc::new(BooleanArray::from(vec![*flag, *flag]))),
                _ => None,
            },
            Expr::Cast { expr, data_type: sqlparser::ast::DataType::Int(None), .. } => {
                number(&expr.to_string().replace('+', ""), DataType::Int32)
            }
            _ => None,
        }
    }

    fn take(&mut self, expr: &mut Expr) {
        if let Some(values) = Self::value(expr) {
            *expr = Expr::Identifier(Ident::new(format!("c{}", self.columns.len())));
            self.columns.push(values);
        }
    }
}

impl VisitorMut for Hoist {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) => {
                let name = name.to_string().to_lowercase();
                for (i, arg) in list.args.iter_mut().enumerate() {
                    if let FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) = arg
                        && !stays_literal(&name, i)
                    {
                        self.take(arg);
                    }
                }
            }
            Expr::BinaryOp { left, right, .. } => {
                self.take(left);
                self.take(right);
            }
            Expr::Like { expr, .. } | Expr::Between { expr, .. } | Expr::InList { expr, .. } => self.take(expr),
            Expr::Array(array) => array.elem.iter_mut().for_each(|item| self.take(item)),
            Expr::Case { conditions, else_result, .. } => {
                conditions.iter_mut().for_each(|when| self.take(&mut when.result));
                if let Some(value) = else_result {
                    self.take(value);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[tokio::test]
async fn columns_answer_as_literals_do() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/expressions");
    let (mut ran, mut problems) = (0, vec![]);
    for file in ["expressions.tsv", "more.tsv"] {
        for line in std::fs::read_to_string(format!("{folder}/{file}")).unwrap_or_default().lines() {
            if line.contains("Aggregates over") {
                break;
            }
            let expression = line.split('\t').next().unwrap_or("");
            let context = context(&FunctionOptions::default());
            let (Ok(literal), Ok(mut statement)) = (
                ask(&context, &format!("SELECT {expression} AS v")).await,
                parse(&format!("SELECT {expression} AS v FROM hoisted")),
            ) else {
                continue;
            };
            let mut hoist = Hoist::default();
            let _ = statement.visit(&mut hoist);
            // TYPEOF tells columns from literals by NOT NULL.
            if hoist.columns.is_empty() || expression.starts_with("TYPEOF") {
                continue;
            }
            let named = hoist.columns.iter().enumerate().map(|(i, column)| (format!("c{i}"), Arc::clone(column), true));
            let batch = RecordBatch::try_from_iter_with_nullable(named).expect("columns of one length");
            ran += 1;
            // Nothing to compute, and nothing but NULLs: an error may come of NULLs, a panic never.
            let nulls: Vec<_> = batch.columns().iter().map(|column| new_null_array(column.data_type(), 2)).collect();
            let nulls = RecordBatch::try_new(batch.schema(), nulls).expect("columns of one length");
            for (rows, other) in [(0, batch.slice(0, 0)), (2, nulls)] {
                let context = super::support::context(&FunctionOptions::default());
                context.register_batch("hoisted", other).expect("a table");
                match run(&context, statement.clone()).await {
                    Err(error) if rows == 0 && error != "no batch" => {
                        problems.push(format!("{expression}\n    no rows: {error}"))
                    }
                    Err(error) if error.contains("Internal error") => {
                        problems.push(format!("{expression}\n    NULLs: {error}"))
                    }
                    _ => {}
                }
            }
            context.register_batch("hoisted", batch).expect("a table");
            let ours = match run(&context, statement).await {
                Ok(batch) => {
                    let column = batch.column(0);
                    let (first, second) = (json(column, 0), json(column, 1));
                    Ok((
                        functions::type_text(column.data_type()),
                        if first == second { first } else { format!("{first} {second}") },
                    ))
                }
                Err(error) => Err(error),
            };
            let same = ours.as_ref().is_ok_and(|(data_type, value)| {
                plain_type(data_type) == plain_type(&literal.0) && same_value(value, &literal.1, &plain_type(data_type))
            });
            if !same {
                problems.push(format!(
                    "{expression}\n    column  {}\n    literal {}",
                    short(&ours),
                    short(&Ok(literal))
                ));
            }
        }
    }
    println!("{ran} expressions on columns");
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}
