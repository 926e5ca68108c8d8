//! A planned job: what to read, what to compute, where to write. No planning here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;

use super::passed_on::PassedOn;
use super::settings::Settings;
use crate::contracts::{MetadataColumn, Result, TableSpec};
use crate::operators::{GateKind, LookupTable, QueryGraph};
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

/// A table in which rows are looked up.
#[derive(Debug, Clone)]
pub struct LookupPlan {
    /// By which queries name it.
    pub index: usize,
    /// Value of `connector`.
    pub connector: String,
    /// What the connector needs to know; its schema has the columns in use.
    pub spec: TableSpec,
    /// Where plans ask for it.
    pub table: Arc<LookupTable>,
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
    /// Whether the rows of an epoch are known to differ in the key.
    pub has_each_key_once: bool,
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
    /// Tables that it looks up, by index: one entry for each join.
    pub lookups: Vec<usize>,
    /// What its gates check, by number.
    pub gates: Vec<GateKind>,
    /// The plan as it was understood, for people.
    pub logical: String,
    /// The plan in its normal form: equal for queries that compute the same.
    pub normal: String,
    /// A line for each operator.
    pub notes: Vec<String>,
    /// What is likely to surprise.
    pub warnings: Vec<String>,
    /// Columns read, by table.
    pub reads: BTreeMap<String, Vec<String>>,
    /// What it passes on of the rows that it reads.
    pub passed_on: PassedOn,
    /// Why its batch cannot be computed over a stretch of event time, where it cannot.
    pub needs_all: Option<&'static str>,
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
    /// Tables in which rows are looked up.
    pub lookups: Vec<LookupPlan>,
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
    /// Leave out columns and nested fields that no query uses, so that they are not decoded.
    pub pruned: bool,
    /// What `now()` answers; the runtime moves it.
    pub epoch_time_ms: Arc<AtomicI64>,
}

/// Makes the table that a batch plan scans in place of a source.
pub type BatchTables<'a> = &'a (dyn Fn(&SourcePlan) -> Result<Arc<dyn TableProvider>> + Sync);

/// What a batch is computed over.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// What is scanned.
    pub tables: BatchTables<'a>,
    /// The event time of the rows that these tables have. Windows that are not wholly within are left out.
    pub range: TimeRange,
}

/// A stretch of event time, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeRange {
    /// Its first.
    pub start_ms: Option<i64>,
    /// Its end.
    pub end_exclusive_ms: Option<i64>,
}

impl TimeRange {
    /// Whether it is all time.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }
}
