//! One decode for several tables.
//!
//! The shared decoder has the columns of all tables. A record that it takes is taken by each table alone too, with the
//! same values. One that it refuses may be refused because of a column that only some tables have: each table decodes
//! *that record* for itself. So a table sees exactly what it would see if it read the stream alone.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StructArray, UInt32Array};
use datafusion::arrow::compute::{concat_batches, take_record_batch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::feed::FeedSpecification;
use crate::contracts::{Arrivals, Decoded, Decoder, Error, RawChunk, RecordRange, Reject, Result, SequenceNumbers};

/// Decodes the chunks of one split.
#[cfg_attr(test, derive(Default))]
pub(crate) struct FeedDecoder {
    shared: Option<Box<dyn Decoder>>,
    tables: Vec<TableDecoder>,
}

struct TableDecoder {
    /// `None` when the source is typed.
    own: Option<Box<dyn Decoder>>,
    /// The table's physical columns. Any may be NULL: that of a folder is still to be filled in, and whether the row is one of the table's is
    /// seen when it is made ([`RowMaker`](super::rows::RowMaker)).
    schema: SchemaRef,
}

impl FeedDecoder {
    pub(crate) fn try_new(specification: &FeedSpecification) -> Result<Self> {
        let table = |table: &super::feed::TableSpecification| {
            let nullable = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
            let physical: Vec<Field> = table.schema.fields().iter().take(table.physical).map(nullable).collect();
            let own = table.decoder.as_ref().map(|make| make()).transpose()?;
            Ok(TableDecoder { own, schema: Arc::new(Schema::new(physical)) })
        };
        let tables = specification.tables.iter().map(table).collect::<Result<_>>()?;
        Ok(Self { shared: specification.shared.as_ref().map(|make| make()).transpose()?, tables })
    }

    /// What the chunk is for each table.
    pub(crate) fn decode(&mut self, chunk: &RawChunk) -> Result<Vec<Decoded>> {
        let Some(shared) = &mut self.shared else {
            return self.tables.iter_mut().map(|table| table.alone(chunk)).collect();
        };
        let decoded = shared.decode(chunk);
        self.tables.iter_mut().map(|table| table.take(&decoded, chunk)).collect()
    }

    /// Typed rows with each table's columns.
    pub(crate) fn rows(&self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        if self.tables.len() == 1 {
            return Ok(vec![batch.clone()]);
        }
        self.tables.iter().map(|table| picked(batch, &table.schema)).collect()
    }
}

impl TableDecoder {
    fn alone(&mut self, chunk: &RawChunk) -> Result<Decoded> {
        match &mut self.own {
            Some(own) => Ok(own.decode(chunk)),
            None => Err(Error::internal("raw records from a source that was planned as typed")),
        }
    }

    fn take(&mut self, shared: &Decoded, chunk: &RawChunk) -> Result<Decoded> {
        let mut decoded = Decoded {
            batch: picked(&shared.batch, &self.schema)?,
            rows: shared.rows.clone(),
            rejects: Vec::new(),
            skipped: shared.skipped,
            skipped_time: shared.skipped_time.clone(),
        };
        if shared.rejects.is_empty() {
            return Ok(decoded);
        }
        let refused: Vec<u32> = shared.rejects.iter().map(|reject| reject.record).collect();
        let again = self.alone(&some_records(chunk, &refused))?;
        if again.batch.num_rows() > 0 && shared.skipped > 0 {
            // Which of the skipped records came before a rescued one is not known here.
            return self.alone(chunk);
        }
        decoded.rejects =
            again.rejects.into_iter().map(|r| Reject { record: refused[r.record as usize], ..r }).collect();
        if again.batch.num_rows() == 0 {
            return Ok(decoded);
        }
        let rescued = match again.rows {
            Some(rows) => rows.into_iter().map(|row| refused[row as usize]).collect(),
            None => refused,
        };
        let taken = match decoded.rows.take() {
            Some(rows) => rows,
            None => (0..decoded.batch.num_rows() as u32).collect(),
        };
        let records: Vec<u32> = taken.into_iter().chain(rescued).collect();
        let mut order: Vec<u32> = (0..records.len() as u32).collect();
        order.sort_by_key(|row| records[*row as usize]);
        let both = concat_batches(&decoded.batch.schema(), [&decoded.batch, &again.batch])?;
        decoded.rows = Some(order.iter().map(|row| records[*row as usize]).collect());
        decoded.batch = take_record_batch(&both, &UInt32Array::from(order))?;
        // Nothing was skipped, so there are no times of skipped records either.
        decoded.skipped_time = None;
        Ok(decoded)
    }
}

/// Some records of a chunk, for decoding alone: where they came from is not kept.
fn some_records(chunk: &RawChunk, records: &[u32]) -> RawChunk {
    let ranges: Vec<RecordRange> = records.iter().map(|record| chunk.records[*record as usize]).collect();
    RawChunk {
        split: chunk.split.clone(),
        data: chunk.data.clone(),
        records: ranges.into(),
        sequence: SequenceNumbers::Dense { first: 0 },
        arrivals: Arrivals::Same(0),
        partition_keys: None,
    }
}

/// The columns of `schema`, found by name; of a struct, the fields in use.
fn picked(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.num_columns() == schema.fields().len() && batch.schema_ref().fields() == schema.fields() {
        return Ok(batch.clone());
    }
    let column = |field: &Arc<Field>| match batch.column_by_name(field.name()) {
        Some(column) => conform(column, field.data_type()),
        None => Err(Error::internal(format!("the shared decoder has no column '{}'", field.name()))),
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

fn conform(array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    if array.data_type() == wanted {
        return Ok(Arc::clone(array));
    }
    let (Some(found), DataType::Struct(fields)) = (array.as_struct_opt(), wanted) else {
        return Err(Error::internal(format!("a shared column is {}, not {wanted}", array.data_type())));
    };
    let child = |field: &Arc<Field>| match found.column_by_name(field.name()) {
        Some(column) => conform(column, field.data_type()),
        None => Err(Error::internal(format!("a shared column has no field '{}'", field.name()))),
    };
    let children = fields.iter().map(child).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), children, found.nulls().cloned(), found.len())?))
}

/// A schema with the columns of both, where those of one name agree; `None` otherwise.
///
/// A column that only one of the two takes as NOT NULL is NOT NULL: a record that lacks it is refused, and decoded
/// again by the other.
pub fn union_of(a: &Schema, b: &Schema) -> Option<SchemaRef> {
    let fields = union_fields(a.fields().iter(), b.fields().iter())?;
    Some(Arc::new(Schema::new(fields)))
}

fn union_fields<'a>(
    a: impl Iterator<Item = &'a Arc<Field>>,
    b: impl Iterator<Item = &'a Arc<Field>>,
) -> Option<Vec<Arc<Field>>> {
    let mut fields: Vec<Arc<Field>> = a.cloned().collect();
    for field in b {
        match fields.iter_mut().find(|own| own.name() == field.name()) {
            Some(own) => {
                let data_type = match (own.data_type(), field.data_type()) {
                    (DataType::Struct(a), DataType::Struct(b)) => {
                        DataType::Struct(union_fields(a.iter(), b.iter())?.into())
                    }
                    (a, b) if a == b => a.clone(),
                    _ => return None,
                };
                let nullable = own.is_nullable() && field.is_nullable();
                *own = Arc::new(Field::new(own.name(), data_type, nullable));
            }
            None => fields.push(Arc::clone(field)),
        }
    }
    Some(fields)
}
