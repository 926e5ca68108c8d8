//! What a query may do that its author hardly wants: rows that replace each other because the sink's key lacks a column,
//! places of a top-N that depend on arrival, and INSERTs that take each other's part of an item for their own. Accepted, but told.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};

use super::catalog::InsertQuery;
use super::nodes::{find_tvf, window_bound};
use super::plan::QueryPlan;
use crate::connectors::dynamodb::own_attributes;
use crate::operators::WindowKind;

/// The aggregation below a plan, and for each of the plan's columns what `of` makes of its expression and of those below, which begin with what
/// `own` makes of the aggregation's. `None` where rows are no groups.
fn columns_over<T>(
    plan: &LogicalPlan,
    own: fn(usize) -> T,
    of: fn(&Expr, &LogicalPlan, &[T]) -> T,
) -> Option<(&Aggregate, Vec<T>)> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => Some((aggregate, (0..aggregate.schema.fields().len()).map(own).collect())),
        LogicalPlan::Projection(projection) => {
            let (aggregate, below) = columns_over(&projection.input, own, of)?;
            Some((aggregate, projection.expr.iter().map(|expr| of(expr, &projection.input, &below)).collect()))
        }
        LogicalPlan::SubqueryAlias(alias) => columns_over(&alias.input, own, of),
        LogicalPlan::Filter(filter) => columns_over(&filter.input, own, of),
        _ => None,
    }
}

/// For each column of a plan, the columns of the aggregation below that it is made of; `None` where rows are no groups.
fn made_of(plan: &LogicalPlan) -> Option<(&Aggregate, Vec<BTreeSet<usize>>)> {
    columns_over(plan, |index| BTreeSet::from([index]), behind)
}

fn behind(expr: &Expr, input: &LogicalPlan, below: &[BTreeSet<usize>]) -> BTreeSet<usize> {
    let columns = expr.column_refs();
    let indexes = columns.iter().filter_map(|column| input.schema().maybe_index_of_column(column));
    indexes.flat_map(|index| below[index].iter().copied()).collect()
}

/// The column below that an expression is, and not only made of.
fn same(expr: &Expr, input: &LogicalPlan, below: &[Option<usize>]) -> Option<usize> {
    match expr {
        Expr::Column(column) => below[input.schema().maybe_index_of_column(column)?],
        Expr::Alias(alias) => same(&alias.expr, input, below),
        _ => None,
    }
}

/// Which bound of which window an aggregation groups by with `expr`, if it is one.
fn bound<'a>(aggregate: &'a Aggregate, expr: &Expr) -> Option<(&'a str, usize)> {
    let Expr::Column(column) = expr else { return None };
    let schema = aggregate.input.schema();
    window_bound(schema.field(schema.maybe_index_of_column(column)?))
}

/// Names of what an aggregation groups by that does not follow from the group columns `known`.
fn open_groups(aggregate: &Aggregate, known: &BTreeSet<usize>) -> Vec<String> {
    let groups = &aggregate.group_expr;
    if groups.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
        return Vec::new();
    }
    let window = |expr: &Expr| bound(aggregate, expr).map(|(_, window)| window);
    let known_columns: Vec<&Expr> = known.iter().filter_map(|index| groups.get(*index)).collect();
    let follows = |expr: &Expr| {
        // One bound of a window tells the others (of CUMULATE, only the end does, and it is asked for beside the start).
        let same_window = window(expr).is_some_and(|own| known_columns.iter().any(|k| window(k) == Some(own)));
        // A constant, or computed from columns that are known.
        let of_known =
            expr.column_refs().into_iter().all(|column| known_columns.contains(&&Expr::Column(column.clone())));
        same_window || of_known
    };
    let open = groups.iter().enumerate().filter(|(index, expr)| !known.contains(index) && !follows(expr));
    open.map(|(index, _)| aggregate.schema.field(index).name().replace(['\u{1}', '\u{2}'], "")).collect()
}

/// A sink's key that is narrower than the groups of the query. `places` are the key's columns in the plan's output.
pub(super) fn narrow_key(plan: &LogicalPlan, places: &[usize], sink: &str) -> Option<String> {
    if places.is_empty() {
        return None;
    }
    let (aggregate, columns) = made_of(plan)?;
    let known = places.iter().filter_map(|place| columns.get(*place)).flatten().copied().collect();
    let open = open_groups(aggregate, &known);
    (!open.is_empty()).then(|| {
        format!(
            "the key of '{sink}' does not say '{}', by which the query groups: rows that differ only there replace each other",
            open.join("', '")
        )
    })
}

/// Parts of a UNION ALL that each keep results of their own up to date, and may have the same keys. `places` are the key's columns in the plan's
/// output.
pub(super) fn shared_keys(plan: &LogicalPlan, places: &[usize], sink: &str) -> Option<String> {
    let running = parts(plan).into_iter().filter(|part| is_running(part));
    let keys: Vec<Vec<Option<&ScalarValue>>> =
        running.map(|part| places.iter().map(|place| constant(part, *place)).collect()).collect();
    let differs = |pair: (&Option<&ScalarValue>, &Option<&ScalarValue>)| match pair {
        (Some(own), Some(other)) => own != other,
        _ => false,
    };
    let are_apart = |(number, own): (usize, &Vec<Option<&ScalarValue>>)| {
        keys[number + 1..].iter().all(|other| own.iter().zip(other).any(differs))
    };
    (!places.is_empty() && !keys.iter().enumerate().all(are_apart)).then(|| {
        format!(
            "several parts of the UNION ALL keep results of their own up to date in '{sink}': where two have the same key, each replaces the other's, or \
             removes it with its own; let a constant in the key tell them apart, or group what the UNION ALL gives"
        )
    })
}

/// What a UNION ALL puts together, with the columns of the whole.
fn parts(plan: &LogicalPlan) -> Vec<&LogicalPlan> {
    match plan {
        LogicalPlan::Union(union) => union.inputs.iter().flat_map(|input| parts(input)).collect(),
        LogicalPlan::SubqueryAlias(alias) => parts(&alias.input),
        _ => vec![plan],
    }
}

/// Whether rows are the results of an aggregation without a window.
fn is_running(plan: &LogicalPlan) -> bool {
    made_of(plan).is_some_and(|(aggregate, _)| {
        let is_of_windows = |expr: &Expr| matches!(expr, Expr::GroupingSet(_)) || bound(aggregate, expr).is_some();
        !aggregate.aggr_expr.is_empty() && !aggregate.group_expr.iter().any(is_of_windows)
    })
}

/// The value of a column that has the same in all rows, where that is plain to see.
fn constant(plan: &LogicalPlan, index: usize) -> Option<&ScalarValue> {
    match plan {
        LogicalPlan::Projection(projection) => constant_of(&projection.expr[index], &projection.input),
        LogicalPlan::SubqueryAlias(alias) => constant(&alias.input, index),
        LogicalPlan::Filter(filter) => constant(&filter.input, index),
        _ => None,
    }
}

fn constant_of<'a>(expr: &'a Expr, input: &'a LogicalPlan) -> Option<&'a ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        Expr::Alias(alias) => constant_of(&alias.expr, input),
        Expr::Cast(cast) => constant_of(&cast.expr, input),
        Expr::Column(column) => constant(input, input.schema().maybe_index_of_column(column)?),
        _ => None,
    }
}

/// Whether the rows that a plan gives in an epoch differ in its columns `places`: each is a group of the aggregation below, and these
/// columns say which. `false` where that is not known.
pub(super) fn tell_groups_apart(plan: &LogicalPlan, places: &[usize]) -> bool {
    let Some((aggregate, columns)) = columns_over(plan, Some, same) else { return false };
    let groups = &aggregate.group_expr;
    let known: BTreeSet<usize> = places.iter().filter_map(|place| columns.get(*place).copied().flatten()).collect();
    let known: Vec<&Expr> = known.iter().filter_map(|index| groups.get(*index)).collect();
    let bounds: BTreeSet<(&str, usize)> = known.iter().filter_map(|expr| bound(aggregate, expr)).collect();
    let has_one_end_a_start = |window: usize| {
        // Windows of CUMULATE have their start in common.
        let tvf = find_tvf(&aggregate.input, window);
        tvf.is_some_and(|tvf| !matches!(tvf.spec.kind, WindowKind::Cumulate { .. }))
    };
    let follows = |expr: &Expr| match bound(aggregate, expr) {
        _ if known.contains(&expr) => true,
        Some((_, window)) => {
            bounds.iter().any(|(kind, own)| *own == window && (*kind != "start" || has_one_end_a_start(window)))
        }
        None => false,
    };
    !groups.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) && groups.iter().all(follows)
}

/// INSERTs of the same columns into one table of DynamoDB, of whose items each thinks that it writes them alone. `queries` are those of `inserts`.
pub(super) fn shared_items(inserts: &[InsertQuery], queries: &[QueryPlan]) -> Vec<String> {
    let (mut first, mut told) = (BTreeMap::new(), Vec::new());
    let of_dynamodb = |(_, query): &(&InsertQuery, &QueryPlan)| query.sink.connector == "dynamodb";
    for (insert, query) in inserts.iter().zip(queries).filter(of_dynamodb) {
        let mut others = Vec::new();
        for attribute in own_attributes(&query.sink.spec) {
            others.extend(first.get(&attribute).copied());
            first.entry(attribute).or_insert(insert);
        }
        if let Some(other) = others.first() {
            told.push(format!(
                "{}: the INSERT into '{}' names the columns of the one at {}, so in an item that both write each takes the other's values for its \
                 own, and some are lost or counted wrongly: name in each only the columns that it gives, or UNION ALL them before the GROUP BY",
                place(insert),
                query.sink.name,
                place(other)
            ));
        }
    }
    told
}

/// Where an INSERT names its table: `job.sql:12:13`.
fn place(insert: &InsertQuery) -> String {
    let place = insert.statement.at(insert.insert.table.span);
    format!("{}:{}:{}", place.file, place.line, place.column)
}

/// Rankings whose order leaves ties.
pub(super) fn ties(plan: &LogicalPlan) -> Vec<String> {
    let mut found = Vec::new();
    let _ = plan.apply(|node| {
        if let LogicalPlan::Window(window) = node {
            for expr in &window.window_expr {
                let _ = expr.apply(|expr| {
                    found.extend(tie(expr, &window.input));
                    Ok(TreeNodeRecursion::Continue)
                });
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

fn tie(expr: &Expr, input: &LogicalPlan) -> Option<String> {
    let Expr::WindowFunction(function) = expr else { return None };
    if !function.fun.name().eq_ignore_ascii_case("row_number") {
        return None;
    }
    let (partition, order) = (&function.params.partition_by, &function.params.order_by);
    let ordered = order.iter().map(|sort| &sort.expr);
    match made_of(input) {
        Some((aggregate, columns)) => {
            let known = partition.iter().chain(ordered).flat_map(|expr| behind(expr, input, &columns)).collect();
            let open = open_groups(aggregate, &known);
            (!open.is_empty()).then(|| {
                format!(
                    "rows that tie in the ORDER BY of ROW_NUMBER() are placed by chance: add '{}' to it",
                    open.join("', '")
                )
            })
        }
        // Rows as they come: one column is hardly ever unique, and of several the last may well be.
        None if order.len() < 2 => Some(
            "rows that tie in the ORDER BY of ROW_NUMBER() are placed as they arrive: add a column that tells them apart"
                .to_owned(),
        ),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicI64;

    use crate::sql::{JobPlan, PlanOptions, SqlText, plan_job};

    const TABLES: &str = "
CREATE TABLE events (page STRING, country STRING, n INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
  WITH ('connector' = 'datagen');
CREATE TABLE items (k STRING, k2 STRING, at TIMESTAMP(3), until TIMESTAMP(3), c BIGINT, PRIMARY KEY (KEY) NOT ENFORCED)
  WITH ('connector' = 'blackhole');
INSERT INTO items (COLUMNS) ";

    async fn once(key: &str, columns: &str, query: &str) -> bool {
        let text = TABLES.replace("KEY) NOT", &format!("{key}) NOT")).replace("COLUMNS", columns) + query + ";";
        planned(text).await.queries[0].sink.has_each_key_once
    }

    async fn planned(text: String) -> JobPlan {
        let file = Arc::new(SqlText::new("job.sql", text));
        let options =
            PlanOptions { partitions: 1, batch: false, pruned: true, epoch_time_ms: Arc::new(AtomicI64::new(0)) };
        plan_job(&[file], &Default::default(), &options, None).await.expect("it can be planned")
    }

    /// DynamoDB takes the columns of PARTITIONED BY for the key, where there is no other: rows of it replace each other as well.
    #[tokio::test]
    async fn columns_of_partitioned_by_are_a_key_to_dynamodb_and_to_no_other() {
        let dynamodb = "'dynamodb', 'table-name' = 'parts'";
        for (connector, query, expected) in [
            (dynamodb, "SELECT page, CAST(n AS BIGINT) FROM events", false),
            (
                dynamodb,
                "SELECT page, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY page, window_start, window_end",
                false,
            ),
            ("'blackhole'", "SELECT page, CAST(n AS BIGINT) FROM events", true),
        ] {
            let table = format!(
                "CREATE TABLE parts (k STRING, c BIGINT) PARTITIONED BY (k) WITH ('connector' = {connector});\n"
            );
            let text = TABLES.replace("KEY) NOT", "k) NOT").replace("INSERT INTO items (COLUMNS) ", &table);
            let plan = planned(text + &format!("INSERT INTO parts {query};")).await;
            let sink = &plan.queries[0].sink;
            assert_eq!(sink.key.is_empty() || sink.has_each_key_once, expected, "{connector}: {query}");
        }
    }

    /// An item has one version, and one contribution to each sum, for all INSERTs of the same columns.
    #[tokio::test]
    async fn inserts_of_the_same_columns_are_told_where_they_would_hinder_each_other() {
        let tables = TABLES.replace("KEY) NOT", "k) NOT").replace("INSERT INTO items (COLUMNS) ", "");
        let count = "FROM events GROUP BY page;\n";
        let inserts = |second: &str| {
            format!("INSERT INTO parts SELECT page, COUNT(*), CAST(NULL AS BIGINT) {count}{second} {count}")
        };
        let same = inserts("INSERT INTO parts SELECT page, CAST(NULL AS BIGINT), SUM(n)");
        let other_table = inserts("INSERT INTO others SELECT page, CAST(NULL AS BIGINT), SUM(n)");
        let named = inserts("INSERT INTO parts (k, b) SELECT page, SUM(n)");
        for (options, inserts, expected) in [
            ("'sink.ignore-nulls' = 'TRUE'", &same, true),
            ("'sink.ignore-nulls' = 'true'", &named, false),
            ("'sink.ignore-nulls' = 'false'", &same, false),
            ("'sink.write-mode' = 'ADD'", &same, true),
            ("'sink.write-mode' = 'add'", &named, false),
            ("'sink.write-mode' = 'put'", &same, false),
            // Two names of one table.
            ("'sink.write-mode' = 'add'", &other_table, true),
        ] {
            let parts = |name: &str| {
                format!(
                    "CREATE TABLE {name} (k STRING, a BIGINT, b BIGINT, PRIMARY KEY (k) NOT ENFORCED) \
                     WITH ('connector' = 'dynamodb', 'table-name' = 'parts', {options});\n"
                )
            };
            let text = format!("{tables}{}{}{inserts}", parts("parts"), parts("others"));
            let mut told = planned(text).await.warnings;
            told.retain(|told| told.contains(" names the columns of "));
            assert_eq!(told.len(), usize::from(expected), "{options}: {told:?}");
            let has_places = |told: &String| told.starts_with("job.sql:9:13: ") && told.contains(" at job.sql:8:13, ");
            assert!(told.iter().all(has_places), "{options}: {told:?}");
        }
    }

    #[tokio::test]
    async fn a_key_that_says_less_than_the_groups_may_come_twice_in_an_epoch() {
        let windows = |tvf: &str, select: &str, groups: &str| {
            format!(
                "SELECT {select}, COUNT(*) FROM TABLE({tvf}(TABLE events, DESCRIPTOR(ts), {})) GROUP BY {groups}",
                if tvf == "TUMBLE" { "INTERVAL '1' MINUTE" } else { "INTERVAL '10' SECOND, INTERVAL '1' MINUTE" }
            )
        };
        let (one, all) = ("page, window_start", "page, window_start, window_end");
        for (key, columns, query, expected) in [
            ("k, at", "k, at, c", windows("TUMBLE", one, all), true),
            ("k, at", "k, at, c", windows("HOP", one, all), true),
            // Windows of CUMULATE have their start in common.
            ("k, at", "k, at, c", windows("CUMULATE", one, all), false),
            ("k, until", "k, until, c", windows("CUMULATE", "page, window_end", all), true),
            ("k, until", "k, at, until, c", windows("CUMULATE", all, all), true),
            // Windows of one page replace each other.
            ("k", "k, c", windows("TUMBLE", "page", all), false),
            ("at", "k, at, c", windows("TUMBLE", one, all), false),
            // Different pages may be one key.
            ("k, at", "k, at, c", windows("TUMBLE", "UPPER(page), window_start", all), false),
            ("k", "k, c", "SELECT page, COUNT(*) FROM events GROUP BY page".to_owned(), true),
            ("k2, k", "k, k2, c", "SELECT page, country, COUNT(*) FROM events GROUP BY page, country".to_owned(), true),
            ("k", "k, k2, c", "SELECT page, country, COUNT(*) FROM events GROUP BY page, country".to_owned(), false),
            ("k", "k, c", "SELECT page, CAST(n AS BIGINT) FROM events".to_owned(), false),
        ] {
            assert_eq!(once(key, columns, &query).await, expected, "PRIMARY KEY ({key}): {query}");
        }
    }

    #[tokio::test]
    async fn parts_of_a_union_that_may_have_the_same_keys_are_told() {
        let count = |select: &str, by: &str| format!("SELECT {by}{select}, COUNT(*) FROM events GROUP BY {by}");
        let both =
            |page: &str, country: &str| format!("{} UNION ALL {}", count(page, "page"), count(country, "country"));
        let minutes = "SELECT page, COUNT(*) FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY page, window_start, window_end";
        for (key, columns, query, expected) in [
            ("k", "k, c", both("", ""), true),
            ("k, k2", "k, k2, c", both(", 'page'", ", 'country'"), false),
            ("k, k2", "k, k2, c", both(", 'any'", ", 'any'"), true),
            // Rows of windows are final.
            ("k", "k, c", format!("{minutes} UNION ALL {}", count("", "country")), false),
            (
                "k",
                "k, c",
                "SELECT page, COUNT(*) FROM (SELECT page FROM events UNION ALL SELECT country FROM events) AS x GROUP BY page".to_owned(),
                false,
            ),
        ] {
            let tables = TABLES.replace("KEY) NOT", &format!("{key}) NOT")).replace("COLUMNS", columns);
            let warnings = planned(format!("{tables}{query};")).await.warnings;
            let told = warnings.iter().any(|text| text.contains("several parts of the UNION ALL"));
            assert_eq!(told, expected, "PRIMARY KEY ({key}): {query}: {warnings:?}");
        }
    }

    /// Where a time to live is set, it is not what is missing.
    #[tokio::test]
    async fn what_keeps_keys_for_ever_is_told() {
        const TTL: &str = "SET 'table.exec.state.ttl' = '3 d';";
        let minutes = "(SELECT page FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY page, window_start, window_end)";
        for (set, from, why) in [
            ("", "events", Some("no time-to-live is set: SET 'table.exec.state.ttl' = '3 d'")),
            (TTL, "events", None),
            (TTL, "timeless", Some("its table has no time for 'table.exec.state.ttl': declare a WATERMARK")),
            (TTL, minutes, Some("its rows are results of others")),
            (TTL, "(SELECT DISTINCT page, n FROM events)", Some("its rows are results of others")),
        ] {
            let timeless = "CREATE TABLE timeless (page STRING) WITH ('connector' = 'datagen');";
            let tables = TABLES.replace("KEY) NOT", "k) NOT").replace("COLUMNS", "k, c");
            let query = format!("SELECT page, COUNT(*) FROM {from} AS x GROUP BY page;");
            let warnings = planned(format!("{set}{timeless}{tables}{query}")).await.warnings;
            let told: Vec<&String> = warnings.iter().filter(|text| text.contains("keeps each key for ever")).collect();
            assert_eq!(told.len(), usize::from(why.is_some()), "{from}: {warnings:?}");
            assert!(told.iter().zip(why).all(|(told, why)| told.contains(why)), "{from}: {told:?}");
        }
    }
}
