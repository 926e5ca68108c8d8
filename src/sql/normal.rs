//! The normal form of a plan, by which a query is known from run to run.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::common::Result;
use datafusion::common::alias::AliasGenerator;
use datafusion::config::ConfigOptions;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::OptimizerConfig;

/// The optimised plan. What it is does not depend on what was optimised before it: the optimiser numbers the names that it gives to parts of
/// expressions (`__common_expr_1`), and a session counts on from query to query, so that a query more would change those after it.
pub(super) fn normal_form(state: &SessionState, plan: &LogicalPlan) -> Result<LogicalPlan> {
    let own = OwnNumbers { state, aliases: Arc::new(AliasGenerator::new()) };
    let analyzed = state.analyzer().execute_and_check(plan.clone(), &own.options(), |_, _| {})?;
    state.optimizer().optimize(analyzed, &own, |_, _| {})
}

/// A session's configuration, but for numbers of names.
struct OwnNumbers<'a> {
    state: &'a SessionState,
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
        OptimizerConfig::options(self.state)
    }

    fn function_registry(&self) -> Option<&dyn FunctionRegistry> {
        self.state.function_registry()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::sql::{Parameters, PlanOptions, SqlText, plan_job};

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

    /// Of each query, its normal form and the fingerprints of its operators.
    async fn known(files: &[&str]) -> BTreeMap<String, Vec<String>> {
        let files: Vec<_> = std::iter::once(&TABLES)
            .chain(files)
            .enumerate()
            .map(|(n, text)| SqlText::new(format!("{n}.sql"), (*text).to_owned()).into())
            .collect();
        let options = PlanOptions { partitions: 2, batch: false, pruned: true, epoch_time_ms: Default::default() };
        let plan = plan_job(&files, &Parameters::default(), &options, None).await.expect("it is planned");
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
}
