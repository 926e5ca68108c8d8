//! The second pass: sources with the columns in use, then every INSERT over them (see [`insert`](super::insert)).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::catalog::{Catalog, Table};
use super::compile::{Compiler, Mode, Provider, TableInput};
use super::plan::{BatchTables, JobPlan, LookupPlan, PlanOptions, ReferencePlan, SourcePlan, TimeRange};
use super::planner::Planner;
use super::required::Required;
use super::settings::{Settings, duration_ms};
use super::statement::ColumnKind;
use super::text::HINT_MARK;
use super::watermark::TableTime;
use crate::contracts::{Error, MetadataColumn, Result, TableSpec};
use crate::operators::{GateReport, LookupTable, ORIGIN_COLUMN, TIME_COLUMN, WATERMARK_COLUMN};

/// Stands between the name of a table and what a hint has changed.
const BEFORE_OPTIONS: &str = " OPTIONS(";

/// The name in SQL of a source's table, without what a hint has changed.
pub(crate) fn without_hint(source: &str) -> &str {
    source.split(BEFORE_OPTIONS).next().unwrap_or(source)
}

/// What a hint has changed, from the name of a source: each option as `'key'='value'`.
pub(crate) fn hinted(source: &str) -> impl Iterator<Item = &str> {
    let options = source.split_once(BEFORE_OPTIONS).and_then(|(_, hint)| hint.rsplit_once(')'));
    options.into_iter().flat_map(|(options, _)| options.split(", "))
}

/// Plans everything again over tables that have only the columns in use.
pub(super) struct JobBuilder<'a> {
    pub(super) planner: &'a Planner<'a>,
    pub(super) catalog: &'a Catalog,
    pub(super) settings: &'a Settings,
    pub(super) options: &'a PlanOptions,
    pub(super) required: &'a Required,
    pub(super) literals: BTreeMap<String, String>,
    pub(super) warnings: Vec<String>,
    /// The event time of a batch.
    pub(super) range: TimeRange,
}

impl JobBuilder<'_> {
    pub(super) async fn build(
        &mut self,
        batch_tables: Option<BatchTables<'_>>,
        errors: &mut Vec<Error>,
    ) -> Option<JobPlan> {
        let mut inputs = Vec::new();
        let mut sources: Vec<SourcePlan> = Vec::new();
        let mut names = Vec::new();
        let mut times = BTreeMap::new();
        for (index, name) in self.required.keys().enumerate() {
            let table = self.planner.table_of(name)?;
            match self.source(index, name, table).await {
                Ok((input, mut source, time)) => {
                    // Two hints that change the same, one of which says more: two readers, each with its own position.
                    let same = names.iter().filter(|name| **name == source.name).count();
                    names.push(source.name.clone());
                    if same > 0 {
                        source.name = format!("{}#{}", source.name, same + 1);
                    }
                    inputs.push(input);
                    sources.push(source);
                    times.extend(time.map(|time| (name.clone(), time)));
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return None;
        }
        let mut references = Vec::new();
        let mut queries = Vec::new();
        let mut used = BTreeSet::new();
        let provide = |index: usize| match batch_tables {
            Some(make) => make(&sources[index]),
            None => Err(Error::internal("a batch without tables")),
        };
        let provider: Option<Provider<'_>> = if batch_tables.is_some() { Some(&provide) } else { None };
        for insert in &self.catalog.inserts {
            match self.query(insert, (&inputs, &times), &mut references, provider).await {
                Ok(query) => {
                    used.extend(query.tables.iter().copied());
                    let told = query.warnings.iter().map(|text| format!("query '{}': {text}", query.name));
                    self.warnings.extend(told);
                    queries.push(query);
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return None;
        }
        self.warnings.extend(super::surprises::shared_items(&self.catalog.inserts, &queries));
        let plan_reference = |index: &usize| {
            let source = &sources[*index];
            ReferencePlan { name: source.name.clone(), connector: source.connector.clone(), spec: source.spec.clone() }
        };
        let references = references.iter().map(plan_reference).collect();
        let looked_up: BTreeSet<usize> = queries.iter().flat_map(|query| query.lookups.iter().copied()).collect();
        let plan_lookup = |index: usize| {
            let (source, input) = (&sources[index], &inputs[index]);
            let table = Arc::clone(input.lookup.as_ref()?);
            Some(LookupPlan { index, connector: source.connector.clone(), spec: source.spec.clone(), table })
        };
        let lookups = looked_up.into_iter().filter_map(plan_lookup).collect();
        sources.retain(|source| used.contains(&source.table));
        Some(JobPlan {
            settings: self.settings.clone(),
            sources,
            references,
            lookups,
            queries,
            warnings: std::mem::take(&mut self.warnings),
            tables: inputs.len(),
        })
    }

    async fn source(
        &self,
        index: usize,
        plan_name: &str,
        table: &Table,
    ) -> Result<(TableInput, SourcePlan, Option<TableTime>)> {
        let base = self.planner.schemas.get(plan_name).cloned().unwrap_or_else(|| Arc::new(Schema::empty()));
        let mut physical: Vec<Field> = Vec::new();
        let mut metadata = Vec::new();
        for field in base.fields() {
            let column = table.columns.iter().find(|c| c.name == *field.name());
            match column.map(|c| &c.kind) {
                Some(ColumnKind::Metadata { key, .. }) => {
                    metadata.push(MetadataColumn { name: field.name().clone(), key: key.clone() });
                }
                _ => physical.push(field.as_ref().clone().with_metadata(Default::default())),
            }
        }
        let time = self.time(table, &base).await?;
        let watermark = time.as_ref().map(|time| time.rule.clone());
        let mut fields: Vec<Arc<Field>> = base.fields().iter().cloned().collect();
        if watermark.is_some() {
            fields.push(Arc::new(Field::new(WATERMARK_COLUMN, DataType::Int64, false)));
            fields.push(Arc::new(Field::new(TIME_COLUMN, DataType::Int64, false)));
        }
        if !self.options.batch {
            fields.push(Arc::new(Field::new(ORIGIN_COLUMN, DataType::UInt64, false)));
        }
        let schema = Arc::new(Schema::new(fields));
        let input = TableInput {
            name: plan_name.to_owned(),
            declared: base.fields().len(),
            schema: Arc::clone(&schema),
            can_be_reference: table.can_be_reference(),
            lookup: table.is_looked_up().then(|| {
                let name = table.name.split(HINT_MARK).next().unwrap_or_default();
                Arc::new(LookupTable::new(name, Arc::clone(&base), table.lookup_key().to_vec()))
            }),
        };
        let ms = |key: &str| table.option(key).and_then(duration_ms);
        let idle = ms("scan.watermark.idle-timeout").unwrap_or(self.settings.idle_timeout_ms);
        let source = SourcePlan {
            table: index,
            name: self.source_name(table),
            connector: table.connector.clone(),
            spec: TableSpec {
                metadata: metadata.iter().map(|m| m.key.clone()).collect(),
                ..spec(table, Arc::new(Schema::new(physical)))
            },
            metadata,
            schema,
            watermark,
            idle_timeout_ms: (idle > 0).then_some(idle),
            max_drift_ms: ms("scan.watermark.alignment.max-drift"),
            literal: self.literals.get(plan_name).cloned(),
            required: self.required.get(plan_name).map(|used| used.keys().cloned().collect()).unwrap_or_default(),
            watermark_column: table.columns.iter().find_map(|column| match &column.kind {
                ColumnKind::Metadata { key, .. } if key == "watermark" => Some(column.name.clone()),
                _ => None,
            }),
        };
        Ok((input, source, time))
    }

    /// The table's name, and what a hint has changed: positions are saved under it, so it tells sources of one
    /// table apart.
    fn source_name(&self, table: &Table) -> String {
        let Some((base, _)) = table.name.split_once(HINT_MARK) else { return table.name.clone() };
        let own = self.catalog.tables.get(base).map(|t| &t.options);
        let changed = table.options.iter().filter(|(key, value)| own.is_some_and(|own| own.get(*key) != Some(value)));
        let changed: Vec<String> = changed.map(|(key, value)| format!("'{key}'='{value}'")).collect();
        format!("{base}{BEFORE_OPTIONS}{})", changed.join(", "))
    }

    pub(super) fn compiler<'c>(
        &'c self,
        mode: Mode,
        tables: &'c [TableInput],
        references: &[usize],
        partitions: usize,
    ) -> Compiler<'c> {
        Compiler {
            mode,
            tables,
            partitions,
            state: &self.planner.state,
            bare: &self.planner.bare,
            ttl_ms: self.settings.state_ttl_ms,
            zone: self.settings.time_zone,
            report: Arc::new(match mode {
                Mode::Stream => GateReport::default(),
                Mode::Batch => GateReport::counting(),
            }),
            gates: Vec::new(),
            operators: Vec::new(),
            paned: None,
            paned_before: BTreeSet::new(),
            references: references.to_vec(),
            lookups: Vec::new(),
            notes: Vec::new(),
            warnings: Vec::new(),
            scanned: BTreeSet::new(),
            provider: None,
            demands: Vec::new(),
            met: None,
            demanded: 0,
            range: self.range,
            needs_all: None,
        }
    }
}

pub(super) fn spec(table: &Table, schema: SchemaRef) -> TableSpec {
    let mut options = table.options.clone();
    if let Some(path) = options.get_mut("path") {
        *path = beside(path, &table.statement.text.file);
    }
    TableSpec {
        name: table.name.split(HINT_MARK).next().unwrap_or_default().to_owned(),
        options,
        schema,
        physical: table.physical_schema(),
        primary_key: table.primary_key.clone(),
        partitioned_by: table.partitioned_by.clone(),
        metadata: Vec::new(),
        origins: BTreeMap::new(),
    }
}

/// A relative path starts at the folder of the file that names it.
fn beside(path: &str, sql_file: &str) -> String {
    let folder = std::path::Path::new(sql_file).parent();
    match folder {
        Some(folder) if !path.contains("://") && !path.starts_with('/') && !path.starts_with("file:") => {
            folder.join(path).to_string_lossy().into_owned()
        }
        _ => path.to_owned(),
    }
}
