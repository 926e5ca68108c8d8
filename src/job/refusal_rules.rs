//! By what records of a query are refused: epochs that are read again for open files refuse the same ones only where this is the same.

use std::fmt::Write;

use crate::contracts::TableSpec;
use crate::runtime::identity;
use crate::sql::{QueryPlan, Settings, SourcePlan};

/// A hash of the query, of how its tables are decoded, of the table that it writes, and of the job's settings. Of the last two, some decide of
/// no record; where one of these changes, what was refused is told once more.
pub(super) fn refusal_rules(settings: &Settings, sources: &[SourcePlan], query: &QueryPlan) -> String {
    let mut text = format!("{}\n{settings:?}", query.normal);
    for source in sources.iter().filter(|source| query.tables.contains(&source.table)) {
        let _ = write!(text, "\n{} {} {:?}", source.connector, table(&source.spec), source.metadata);
    }
    let _ = write!(text, "\n{} {}", query.sink.connector, table(&query.sink.spec));
    identity(&text)
}

fn table(spec: &TableSpec) -> String {
    // Formats that go by places count those too that nobody reads.
    let [read, declared] = [&spec.schema, &spec.physical].map(|schema| {
        let columns = schema.fields().iter();
        columns.map(|field| (field.name(), field.data_type(), field.is_nullable())).collect::<Vec<_>>()
    });
    let TableSpec { name, options, primary_key, partitioned_by, .. } = spec;
    format!("{name} {options:?} {read:?} {declared:?} {primary_key:?} {partitioned_by:?}")
}
