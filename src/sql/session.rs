//! DataFusion, set up for Flink SQL.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use datafusion::prelude::SessionConfig;

use super::guarded_conditions::GuardedConditions;
use super::guarded_projections::physical_rules;
use super::lookup::LookupNode;
use super::nodes::{Gate, OperatorRows};
use super::safe_parts_first::logical_rules;
use super::types::timestamp;
use super::windows::WindowPlanner;
use crate::operators::{GateExec, LookupExec, ORIGIN_COLUMN, SlotExec, guard};

/// Settings for streamed stages: one task a partition, and no optimisation that looks at the data. A batch
/// is spread over `batch_tasks` tasks by DataFusion itself.
fn config(batch_tasks: Option<usize>) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(batch_tasks.unwrap_or(1))
        .with_batch_size(8192)
        .with_information_schema(false);
    let options = config.options_mut();
    super::functions::configure(options);
    // Names keep their case, as in Flink.
    options.sql_parser.enable_ident_normalization = false;
    options.sql_parser.collect_spans = true;
    // 1.5 is a DECIMAL in Flink.
    options.sql_parser.parse_float_as_decimal = true;
    // NULL is the smallest value in Flink's ORDER BY.
    options.sql_parser.default_null_ordering = "nulls_min".to_owned();
    // A plan is run again and again: filters learned in one epoch must not hold in the next.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    // Set one by one: the switch above turns these only when it is set by its name.
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    options.optimizer.enable_round_robin_repartition = batch_tasks.is_some();
    // It takes columns for others of their name: a valid query of a view that renames some is refused, or answered wrongly
    // (apache/datafusion#25459). Tables have only the fields that are in use anyway.
    options.optimizer.enable_leaf_expression_pushdown = false;
    config
}

/// State for planning queries; with `batch_tasks`, for a batch.
pub(crate) fn planning_state(zone: chrono_tz::Tz, batch_tasks: Option<usize>) -> SessionState {
    SessionStateBuilder::new()
        .with_config(config(batch_tasks))
        .with_default_features()
        .with_relation_planners(vec![Arc::new(WindowPlanner::new(zone))])
        .with_type_planner(Arc::new(FlinkTypes))
        .with_optimizer_rules(logical_rules())
        .with_physical_optimizer_rules(physical_rules())
        .with_physical_optimizer_rule(Arc::new(GuardedConditions))
        .with_query_planner(Arc::new(StagePlanner))
        .build()
}

/// State for taking an aggregation apart: no rule may fuse or reorder what was planned, so there is only that which guards conditions.
pub(crate) fn bare_state(from: &SessionState) -> SessionState {
    SessionStateBuilder::new_from_existing(from.clone())
        .with_physical_optimizer_rules(vec![Arc::new(GuardedConditions)])
        .with_query_planner(Arc::new(StagePlanner))
        .build()
}

#[derive(Debug)]
struct StagePlanner;

#[async_trait]
impl QueryPlanner for StagePlanner {
    async fn create_physical_plan(
        &self,
        logical_plan: &LogicalPlan,
        session_state: &dyn datafusion::catalog::Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(StageNodes)])
            .create_physical_plan(logical_plan, session_state)
            .await
    }
}

/// Physical forms of our own logical nodes.
struct StageNodes;

#[async_trait]
impl ExtensionPlanner for StageNodes {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session_state: &dyn datafusion::catalog::Session,
        context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if let Some(rows) = node.as_any().downcast_ref::<OperatorRows>() {
            return Ok(Some(Arc::new(SlotExec::try_new(Arc::clone(&rows.slot), None)?)));
        }
        if let Some(gate) = node.as_any().downcast_ref::<Gate>() {
            let schema = logical_inputs[0].schema();
            let predicate = guard(&planner.create_physical_expr(&gate.predicate, schema, session_state, context)?)?;
            let origin = schema.index_of_column_by_name(None, ORIGIN_COLUMN);
            let input = Arc::clone(&physical_inputs[0]);
            let report = Arc::clone(&gate.report.0);
            return Ok(Some(Arc::new(GateExec::new(input, predicate, gate.kind.clone(), gate.number, origin, report))));
        }
        if let Some(lookup) = node.as_any().downcast_ref::<LookupNode>() {
            let below = logical_inputs[0].schema();
            let key = |key| planner.create_physical_expr(key, below, session_state, context);
            let keys = lookup.keys.iter().map(key).collect::<Result<Vec<_>>>()?;
            let (input, table) = (Arc::clone(&physical_inputs[0]), Arc::clone(&lookup.table.0));
            let schema = Arc::clone(UserDefinedLogicalNode::schema(lookup).inner());
            return Ok(Some(Arc::new(LookupExec::new(input, keys, table, schema))));
        }
        Ok(None)
    }
}

/// Types that Flink spells or means differently.
#[derive(Debug)]
struct FlinkTypes;

impl TypePlanner for FlinkTypes {
    fn plan_type_field(&self, sql_type: &sqlparser::ast::DataType) -> Result<Option<FieldRef>> {
        use sqlparser::ast::{DataType as Sql, TimezoneInfo};
        let field = |data_type: DataType| Arc::new(datafusion::arrow::datatypes::Field::new("", data_type, true));
        let text = sql_type.to_string().to_uppercase();
        let data_type = match sql_type {
            Sql::Timestamp(precision, zone) => {
                timestamp(precision.unwrap_or(6), matches!(zone, TimezoneInfo::WithTimeZone))
            }
            Sql::Custom(name, modifiers) if name.to_string().eq_ignore_ascii_case("TIMESTAMP_LTZ") => {
                timestamp(modifiers.first().and_then(|m| m.parse().ok()).unwrap_or(6), true)
            }
            Sql::Custom(name, _) if name.to_string().eq_ignore_ascii_case("BYTES") => DataType::Binary,
            _ if text.starts_with("STRING") => DataType::Utf8View,
            Sql::Decimal(sqlparser::ast::ExactNumberInfo::None)
            | Sql::Numeric(sqlparser::ast::ExactNumberInfo::None) => DataType::Decimal128(10, 0),
            _ => return Ok(None),
        };
        Ok(Some(field(data_type)))
    }
}
