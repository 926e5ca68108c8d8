//! How a table's time and watermark follow from its records.
//!
//! A reader computes them before there is an epoch, and once more when epochs are repeated. So they may depend on the record alone:
//! what asks for the time now, or for a random value, is refused. Else rows that had counted would be late in the repetition.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, Operator as BinaryOperator, Volatility};

use super::catalog::Table;
use super::compile::{Mode, TableInput};
use super::planner::Planner;
use super::required::{Paths, Required};
use super::second_pass::JobBuilder;
use super::statement::ColumnKind;
use super::types::flink_name;
use crate::connectors::describe::connector;
use crate::contracts::{Error, Result};
use crate::runtime::WatermarkRule;

/// How time moves in a table.
pub(super) struct TableTime {
    pub(super) rule: WatermarkRule,
    /// The rule as text: equal for those that give each record the same time and watermark.
    pub(super) normal: String,
    /// The columns that it reads.
    pub(super) columns: BTreeMap<String, Paths>,
}

impl JobBuilder<'_> {
    /// `ts - INTERVAL '5' SECOND` is a constant delay; anything else is computed by a plan.
    pub(super) async fn time(&self, table: &Table, base: &SchemaRef) -> Result<Option<TableTime>> {
        let Some(declared) = &table.watermark else { return Ok(None) };
        let place = || table.statement.at(declared.span);
        let ident = sqlparser::ast::Expr::Identifier(declared.column.clone());
        let query = super::planner::select_two(&table.name, ident, declared.expression.clone());
        let plan = self.planner.query(&query, &table.statement).await?;
        let planned = |error| self.planner.explain(&error, &table.statement);
        let mut read = Required::new();
        let optimized = self.planner.require(&plan, &mut read).map_err(planned)?;
        let watermark = optimized.schema().field(1).data_type().clone();
        if !matches!(watermark, DataType::Timestamp(..)) {
            let error = Error::sql(format!("the watermark is {}, not a TIMESTAMP", flink_name(&watermark)));
            return Err(error.at(place()).hint("WATERMARK FOR ts AS ts - INTERVAL '5' SECOND"));
        }
        if let Some(function) = changing(&optimized) {
            return Err(not_by_record(table, &function));
        }
        let name = Planner::plan_name(&table.name);
        let columns = read.remove(&name).unwrap_or_default();
        let time = &declared.column.value;
        if let Ok(column) = base.index_of(time)
            && let Some(delay_ms) = constant_delay(&optimized, time)
        {
            let normal = format!("{time} - {}", super::aggregate::duration(delay_ms));
            return Ok(Some(TableTime { rule: WatermarkRule::Delay { column, delay_ms }, normal, columns }));
        }
        let tables = [TableInput {
            name,
            declared: base.fields().len(),
            schema: Arc::clone(base),
            can_be_reference: false,
            lookup: None,
        }];
        let mut compiler = self.compiler(Mode::Stream, &tables, &[], 1);
        // It runs once a piece: in a batch too, nothing may be dealt out to tasks that run once.
        compiler.state = &self.planner.bare;
        let normal = compiler.normal(&plan).map_err(planned)?;
        let piece = compiler.compile(&plan, false).await.map_err(planned)?;
        let stage = compiler.stage(&piece).await.map_err(planned)?;
        let rule = WatermarkRule::Computed(Arc::new(tokio::sync::Mutex::new(stage)));
        Ok(Some(TableTime { rule, normal, columns }))
    }
}

/// The name of a function whose value the record alone does not decide.
fn changing(plan: &LogicalPlan) -> Option<String> {
    let mut found = None;
    let _ = plan.apply(|node| {
        found = node.expressions().iter().find_map(changing_in);
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

/// The same, in an expression.
fn changing_in(expr: &Expr) -> Option<String> {
    let mut found = None;
    let _ = expr.apply(|e| {
        if let Expr::ScalarFunction(call) = e
            && call.func.signature().volatility == Volatility::Volatile
            // Of a text it is what that says.
            && (call.func.name() != "unix_timestamp" || call.args.is_empty())
        {
            found = Some(call.func.name().to_uppercase());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// Whether a column of a plan is the time now, or anything else that its rows do not decide.
pub(super) fn is_changing(plan: &LogicalPlan, index: usize) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => {
            let mut expr = &projection.expr[index];
            while let Expr::Alias(alias) = expr {
                expr = &alias.expr;
            }
            match expr {
                Expr::Column(column) => {
                    let below = projection.input.schema().maybe_index_of_column(column);
                    below.is_some_and(|index| is_changing(&projection.input, index))
                }
                other => changing_in(other).is_some(),
            }
        }
        LogicalPlan::SubqueryAlias(alias) => is_changing(&alias.input, index),
        LogicalPlan::Filter(filter) => is_changing(&filter.input, index),
        LogicalPlan::Union(union) => union.inputs.iter().any(|input| is_changing(input, index)),
        _ => false,
    }
}

/// What to do where a time of processing was meant to be a time of events.
pub(super) const ARRIVAL: &str = "a time that is there again when a record is read again: arrived TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' \
                                  VIRTUAL, its arrival, with WATERMARK FOR arrived AS arrived";

fn not_by_record(table: &Table, function: &str) -> Error {
    let (name, time) = (&table.name, table.watermark.as_ref());
    let shown = name.split(super::text::HINT_MARK).next().unwrap_or_default();
    let mut error = Error::sql(format!(
        "the watermark of '{shown}' depends on {function}, which has another value when a record is read again: rows that have counted \
         would be late then"
    ));
    if let Some(time) = time {
        error = error.at(table.statement.at(time.span));
        let is_computed = |kind: &ColumnKind| matches!(kind, ColumnKind::Computed(_));
        let column = table.columns.iter().find(|c| c.name == time.column.value && is_computed(&c.kind));
        if let Some(column) = column {
            error = error.at(table.statement.at(column.span));
        }
    }
    let arrives = connector(&table.connector).is_some_and(|c| c.metadata.iter().any(|m| m.key == "timestamp"));
    error.hint(if arrives { format!("take {ARRIVAL}") } else { "take a time that stands in the record".to_owned() })
}

/// `ts` or `ts - constant` in the second column of a plan over one table.
fn constant_delay(plan: &LogicalPlan, column: &str) -> Option<i64> {
    let LogicalPlan::Projection(projection) = plan else {
        // `SELECT ts, ts`: one column twice may be folded away.
        return None;
    };
    fn strip(expr: &Expr) -> &Expr {
        match expr {
            Expr::Alias(alias) => strip(&alias.expr),
            Expr::Cast(cast) => strip(&cast.expr),
            other => other,
        }
    }
    let is_time = |expr: &Expr| matches!(strip(expr), Expr::Column(c) if c.name == column);
    match strip(&projection.expr[1]) {
        expr if is_time(expr) => Some(0),
        Expr::BinaryExpr(binary) if binary.op == BinaryOperator::Minus && is_time(&binary.left) => {
            match strip(&binary.right) {
                Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) if interval.months == 0 => {
                    Some(i64::from(interval.days) * 86_400_000 + interval.nanoseconds / 1_000_000)
                }
                _ => None,
            }
        }
        _ => None,
    }
}
