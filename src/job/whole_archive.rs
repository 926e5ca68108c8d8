//! Whether an archive is the tables that a backfill reads: what it has only a part of, twice, or as something else is said, before results of that
//! are taken for those of all rows.

use std::collections::{BTreeMap, BTreeSet};

use super::archive::Archive;
use crate::sql::{QueryPlan, SourcePlan};

/// What is known of who writes the archive, and who reads it.
pub(super) struct ArchiveUse<'a> {
    pub(super) archive: &'a Archive,
    /// The job's queries that write it.
    pub(super) writers: Vec<&'a QueryPlan>,
    /// Those that are computed over it.
    pub(super) readers: Vec<&'a QueryPlan>,
    /// Tables whose rows it has.
    pub(super) sources: Vec<&'a SourcePlan>,
}

impl ArchiveUse<'_> {
    /// Reasons for which results may be other ones than those of the run.
    pub(super) fn doubts(&self) -> Vec<String> {
        if self.readers.is_empty() {
            return Vec::new();
        }
        let mut doubts = Vec::new();
        match self.writers[..] {
            // Another job's, or of SQL that is not here: nothing is known.
            [] => {}
            [writer] if writer.passed_on.row_by_row => {
                doubts.extend(self.left_out(writer));
                doubts.extend(self.other_values(writer));
            }
            [writer] => doubts.push(format!(
                "what '{}' writes into the archive are not the rows of a table, each once (it groups, joins, or puts parts together): \
                 results are computed from what it writes",
                writer.name
            )),
            _ => doubts.push(format!(
                "{} write into the archive: a row that several of them write counts more than once, and one that none of them writes does not count",
                names(self.writers.iter().copied())
            )),
        }
        doubts.extend(self.older_files());
        doubts
    }

    /// Conditions of the writer that a reader does not have.
    fn left_out(&self, writer: &QueryPlan) -> Option<String> {
        let of_archive: BTreeSet<&str> = self.sources.iter().map(|source| source.spec.name.as_str()).collect();
        let (_, archived) = writer.passed_on.places.first()?;
        let reads_more = |reader: &&&QueryPlan| {
            let mut places = reader.passed_on.places.iter().filter(|(table, _)| of_archive.contains(table.as_str()));
            places.any(|(_, conditions)| !archived.is_subset(conditions))
        };
        let readers = names(self.readers.iter().filter(reads_more).copied());
        (!readers.is_empty()).then(|| {
            format!(
                "the archive has only the rows that meet the conditions of '{}': {readers} may count others, too, and what is computed is without them",
                writer.name
            )
        })
    }

    /// Columns of a table that a reader uses.
    fn used<'s>(&self, source: &'s SourcePlan) -> impl Iterator<Item = &'s String> {
        let is_or_is_in = |path: &str, column: &str| {
            path.strip_prefix(column).is_some_and(|below| below.is_empty() || below.starts_with('.'))
        };
        let reads = self.readers.iter().filter_map(|reader| reader.reads.get(&source.spec.name)).flatten();
        let paths: Vec<&String> = reads.collect();
        source.required.iter().filter(move |column| paths.iter().any(|path| is_or_is_in(path, column)))
    }

    /// Columns of the archive that are not the table's of this name.
    fn other_values(&self, writer: &QueryPlan) -> Vec<String> {
        let written = &writer.sink.spec.schema;
        let is_another = |name: &str| {
            written.field_with_name(name).is_ok()
                && writer.passed_on.columns.get(name).is_none_or(|column| column != name)
        };
        let mut others: BTreeMap<&str, &str> = BTreeMap::new();
        for source in &self.sources {
            let used = self.used(source).filter(|name| self.archive.has(name) && is_another(name));
            others.extend(used.map(|name| (name.as_str(), source.name.as_str())));
        }
        let said = others.into_iter().map(|(name, table)| {
            format!(
                "column '{name}' of the archive is not column '{name}' of '{table}' as it came: '{}' writes something else there",
                writer.name
            )
        });
        said.collect()
    }

    /// Columns that some files lack.
    fn older_files(&self) -> Vec<String> {
        let mut lacking = BTreeMap::new();
        for source in &self.sources {
            for name in self.used(source) {
                lacking.extend(self.archive.lacking(name).map(|found| (name, (found, &source.name))));
            }
        }
        let said = lacking.into_iter().map(|(name, ((files, example), table))| {
            format!(
                "{files} file(s) of the archive have no column '{name}' of '{table}', such as '{}': it is NULL for their rows",
                example.display()
            )
        });
        said.collect()
    }
}

fn names<'a>(queries: impl Iterator<Item = &'a QueryPlan>) -> String {
    queries.map(|query| format!("'{}'", query.name)).collect::<Vec<_>>().join(", ")
}
