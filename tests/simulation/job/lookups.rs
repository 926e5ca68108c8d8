//! What is known of keys elsewhere: a table beyond the network that is asked for single rows, and a reference table that changes.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use tidemill::contracts::{Lookup, Polled, ReferenceLoader, Result};

use super::machine::Machine;

/// All that the events may have.
pub(crate) const KEYS: [&str; 8] = ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"];

/// Who owns a key; one has no owner.
pub(crate) fn owner(key: &str) -> Option<String> {
    (key != "k1").then(|| format!("owner of {key}"))
}

/// The reference table changes so often: within most epochs that are repeated, or between them.
const CHANGES_EACH: Duration = Duration::from_millis(1_700);

/// Versions of it, one after the other, and again.
pub(crate) const VERSIONS: u64 = 5;

/// Which version of the reference table is there at a time.
fn version_at(now: Duration) -> u64 {
    (now.as_millis() / CHANGES_EACH.as_millis()) as u64 % VERSIONS
}

/// Weight of a key in a version; few have one.
pub(crate) fn weight(key: &str, version: u64) -> Option<i64> {
    let at = ["k0", "k1", "k3"].iter().position(|known| *known == key)?;
    Some(1_000 * version as i64 + 10 * at as i64)
}

/// Columns by name, in the order and the types of the schema.
fn batch(schema: &SchemaRef, columns: &[(&str, ArrayRef)]) -> Result<RecordBatch> {
    let column = |name: &str| columns.iter().find(|(own, _)| *own == name).expect("a column of the table").1.clone();
    let columns = schema.fields().iter().map(|field| cast(&column(field.name()), field.data_type()));
    Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect::<std::result::Result<_, _>>()?)?)
}

/// The reference table, as one machine sees it.
#[derive(Debug)]
pub(crate) struct Weights {
    machine: Arc<Machine>,
    schema: SchemaRef,
    /// The version that was given last.
    given: Option<u64>,
}

impl Weights {
    pub(crate) fn new(machine: Arc<Machine>, schema: SchemaRef) -> Self {
        Self { machine, schema, given: None }
    }
}

#[async_trait]
impl ReferenceLoader for Weights {
    async fn poll(&mut self) -> Result<Polled> {
        let nature = &self.machine.nature;
        let version = version_at(nature.world.now());
        if self.given == Some(version) {
            return Ok(Polled::Same);
        }
        nature.lock().faults.count_if(self.given.is_some(), "changed table");
        self.given = Some(version);
        let keys = ["k0", "k1", "k3"];
        let weights: Int64Array = keys.iter().map(|key| weight(key, version)).collect();
        let keys = StringArray::from(keys.to_vec());
        batch(&self.schema, &[("k", Arc::new(keys)), ("weight", Arc::new(weights))]).map(Polled::Changed)
    }

    fn forget(&mut self) {
        self.given = None;
    }
}

/// The table of owners, as one machine sees it.
#[derive(Debug)]
pub(crate) struct FarOwners {
    pub(crate) machine: Arc<Machine>,
    pub(crate) schema: SchemaRef,
}

#[async_trait]
impl Lookup for FarOwners {
    async fn open(&self) -> Result<()> {
        self.machine.insist(|| ()).await;
        Ok(())
    }

    async fn get(&self, keys: &RecordBatch) -> Result<RecordBatch> {
        let keys = cast(keys.column(0), &DataType::Utf8)?;
        let keys: Vec<String> = keys.as_string::<i32>().iter().flatten().map(str::to_owned).collect();
        let found = self.machine.insist(move || {
            keys.iter().filter_map(|key| Some((key.clone(), owner(key)?))).collect::<Vec<(String, String)>>()
        });
        let (keys, owners): (Vec<String>, Vec<String>) = found.await.into_iter().unzip();
        batch(&self.schema, &[("k", Arc::new(StringArray::from(keys))), ("owner", Arc::new(StringArray::from(owners)))])
    }
}
