//! Planning one INSERT: its query compiled, checked against its sink, and brought to the sink's columns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};
use datafusion::prelude::lit;

use super::assign::{assignable, assigned, narrow_sum};
use super::catalog::{InsertQuery, Table};
use super::compile::{Compiler, Kind, Mode, Piece, Provider, TableInput, visible_columns};
use super::normal::{normal_form, origin};
use super::passed_on::PassedOn;
use super::plan::{QueryPlan, SinkPlan};
use super::planner::declared_name;
use super::required::{Required, collect};
use super::second_pass::{JobBuilder, spec};
use super::text::HINT_MARK;
use super::types::flink_name;
use super::watermark::TableTime;
use crate::contracts::{Error, Result, TableSpec};
use crate::operators::{ChangeMode, QueryGraph, QueryOutput, Stage, WEIGHT_COLUMN};
use crate::runtime::identity;

impl JobBuilder<'_> {
    pub(super) async fn query(
        &self,
        insert: &InsertQuery,
        (inputs, times): (&[TableInput], &BTreeMap<String, TableTime>),
        references: &mut Vec<usize>,
        provider: Option<Provider<'_>>,
    ) -> Result<QueryPlan> {
        let statement = &insert.statement;
        let (table, columns) = self.catalog.target(insert)?;
        let plan = self.planner.query(&named_apart(&insert.insert.query), statement).await?;
        let planned = |error| self.planner.explain(&error, statement);
        let partition = self.static_partition(insert, &table, &columns).await?;
        let given = plan.schema().fields().len() + partition.len();
        if given != columns.len() {
            let error = Error::sql(format!(
                "INSERT INTO {} takes {} column(s), but the query gives {given}",
                table.name,
                columns.len()
            ));
            let names: Vec<_> = columns.iter().map(|f| f.name().as_str()).collect();
            return Err(error
                .at(statement.at(insert.insert.table.span))
                .hint(format!("it takes: {}", names.join(", "))));
        }
        let sink_key = table.sink_key();
        let key: Vec<usize> = sink_key.iter().filter_map(|k| columns.iter().position(|c| c.name() == k)).collect();
        if key.len() < sink_key.len() {
            let missing: Vec<_> =
                sink_key.iter().filter(|k| !columns.iter().any(|c| c.name() == *k)).map(String::as_str).collect();
            return Err(Error::sql(format!(
                "the INSERT lacks the {} column '{}' of '{}'",
                if table.primary_key.is_empty() { "PARTITIONED BY" } else { "primary key" },
                missing.join("', '"),
                table.name
            ))
            .at(statement.at(insert.insert.table.span))
            .hint("a row without its key cannot be stored"));
        }
        let written = written(&table, &columns);
        let places: Vec<usize> = key.iter().filter_map(|k| value_index(&columns[*k], &columns, &partition)).collect();
        let has_each_key_once = places.len() == key.len()
            && key.iter().zip(&places).all(|(k, place)| keeps_apart(plan.schema().field(*place), &columns[*k]))
            && super::surprises::tell_groups_apart(&plan, &places);
        let key = key.iter().filter_map(|k| written.iter().position(|w| w.name() == columns[*k].name())).collect();
        let mode = if self.options.batch { Mode::Batch } else { Mode::Stream };
        let mut compiler = self.compiler(mode, inputs, references, self.options.partitions);
        compiler.provider = provider;
        let any = super::validate::takes_anything(&table.connector);
        // A result that the sink does not get (its key is another one now, or it has a NULL where the table takes none) is no reason for the
        // one before it to stay there.
        let may_be_null = |column: &Field| {
            value_index(column, &columns, &partition).is_some_and(|at| plan.schema().field(at).is_nullable())
        };
        let mut values = columns.iter().filter(|column| !sink_key.contains(column.name()));
        let drops = self.settings.drop_nulls && values.any(|column| !column.is_nullable() && may_be_null(column));
        let deltas = any || drops || !places.iter().all(|place| key_only(&plan, *place));
        let optimized = normal_form(compiler.state, &plan).map_err(planned)?;
        let mut normal = compiler.known_as(&optimized);
        let origins =
            origins(&table, &columns, &partition, |place| identity(&compiler.in_zone(origin(&optimized, place))));
        let of_sink = columns.iter().filter_map(|c| Some((c, value_index(c, &columns, &partition)?)));
        let passed_on = PassedOn::of(&optimized, of_sink);
        let mut reads = Required::new();
        collect(&plan, &mut reads).and_then(|()| collect(&optimized, &mut reads)).map_err(planned)?;
        let piece = compiler.compile(&plan, deltas).await.map_err(planned)?;
        self.check_sink(&table, &piece, insert)?;
        let (root, schema) = self.root(&plan, piece.clone(), (&columns, &written), &partition, insert, &table)?;
        let mode = match piece.kind {
            Kind::Update { deltas: true } => ChangeMode::Delta,
            Kind::Update { deltas: false } => ChangeMode::Upsert,
            _ => ChangeMode::Append,
        };
        let still = piece.kind == Kind::Still;
        let root = compiler.stage(&Piece { plan: root, ..piece }).await.map_err(planned)?;
        let tables = table_indexes(&root, &compiler);
        *references = compiler.references;
        let (gates, operators, notes, report) = (compiler.gates, compiler.operators, compiler.notes, compiler.report);
        let lookups = compiler.lookups;
        // Operators keep their state when it changes; epochs that are repeated must not see another one. (Keys are kept for longer: the text is
        // of before they were, and logged epochs are known by it.)
        if let Some(ttl_ms) = operators.iter().find_map(|operator| operator.kind.time_to_live()) {
            normal = format!("{normal}\nkeys are kept for {} after their last row", super::aggregate::duration(ttl_ms));
        }
        normal.push_str(&self.records(tables.iter().map(|table| inputs[*table].name.as_str()), &reads, times));
        let mut warnings = compiler.warnings;
        warnings.extend(super::surprises::narrow_key(&plan, &places, &table.name));
        warnings.extend(super::surprises::shared_keys(&plan, &places, &table.name));
        warnings.extend(super::surprises::ties(&plan));
        Ok(QueryPlan {
            name: insert.name.clone(),
            graph: QueryGraph {
                operators,
                root,
                mode,
                gates: report,
                still,
                started: false,
                pending: QueryOutput::default(),
                poison: self.settings.poison,
            }
            .align()?,
            sink: SinkPlan {
                name: table.name.split(HINT_MARK).next().unwrap_or_default().to_owned(),
                connector: table.connector.clone(),
                spec: TableSpec { origins, ..spec(&table, schema) },
                key,
                has_each_key_once,
            },
            tables,
            lookups,
            gates,
            logical: plan.display_indent().to_string(),
            normal,
            notes,
            warnings,
            reads: reads_by_table(reads),
            passed_on,
            needs_all: compiler.needs_all,
        })
    }

    /// `PARTITION (day = '…')` as expressions by column name.
    async fn static_partition(
        &self,
        insert: &InsertQuery,
        table: &Table,
        columns: &[Field],
    ) -> Result<BTreeMap<String, Expr>> {
        let mut values = BTreeMap::new();
        for (column, value) in &insert.insert.partition {
            let name = &column.value;
            if !table.partitioned_by.contains(name) || !columns.iter().any(|c| c.name() == name) {
                let error = Error::sql(format!("'{name}' is not a PARTITIONED BY column of '{}'", table.name));
                return Err(error.at(insert.statement.at(column.span)));
            }
            let value = match value {
                sqlparser::ast::Expr::Value(v) => match &v.value {
                    sqlparser::ast::Value::SingleQuotedString(text) => lit(ScalarValue::Utf8View(Some(text.clone()))),
                    sqlparser::ast::Value::Number(number, _) => match number.parse::<i64>() {
                        Ok(number) => lit(number),
                        Err(_) => return Err(partition_value(insert, column)),
                    },
                    _ => return Err(partition_value(insert, column)),
                },
                _ => return Err(partition_value(insert, column)),
            };
            values.insert(name.clone(), value);
        }
        Ok(values)
    }

    fn check_sink(&self, table: &Table, piece: &Piece, insert: &InsertQuery) -> Result<()> {
        let is_update = matches!(piece.kind, Kind::Update { .. });
        if is_update && table.primary_key.is_empty() && !super::validate::takes_anything(&table.connector) {
            return Err(Error::sql(format!("an update stream cannot go into '{}', which has no PRIMARY KEY", table.name))
                .at(insert.statement.at(insert.insert.table.span))
                .at(table.statement.at(table.name_span))
                .hint("a GROUP BY without a window changes its rows: declare PRIMARY KEY (…) NOT ENFORCED, or group by window_start, window_end"));
        }
        let format = table.option("format").unwrap_or_default();
        if is_update && matches!(table.connector.as_str(), "filesystem" | "s3") && format != "json" {
            return Err(Error::sql(format!("an update stream cannot go into '{}': files in format '{format}' cannot say that a row replaces another", table.name))
                .at(insert.statement.at(insert.insert.table.span))
                .hint("use 'format' = 'json', a DynamoDB table, or group by window_start, window_end: the rows of a closed window are final"));
        }
        if is_update && super::validate::append_only(&table.connector) {
            return Err(Error::sql(format!(
                "an update stream cannot go into '{}': '{}' takes final rows only",
                table.name, table.connector
            ))
            .at(insert.statement.at(insert.insert.table.span))
            .hint("group by window_start, window_end: the rows of a closed window are final"));
        }
        Ok(())
    }

    /// The projection to the sink's columns, in its types.
    fn root(
        &self,
        plan: &LogicalPlan,
        piece: Piece,
        (columns, written): (&[Field], &[Field]),
        partition: &BTreeMap<String, Expr>,
        insert: &InsertQuery,
        table: &Table,
    ) -> Result<(LogicalPlan, SchemaRef)> {
        let values = visible_columns(&piece.plan);
        let mut values = values.into_iter().zip(plan.schema().fields().iter()).enumerate();
        let planned = |error| self.planner.explain(&error, &insert.statement);
        let cast_to = self.planner.state.udf("cast_to").map_err(planned)?;
        let mut exprs = Vec::new();
        for column in columns {
            let (at, value, from) = match partition.get(column.name()) {
                Some(value) => (0, value.clone(), None),
                None => match values.next() {
                    Some((at, (value, field))) => (at, value, Some(field)),
                    None => return Err(Error::internal("fewer columns than counted")),
                },
            };
            if let Some(from) = from
                && !assignable(from.data_type(), column.data_type())
                && !narrow_sum(plan, at).is_some_and(|narrow| assignable(&narrow, column.data_type()))
            {
                let error = Error::sql(format!(
                    "column '{}' of '{}' is {}, but the query gives {} ('{}')",
                    column.name(),
                    table.name,
                    flink_name(column.data_type()),
                    flink_name(from.data_type()),
                    from.name()
                ));
                return Err(error
                    .at(super::errors::find(&insert.statement, from.name(), None))
                    .hint(format!("CAST(… AS {})", flink_name(column.data_type()))));
            }
            let value = match from {
                Some(from) => assigned(value, from.data_type(), column.data_type(), &cast_to),
                None => datafusion::prelude::cast(value, column.data_type().clone()),
            };
            exprs.push(value.alias(column.name()));
        }
        // Columns that the INSERT does not name are NULL.
        let mut exprs: BTreeMap<&str, Expr> = columns.iter().map(|c| c.name().as_str()).zip(exprs).collect();
        let mut ordered = Vec::new();
        for field in written {
            ordered.push(match exprs.remove(field.name().as_str()) {
                Some(expr) => expr,
                None => lit(ScalarValue::try_from(field.data_type()).map_err(planned)?).alias(field.name()),
            });
        }
        if piece.kind == (Kind::Update { deltas: true }) {
            ordered.push(datafusion::prelude::col(WEIGHT_COLUMN));
        }
        let root = LogicalPlan::Projection(Projection::try_new(ordered, Arc::new(piece.plan)).map_err(planned)?);
        let root = if self.settings.drop_nulls { without_nulls(root, written, table).map_err(planned)? } else { root };
        let fields: Vec<Field> = written.iter().map(|c| c.clone().with_nullable(true)).collect();
        Ok((root, Arc::new(Schema::new(fields))))
    }
}

/// The columns of the rows for the sink: all that the table has. An item of DynamoDB is updated by
/// attributes, so there only those that the INSERT names.
fn written(table: &Table, columns: &[Field]) -> Vec<Field> {
    if table.connector == "dynamodb" { columns.to_vec() } else { table.writable() }
}

/// Whether different values of one column are different ones of the other.
fn keeps_apart(from: &Field, to: &Field) -> bool {
    let (from, to) = (from.data_type(), to.data_type());
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8);
    from == to || (text(from) && text(to)) || (from.is_integer() && to.is_integer())
}

/// Leaves rows out that have a NULL where the table does not take one.
fn without_nulls(root: LogicalPlan, written: &[Field], table: &Table) -> datafusion::common::Result<LogicalPlan> {
    let strict = written.iter().filter(|f| !f.is_nullable() || table.primary_key.contains(f.name()));
    let tests = strict.map(|f| super::compile::column(&root, f.name()).is_not_null());
    match datafusion::logical_expr::utils::conjunction(tests) {
        Some(all) => Ok(LogicalPlan::Filter(datafusion::logical_expr::Filter::try_new(all, Arc::new(root))?)),
        None => Ok(root),
    }
}

/// The query of an INSERT, whose columns count by place: those of one name get other names.
pub(super) fn named_apart(query: &sqlparser::ast::Query) -> sqlparser::ast::Query {
    let mut query = query.clone();
    give_names_apart(&mut query.body);
    query
}

fn give_names_apart(body: &mut sqlparser::ast::SetExpr) {
    use sqlparser::ast::{Ident, SelectItem, SetExpr};
    let select = match body {
        SetExpr::Select(select) => select,
        SetExpr::Query(query) => return give_names_apart(&mut query.body),
        SetExpr::SetOperation { left, right, .. } => {
            give_names_apart(left);
            return give_names_apart(right);
        }
        _ => return,
    };
    let mut seen = BTreeSet::new();
    for (place, item) in select.projection.iter_mut().enumerate() {
        let repeated = match &*item {
            SelectItem::UnnamedExpr(expr) => !seen.insert(expr.to_string()),
            SelectItem::ExprWithAlias { alias, .. } => !seen.insert(alias.value.clone()),
            _ => false,
        };
        if let (true, SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = (repeated, &*item) {
            let alias = Ident::with_quote('`', format!("EXPR${place}"));
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        }
    }
}

fn partition_value(insert: &InsertQuery, column: &sqlparser::ast::Ident) -> Error {
    Error::sql(format!("the value of PARTITION ({} = …) must be a literal", column.value))
        .at(insert.statement.at(column.span))
}

/// Index among the query's columns of a sink column; `None` when a PARTITION clause gives it.
fn value_index(column: &Field, columns: &[Field], partition: &BTreeMap<String, Expr>) -> Option<usize> {
    if partition.contains_key(column.name()) {
        return None;
    }
    let before = columns.iter().take_while(|c| c.name() != column.name());
    Some(before.filter(|c| !partition.contains_key(c.name())).count())
}

/// What gives the columns by which the files of `table` are parted: a PARTITION clause, a column of the query, or nothing.
fn origins(
    table: &Table,
    columns: &[Field],
    partition: &BTreeMap<String, Expr>,
    origin: impl Fn(usize) -> String,
) -> BTreeMap<String, String> {
    let by_time = table.option("sink.partition.time-column").map(str::to_owned);
    let given_by = |name: &String| match partition.get(name) {
        Some(literal) => literal.to_string(),
        None => {
            let column = columns.iter().find(|column| column.name() == name);
            let place = column.and_then(|column| value_index(column, columns, partition));
            place.map_or_else(|| "NULL".to_owned(), &origin)
        }
    };
    table.partitioned_by.iter().chain(&by_time).map(|name| (name.clone(), given_by(name))).collect()
}

fn reads_by_table(reads: Required) -> BTreeMap<String, Vec<String>> {
    let path = |column: &String, path: &Vec<String>| {
        let mut parts = vec![column.clone()];
        parts.extend(path.iter().cloned());
        parts.join(".")
    };
    reads
        .into_iter()
        .map(|(table, columns)| {
            let name = declared_name(&table).to_owned();
            let columns = columns.iter().flat_map(|(c, paths)| paths.iter().map(move |p| path(c, p))).collect();
            (name, columns)
        })
        .collect()
}

fn table_indexes(root: &Stage, compiler: &Compiler<'_>) -> Vec<usize> {
    let stages = compiler.operators.iter().map(|o| &o.input).chain([root]);
    let mut tables: Vec<usize> = stages
        .flat_map(|s| &s.inputs)
        .filter_map(|input| match input.source {
            crate::operators::SlotSource::Table(table) => Some(table),
            _ => None,
        })
        .chain(compiler.scanned.iter().copied())
        .collect();
    tables.sort_unstable();
    tables.dedup();
    tables
}

/// Whether an output column depends on group keys alone, so that an update never moves to another key.
fn key_only(plan: &LogicalPlan, index: usize) -> bool {
    match plan {
        LogicalPlan::Projection(p) => {
            let columns = p.expr[index].column_refs();
            columns.iter().all(|c| p.input.schema().maybe_index_of_column(c).is_some_and(|i| key_only(&p.input, i)))
        }
        LogicalPlan::SubqueryAlias(a) => key_only(&a.input, index),
        LogicalPlan::Filter(f) => key_only(&f.input, index),
        LogicalPlan::Union(u) => u.inputs.iter().all(|input| key_only(input, index)),
        LogicalPlan::Aggregate(a) => index < a.schema.fields().len() - a.aggr_expr.len(),
        LogicalPlan::Distinct(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use sqlparser::parser::Parser;

    use super::*;
    use crate::sql::FlinkDialect;

    #[test]
    fn columns_of_one_name_are_told_apart_in_each_part_of_a_union() {
        let apart = |text: &str| {
            let query = Parser::new(&FlinkDialect).try_with_sql(text).expect("tokens").parse_query().expect("a query");
            named_apart(&query).to_string().replace('`', "")
        };
        assert_eq!(apart("SELECT a, b, a FROM t"), "SELECT a, b, a AS EXPR$2 FROM t");
        let union = apart("SELECT a, a FROM t UNION ALL (SELECT b AS n, c AS n FROM t UNION ALL SELECT a, b FROM t)");
        let expected =
            "SELECT a, a AS EXPR$1 FROM t UNION ALL (SELECT b AS n, c AS EXPR$1 FROM t UNION ALL SELECT a, b FROM t)";
        assert_eq!(union, expected);
    }
}
