//! The files of an archive as the source tables of a backfill.
//!
//! The archive's columns are found by the names that they have in the source table: in the files, or in the names of their
//! folders (`event_type=page_view`), as the connector of files reads them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::DateTime;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, DataFusionError, ScalarValue};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::datasource::{TableType, ViewTable, provider_as_source};
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, cast, lit};
use futures::stream::{self, StreamExt};
use object_store::ObjectMeta;
use object_store::path::Path as ObjectPath;

use super::backfill::BackfillOptions;
use crate::connectors::files::{ArchivedFile, ArchivedFiles};
use crate::contracts::{Error, Result, TableSpec};
use crate::operators::{TIME_COLUMN, WATERMARK_COLUMN};
use crate::runtime::WatermarkRule;
use crate::sql::{SourcePlan, TimeRange};

/// The option of a sink that names the folder of rows whose value is NULL.
const DEFAULT_NAME: &str = "partition.default-name";

/// Files whose footers are read at the same time.
const FOOTERS_AT_ONCE: usize = 16;

/// One of some files, and how many they are.
type FilesAlike = (PathBuf, usize);

/// The Parquet files of an archive.
pub(super) struct Archive {
    files: Arc<ArchivedFiles>,
    format: Arc<ParquetFormat>,
    /// Columns of the files.
    in_files: SchemaRef,
    /// Files by the columns that they have: an example, and how many there are.
    kinds: BTreeMap<Vec<String>, FilesAlike>,
    /// Columns that only folders have.
    in_folders: Vec<String>,
    default_name: Option<String>,
    range: TimeRange,
}

impl Archive {
    pub(super) async fn open(options: &BackfillOptions) -> Result<Self> {
        let folder = &options.from;
        let unreadable = |e| Error::config(format!("cannot read Parquet in '{}'", folder.display())).caused_by(e);
        if !folder.is_dir() {
            return Err(Error::config(format!("there is no folder '{}'", folder.display()))
                .hint("--from names the folder of the archive, e.g. DIR/s3/my-analytics-archive/events"));
        }
        let whole = folder.canonicalize();
        let whole = whole.map_err(|e| Error::config(format!("cannot read '{}'", folder.display())).caused_by(e))?;
        let files = ArchivedFiles::list(whole).await?;
        let objects = files.files().map(|file| object(file)).collect::<Result<Vec<_>>>()?;
        if objects.is_empty() {
            return Err(Error::config(format!("there are no Parquet files in '{}'", folder.display()))
                .hint("their names end with .parquet; those that begin with '.' or '_' are not finished"));
        }
        let config = SessionConfig::new().with_target_partitions(options.job.threads);
        let context = SessionContext::new_with_config(config);
        let store = context.runtime_env().object_store(ObjectStoreUrl::local_filesystem()).map_err(unreadable)?;
        let format = Arc::new(ParquetFormat::default());
        let (mut in_files, mut kinds) = (Schema::empty(), BTreeMap::<Vec<String>, FilesAlike>::new());
        let (state, found) = (context.state(), files.files().zip(&objects));
        let mut footers = stream::iter(found)
            .map(async |(file, object)| {
                let schema = format.infer_schema(&state, &store, std::slice::from_ref(object)).await;
                let unreadable = |e| {
                    Error::config(format!("cannot read '{}'", file.path.display()))
                        .hint("copy it once more; what no run has finished is to be moved away")
                        .caused_by(e)
                };
                Ok::<_, Error>((file, schema.map_err(unreadable)?))
            })
            .buffered(FOOTERS_AT_ONCE);
        while let Some(footer) = footers.next().await {
            let (file, schema) = footer?;
            let names = schema.fields().iter().map(|field| field.name().clone()).collect();
            kinds.entry(names).or_insert_with(|| (file.path.to_owned(), 0)).1 += 1;
            let merged = Schema::try_merge([in_files, schema.as_ref().clone()]);
            in_files = merged.map_err(|e| unreadable(e.into()))?;
        }
        drop(footers);
        let in_files = Arc::new(in_files);
        let in_folders = files.partition_columns().into_iter();
        Ok(Self {
            in_folders: in_folders.filter(|name| in_files.field_with_name(name).is_err()).collect(),
            files: Arc::new(files),
            format,
            in_files,
            kinds,
            default_name: None,
            range: options.range,
        })
    }

    /// Takes from the table whose files they are how it names the folders of NULL.
    pub(super) fn written_by(&mut self, sink: &TableSpec) {
        self.default_name = sink.option(DEFAULT_NAME).map(str::to_owned);
    }

    /// How many files lack a column that others have, with one of them; `None` where none does.
    pub(super) fn lacking(&self, column: &str) -> Option<(usize, &Path)> {
        self.in_files.field_with_name(column).ok()?;
        let lacking = self.kinds.iter().filter(|(names, _)| !names.iter().any(|name| name == column));
        lacking.map(|(_, (example, files))| (*files, example.as_path())).reduce(|a, b| (a.0 + b.0, a.1))
    }

    /// Whether it has a column of this name, in its files or in the names of its folders.
    pub(super) fn has(&self, name: &str) -> bool {
        self.in_files.field_with_name(name).is_ok() || self.in_folders.iter().any(|column| column == name)
    }

    pub(super) fn forgets_lateness(&self, source: &SourcePlan) -> bool {
        let kept = source.watermark_column.as_ref().is_some_and(|name| self.has(name));
        source.watermark.is_some() && !kept
    }

    /// All rows, with the columns of folders in the types that `source` declares.
    fn scan(&self, source: &SourcePlan) -> datafusion::common::Result<LogicalPlan> {
        let in_folder = |name: &String| -> FieldRef {
            let declared = source.schema.field_with_name(name).map(|field| field.data_type().clone());
            Arc::new(Field::new(name, declared.unwrap_or(DataType::Utf8View), true))
        };
        let in_folders: Vec<FieldRef> = self.in_folders.iter().map(in_folder).collect();
        let schema = TableSchema::builder(Arc::clone(&self.in_files)).with_table_partition_cols(in_folders).build();
        let table = ArchiveTable {
            files: Arc::clone(&self.files),
            format: Arc::clone(&self.format),
            schema,
            default_name: self.default_name.clone(),
        };
        LogicalPlanBuilder::scan("archive", provider_as_source(Arc::new(table)), None)?.build()
    }

    /// The archive under the columns of a source table.
    pub(super) fn table(&self, source: &SourcePlan) -> Result<Arc<dyn TableProvider>> {
        let planned = |e| Error::config(format!("table '{}' over the archive", source.name)).caused_by(e);
        let millis = |expr: Expr| cast(cast(expr, DataType::Timestamp(TimeUnit::Millisecond, None)), DataType::Int64);
        let rows = self.scan(source).map_err(planned)?;
        let time = match &source.watermark {
            Some(WatermarkRule::Delay { column, .. }) => found(&rows, source.schema.field(*column).name()),
            Some(WatermarkRule::Computed(_)) => {
                return Err(Error::config(format!(
                    "table '{}' computes its time column, which backfill does not support yet",
                    source.name
                ))
                .hint("archive the time as a column, and declare a table over it"));
            }
            None => None,
        };
        let mut exprs = Vec::new();
        for field in source.schema.fields() {
            let expr = match (field.name().as_str(), &time) {
                (TIME_COLUMN, Some(time)) => millis(time.clone()),
                (WATERMARK_COLUMN, _) => {
                    let kept = source.watermark_column.as_ref().and_then(|name| found(&rows, name));
                    let least = lit(i64::MIN);
                    match kept {
                        Some(kept) => datafusion::functions::expr_fn::coalesce(vec![millis(kept), least]),
                        None => least,
                    }
                }
                (name, _) => declared(&rows, name, field, source)?,
            };
            exprs.push(expr.alias(field.name()));
        }
        let mut builder = LogicalPlanBuilder::new(rows);
        if let Some(time) = &time {
            let bound = |ms: i64| lit(ms);
            if let Some(start) = self.range.start_ms {
                builder = builder.filter(millis(time.clone()).gt_eq(bound(start))).map_err(planned)?;
            }
            if let Some(end) = self.range.end_exclusive_ms {
                builder = builder.filter(millis(time.clone()).lt(bound(end))).map_err(planned)?;
            }
        }
        let plan = builder.project(exprs).and_then(|b| b.build()).map_err(planned)?;
        Ok(Arc::new(ViewTable::new(plan, None)))
    }
}

/// A column of a source table, as the archive has it.
fn declared(rows: &LogicalPlan, name: &str, field: &Field, source: &SourcePlan) -> Result<Expr> {
    match found(rows, name) {
        Some(column) => {
            let same = rows.schema().inner().field_with_name(name).is_ok_and(|f| f.data_type() == field.data_type());
            Ok(if same { column } else { cast(column, field.data_type().clone()) })
        }
        None if source.required.iter().any(|used| used == name) => {
            let names: Vec<&str> = rows.schema().fields().iter().map(|f| f.name().as_str()).collect();
            Err(Error::config(format!("the archive has no column '{name}', which queries of '{}' use", source.name))
                .hint(format!("it has {}", names.join(", "))))
        }
        None => {
            let null = ScalarValue::try_from(field.data_type())
                .map_err(|e| Error::internal("a NULL of a column's type").caused_by(e))?;
            Ok(lit(null))
        }
    }
}

fn found(rows: &LogicalPlan, name: &str) -> Option<Expr> {
    let (qualifier, field) = rows.schema().iter().find(|(_, f)| f.name() == name)?;
    Some(Expr::Column(Column::new(qualifier.cloned(), field.name())))
}

/// A file as DataFusion's readers name it.
fn object(file: ArchivedFile<'_>) -> Result<ObjectMeta> {
    let unfit = |e| Error::config(format!("cannot read '{}'", file.path.display())).caused_by(e);
    Ok(ObjectMeta {
        location: ObjectPath::from_absolute_path(file.path).map_err(unfit)?,
        last_modified: DateTime::from_timestamp_millis(file.modified_ms).unwrap_or_default(),
        size: file.bytes,
        e_tag: None,
        version: None,
    })
}

/// The rows of the files, with what their folders say.
#[derive(Debug)]
struct ArchiveTable {
    files: Arc<ArchivedFiles>,
    format: Arc<ParquetFormat>,
    schema: TableSchema,
    default_name: Option<String>,
}

impl ArchiveTable {
    fn partitioned_file(
        &self,
        file: ArchivedFile<'_>,
        folders: &TableSpec,
    ) -> datafusion::common::Result<PartitionedFile> {
        let own = |e: Error| DataFusionError::External(Box::new(e));
        let values = self.files.partition_values(file, folders).map_err(own)?;
        let values = values.iter().map(|value| ScalarValue::try_from_array(value, 0));
        let values = values.collect::<datafusion::common::Result<Vec<_>>>()?;
        Ok(PartitionedFile::new_from_meta(object(file).map_err(own)?).with_partition_values(values))
    }
}

#[async_trait]
impl TableProvider for ArchiveTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.schema.table_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let columns = self.schema.table_partition_cols();
        let mut folders = TableSpec::new("archive", Arc::new(Schema::new(columns.clone())));
        folders.partitioned_by = columns.iter().map(|column| column.name().clone()).collect();
        if let Some(name) = &self.default_name {
            folders = folders.with_option(DEFAULT_NAME, name);
        }
        let files = self.files.files().map(|file| self.partitioned_file(file, &folders));
        let files = files.collect::<datafusion::common::Result<Vec<_>>>()?;
        let source = self.format.file_source(self.schema.clone());
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source)
            .with_file_groups(FileGroup::new(files).split_files(state.config().target_partitions()))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        self.format.create_physical_plan(state, scan).await
    }
}
