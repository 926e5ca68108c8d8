//! Planning a whole job: every table, view and INSERT of its files.
//!
//! Queries are planned twice. The first time over all declared columns, to learn which of them (and
//! which fields of nested ones) any query uses; the second time over tables that have only those.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::{Column as DfColumn, Result as DfResult};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr as LogicalExpr, LogicalPlan, Projection, ScalarUDF};
use sqlparser::ast::{Expr, Query, SelectItem, SetExpr, Statement as SqlStatement};
use sqlparser::parser::Parser;

use super::catalog::{Catalog, Table, check_time_type};
use super::dialect::FlinkDialect;
use super::errors::{Known, translate};
use super::functions::{self, FunctionOptions};
use super::legacy::rewrite_group_windows;
use super::nodes::{EVENT_TIME, TIME_ATTRIBUTE};
use super::plan::PlanOptions;
use super::require::Require;
use super::required::{Required, collect, prune, reads_only};
use super::session::{bare_state, planning_state};
use super::settings::Settings;
use super::statement::{ColumnKind, Statement};
use super::tables::{DeclaredTable, PlannedTable};
use super::text::HINT_MARK;
use super::windows::table_factor;
use crate::contracts::{Error, Result};

/// Ends the name of the table without its computed columns.
const BASE_MARK: char = '\u{2}';

/// The name that CREATE TABLE gives to a table of a plan.
pub(super) fn declared_name(of_plan: &str) -> &str {
    of_plan.split([HINT_MARK, BASE_MARK]).next().unwrap_or_default()
}

/// Plans queries over a catalog.
pub(crate) struct Planner<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) state: SessionState,
    pub(crate) bare: SessionState,
    /// Tables that queries read, by their name in plans.
    pub(crate) tables: BTreeMap<String, Table>,
    /// All columns of each table, computed ones too, by its name.
    pub(crate) full: BTreeMap<String, SchemaRef>,
    /// Columns that an epoch's rows have, by the same name: physical, then metadata.
    pub(crate) schemas: BTreeMap<String, SchemaRef>,
}

impl<'a> Planner<'a> {
    /// Declares all tables and plans all views. With `required`, tables have only the columns of its first
    /// part (and the fields that its second part names below them); the others, which only a branch that never
    /// runs can name, are NULL, of the types that the third part knows.
    pub(crate) async fn new(
        catalog: &'a Catalog,
        settings: &Settings,
        required: Option<(&Required, &Required, &BTreeMap<String, SchemaRef>)>,
        plan_options: &PlanOptions,
        errors: &mut Vec<Error>,
    ) -> Self {
        let batch_tasks = plan_options.batch.then_some(plan_options.partitions);
        let mut state = planning_state(settings.time_zone, batch_tasks);
        let epoch_time_ms = Arc::clone(&plan_options.epoch_time_ms);
        let options = FunctionOptions { time_zone: settings.time_zone, epoch_time_ms };
        if let Err(error) = functions::register(&mut state, &options) {
            errors.push(Error::internal("functions could not be registered").caused_by(error));
        }
        for rule in functions::analyzer_rules(&options) {
            state.add_analyzer_rule(rule);
        }
        if let Err(error) = state.register_udf(Arc::new(ScalarUDF::new_from_impl(Require::new()))) {
            errors.push(Error::internal("REQUIRE could not be registered").caused_by(error));
        }
        let bare = bare_state(&state);
        let mut planner =
            Self { catalog, state, bare, tables: BTreeMap::new(), full: BTreeMap::new(), schemas: BTreeMap::new() };
        let mut names: Vec<String> = catalog.tables.keys().cloned().collect();
        names.extend(catalog.hinted_names());
        for name in names {
            let Some(table) = catalog.table(&name) else { continue };
            if let Err(error) = planner.declare(&table, required).await {
                errors.push(error);
            }
            planner.tables.insert(name, table);
        }
        match catalog.views_in_order() {
            Err(error) => errors.push(error),
            Ok(views) => {
                for view in views {
                    match planner.query(&view.query, &view.statement).await {
                        Ok(plan) => match renamed(plan, &view.columns) {
                            Ok(plan) => planner.register(&view.name, Arc::new(PlannedTable { plan })),
                            Err(found) => errors.push(
                                Error::sql(format!(
                                    "view '{}' names {} columns, but its query has {found}",
                                    view.name,
                                    view.columns.len()
                                ))
                                .at(view.statement.at(view.name_span)),
                            ),
                        },
                        Err(error) => errors.push(error),
                    }
                }
            }
        }
        planner
    }

    fn register(&self, name: &str, provider: Arc<dyn datafusion::catalog::TableProvider>) {
        let schema = self.state.catalog_list().catalog("datafusion").and_then(|c| c.schema("public"));
        if let Some(schema) = schema {
            // The name is new: the catalog has refused duplicates.
            let _ = schema.register_table(name.to_owned(), provider);
        }
    }

    async fn declare(
        &mut self,
        table: &Table,
        required: Option<(&Required, &Required, &BTreeMap<String, SchemaRef>)>,
    ) -> Result<()> {
        let base_name = format!("{}{BASE_MARK}", table.name);
        let of_table = |r: &Required| r.get(&base_name).cloned().unwrap_or_default();
        let named = required.map(|(_, named, _)| of_table(named)).unwrap_or_default();
        let used = required.map(|(used, ..)| {
            let mut used = of_table(used);
            for (column, paths) in &mut used {
                paths.extend(named.get(column).cloned().unwrap_or_default());
            }
            used
        });
        let mut fields: Vec<Field> = Vec::new();
        let time = table.watermark.as_ref().map(|w| w.column.value.as_str());
        let mut kept = |name: &str, data_type: &DataType, nullable: bool| {
            let is_time = time == Some(name);
            let data_type = match &used {
                None => data_type.clone(),
                Some(used) => match used.get(name) {
                    Some(paths) => prune(data_type, paths),
                    None if is_time => data_type.clone(),
                    None => return,
                },
            };
            let field = Field::new(name, data_type, nullable && !is_time);
            fields.push(match is_time {
                true => field.with_metadata([(TIME_ATTRIBUTE.to_owned(), EVENT_TIME.to_owned())].into()),
                false => field,
            });
        };
        for column in &table.columns {
            if let ColumnKind::Physical { data_type, nullable } = &column.kind {
                kept(&column.name, data_type, *nullable);
            }
        }
        for column in &table.columns {
            if let ColumnKind::Metadata { data_type, nullable, .. } = &column.kind {
                kept(&column.name, data_type, *nullable);
            }
        }
        let schema = Arc::new(Schema::new(fields));
        self.schemas.insert(base_name.clone(), Arc::clone(&schema));
        self.register(&base_name, Arc::new(DeclaredTable { schema }));

        // The table itself: its columns in DDL order, computed ones too.
        let query = select(table, &base_name, self.schemas.get(&base_name), &used);
        let plan = self.query(&query, &table.statement).await?;
        let plan = match required.and_then(|(.., full)| full.get(&table.name)) {
            Some(full) => with_nulls(plan, full)?,
            None => plan,
        };
        let plan = self.mark_time(plan, table)?;
        self.full.insert(table.name.clone(), Arc::clone(plan.schema().inner()));
        self.register(&table.name, Arc::new(PlannedTable { plan }));
        Ok(())
    }

    /// Marks a computed time column as one.
    fn mark_time(&self, plan: LogicalPlan, table: &Table) -> Result<LogicalPlan> {
        let Some(watermark) = &table.watermark else { return Ok(plan) };
        let name = &watermark.column.value;
        let Ok(field) = plan.schema().field_with_unqualified_name(name) else { return Ok(plan) };
        check_time_type(name, field.data_type()).map_err(|e| e.at(table.statement.at(watermark.column.span)))?;
        if field.metadata().contains_key(TIME_ATTRIBUTE) {
            return Ok(plan);
        }
        let columns = plan.schema().iter().map(|(qualifier, field)| {
            let column = LogicalExpr::Column(DfColumn::new(qualifier.cloned(), field.name()));
            if field.name() != name {
                return column;
            }
            let metadata = BTreeMap::from([(TIME_ATTRIBUTE.to_owned(), EVENT_TIME.to_owned())]);
            column.alias_with_metadata(name, Some(FieldMetadata::from(metadata)))
        });
        let marked = Projection::try_new(columns.collect(), Arc::new(plan));
        Ok(LogicalPlan::Projection(marked.map_err(|e| Error::internal("time column").caused_by(e))?))
    }

    /// Plans a query and checks its types.
    pub(crate) async fn query(&self, query: &Query, statement: &Statement) -> Result<LogicalPlan> {
        super::lookup::check(query, self.catalog, statement)?;
        let mut query = Box::new(query.clone());
        rewrite_group_windows(&mut query).map_err(|e| e.locate(statement))?;
        functions::rewrite_query(&mut query);
        let planned = async {
            let statement = SqlStatement::Query(query);
            let statement = datafusion::sql::parser::Statement::Statement(Box::new(statement));
            let plan = super::group_keys::each_once(self.state.statement_to_plan(statement).await?)?;
            let plan = self.state.analyzer().execute_and_check(plan, self.state.config_options(), |_, _| {})?;
            check_expressions(&plan)?;
            Ok(plan)
        };
        planned.await.map_err(|error| self.explain(&error, statement))
    }

    /// A planning error with its place and a hint.
    pub(crate) fn explain(&self, error: &datafusion::error::DataFusionError, statement: &Statement) -> Error {
        let mut functions: Vec<String> = self.state.scalar_functions().keys().cloned().collect();
        functions.extend(self.state.aggregate_functions().keys().cloned());
        let columns = self.catalog.tables.values().flat_map(|t| &t.columns);
        let mut fields = Vec::new();
        for column in columns {
            if let ColumnKind::Physical { data_type, .. } = &column.kind {
                field_names(data_type, &mut fields);
            }
        }
        let known = Known { tables: self.catalog.names().collect(), functions, fields };
        translate(error, statement, &known)
    }

    /// The optimised query; the tables and columns that its text uses are added to `required`, also those that the optimizer can do
    /// without: the second pass plans the same text.
    pub(crate) fn require(&self, plan: &LogicalPlan, required: &mut Required) -> DfResult<LogicalPlan> {
        collect(plan, required)?;
        let optimized = self.state.optimize(plan)?;
        // Here are the columns, too, that a LATERAL side takes from the other one.
        collect(&optimized, required)?;
        Ok(optimized)
    }

    /// Adds the fields of nested columns that a query names anywhere, also where nothing uses them: the
    /// second pass plans the same text, and its types must have them.
    pub(crate) fn named(&self, plan: &LogicalPlan, named: &mut Required) -> DfResult<()> {
        use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
        plan.apply(|node| match node {
            LogicalPlan::SubqueryAlias(alias) if is_declared(&alias.input, alias.alias.table()) => {
                Ok(TreeNodeRecursion::Jump)
            }
            LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) => {
                collect(node, named)?;
                Ok(TreeNodeRecursion::Continue)
            }
            _ => Ok(TreeNodeRecursion::Continue),
        })?;
        for paths in named.values_mut().flat_map(BTreeMap::values_mut) {
            paths.retain(|path| !path.is_empty());
        }
        Ok(())
    }

    /// The declared table of a name in plans.
    pub(crate) fn table_of(&self, plan_name: &str) -> Option<&Table> {
        self.tables.get(plan_name.trim_end_matches(BASE_MARK))
    }

    /// Name in plans of a declared table.
    pub(crate) fn plan_name(table: &str) -> String {
        format!("{table}{BASE_MARK}")
    }
}

impl Catalog {
    /// Names of tables that stand with a hint in some query.
    pub(crate) fn hinted_names(&self) -> Vec<String> {
        let queries = self.inserts.iter().map(|i| i.insert.query.as_ref());
        let queries = queries.chain(self.views.values().map(|v| v.query.as_ref()));
        let mut names: Vec<String> =
            queries.flat_map(super::catalog::relations).filter(|n| n.contains(HINT_MARK)).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Whether a plan is a table's own, which names all that it has. (A subquery may have the name of another table.)
fn is_declared(plan: &LogicalPlan, table: &str) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_declared(&projection.input, table),
        LogicalPlan::TableScan(scan) => scan.table_name.table().strip_suffix(BASE_MARK) == Some(table),
        _ => false,
    }
}

fn field_names(data_type: &DataType, names: &mut Vec<String>) {
    match data_type {
        DataType::Struct(fields) => {
            for field in fields {
                names.push(field.name().clone());
                field_names(field.data_type(), names);
            }
        }
        DataType::List(element) => field_names(element.data_type(), names),
        _ => {}
    }
}

/// Refuses REQUIRE outside WHERE, and patterns that mean nothing.
fn check_expressions(plan: &LogicalPlan) -> DfResult<()> {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    plan.apply_with_subqueries(|node| {
        for expr in node.expressions() {
            if !matches!(node, LogicalPlan::Filter(_)) {
                super::require::refuse_require(&expr)?;
            }
            expr.apply(|e| match (functions::check_constants(e), e) {
                (Err(error), LogicalExpr::ScalarFunction(call)) => {
                    let (message, hint) = super::jargon::plain(&error.strip_backtrace());
                    let error = super::errors::PlanError::new(message).word(call.func.name());
                    Err(datafusion::error::DataFusionError::from(match hint {
                        Some(hint) => error.hint(hint),
                        None => error,
                    }))
                }
                _ => Ok(TreeNodeRecursion::Continue),
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// `SELECT c1, c2, expression AS c3 FROM base`.
fn select(
    table: &Table,
    base: &str,
    schema: Option<&SchemaRef>,
    used: &Option<BTreeMap<String, super::required::Paths>>,
) -> Query {
    let (mut query, ident) = (template(quoted(base)), quoted);
    let SetExpr::Select(select) = query.body.as_mut() else { unreachable!("the template is a SELECT") };
    for column in &table.columns {
        let exists = schema.is_some_and(|s| s.field_with_name(&column.name).is_ok());
        match &column.kind {
            ColumnKind::Computed(expr) => {
                // A computed column over columns that nothing uses is not needed either.
                let needed = used.is_none() || reads_only(expr, schema);
                if needed {
                    let item = SelectItem::ExprWithAlias { expr: expr.as_ref().clone(), alias: ident(&column.name) };
                    select.projection.push(item);
                }
            }
            _ if exists => select.projection.push(SelectItem::UnnamedExpr(Expr::Identifier(ident(&column.name)))),
            _ => {}
        }
    }
    if select.projection.is_empty() {
        select.projection.push(SelectItem::Wildcard(Default::default()));
    }
    query
}

fn quoted(name: &str) -> sqlparser::ast::Ident {
    sqlparser::ast::Ident::with_quote('`', name)
}

/// `SELECT … FROM table` without columns yet. The parser's own tree, so that no field is forgotten.
pub(crate) fn template(table: sqlparser::ast::Ident) -> Query {
    let template = Parser::parse_sql(&FlinkDialect, "SELECT x FROM x").unwrap_or_default();
    let Some(SqlStatement::Query(mut query)) = template.into_iter().next() else {
        unreachable!("the template is a query");
    };
    let SetExpr::Select(select) = query.body.as_mut() else { unreachable!("the template is a SELECT") };
    select.projection.clear();
    if let Some(from) = select.from.first_mut() {
        from.relation = table_factor(table, None);
    }
    *query
}

/// `SELECT a, b FROM table`.
pub(crate) fn select_two(table: &str, a: Expr, b: Expr) -> Query {
    let mut query = template(quoted(table));
    let SetExpr::Select(select) = query.body.as_mut() else { unreachable!("the template is a SELECT") };
    select.projection.push(SelectItem::ExprWithAlias { expr: a, alias: quoted("time") });
    select.projection.push(SelectItem::ExprWithAlias { expr: b, alias: quoted("watermark") });
    query
}

/// All columns of `full` in its order: those that the plan lacks are NULL.
fn with_nulls(plan: LogicalPlan, full: &SchemaRef) -> Result<LogicalPlan> {
    let mut exprs: Vec<LogicalExpr> = Vec::new();
    for field in full.fields() {
        let own = plan.schema().iter().find(|(_, f)| f.name() == field.name());
        exprs.push(match own {
            Some((qualifier, f)) => LogicalExpr::Column(DfColumn::new(qualifier.cloned(), f.name())),
            None => {
                let null = datafusion::common::ScalarValue::try_from(field.data_type())
                    .map_err(|e| Error::internal("a NULL of a column's type").caused_by(e))?;
                datafusion::prelude::lit(null).alias(field.name())
            }
        });
    }
    let plan =
        Projection::try_new(exprs, Arc::new(plan)).map_err(|e| Error::internal("unused columns").caused_by(e))?;
    Ok(LogicalPlan::Projection(plan))
}

/// The plan under other column names; the number of its columns if it differs.
fn renamed(plan: LogicalPlan, names: &[String]) -> std::result::Result<LogicalPlan, usize> {
    if names.is_empty() {
        return Ok(plan);
    }
    let found = plan.schema().fields().len();
    if names.len() != found {
        return Err(found);
    }
    let columns = plan.schema().iter().zip(names).map(|((qualifier, field), name)| {
        LogicalExpr::Column(DfColumn::new(qualifier.cloned(), field.name())).alias(name)
    });
    let columns = columns.collect();
    Projection::try_new(columns, Arc::new(plan)).map(LogicalPlan::Projection).map_err(|_| found)
}
