//! Which columns, and which fields of nested columns, the queries of a job use: a decoder reads only
//! those.
//!
//! What uses a column is judged by the text of a query, not by what the optimizer makes of it: `c IS NOT NULL` over a column that is never
//! NULL is TRUE for the optimizer, but the second pass plans the same text again, over tables in which an unused column is NULL.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNode};
use sqlparser::ast::{Expr as SqlExpr, visit_expressions};

use super::functions::rewrite_expr;
use super::nodes::{Gate, WindowTvf};

/// Paths below a column; the empty path is the whole column.
pub(crate) type Paths = BTreeSet<Vec<String>>;
/// Columns in use, by table.
pub(crate) type Required = BTreeMap<String, BTreeMap<String, Paths>>;
type Needs = BTreeMap<usize, Paths>;

/// Adds what `plan` uses to `required`.
pub(crate) fn collect(plan: &LogicalPlan, required: &mut Required) -> Result<()> {
    let all = (0..plan.schema().fields().len()).map(|i| (i, whole())).collect();
    visit(plan, &all, required)
}

/// The same columns, each whole.
pub(crate) fn all_fields(required: &Required) -> Required {
    let columns = |columns: &BTreeMap<String, Paths>| columns.keys().map(|column| (column.clone(), whole())).collect();
    required.iter().map(|(table, of)| (table.clone(), columns(of))).collect()
}

fn whole() -> Paths {
    Paths::from([Vec::new()])
}

fn visit(plan: &LogicalPlan, needs: &Needs, required: &mut Required) -> Result<()> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let table = required.entry(scan.table_name.table().to_owned()).or_default();
            let mut needs = needs.clone();
            for filter in &scan.filters {
                add(filter, &scan.projected_schema, &mut needs);
            }
            for (index, paths) in needs {
                let name = scan.projected_schema.field(index).name();
                table.entry(name.clone()).or_default().extend(paths);
            }
        }
        LogicalPlan::Projection(projection) => {
            let schema = projection.input.schema();
            let mut below = Needs::new();
            for (index, paths) in needs {
                match path_of(&projection.expr[*index], schema) {
                    Some((column, path)) => below
                        .entry(column)
                        .or_default()
                        .extend(paths.iter().map(|rest| [path.clone(), rest.clone()].concat())),
                    None => add(&projection.expr[*index], schema, &mut below),
                }
            }
            visit(&projection.input, &below, required)?;
        }
        LogicalPlan::SubqueryAlias(alias) => visit(&alias.input, needs, required)?,
        LogicalPlan::Union(union) => {
            for input in &union.inputs {
                visit(input, needs, required)?;
            }
        }
        LogicalPlan::Filter(_) | LogicalPlan::Sort(_) | LogicalPlan::Limit(_) | LogicalPlan::Repartition(_) => {
            let input = plan.inputs()[0];
            let mut below = needs.clone();
            for expr in plan.expressions() {
                add(&expr, input.schema(), &mut below);
            }
            visit(input, &below, required)?;
        }
        LogicalPlan::Join(join) => {
            let mut both: DFSchema = join.left.schema().as_ref().clone();
            both = both.join(join.right.schema())?;
            let left = join.left.schema().fields().len();
            let mut below = needs.clone();
            for expr in plan.expressions() {
                add(&expr, &both, &mut below);
            }
            let (l, r): (Needs, Needs) = below.into_iter().partition(|(index, _)| *index < left);
            visit(&join.left, &l, required)?;
            let r = r.into_iter().map(|(index, paths)| (index - left, paths)).collect();
            visit(&join.right, &r, required)?;
        }
        LogicalPlan::Extension(extension) => pass_through(extension.node.as_ref(), needs, required)?,
        LogicalPlan::Window(window) => {
            let columns = window.input.schema().fields().len();
            let mut below: Needs = needs.iter().filter(|(i, _)| **i < columns).map(|(i, p)| (*i, p.clone())).collect();
            for expr in behind(&window.window_expr, columns, needs) {
                add(expr, window.input.schema(), &mut below);
            }
            visit(&window.input, &below, required)?;
        }
        LogicalPlan::Aggregate(aggregate) => {
            let groups = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
            let mut below = Needs::new();
            for expr in aggregate.group_expr.iter().chain(behind(&aggregate.aggr_expr, groups, needs)) {
                add(expr, aggregate.input.schema(), &mut below);
            }
            visit(&aggregate.input, &below, required)?;
        }
        LogicalPlan::Unnest(unnest) => {
            // How many rows there are depends on what is taken apart.
            let exec = unnest.exec_columns.iter().filter_map(|c| unnest.input.schema().maybe_index_of_column(c));
            let mut below: Needs = exec.map(|index| (index, whole())).collect();
            for (index, paths) in needs {
                below.entry(unnest.dependency_indices[*index]).or_default().extend(paths.iter().cloned());
            }
            visit(&unnest.input, &below, required)?;
        }
        other => {
            for input in other.inputs() {
                collect(input, required)?;
            }
        }
    }
    Ok(())
}

/// Of expressions that follow `first` other columns, those that are needed.
fn behind<'a>(exprs: &'a [Expr], first: usize, needs: &'a Needs) -> impl Iterator<Item = &'a Expr> {
    exprs.iter().enumerate().filter(move |(i, _)| needs.contains_key(&(first + i))).map(|(_, expr)| expr)
}

fn pass_through(node: &dyn UserDefinedLogicalNode, needs: &Needs, required: &mut Required) -> Result<()> {
    let is_ours = node.as_any().is::<WindowTvf>() || node.as_any().is::<Gate>();
    for input in node.inputs() {
        if !is_ours {
            collect(input, required)?;
            continue;
        }
        let columns = input.schema().fields().len();
        let mut below: Needs = needs.iter().filter(|(i, _)| **i < columns).map(|(i, p)| (*i, p.clone())).collect();
        for expr in node.expressions() {
            add(&expr, input.schema(), &mut below);
        }
        visit(input, &below, required)?;
    }
    Ok(())
}

/// Column and path of `a`, `a.b`, `a.b.c`, also under an alias.
pub(crate) fn path_of(expr: &Expr, schema: &DFSchema) -> Option<(usize, Vec<String>)> {
    match expr {
        Expr::Column(column) => Some((schema.maybe_index_of_column(column)?, Vec::new())),
        Expr::Alias(alias) => path_of(&alias.expr, schema),
        Expr::ScalarFunction(function) if function.func.name() == "get_field" => {
            let (base, names) = function.args.split_first()?;
            let (column, mut path) = path_of(base, schema)?;
            for name in names {
                match name {
                    Expr::Literal(value, _) => path.push(text(value)?),
                    _ => return None,
                }
            }
            // Only fields of rows have a path; elements of arrays and maps need the whole column.
            field_at(schema.field(column).data_type(), &path)?;
            Some((column, path))
        }
        _ => None,
    }
}

fn text(value: &ScalarValue) -> Option<String> {
    value.try_as_str().flatten().map(str::to_owned)
}

fn field_at<'a>(data_type: &'a DataType, path: &[String]) -> Option<&'a DataType> {
    match (path.split_first(), data_type) {
        (None, _) => Some(data_type),
        (Some((name, rest)), DataType::Struct(fields)) => {
            field_at(fields.iter().find(|f| f.name() == name)?.data_type(), rest)
        }
        _ => None,
    }
}

fn add(expr: &Expr, schema: &DFSchema, needs: &mut Needs) {
    if let Some((column, path)) = path_of(expr, schema) {
        needs.entry(column).or_default().insert(path);
        return;
    }
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    let _ = expr.apply_children(|child| {
        add(child, schema, needs);
        Ok(TreeNodeRecursion::Continue)
    });
}

/// The type with only the fields that `paths` name.
pub(crate) fn prune(data_type: &DataType, paths: &Paths) -> DataType {
    let DataType::Struct(fields) = data_type else { return data_type.clone() };
    if paths.iter().any(Vec::is_empty) {
        return data_type.clone();
    }
    let kept: Fields = fields
        .iter()
        .filter_map(|field| {
            let below: Paths =
                paths.iter().filter(|path| path.first() == Some(field.name())).map(|path| path[1..].to_vec()).collect();
            let keep = || Arc::new(Field::new(field.name(), prune(field.data_type(), &below), field.is_nullable()));
            (!below.is_empty()).then(keep)
        })
        .collect();
    DataType::Struct(kept)
}

/// Whether every column that the expression names is there, with all of its fields that it names.
pub(super) fn reads_only(expr: &SqlExpr, schema: Option<&SchemaRef>) -> bool {
    let Some(schema) = schema else { return true };
    // As it is planned: before, a unit of time and a name behind brackets look like columns.
    let mut expr = expr.clone();
    rewrite_expr(&mut expr);
    let mut all = true;
    let _ = visit_expressions(&expr, |e| {
        let path: Vec<&str> = match e {
            SqlExpr::Identifier(name) => vec![name.value.as_str()],
            SqlExpr::CompoundIdentifier(parts) => parts.iter().map(|p| p.value.as_str()).collect(),
            _ => return ControlFlow::<()>::Continue(()),
        };
        let mut found = schema.field_with_name(path[0]).ok().map(Field::data_type);
        for name in &path[1..] {
            found = match found {
                Some(DataType::Struct(fields)) => fields.find(name).map(|(_, f)| f.data_type()),
                _ => None,
            };
        }
        all &= found.is_some();
        ControlFlow::Continue(())
    });
    all
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use sqlparser::parser::Parser;

    use super::*;
    use crate::sql::{FlinkDialect, Parameters, PlanOptions, SqlText, plan_job};

    /// The second pass plans the same text, over the fields in use.
    #[tokio::test]
    async fn a_query_may_name_fields_that_nothing_uses() {
        const TABLES: &str = "
            CREATE TABLE t (a INT, data ROW<x INT, y INT, z INT>, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
            WITH ('connector' = 'kinesis', 'stream' = 't', 'format' = 'json');
            CREATE TABLE u (a INT) WITH ('connector' = 'kinesis', 'stream' = 'u', 'format' = 'json');
            CREATE TABLE o (x INT) WITH ('connector' = 'print');
            INSERT INTO o SELECT a FROM u;
            INSERT INTO o ";
        for query in [
            "SELECT data.x FROM t WHERE TRUE OR data.y > 1",
            "SELECT x FROM (SELECT data.x AS x, data.y AS y FROM t) AS u",
            "SELECT x FROM (
               SELECT data.x AS x, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY data.y) AS r
               FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' MINUTE)))",
        ] {
            let file = Arc::new(SqlText::new("job.sql", format!("{TABLES}{query};")));
            let options = PlanOptions { partitions: 1, batch: false, pruned: true, epoch_time_ms: Arc::default() };
            let planned = plan_job(&[file], &Parameters::default(), &options, None).await;
            let plan = planned.unwrap_or_else(|errors| panic!("{query}: {errors:?}"));
            let of_t = plan.sources.iter().find(|source| source.name == "t").expect("it is read");
            let data = of_t.spec.schema.field_with_name("data").expect("its fields are in use").data_type().to_string();
            assert!(data.contains("\"x\"") && !data.contains("\"z\""), "{query}: {data}");
        }
    }

    async fn planned(sql: &str) -> crate::sql::JobPlan {
        let tables = "
            CREATE TABLE t (
              a INT NOT NULL, b INT NOT NULL, kind STRING, d ROW<a INT, b STRING>, e ROW<a INT, b STRING>, ts TIMESTAMP(3),
              late AS CASE WHEN kind = 'slow' THEN 60 ELSE 1 END, WATERMARK FOR ts AS TIMESTAMPADD(SECOND, -late, ts)
            ) WITH ('connector' = 'kinesis', 'stream' = 't', 'format' = 'json');
            CREATE TABLE u (a INT, d ROW<a INT, b STRING>) WITH ('connector' = 'kinesis', 'stream' = 'u', 'format' = 'json');
            CREATE TABLE o (x INT) WITH ('connector' = 'print');
            CREATE TABLE p (x STRING) WITH ('connector' = 'print');";
        let file = Arc::new(SqlText::new("job.sql", format!("{tables}{sql}")));
        let options = PlanOptions { partitions: 1, batch: false, pruned: true, epoch_time_ms: Arc::default() };
        let planned = plan_job(&[file], &Parameters::default(), &options, None).await;
        planned.unwrap_or_else(|errors| panic!("{sql}: {errors:?}"))
    }

    /// Else the watermark would be another one, or none, unless a query reads them.
    #[tokio::test]
    async fn what_a_watermark_is_made_of_is_read() {
        let plan = planned("INSERT INTO o SELECT a FROM t;").await;
        let read: Vec<&str> = plan.sources[0].spec.schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(read, ["a", "kind", "ts"]);
    }

    #[tokio::test]
    async fn a_column_is_read_where_the_optimizer_answers_a_condition_without_it() {
        let plan = planned("INSERT INTO o SELECT a FROM t WHERE b IS NOT NULL;").await;
        let read = &plan.queries[0].reads;
        assert!(read.values().any(|columns| columns.iter().any(|column| column == "b")), "{read:?}");
        assert!(plan.sources[0].spec.schema.field_with_name("b").is_ok());
    }

    /// Of each ROW, another field is in use.
    #[tokio::test]
    async fn rows_of_which_other_fields_are_read_fit_each_other() {
        for sql in [
            "CREATE VIEW v AS SELECT d.b AS x FROM t; INSERT INTO o SELECT d.a FROM t;",
            "CREATE VIEW v AS SELECT d FROM t UNION ALL SELECT d FROM u; INSERT INTO o SELECT v.d.a FROM v; INSERT INTO p SELECT d.b FROM u;",
            "INSERT INTO o SELECT q.x.a FROM (SELECT d AS x FROM t UNION ALL SELECT CAST(ROW(a, kind) AS ROW<a INT, b STRING>) AS x FROM t) AS q;",
            "CREATE VIEW v AS SELECT a, COALESCE(d, e) AS x FROM t; INSERT INTO o SELECT a FROM v; INSERT INTO p SELECT d.b FROM t; INSERT INTO o SELECT e.a FROM t;",
        ] {
            planned(sql).await;
        }
    }

    #[test]
    fn units_of_time_and_names_behind_brackets_are_no_columns() {
        let row = |fields: Vec<Field>| DataType::Struct(fields.into());
        let texts = DataType::new_list(DataType::Utf8View, true);
        let items = DataType::new_list(row(vec![Field::new("price", DataType::Int64, true)]), true);
        let schema = Arc::new(Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("data", row(vec![Field::new("tags", texts, true)]), true),
            Field::new("items", items, true),
        ]));
        let reads = |text: &str| {
            let mut parser = Parser::new(&FlinkDialect).try_with_sql(text).expect("tokens");
            reads_only(&parser.parse_expr().expect("an expression"), Some(&schema))
        };
        for there in [
            "TIMESTAMPDIFF(MINUTE, a, a)",
            "CAST(TIMESTAMPADD(SECOND, a, TIMESTAMP '1970-01-01 00:00:00') AS STRING)",
            "data.tags",
            "UPPER(data.tags[1])",
            "items[1].price",
            "items[a].price + EXTRACT(DAY FROM a)",
        ] {
            assert!(reads(there), "{there}");
        }
        for missing in ["b", "TIMESTAMPDIFF(MINUTE, a, b)", "data.pages[1]", "data.tags[b]", "b[1].price"] {
            assert!(!reads(missing), "{missing}");
        }
    }
}
