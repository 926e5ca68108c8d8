//! The normal form of a plan, by which a query is known from run to run.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::arrow::array::Array;
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::alias::AliasGenerator;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, NullEquality, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::{Optimizer, OptimizerConfig};

use crate::runtime::IN_FULL;

/// The optimised plan. What it is does not depend on what was optimised before it: the optimiser numbers the names that it gives to parts of
/// expressions (`__common_expr_1`), and a session counts on from query to query, so that a query more would change those after it.
///
/// It is made with DataFusion's own rules, also with one that is off where a plan runs (see `session`): saved states are known by its texts, and a
/// text need only be the same for the same query. Where that one fails, it is made without it.
pub(super) fn normal_form(state: &SessionState, plan: &LogicalPlan) -> Result<LogicalPlan> {
    let made = |with_leaves| {
        let mut options = OptimizerConfig::options(state).as_ref().clone();
        options.optimizer.enable_leaf_expression_pushdown = with_leaves;
        let own = OwnNumbers { state, options: Arc::new(options), aliases: Arc::new(AliasGenerator::new()) };
        let analyzed = state.analyzer().execute_and_check(plan.clone(), &own.options, |_, _| {})?;
        Optimizer::new().optimize(analyzed, &own, |_, _| {})
    };
    made(true).or_else(|_| made(false))
}

/// So many rows of VALUES are in DataFusion's text.
const ROWS_SHOWN: usize = 5;

/// The text of a normal form. DataFusion's leaves something out of some plans, which is added at the end; the texts of all others stay what
/// they are, since saved states are known by them.
pub(super) fn text_of(normal: &LogicalPlan) -> String {
    let mut added: Vec<String> = Vec::new();
    let mut nodes = 0;
    let _ = normal.apply(|node| {
        nodes += 1;
        match node {
            LogicalPlan::Values(values) => {
                let rows = values.values.iter().skip(ROWS_SHOWN);
                added.extend(rows.map(|row| row.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
            }
            LogicalPlan::Join(join) if join.null_equality == NullEquality::NullEqualsNull => {
                added.push(format!("{}: NULL equals NULL", join_keys(&join.on)));
            }
            _ => {}
        }
        for (number, expr) in node.expressions().iter().enumerate() {
            let _ = expr.apply(|expr| {
                // The same may stand in another one as it is written.
                added.extend(left_out(expr).map(|full| format!("{full} in {nodes}.{number}")));
                Ok(TreeNodeRecursion::Continue)
            });
        }
        Ok(TreeNodeRecursion::Continue)
    });
    let text = normal.display_indent().to_string();
    added.into_iter().fold(text, |text, line| text + "\n" + IN_FULL + &line.replace('\n', "\\n"))
}

/// Where a column of a normal form comes from: what makes it, down to a table, or to a node that gives other rows than it takes. A filter says
/// nothing of the rows that it leaves, and the names that the optimiser gives say nothing of what they stand for.
pub(super) fn origin(normal: &LogicalPlan, column: usize) -> String {
    let mut origins = Origins::default();
    origins.of(normal, 0, column);
    origins.said.join("\n")
}

#[derive(Default)]
struct Origins {
    /// What columns come from, each once; they are called by their places here.
    said: Vec<String>,
    /// By depth in the plan, and column: its place.
    known: BTreeMap<(usize, usize), usize>,
}

impl Origins {
    /// The place of what a column of `plan`, which stands so deep, comes from.
    fn of(&mut self, plan: &LogicalPlan, depth: usize, column: usize) -> usize {
        if let Some(known) = self.known.get(&(depth, column)) {
            return *known;
        }
        let place = match plan {
            LogicalPlan::Projection(projection) if column < projection.expr.len() => {
                let (input, expr) = (&projection.input, projection.expr[column].clone().unalias());
                let below = |part: &Expr| match part {
                    Expr::Column(column) => input.schema().maybe_index_of_column(column),
                    _ => None,
                };
                if let Some(same) = below(&expr) {
                    self.of(input, depth + 1, same)
                } else {
                    let types = types_of_fields(&expr, input.schema());
                    let placed = expr.clone().transform(|part| {
                        let Some(at) = below(&part) else { return Ok(Transformed::no(part)) };
                        let called = format!("#{}", self.of(input, depth + 1, at));
                        Ok(Transformed::yes(Expr::Column(Column::new_unqualified(called))))
                    });
                    self.say(in_words(&placed.map_or(expr, |placed| placed.data)) + &types)
                }
            }
            LogicalPlan::SubqueryAlias(alias) => self.of(&alias.input, depth + 1, column),
            LogicalPlan::Filter(filter) => self.of(&filter.input, depth + 1, column),
            other => {
                let name = Column::from(other.schema().qualified_field(column));
                if matches!(other, LogicalPlan::TableScan(_)) {
                    let of_type = other.schema().field(column).data_type();
                    self.say(if is_another_text(of_type) { format!("{name} {of_type}") } else { name.to_string() })
                } else {
                    let rows = self.say(text_of(other));
                    self.say(format!("{name} of #{rows}"))
                }
            }
        };
        self.known.insert((depth, column), place);
        place
    }

    fn say(&mut self, what: String) -> usize {
        self.said.iter().position(|said| *said == what).unwrap_or_else(|| {
            self.said.push(what);
            self.said.len() - 1
        })
    }
}

/// Whether values have another text than in the other types of their kind. (A ROW has none; only the fields that somebody uses are there.)
fn is_another_text(of_type: &DataType) -> bool {
    let is_plain =
        matches!(of_type, DataType::Utf8View | DataType::Boolean | DataType::Timestamp(TimeUnit::Millisecond, Some(_)));
    !is_plain && !of_type.is_integer() && !of_type.is_nested()
}

/// The types of fields of ROWs in an expression, where they say what text a value has.
fn types_of_fields(expr: &Expr, input: &DFSchema) -> String {
    let mut types = String::new();
    let _ = expr.apply(|part| {
        if matches!(part, Expr::ScalarFunction(function) if function.name() == "get_field")
            && let Ok(of_type) = part.get_type(input)
            && is_another_text(&of_type)
        {
            types.push_str(&format!("\n{of_type}"));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    types
}

/// An expression, and what its text leaves out.
pub(super) fn in_words(expr: &Expr) -> String {
    let mut text = expr.to_string();
    let _ = expr.apply(|part| {
        left_out(part).into_iter().for_each(|full| text.push_str(&format!("\n{IN_FULL}{full}")));
        Ok(TreeNodeRecursion::Continue)
    });
    text
}

fn join_keys(on: &[(Expr, Expr)]) -> String {
    on.iter().map(|(left, right)| format!("{left} = {right}")).collect::<Vec<_>>().join(", ")
}

/// An expression in full, whose text could be that of another one: `a - (b - c)` is written like `a - b - c`, `(a OR b) IS NULL` like
/// `a OR b IS NULL`, and a list of 'a, b' like one of 'a' and 'b'.
fn left_out(expr: &Expr) -> Option<String> {
    match expr {
        Expr::BinaryExpr(outer) => match outer.right.as_ref() {
            Expr::BinaryExpr(inner)
                if inner.op.precedence() == outer.op.precedence()
                    && !matches!(outer.op, Operator::And | Operator::Or) =>
            {
                Some(format!("{} {} ({inner})", outer.left, outer.op))
            }
            _ => None,
        },
        Expr::IsNull(of)
        | Expr::IsNotNull(of)
        | Expr::IsTrue(of)
        | Expr::IsFalse(of)
        | Expr::IsUnknown(of)
        | Expr::IsNotTrue(of)
        | Expr::IsNotFalse(of)
        | Expr::IsNotUnknown(of)
            if matches!(of.as_ref(), Expr::BinaryExpr(_)) =>
        {
            let (whole, of) = (expr.to_string(), of.to_string());
            whole.strip_prefix(&of).map(|rest| format!("({of}){rest}"))
        }
        Expr::Literal(value, _) if is_nested(value) && !elements(value).iter().all(is_plain) => Some(in_full(value)),
        _ => None,
    }
}

fn is_nested(value: &ScalarValue) -> bool {
    value.data_type().is_nested() && !value.is_null()
}

/// The values in a nested one.
fn elements(value: &ScalarValue) -> Vec<ScalarValue> {
    let all = |array: &dyn Array| (0..array.len()).map(|row| ScalarValue::try_from_array(array, row)).collect();
    let found: Result<Vec<ScalarValue>> = match value {
        ScalarValue::List(list) => all(&list.value(0)),
        ScalarValue::LargeList(list) => all(&list.value(0)),
        ScalarValue::FixedSizeList(list) => all(&list.value(0)),
        ScalarValue::Struct(row) => row.columns().iter().map(|column| ScalarValue::try_from_array(column, 0)).collect(),
        ScalarValue::Map(map) => {
            let entries = map.value(0);
            entries.columns().iter().map(|column| all(column)).collect::<Result<Vec<_>>>().map(|lists| lists.concat())
        }
        _ => Ok(Vec::new()),
    };
    found.unwrap_or_default()
}

/// Whether no other value has its text within a nested one.
fn is_plain(value: &ScalarValue) -> bool {
    match value {
        ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)) => {
            text.starts_with(|c: char| c.is_alphabetic())
                && text.chars().all(|c| c.is_alphanumeric() || "-_./ ".contains(c))
                && !text.ends_with(' ')
                && !matches!(text.as_str(), "true" | "false" | "NaN" | "inf")
        }
        value if is_nested(value) => elements(value).iter().all(is_plain),
        value => !value.is_null(),
    }
}

fn in_full(value: &ScalarValue) -> String {
    if !is_nested(value) {
        return format!("{value:?}");
    }
    format!("[{}]", elements(value).iter().map(in_full).collect::<Vec<_>>().join(", "))
}

/// A session, but for numbers of names and options.
struct OwnNumbers<'a> {
    state: &'a SessionState,
    options: Arc<ConfigOptions>,
    aliases: Arc<AliasGenerator>,
}

impl OptimizerConfig for OwnNumbers<'_> {
    fn query_execution_start_time(&self) -> Option<DateTime<Utc>> {
        self.state.query_execution_start_time()
    }

    fn alias_generator(&self) -> &Arc<AliasGenerator> {
        &self.aliases
    }

    fn options(&self) -> Arc<ConfigOptions> {
        Arc::clone(&self.options)
    }

    fn function_registry(&self) -> Option<&dyn FunctionRegistry> {
        self.state.function_registry()
    }
}

#[cfg(test)]
#[path = "normal_tests.rs"]
mod tests;
