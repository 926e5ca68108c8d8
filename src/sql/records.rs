//! Which records of a table count for a query, and which are late: as text, so that it is noticed where it has changed.
//!
//! Operators keep their state when it changes; it holds for what comes from then on. But an epoch that is repeated after a kill must take
//! and refuse the records that it had taken and refused. So this is part of what a query as a whole is known by, and not of what its
//! operators are. It has what the query itself uses: columns that others read in the same table must not show.

use std::collections::BTreeMap;
use std::fmt::Write;

use datafusion::arrow::datatypes::DataType;

use super::catalog::Table;
use super::required::{Paths, Required, prune};
use super::second_pass::JobBuilder;
use super::statement::ColumnKind;
use super::text::HINT_MARK;
use super::types::flink_name;
use super::watermark::TableTime;
use crate::runtime::RECORDS;

impl JobBuilder<'_> {
    /// What decides about the records of tables, by their names in plans, of which a query `reads` columns.
    pub(super) fn records<'t>(
        &self,
        tables: impl Iterator<Item = &'t str>,
        reads: &Required,
        times: &BTreeMap<String, TableTime>,
    ) -> String {
        let of = |name: &'t str| {
            let table = self.planner.table_of(name)?;
            Some(rules(table, reads.get(name), times.get(name)))
        };
        let mut texts: Vec<String> = tables.filter_map(of).collect();
        texts.sort();
        if texts.is_empty() { String::new() } else { format!("{RECORDS}{}", texts.concat()) }
    }
}

fn rules(table: &Table, reads: Option<&BTreeMap<String, Paths>>, time: Option<&TableTime>) -> String {
    let mut columns = reads.cloned().unwrap_or_default();
    for (column, paths) in time.into_iter().flat_map(|time| &time.columns) {
        columns.entry(column.clone()).or_default().extend(paths.iter().cloned());
    }
    let mut text = format!("\n  {}", without_marks(&table.name));
    for column in &table.columns {
        let Some(paths) = columns.get(&column.name) else { continue };
        let (data_type, nullable, from) = match &column.kind {
            ColumnKind::Physical { data_type, nullable } => (prune(data_type, paths), nullable, String::new()),
            ColumnKind::Metadata { data_type, nullable, key, .. } => {
                (data_type.clone(), nullable, format!(" METADATA FROM '{key}'"))
            }
            ColumnKind::Computed(_) => continue,
        };
        let not_null = if *nullable { "" } else { " NOT NULL" };
        let _ = write!(text, "\n    {} {}{not_null}{from}", column.name, type_name(&data_type));
    }
    let format = table.option("format").unwrap_or_default();
    let of_format = format!("{format}.");
    for (key, value) in &table.options {
        if key == "format" || key.starts_with(&of_format) {
            let _ = write!(text, "\n    '{key}' = '{value}'");
        }
    }
    match time {
        Some(time) => {
            for (line, rule) in time.normal.lines().enumerate() {
                let word = if line == 0 { "WATERMARK " } else { "  " };
                let _ = write!(text, "\n    {word}{}", without_marks(rule));
            }
        }
        None => text.push_str("\n    no watermark"),
    }
    text
}

/// Flink's name does not say what may be NULL within a nested type.
fn type_name(data_type: &DataType) -> String {
    if data_type.is_nested() { data_type.to_string() } else { flink_name(data_type) }
}

/// Without the numbers that tables with hints have in names: a hint elsewhere changes them.
fn without_marks(text: &str) -> String {
    let mut parts = text.split(HINT_MARK);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::runtime::{RECORDS, identity, is_identity_of};
    use crate::sql::{Parameters, PlanOptions, QueryPlan, SqlText, plan_job};

    const JOB: &str = "
        CREATE TABLE clicks (n BIGINT, unused STRING, data ROW<page STRING, other STRING>, t STRING,
          seen TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL, at AS TO_TIMESTAMP(t),
          WATERMARK FOR at AS at - INTERVAL '5' SECOND)
        WITH ('connector' = 'kinesis', 'stream' = 'clicks', 'format' = 'json', 'json.timestamp-format.standard' = 'SQL');
        CREATE TABLE counts (k STRING, c BIGINT, PRIMARY KEY (k) NOT ENFORCED)
        WITH ('connector' = 'dynamodb', 'table-name' = 'counts');
        INSERT INTO counts SELECT data.page, SUM(n) FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' HOUR))
        WHERE seen IS NOT NULL GROUP BY window_start, window_end, data.page;";

    async fn planned(text: &str) -> QueryPlan {
        let file = Arc::new(SqlText::new("job.sql", text.to_owned()));
        let options = PlanOptions { partitions: 1, batch: false, pruned: true, epoch_time_ms: Arc::default() };
        let plan = plan_job(&[file], &Parameters::default(), &options, None).await;
        plan.expect("it is planned").queries.swap_remove(0)
    }

    #[tokio::test]
    async fn what_decides_about_records_is_part_of_a_query_and_not_of_its_operators() {
        let before = planned(JOB).await;
        let prints =
            |query: &QueryPlan| query.graph.operators.iter().map(|o| o.fingerprint.clone()).collect::<Vec<_>>();
        let changes = [
            ("INTERVAL '5' SECOND)", "INTERVAL '60' SECOND)"),
            ("TO_TIMESTAMP(t)", "TO_TIMESTAMP(t, 'yyyy')"),
            ("n BIGINT", "n BIGINT NOT NULL"),
            ("n BIGINT", "n INT"),
            ("t STRING,", "t STRING NOT NULL,"),
            ("page STRING", "page STRING NOT NULL"),
            ("FROM 'timestamp'", "FROM 'watermark'"),
            ("'SQL'", "'ISO-8601'"),
        ];
        for (part, by) in changes {
            let changed = planned(&JOB.replace(part, by)).await;
            assert!(!is_identity_of(&identity(&before.normal), &changed.normal), "{part}: {}", changed.normal);
            if part != "TO_TIMESTAMP(t)" && by != "n INT" {
                assert_eq!(prints(&before), prints(&changed), "{part}");
            }
        }
        let same = [
            ("unused STRING", "unused INT NOT NULL"),
            ("other STRING", "other INT"),
            ("'stream'", "'scan.shard.getrecords.maxrecordcount' = '9', 'stream'"),
        ];
        for (part, by) in same {
            let changed = planned(&JOB.replacen(part, by, 1)).await;
            assert_eq!(before.normal, changed.normal, "{part}");
        }
    }

    #[tokio::test]
    async fn what_an_earlier_version_saved_is_known_again() {
        let query = planned(JOB).await;
        let (earlier, _) = query.normal.split_once(RECORDS).expect("it reads a table");
        assert!(
            is_identity_of(&identity(earlier), &query.normal)
                && is_identity_of(&identity(&query.normal), &query.normal)
        );
        assert!(!is_identity_of(&identity(&query.normal), earlier));
        let other = planned(&JOB.replace("SUM(n)", "MAX(n)")).await;
        assert!(!is_identity_of(&identity(earlier), &other.normal));
    }
}
