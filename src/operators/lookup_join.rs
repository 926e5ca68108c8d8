//! A join that asks a table for the rows of keys: `LEFT JOIN t FOR SYSTEM_TIME AS OF …`.
//!
//! ```text
//!  rows of an epoch ─► distinct keys ─► Lookup::get ─► each row with its match, or NULLs, and whether there is one
//! ```
//!
//! It is the one node of a stage that waits for something outside: through [`Lookup`], which the job puts in before it
//! runs. It keeps nothing between two runs of a plan; a cache is a `Lookup` of its own. It is always a left join: an inner
//! one, and conditions beside the key, are a filter above.
//!
//! Invariant: rows keep their order, and none is lost or doubled, since a key has one row at most.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{interleave, take};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PhysicalExpr, PlanProperties,
    SendableRecordBatchStream,
};
use futures::StreamExt;

use super::key_hashes::one_zero;
use crate::contracts::Lookup;

/// Rows whose keys are asked for together: an epoch's share of a task is below it, and a batch over everything is cut.
const GATHER_ROWS: usize = 65_536;

/// A table that is looked up, as plans know it.
#[derive(Debug)]
pub struct LookupTable {
    name: String,
    schema: SchemaRef,
    key_names: Vec<String>,
    key: Vec<usize>,
    lookup: OnceLock<Arc<dyn Lookup>>,
}

impl LookupTable {
    /// The table `name` with the columns in use, and the names of its key's columns. A join needs all of these to be in use.
    pub fn new(name: impl Into<String>, schema: SchemaRef, key_names: Vec<String>) -> Self {
        let key = key_names.iter().filter_map(|name| schema.index_of(name).ok()).collect();
        Self { name: name.into(), schema, key_names, key, lookup: OnceLock::new() }
    }

    /// Name in SQL.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Columns in use.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Names of the key's columns.
    pub fn key_names(&self) -> &[String] {
        &self.key_names
    }

    /// Places of those that are in use.
    pub fn key(&self) -> &[usize] {
        &self.key
    }

    /// Puts the table itself in place; called once, before a plan runs.
    pub fn connect(&self, lookup: Arc<dyn Lookup>) {
        // The first one stays.
        let _ = self.lookup.set(lookup);
    }

    /// Joins batches with their rows: the columns of each, those of the table, and whether there is a row.
    async fn join(&self, batches: Vec<(RecordBatch, Vec<ArrayRef>)>, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
        let fields = self.key.iter().map(|place| self.schema.field(*place).clone());
        let key_schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let types = key_schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
        let converter = RowConverter::new(types.collect())?;
        // Each distinct key has a number: its first place, and for each row the number of its key.
        let mut numbers: HashMap<Box<[u8]>, u32> = HashMap::new();
        let mut firsts: Vec<(usize, usize)> = Vec::new();
        let mut of_rows: Vec<Vec<Option<u32>>> = Vec::with_capacity(batches.len());
        let with_one_zero = |(batch, keys): (RecordBatch, Vec<ArrayRef>)| (batch, keys.iter().map(one_zero).collect());
        let batches: Vec<(RecordBatch, Vec<ArrayRef>)> = batches.into_iter().map(with_one_zero).collect();
        for (at, (batch, keys)) in batches.iter().enumerate() {
            let rows = converter.convert_columns(keys)?;
            let mut row_numbers = Vec::with_capacity(batch.num_rows());
            for row in 0..batch.num_rows() {
                if keys.iter().any(|key| key.is_null(row)) {
                    row_numbers.push(None);
                    continue;
                }
                let bytes = rows.row(row);
                let number = match numbers.get(bytes.as_ref()) {
                    Some(number) => *number,
                    None => {
                        let number = firsts.len() as u32;
                        numbers.insert(bytes.as_ref().into(), number);
                        firsts.push((at, row));
                        number
                    }
                };
                row_numbers.push(Some(number));
            }
            of_rows.push(row_numbers);
        }
        let mut places: Vec<Option<u32>> = vec![None; firsts.len()];
        let mut found = RecordBatch::new_empty(Arc::clone(&self.schema));
        if !firsts.is_empty() {
            let column = |place: usize| {
                let arrays: Vec<&dyn Array> = batches.iter().map(|(_, keys)| keys[place].as_ref()).collect();
                interleave(&arrays, &firsts)
            };
            let columns = (0..self.key.len()).map(column).collect::<std::result::Result<Vec<_>, _>>()?;
            let Some(lookup) = self.lookup.get() else {
                return internal_err!("table '{}' is not connected", self.name);
            };
            let keys = RecordBatch::try_new(key_schema, columns)?;
            let context = |e: crate::contracts::Error| e.context(format!("lookup in table '{}'", self.name));
            found = lookup.get(&keys).await.map_err(|e| DataFusionError::External(Box::new(context(e))))?;
            let own: Vec<ArrayRef> = self.key.iter().map(|place| one_zero(found.column(*place))).collect();
            let rows = converter.convert_columns(&own)?;
            for row in 0..found.num_rows() {
                if let Some(number) = numbers.get(rows.row(row).as_ref()) {
                    places[*number as usize] = Some(row as u32);
                }
            }
        }
        let joined = |((batch, _), numbers): ((RecordBatch, Vec<ArrayRef>), Vec<Option<u32>>)| {
            let matches: UInt32Array = numbers.into_iter().map(|n| places[n? as usize]).collect();
            let mut columns = batch.columns().to_vec();
            for column in found.columns() {
                columns.push(take(column, &matches, None)?);
            }
            columns.push(Arc::new(BooleanArray::from_iter(matches.iter().map(|m| Some(m.is_some())))));
            Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
        };
        batches.into_iter().zip(of_rows).map(joined).collect()
    }
}

/// The join, in a plan.
#[derive(Debug)]
pub struct LookupExec {
    input: Arc<dyn ExecutionPlan>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    table: Arc<LookupTable>,
    properties: Arc<PlanProperties>,
}

impl LookupExec {
    /// Looks up the rows of `keys`, which are expressions over the input, in the order and the types of the table's key.
    /// `schema` is the input's, then the table's columns, then a BOOLEAN.
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        table: Arc<LookupTable>,
        schema: SchemaRef,
    ) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        ));
        Self { input, keys, table, properties }
    }
}

impl DisplayAs for LookupExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(ToString::to_string).collect();
        write!(f, "Lookup: table={}, key=[{}]", self.table.name, keys.join(", "))
    }
}

impl ExecutionPlan for LookupExec {
    fn name(&self) -> &'static str {
        "LookupExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let mut recursion = TreeNodeRecursion::Continue;
        for key in &self.keys {
            recursion = f(key)?;
            if recursion == TreeNodeRecursion::Stop {
                break;
            }
        }
        Ok(recursion)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (keys, table) = (self.keys.clone(), Arc::clone(&self.table));
        Ok(Arc::new(Self::new(children.swap_remove(0), keys, table, self.schema())))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let joining = Joining {
            input: self.input.execute(partition, context)?,
            keys: self.keys.clone(),
            table: Arc::clone(&self.table),
            schema: self.schema(),
            ready: VecDeque::new(),
            ended: false,
        };
        let stream = futures::stream::try_unfold(joining, Joining::next);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }
}

/// A task's side of the join.
struct Joining {
    input: SendableRecordBatchStream,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    table: Arc<LookupTable>,
    schema: SchemaRef,
    ready: VecDeque<RecordBatch>,
    ended: bool,
}

impl Joining {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some((batch, self)));
            }
            if self.ended {
                return Ok(None);
            }
            let (mut rows, mut batches) = (0, Vec::new());
            while rows < GATHER_ROWS {
                let Some(batch) = self.input.next().await.transpose()? else {
                    self.ended = true;
                    break;
                };
                if batch.num_rows() > 0 {
                    let key = |key: &Arc<dyn PhysicalExpr>| key.evaluate(&batch)?.into_array(batch.num_rows());
                    let keys = self.keys.iter().map(key).collect::<Result<Vec<_>>>()?;
                    rows += batch.num_rows();
                    batches.push((batch, keys));
                }
            }
            self.ready = self.table.join(batches, &self.schema).await?.into();
        }
    }
}
