//! A planned job: what to read, what to compute, where to write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator as BinaryOperator, Projection};
use datafusion::prelude::lit;

use super::assign::{assignable, assigned, narrow_sum};
use super::catalog::{Catalog, InsertQuery, Table};
use super::compile::{Compiler, Kind, Mode, Piece, Provider, TableInput, visible_columns};
use super::planner::Planner;
use super::prefilter::common_equality;
use super::required::Required;
use super::settings::{Settings, duration_ms};
use super::statement::{ColumnKind, parse_file};
use super::text::{HINT_MARK, Parameters, SqlText};
use super::types::flink_name;
use crate::contracts::{Error, MetadataColumn, Result, TableSpec};
use crate::operators::{
    ChangeMode, GateKind, GateReport, ORIGIN_COLUMN, QueryGraph, Stage, TIME_COLUMN, WATERMARK_COLUMN, WEIGHT_COLUMN,
};
use crate::runtime::WatermarkRule;

/// A table that is read.
#[derive(Debug, Clone)]
pub struct SourcePlan {
    /// Index in the epoch's inputs.
    pub table: usize,
    /// Name in SQL.
    pub name: String,
    /// Value of `connector`.
    pub connector: String,
    /// What the connector needs to know; its schema has the physical columns in use.
    pub spec: TableSpec,
    /// Metadata columns in use, in their order behind the physical ones.
    pub metadata: Vec<MetadataColumn>,
    /// Columns of the rows of an epoch: physical, metadata, hidden.
    pub schema: SchemaRef,
    /// How time moves, if the table has a watermark.
    pub watermark: Option<WatermarkRule>,
    /// Time without data after which a split no longer holds the watermark back; `None` never.
    pub idle_timeout_ms: Option<i64>,
    /// How far a split may run ahead of the slowest one.
    pub max_drift_ms: Option<i64>,
    /// Text that a record must contain to be of use to any query.
    pub literal: Option<String>,
    /// Columns that some query uses.
    pub required: Vec<String>,
    /// Column that the DDL declares for the split's watermark, which an archive may have kept.
    pub watermark_column: Option<String>,
}

/// A reference table.
#[derive(Debug, Clone)]
pub struct ReferencePlan {
    /// Name in SQL.
    pub name: String,
    /// Value of `connector`.
    pub connector: String,
    /// What the connector needs to know.
    pub spec: TableSpec,
}

/// A table that is written.
#[derive(Debug, Clone)]
pub struct SinkPlan {
    /// Name in SQL.
    pub name: String,
    /// Value of `connector`.
    pub connector: String,
    /// What the connector needs to know; its schema has the columns that the INSERT writes.
    pub spec: TableSpec,
    /// Indexes of the primary key in that schema.
    pub key: Vec<usize>,
}

/// A planned INSERT.
#[derive(Debug)]
pub struct QueryPlan {
    /// `file:sink`.
    pub name: String,
    /// Stages and operators; for a batch, the root stage alone.
    pub graph: QueryGraph,
    /// Where rows go.
    pub sink: SinkPlan,
    /// Source tables that it reads.
    pub tables: Vec<usize>,
    /// What its gates check, by number.
    pub gates: Vec<GateKind>,
    /// The plan as it was understood, for people.
    pub logical: String,
    /// A line for each operator.
    pub notes: Vec<String>,
    /// What is likely to surprise.
    pub warnings: Vec<String>,
    /// Columns read, by table.
    pub reads: BTreeMap<String, Vec<String>>,
}

/// A planned job.
#[derive(Debug)]
pub struct JobPlan {
    /// Settings of its SETs.
    pub settings: Settings,
    /// Tables that are read.
    pub sources: Vec<SourcePlan>,
    /// Tables on the still side of joins.
    pub references: Vec<ReferencePlan>,
    /// The INSERTs.
    pub queries: Vec<QueryPlan>,
    /// What is accepted and has no effect, and what is likely to surprise.
    pub warnings: Vec<String>,
    /// Number of tables that an epoch's inputs have.
    pub tables: usize,
}

/// How to plan.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// Tasks of a stage.
    pub partitions: usize,
    /// Plan everything at once instead of epoch by epoch.
    pub batch: bool,
    /// What `now()` answers; the runtime moves it.
    pub epoch_time_ms: Arc<AtomicI64>,
}

/// Makes the table that a batch plan scans in place of a source.
pub type BatchTables<'a> = &'a (dyn Fn(&SourcePlan) -> Result<Arc<dyn TableProvider>> + Sync);

/// Parses and plans files. All errors are given at once.
pub async fn plan_job(
    files: &[Arc<SqlText>],
    parameters: &Parameters,
    options: &PlanOptions,
    batch_tables: Option<BatchTables<'_>>,
) -> std::result::Result<JobPlan, Vec<Error>> {
    let (mut errors, mut warnings, mut next_hint) = (Vec::new(), Vec::new(), 0);
    let parsed = files.iter().map(|file| parse_file(file, parameters, &mut next_hint)).collect();
    let catalog = Catalog::build(parsed, &mut errors);
    if catalog.inserts.is_empty() && errors.is_empty() {
        let mut error = Error::sql("there is no INSERT INTO, so the job would do nothing");
        if let Some(file) = files.first() {
            error = error.at(file.start());
        }
        errors.push(error.hint("add INSERT INTO a_table SELECT … FROM another_table"));
    }
    let settings = Settings::read(&catalog.settings, &mut warnings, &mut errors);
    super::validate::check_tables(&catalog, &mut warnings, &mut errors);

    // First pass: which columns does the job use?
    let first = Planner::new(&catalog, &settings, None, options, &mut errors).await;
    let (mut required, mut named) = (Required::new(), Required::new());
    let mut uses: Vec<LogicalPlan> = Vec::new();
    let own_queries: Vec<_> = catalog.inserts.iter().map(|i| named_apart(&i.insert.query)).collect();
    for (insert, own_query) in catalog.inserts.iter().zip(&own_queries) {
        errors.extend(catalog.target(insert).err());
        match first.query(own_query, &insert.statement).await {
            Ok(plan) => {
                if let Err(error) = first.require(&plan, &mut required) {
                    errors.push(first.explain(&error, &insert.statement));
                }
                if let Err(error) = first.named(&plan, &mut named) {
                    errors.push(first.explain(&error, &insert.statement));
                }
                uses.extend(first.state.optimize(&plan).ok());
            }
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(without_consequences(errors, files));
    }
    for table in first.tables.values() {
        let used = required.get_mut(&Planner::plan_name(&table.name));
        let Some(used) = used else { continue };
        keep_time(table, used);
    }
    let literals = common_equality(&uses);

    // Second pass: over tables with those columns.
    // A batch reads Parquet, which prunes by itself.
    let pruned = (!options.batch).then_some((&required, &named, &first.full));
    let planner = Planner::new(&catalog, &settings, pruned, options, &mut errors).await;
    let mut job = JobBuilder {
        planner: &planner,
        catalog: &catalog,
        settings: &settings,
        options,
        required: &required,
        literals,
        warnings,
    };
    let plan = job.build(batch_tables, &mut errors).await;
    match (plan, errors.is_empty()) {
        (Some(plan), true) => Ok(plan),
        _ => Err(errors),
    }
}

/// A table or view that is declared wrongly is not found either: that says nothing new.
fn without_consequences(errors: Vec<Error>, files: &[Arc<SqlText>]) -> Vec<Error> {
    let declared: BTreeSet<String> = files.iter().flat_map(|file| declared_names(file.text())).collect();
    let is_consequence = |error: &Error| {
        let message = error.message();
        let name = message.strip_prefix("table or view '").or_else(|| message.strip_prefix("table '"));
        let name = name.and_then(|rest| rest.strip_suffix("' not found"));
        name.is_some_and(|name| declared.contains(name))
    };
    let (consequences, causes): (Vec<Error>, Vec<Error>) = errors.into_iter().partition(is_consequence);
    if causes.is_empty() { consequences } else { causes }
}

/// Names behind CREATE TABLE and CREATE VIEW.
fn declared_names(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '$'))).filter(|w| !w.is_empty());
    let words: Vec<&str> = words.collect();
    let is = |at: usize, word: &str| words.get(at).is_some_and(|w| w.eq_ignore_ascii_case(word));
    let mut names = Vec::new();
    for at in (0..words.len()).filter(|at| is(*at, "CREATE")) {
        let mut next = at + 1 + usize::from(is(at + 1, "TEMPORARY"));
        if !is(next, "TABLE") && !is(next, "VIEW") {
            continue;
        }
        next += 1;
        if is(next, "IF") {
            next += 3;
        }
        names.extend(words.get(next).map(|name| (*name).to_owned()));
    }
    names
}

/// The watermark's columns are always read.
fn keep_time(table: &Table, used: &mut BTreeMap<String, super::required::Paths>) {
    let Some(watermark) = &table.watermark else { return };
    let mut expressions =
        vec![watermark.expression.clone(), sqlparser::ast::Expr::Identifier(watermark.column.clone())];
    for column in &table.columns {
        if let (ColumnKind::Computed(expr), true) = (&column.kind, column.name == watermark.column.value) {
            expressions.push(expr.as_ref().clone());
        }
    }
    for expression in expressions {
        let _ = sqlparser::ast::visit_expressions(&expression, |e| {
            let name = match e {
                sqlparser::ast::Expr::Identifier(name) => Some(&name.value),
                sqlparser::ast::Expr::CompoundIdentifier(parts) => parts.first().map(|p| &p.value),
                _ => None,
            };
            if let Some(column) = name.and_then(|n| table.columns.iter().find(|c| c.name == *n))
                && !matches!(column.kind, ColumnKind::Computed(_))
            {
                used.entry(column.name.clone()).or_default().insert(Vec::new());
            }
            std::ops::ControlFlow::<()>::Continue(())
        });
    }
}

struct JobBuilder<'a> {
    planner: &'a Planner<'a>,
    catalog: &'a Catalog,
    settings: &'a Settings,
    options: &'a PlanOptions,
    required: &'a Required,
    literals: BTreeMap<String, String>,
    warnings: Vec<String>,
}

impl JobBuilder<'_> {
    async fn build(&mut self, batch_tables: Option<BatchTables<'_>>, errors: &mut Vec<Error>) -> Option<JobPlan> {
        let mut inputs = Vec::new();
        let mut sources = Vec::new();
        for (index, name) in self.required.keys().enumerate() {
            let table = self.planner.table_of(name)?;
            match self.source(index, name, table).await {
                Ok((input, mut source)) => {
                    // The same hint twice: two readers, each with its own position.
                    let same =
                        sources.iter().filter(|s: &&SourcePlan| s.name.split('#').next() == Some(&source.name)).count();
                    if same > 0 {
                        source.name = format!("{}#{}", source.name, same + 1);
                    }
                    inputs.push(input);
                    sources.push(source);
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
            match self.query(insert, &inputs, &mut references, provider).await {
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
        let plan_reference = |index: &usize| {
            let source = &sources[*index];
            ReferencePlan { name: source.name.clone(), connector: source.connector.clone(), spec: source.spec.clone() }
        };
        let references = references.iter().map(plan_reference).collect();
        sources.retain(|source| used.contains(&source.table));
        Some(JobPlan {
            settings: self.settings.clone(),
            sources,
            references,
            queries,
            warnings: std::mem::take(&mut self.warnings),
            tables: inputs.len(),
        })
    }

    async fn source(&self, index: usize, plan_name: &str, table: &Table) -> Result<(TableInput, SourcePlan)> {
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
        let watermark = self.watermark(table, &base).await?;
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
        Ok((input, source))
    }

    /// The table's name, and what a hint has changed: positions are saved under it, so it tells sources of one
    /// table apart.
    fn source_name(&self, table: &Table) -> String {
        let Some((base, _)) = table.name.split_once(HINT_MARK) else { return table.name.clone() };
        let own = self.catalog.tables.get(base).map(|t| &t.options);
        let changed = table.options.iter().filter(|(key, value)| own.is_some_and(|own| own.get(*key) != Some(value)));
        let changed: Vec<String> = changed.map(|(key, value)| format!("'{key}'='{value}'")).collect();
        format!("{base} OPTIONS({})", changed.join(", "))
    }

    /// `ts - INTERVAL '5' SECOND` is a constant delay; anything else is computed by a plan.
    async fn watermark(&self, table: &Table, base: &SchemaRef) -> Result<Option<WatermarkRule>> {
        let Some(declared) = &table.watermark else { return Ok(None) };
        let place = || table.statement.at(declared.span);
        let ident = sqlparser::ast::Expr::Identifier(declared.column.clone());
        let query = super::planner::select_two(&table.name, ident, declared.expression.clone());
        let plan = self.planner.query(&query, &table.statement).await?;
        let planned = |error| self.planner.explain(&error, &table.statement);
        let optimized = self.planner.state.optimize(&plan).map_err(planned)?;
        let watermark = optimized.schema().field(1).data_type().clone();
        if !matches!(watermark, DataType::Timestamp(..)) {
            let error = Error::sql(format!("the watermark is {}, not a TIMESTAMP", flink_name(&watermark)));
            return Err(error.at(place()).hint("WATERMARK FOR ts AS ts - INTERVAL '5' SECOND"));
        }
        if let Ok(column) = base.index_of(&declared.column.value)
            && let Some(delay_ms) = constant_delay(&optimized, &declared.column.value)
        {
            return Ok(Some(WatermarkRule::Delay { column, delay_ms }));
        }
        let tables = [TableInput {
            name: Planner::plan_name(&table.name),
            declared: base.fields().len(),
            schema: Arc::clone(base),
            can_be_reference: false,
        }];
        let mut compiler = self.compiler(Mode::Stream, &tables, &[], 1);
        let piece = compiler.compile(&plan, false).await.map_err(planned)?;
        let stage = compiler.stage(&piece).await.map_err(planned)?;
        Ok(Some(WatermarkRule::Computed(Arc::new(tokio::sync::Mutex::new(stage)))))
    }

    fn compiler<'c>(
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
            report: Arc::new(GateReport::default()),
            gates: Vec::new(),
            used: Arc::default(),
            operators: Vec::new(),
            paned: BTreeSet::new(),
            references: references.to_vec(),
            notes: Vec::new(),
            warnings: Vec::new(),
            provider: None,
            demands: Vec::new(),
        }
    }

    async fn query(
        &self,
        insert: &InsertQuery,
        inputs: &[TableInput],
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
        let key: Vec<usize> =
            table.primary_key.iter().filter_map(|k| columns.iter().position(|c| c.name() == k)).collect();
        if key.len() < table.primary_key.len() {
            let missing: Vec<_> = table
                .primary_key
                .iter()
                .filter(|k| !columns.iter().any(|c| c.name() == *k))
                .map(String::as_str)
                .collect();
            return Err(Error::sql(format!(
                "the INSERT lacks the primary key column '{}' of '{}'",
                missing.join("', '"),
                table.name
            ))
            .at(statement.at(insert.insert.table.span))
            .hint("a row without its key cannot be stored"));
        }
        let written = written(&table, &columns);
        let places: Vec<usize> = key.iter().filter_map(|k| value_index(&columns[*k], &columns, &partition)).collect();
        let key = key.iter().filter_map(|k| written.iter().position(|w| w.name() == columns[*k].name())).collect();
        let mode = if self.options.batch { Mode::Batch } else { Mode::Stream };
        let mut compiler = self.compiler(mode, inputs, references, self.options.partitions);
        compiler.provider = provider;
        let any = super::validate::takes_anything(&table.connector);
        let deltas = any || !places.iter().all(|place| key_only(&plan, *place));
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
        let mut reads = Required::new();
        self.planner.require(&plan, &mut reads).map_err(planned)?;
        let tables = table_indexes(&root, &compiler);
        let used = Arc::clone(&compiler.used);
        *references = compiler.references;
        let (gates, operators, notes, report) = (compiler.gates, compiler.operators, compiler.notes, compiler.report);
        let warnings = compiler.warnings;
        Ok(QueryPlan {
            name: insert.name.clone(),
            graph: QueryGraph {
                operators,
                root,
                mode,
                gates: report,
                still,
                started: false,
                pending: Vec::new(),
                used,
            },
            sink: SinkPlan {
                name: table.name.split(HINT_MARK).next().unwrap_or_default().to_owned(),
                connector: table.connector.clone(),
                spec: spec(&table, schema),
                key,
            },
            tables,
            gates,
            logical: plan.display_indent().to_string(),
            notes,
            warnings,
            reads: reads_by_table(reads),
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
                Some(from) => assigned(value, from.data_type(), column.data_type()),
                None => datafusion::prelude::cast(value, column.data_type().clone()),
            };
            exprs.push(value.alias(column.name()));
        }
        // Columns that the INSERT does not name are NULL.
        let mut exprs: BTreeMap<&str, Expr> = columns.iter().map(|c| c.name().as_str()).zip(exprs).collect();
        let planned = |error| self.planner.explain(&error, &insert.statement);
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
fn named_apart(query: &sqlparser::ast::Query) -> sqlparser::ast::Query {
    use sqlparser::ast::{Ident, SelectItem, SetExpr};
    let mut query = query.clone();
    let SetExpr::Select(select) = query.body.as_mut() else { return query };
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
    query
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

fn spec(table: &Table, schema: SchemaRef) -> TableSpec {
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
    }
}

/// A relative path starts at the folder of the file that names it.
fn beside(path: &str, sql_file: &str) -> String {
    let folder = std::path::Path::new(sql_file).parent();
    match folder {
        Some(folder) if !path.contains("://") && !path.starts_with('/') => {
            folder.join(path).to_string_lossy().into_owned()
        }
        _ => path.to_owned(),
    }
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
            let name: String = table.chars().take_while(|c| *c > '\u{2}').collect();
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
        .collect();
    tables.sort_unstable();
    tables.dedup();
    tables
}

/// `ts` or `ts - constant` in the second column of a plan over one table.
fn constant_delay(plan: &LogicalPlan, column: &str) -> Option<i64> {
    let LogicalPlan::Projection(projection) = plan else {
        // `SELECT ts, ts`: one column twice may be folded away.
        return None;
    };
    fn strip(expr: &Expr) -> &Expr {
        match expr {
            Expr::Alias(alias) => strip(&alias.expr),
            Expr::Cast(cast) => strip(&cast.expr),
            other => other,
        }
    }
    let is_time = |expr: &Expr| matches!(strip(expr), Expr::Column(c) if c.name == column);
    match strip(&projection.expr[1]) {
        expr if is_time(expr) => Some(0),
        Expr::BinaryExpr(binary) if binary.op == BinaryOperator::Minus && is_time(&binary.left) => {
            match strip(&binary.right) {
                Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) if interval.months == 0 => {
                    Some(i64::from(interval.days) * 86_400_000 + interval.nanoseconds / 1_000_000)
                }
                _ => None,
            }
        }
        _ => None,
    }
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
