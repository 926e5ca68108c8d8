//! What is known of keys elsewhere: a table beyond the network that is asked for single rows, and a reference table.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use tidemill::contracts::{Lookup, Result};

use super::machine::Machine;

/// Who owns a key; one has no owner.
pub(crate) fn owner(key: &str) -> Option<String> {
    (key != "k1").then(|| format!("owner of {key}"))
}

/// Its weight; few have one.
pub(crate) fn weight(key: &str) -> Option<i64> {
    ["k0", "k1", "k3"].iter().position(|known| *known == key).map(|at| 10 * at as i64)
}

/// Columns by name, in the order and the types of the schema.
fn batch(schema: &SchemaRef, columns: &[(&str, ArrayRef)]) -> Result<RecordBatch> {
    let column = |name: &str| columns.iter().find(|(own, _)| *own == name).expect("a column of the table").1.clone();
    let columns = schema.fields().iter().map(|field| cast(&column(field.name()), field.data_type()));
    Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect::<std::result::Result<_, _>>()?)?)
}

/// The reference table.
pub(crate) fn weights(schema: &SchemaRef) -> Result<RecordBatch> {
    let keys = ["k0", "k1", "k3"];
    let weights: Int64Array = keys.iter().map(|key| weight(key)).collect();
    batch(schema, &[("k", Arc::new(StringArray::from(keys.to_vec()))), ("weight", Arc::new(weights))])
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
