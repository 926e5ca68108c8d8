//! The normal form of a plan, by which a query is known from run to run.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::arrow::array::Array;
use datafusion::common::alias::AliasGenerator;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, NullEquality, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};
use datafusion::optimizer::OptimizerConfig;

use crate::runtime::IN_FULL;

/// The optimised plan. What it is does not depend on what was optimised before it: the optimiser numbers the names that it gives to parts of
/// expressions (`__common_expr_1`), and a session counts on from query to query, so that a query more would change those after it.
///
/// It is made with a rule that is off where a plan runs (see `session`): saved states are known by its texts, and a text need only be the same
/// for the same query. Where the rule fails, it is made without it.
pub(super) fn normal_form(state: &SessionState, plan: &LogicalPlan) -> Result<LogicalPlan> {
    let made = |with_leaves| {
        let mut options = OptimizerConfig::options(state).as_ref().clone();
        options.optimizer.enable_leaf_expression_pushdown = with_leaves;
        let own = OwnNumbers { state, options: Arc::new(options), aliases: Arc::new(AliasGenerator::new()) };
        let analyzed = state.analyzer().execute_and_check(plan.clone(), &own.options, |_, _| {})?;
        state.optimizer().optimize(analyzed, &own, |_, _| {})
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
                    let placed = expr.clone().transform(|part| {
                        let Some(at) = below(&part) else { return Ok(Transformed::no(part)) };
                        let called = format!("#{}", self.of(input, depth + 1, at));
                        Ok(Transformed::yes(Expr::Column(Column::new_unqualified(called))))
                    });
                    self.say(in_words(&placed.map_or(expr, |placed| placed.data)))
                }
            }
            LogicalPlan::SubqueryAlias(alias) => self.of(&alias.input, depth + 1, column),
            LogicalPlan::Filter(filter) => self.of(&filter.input, depth + 1, column),
            other => {
                let name = Column::from(other.schema().qualified_field(column));
                if matches!(other, LogicalPlan::TableScan(_)) {
                    self.say(name.to_string())
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

/// An expression, and what its text leaves out.
fn in_words(expr: &Expr) -> String {
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
mod tests {
    use super::*;
    use crate::runtime::{identity, is_identity_of, is_text_of};
    use crate::sql::{JobPlan, Parameters, PlanOptions, SqlText, plan_job};

    const TABLES: &str = "
        CREATE TABLE clicks (n BIGINT, data ROW<page STRING, user_id STRING>, at TIMESTAMP_LTZ(3), WATERMARK FOR at AS at)
        WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json');
        CREATE TABLE a (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'a');
        CREATE TABLE b (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'b');
        CREATE TABLE c (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'c');";
    const A: &str = "
        INSERT INTO a SELECT data.page, COUNT(*) FROM clicks WHERE data.user_id <> 'x' GROUP BY data.page;
        INSERT INTO a SELECT UPPER(data.page), SUM((n * 7 + 1) * (n * 7 + 1)) FROM clicks WHERE n * 7 + 1 > 3 GROUP BY UPPER(data.page);";
    const B: &str = "
        INSERT INTO b SELECT data.page, COUNT(*) + SUM((n * 3 + 2) * (n * 3 + 2)) FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' HOUR))
        WHERE n * 3 + 2 > 5 AND data.user_id LIKE '%y' GROUP BY window_start, window_end, data.page;";
    const C: &str = "
        INSERT INTO c SELECT k, r FROM (SELECT data.page AS k, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY n) AS r
        FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' HOUR)) WHERE data.user_id = 'z' AND n * 3 + 2 > 5 AND n * 3 + 2 < 50);";

    async fn planned(files: &[&str]) -> JobPlan {
        let files: Vec<_> = std::iter::once(&TABLES)
            .chain(files)
            .enumerate()
            .map(|(n, text)| SqlText::new(format!("{n}.sql"), (*text).to_owned()).into())
            .collect();
        let options = PlanOptions { partitions: 2, batch: false, pruned: true, epoch_time_ms: Default::default() };
        plan_job(&files, &Parameters::default(), &options, None).await.expect("it is planned")
    }

    /// Of each query, its normal form and the fingerprints of its operators.
    async fn known(files: &[&str]) -> BTreeMap<String, Vec<String>> {
        let plan = planned(files).await;
        let of = |query: &crate::sql::QueryPlan| {
            let operators = query.graph.operators.iter().map(|operator| operator.fingerprint.clone());
            std::iter::once(query.normal.clone()).chain(operators).collect::<Vec<_>>()
        };
        plan.queries.iter().map(|query| (query.sink.name.clone(), of(query))).collect()
    }

    #[tokio::test]
    async fn a_query_is_the_same_whatever_stands_before_it() {
        let (b, c) = (known(&[B]).await, known(&[C]).await);
        assert!(
            b["b"].concat().contains("__common_expr_") && b["b"].concat().contains("__datafusion_extracted_"),
            "{b:#?}"
        );
        for files in [&[A, B, C], &[C, A, B], &[A, C, B]] {
            let all = known(files).await;
            assert_eq!(all["b"], b["b"]);
            assert_eq!(all["c"], c["c"]);
        }
    }

    #[tokio::test]
    async fn a_query_over_a_table_with_a_hint_is_the_same_whatever_hints_stand_before_it() {
        const HINTED: &str = "
            INSERT INTO b SELECT data.page, COUNT(*) FROM clicks /*+ OPTIONS('scan.stream.initpos' = 'LATEST') */ GROUP BY data.page;";
        let same = HINTED.replace("INTO b", "INTO c");
        let other = HINTED.replace("INTO b", "INTO a").replace("LATEST", "TRIM_HORIZON");
        let (alone, beside) = (known(&[HINTED]).await, known(&[&other, &same, HINTED]).await);
        let (saved, own) = (&alone["b"], &beside["b"]);
        assert!(
            saved != own
                && saved.len() == own.len()
                && saved.iter().zip(own).all(|(saved, own)| is_text_of(saved, own))
        );
        assert!(is_identity_of(&identity(&saved[0]), &own[0]));
        let without = known(&["INSERT INTO b SELECT data.page, COUNT(*) FROM clicks GROUP BY data.page;"]).await;
        assert!(!is_text_of(&without["b"][1], &own[1]));
        // Where positions are saved.
        let sources = planned(&[&other, &same, HINTED]).await.sources;
        let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
        let of = |at: &str| format!("clicks OPTIONS('scan.stream.initpos'='{at}')");
        assert_eq!(names, [of("TRIM_HORIZON"), of("LATEST")]);
    }

    /// Two queries whose texts were the same, though they give other rows.
    #[tokio::test]
    async fn what_the_text_of_a_plan_leaves_out_is_added() {
        let sums = |sum: &str| format!("INSERT INTO a SELECT data.page, {sum} FROM clicks GROUP BY data.page;");
        let values = |last: &str| {
            format!(
                "INSERT INTO a SELECT v.k, SUM(clicks.n) FROM clicks JOIN (VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'), (5, 'e'), {last})
                 AS v (n, k) ON v.n = clicks.n GROUP BY v.k;"
            )
        };
        let joined = |on: &str| {
            format!(
                "CREATE TABLE pages (page STRING, name STRING) WITH ('connector' = 'filesystem', 'path' = 'pages', 'format' = 'csv');
                 INSERT INTO a SELECT p.name, COUNT(*) FROM clicks AS c JOIN pages AS p ON {on} GROUP BY p.name;"
            )
        };
        let filtered = |condition: &str| sums(&format!("COUNT(*) FILTER (WHERE {condition})"));
        let pairs = [
            [values("(6, 'f')"), values("(6, 'g')")],
            [values("(6, 'f'), (7, 'g')"), values("(6, 'f'), (7, 'h')")],
            [values("(6, 'f')"), values("(6, 'f'), (7, 'g')")],
            [joined("c.data.page = p.page"), joined("c.data.page IS NOT DISTINCT FROM p.page")],
            [sums("SUM(n - (n * 2 - 3))"), sums("SUM(n - n * 2 - 3)")],
            [sums("SUM(n / (n * 2))"), sums("SUM(n / n * 2)")],
            [sums("SUM(n - (n - (n - 7)))"), sums("SUM(n - (n - n - 7))")],
            [filtered("(n > 1 AND data.page = 'a') IS NOT TRUE"), filtered("n > 1 AND (data.page = 'a') IS NOT TRUE")],
            [sums("COUNT(ARRAY['a, b'][n])"), sums("COUNT(ARRAY['a', 'b'][n])")],
            [sums("COUNT(ARRAY['a', ''][n])"), sums("COUNT(ARRAY['a', CAST(NULL AS STRING)][n])")],
        ];
        for [one, other] in pairs {
            let (one_known, other_known) = (known(&[&one]).await, known(&[&other]).await);
            for (one_text, other_text) in one_known["a"].iter().zip(&other_known["a"]) {
                assert_ne!(one_text, other_text, "{one}\n{other}");
            }
            assert!(one_known["a"].len() > 1 && one_known["a"].len() == other_known["a"].len(), "{one}");
        }
    }

    /// Files know by it whether a row is still of the same partition.
    #[tokio::test]
    async fn where_a_column_comes_from_is_all_that_makes_it_and_no_more() {
        let by_day = |insert: &str| {
            format!(
                "CREATE TABLE files (n BIGINT, day STRING, kind STRING) PARTITIONED BY (day, kind)
                 WITH ('connector' = 'filesystem', 'path' = 'files', 'format' = 'json'); {insert};"
            )
        };
        let origins = async |insert: &str| {
            let text = by_day(insert);
            let plan = planned(&[&text]).await;
            plan.queries[0].sink.spec.origins.clone()
        };
        let day = "DATE_FORMAT(at, 'yyyy-MM-dd')";
        let first = origins(&format!("INSERT INTO files SELECT n, {day}, data.page FROM clicks")).await;
        assert_eq!(first.keys().collect::<Vec<_>>(), ["day", "kind"]);
        for same in [
            format!("INSERT INTO files SELECT n * 2, {day}, data.page FROM clicks WHERE n > 5 AND data.user_id <> 'x'"),
            format!("INSERT INTO files (kind, day, n) SELECT data.page, {day}, n FROM clicks"),
        ] {
            assert_eq!(origins(&same).await, first, "{same}");
        }
        for other in [
            format!("INSERT INTO files SELECT n, {day}, data.user_id FROM clicks"),
            format!("INSERT INTO files (n, kind, day) SELECT n, {day}, data.page FROM clicks"),
            format!("INSERT INTO files (n, day) SELECT n, {day} FROM clicks"),
            format!("INSERT INTO files PARTITION (kind = 'a') SELECT n, {day} FROM clicks"),
            format!("INSERT INTO files PARTITION (kind = 'b') SELECT n, {day} FROM clicks"),
            "INSERT INTO files SELECT n, DATE_FORMAT(at, 'yyyy-MM'), data.page FROM clicks".to_owned(),
            format!(
                "INSERT INTO files SELECT n, {day}, UPPER(k) FROM (SELECT n, at, SUBSTRING(data.page, 1) AS k FROM clicks)"
            ),
            format!(
                "INSERT INTO files SELECT n, {day}, UPPER(k) FROM (SELECT n, at, SUBSTRING(data.page, 2) AS k FROM clicks)"
            ),
            format!(
                "SET 'table.local-time-zone' = 'Europe/Berlin'; INSERT INTO files SELECT n, {day}, data.page FROM clicks"
            ),
        ] {
            assert_ne!(origins(&other).await, first, "{other}");
        }
        let literal =
            |value: &str| format!("INSERT INTO files PARTITION (kind = '{value}') SELECT n, {day} FROM clicks");
        assert_ne!(origins(&literal("a")).await, origins(&literal("b")).await);
        // Rows that are no table's: all that makes them counts.
        let counted = |least: u32| {
            format!(
                "INSERT INTO files SELECT COUNT(*), DATE_FORMAT(window_start, 'yyyy'), 'x'
                 FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' HOUR)) WHERE n > {least} GROUP BY window_start, window_end"
            )
        };
        let (one, other) = (origins(&counted(1)).await, origins(&counted(2)).await);
        assert!(one["day"] != other["day"] && one["kind"] == other["kind"], "{one:?}, {other:?}");
    }

    /// States are known by these texts.
    #[tokio::test]
    async fn texts_that_say_all_stay_as_they_are() {
        for file in [A, B, C] {
            let known = known(&[file]).await;
            assert!(known.values().flatten().all(|text| !text.contains("in full")), "{known:#?}");
        }
        let plain = "INSERT INTO a SELECT v.k, SUM(clicks.n - 1 - v.n) FROM clicks JOIN (VALUES (1, 'a'), (2, 'b')) AS v (n, k) ON v.n = clicks.n
            WHERE (clicks.n = 1 OR clicks.n = 2) AND clicks.n IS NOT NULL AND ARRAY['a', 'b'][clicks.n] = 'a' GROUP BY v.k;";
        let known = known(&[plain]).await;
        assert!(known["a"].iter().all(|text| !text.contains("in full")), "{known:#?}");
    }

    /// Earlier versions gave it the rows of panes there, so states have another layout.
    #[tokio::test]
    async fn windows_behind_those_that_share_panes_are_known_as_other_ones() {
        let planned = async |branches: &[&str]| {
            let view = "CREATE VIEW hops AS SELECT * FROM TABLE(HOP(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' MINUTE, INTERVAL '5' MINUTES));";
            known(&[&format!("{view} INSERT INTO a {};", branches.join(" UNION ALL "))]).await["a"][1..].to_vec()
        };
        let shares = "SELECT 'x', COUNT(*) FROM hops GROUP BY window_start, window_end";
        let others = [
            "SELECT 'y', COUNT(*) FROM hops GROUP BY window_end",
            "SELECT 'z', r FROM (SELECT ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY n) AS r FROM hops)",
        ];
        for other in others {
            let (shared, alone) = (planned(&[shares]).await.concat(), planned(&[other]).await.concat());
            assert_eq!(planned(&[other, shares]).await, [alone.clone(), shared.clone()]);
            assert_eq!(planned(&[shares, shares]).await, [shared.clone(), shared.clone()]);
            assert_eq!(
                planned(&[shares, other]).await,
                [shared, format!("{alone}\nwith each row in each of its windows")]
            );
        }
    }
}
