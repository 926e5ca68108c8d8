//! A Parquet file whose columns are encoded side by side.
//!
//! ```text
//!  write(rows) ─► waiting rows ─► leaves of each column ─┬─ lane 1: event_id, data.page, …  ─┐
//!                 (an epoch's)                           └─ lane 2: event_type, data.user, … ─┴─► row group
//! ```
//!
//! One thread encodes some 2 M clickstream rows a second, less than two cores compute: the archive would hold a job
//! back. Lanes are threads of the moment, which take columns as they become free, so no thread waits for the slowest
//! column but at the end. Rows wait for each other until the epoch ends, so that a lane is worth its start.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowLeafColumn, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use super::output::Output;

/// Rows that wait at most: half of an epoch.
const WAITING_ROWS: usize = 1 << 16;
/// Bytes that wait at most, as Arrow counts them: buffers that rows share count for each batch.
const WAITING_BYTES: usize = 64 << 20;
/// Rows that are encoded before the size of an encoded row is known.
const FIRST_ROWS: usize = 4_096;
/// Below this many rows a second lane costs more (a thread's start is some 30 µs) than it saves.
const LANES_ABOVE_ROWS: usize = 4_096;
/// Lanes of one file: other queries want the cores too.
const MOST_LANES: usize = 4;

/// See the module's description.
pub(super) struct ParquetFile {
    file: SerializedFileWriter<Lent>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    most_rows: usize,
    most_bytes: usize,
    group: Option<Group>,
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    waiting_bytes: usize,
    /// Encoded bytes of a row, as known so far.
    row_bytes: Option<usize>,
}

/// The output, until the file is finished: `SerializedFileWriter::into_inner` gives it back, but turns the error of its last write into a text,
/// so that nobody could tell a full disk from a service that is away. A small file has no other write.
struct Lent(Option<Output>);

impl Lent {
    fn output(&mut self) -> io::Result<&mut Output> {
        self.0.as_mut().ok_or_else(|| io::Error::other("the file is finished"))
    }
}

impl Write for Lent {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.output()?.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output()?.flush()
    }
}

/// The row group that is being encoded.
struct Group {
    columns: Vec<ArrowColumnWriter>,
    rows: usize,
}

impl Group {
    fn bytes(&self) -> usize {
        self.columns.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum()
    }
}

impl ParquetFile {
    /// A file without rows. A row group ends at `most_rows` rows or about `most_bytes` encoded bytes.
    pub(super) fn new(
        output: Output,
        schema: SchemaRef,
        properties: WriterProperties,
        (most_rows, most_bytes): (usize, usize),
    ) -> Result<Self> {
        let writer = ArrowWriter::try_new(Lent(Some(output)), Arc::clone(&schema), Some(properties))?;
        let (file, factory) = writer.into_serialized_writer()?;
        Ok(Self {
            file,
            factory,
            schema,
            most_rows,
            most_bytes,
            group: None,
            waiting: Vec::new(),
            waiting_rows: 0,
            waiting_bytes: 0,
            row_bytes: None,
        })
    }

    /// Adds rows.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.waiting_rows += batch.num_rows();
        self.waiting_bytes += batch.get_array_memory_size();
        self.waiting.push(batch.clone());
        let full = self.waiting_rows >= WAITING_ROWS || self.waiting_bytes >= WAITING_BYTES;
        if full { self.encode() } else { Ok(()) }
    }

    /// Encodes the rows that wait, so that their memory is free.
    pub(super) fn encode(&mut self) -> Result<()> {
        let mut waiting = std::mem::take(&mut self.waiting).into_iter();
        (self.waiting_rows, self.waiting_bytes) = (0, 0);
        let mut next = waiting.next();
        while next.is_some() {
            let mut group = match self.group.take() {
                Some(group) => group,
                None => self.new_group()?,
            };
            let mut leaves: Vec<Vec<ArrowLeafColumn>> = group.columns.iter().map(|_| Vec::new()).collect();
            let most = self.room(&group).max(1);
            let mut rows = 0;
            while let Some(batch) = next {
                let now = batch.num_rows().min(most.saturating_sub(rows));
                self.add_leaves(&batch.slice(0, now), &mut leaves)?;
                rows += now;
                if now < batch.num_rows() {
                    next = Some(batch.slice(now, batch.num_rows() - now));
                    break;
                }
                next = waiting.next();
            }
            let lanes = if rows < LANES_ABOVE_ROWS { 1 } else { lanes() };
            let columns = group.columns.into_iter().zip(leaves).collect();
            group.columns = side_by_side(columns, lanes, |(mut column, leaves): (ArrowColumnWriter, Vec<_>)| {
                leaves.iter().try_for_each(|leaf| column.write(leaf))?;
                Ok(column)
            })?;
            group.rows += rows;
            let bytes = group.bytes();
            self.row_bytes = Some((bytes / group.rows).max(1));
            let full = group.rows >= self.most_rows || bytes >= self.most_bytes;
            self.group = Some(group);
            if full {
                self.end_group()?;
            }
        }
        Ok(())
    }

    /// Rows that may come next into a group: as many as fit, and few as long as nobody knows how large a row is.
    fn room(&self, group: &Group) -> usize {
        let by_bytes = match self.row_bytes {
            Some(row_bytes) => self.most_bytes.saturating_sub(group.bytes()).div_ceil(row_bytes),
            None => FIRST_ROWS,
        };
        by_bytes.min(self.most_rows - group.rows)
    }

    fn add_leaves(&self, batch: &RecordBatch, leaves: &mut [Vec<ArrowLeafColumn>]) -> Result<()> {
        let mut lists = leaves.iter_mut();
        for (field, column) in self.schema.fields().iter().zip(batch.columns()) {
            for (leaf, list) in compute_leaves(field, column)?.into_iter().zip(&mut lists) {
                list.push(leaf);
            }
        }
        Ok(())
    }

    fn new_group(&self) -> Result<Group> {
        let columns = self.factory.create_column_writers(self.file.flushed_row_groups().len())?;
        Ok(Group { columns, rows: 0 })
    }

    /// Bytes in memory of the row group that is being encoded.
    pub(super) fn group_bytes(&self) -> u64 {
        self.group.as_ref().map_or(0, |group| group.columns.iter().map(ArrowColumnWriter::memory_size).sum::<usize>())
            as u64
    }

    /// Writes the row group that is being encoded.
    pub(super) fn end_group(&mut self) -> Result<()> {
        let Some(group) = self.group.take() else { return Ok(()) };
        let lanes = if group.rows < LANES_ABOVE_ROWS { 1 } else { lanes() };
        let chunks = side_by_side(group.columns, lanes, ArrowColumnWriter::close)?;
        let mut writer = self.file.next_row_group()?;
        for chunk in chunks {
            chunk.append_to_row_group(&mut writer)?;
        }
        writer.close().map(drop)
    }

    /// Size so far, with an estimate of what the rows in memory will take.
    pub(super) fn bytes(&self) -> u64 {
        let (rows, bytes) = self.group.as_ref().map_or((0, 0), |group| (group.rows, group.bytes()));
        let waiting = self.waiting_rows.saturating_mul(bytes).checked_div(rows).unwrap_or(0);
        (self.file.bytes_written() + bytes + waiting) as u64
    }

    /// Its name in errors.
    pub(super) fn name(&self) -> String {
        self.file.inner().0.as_ref().map(Output::name).unwrap_or_default()
    }

    /// Writes what is left, and the footer.
    pub(super) fn finish(mut self) -> Result<Output> {
        self.encode()?;
        self.end_group()?;
        self.file.finish()?;
        let lost = || ParquetError::General("the file was finished before".to_owned());
        self.file.inner_mut().0.take().ok_or_else(lost)
    }
}

fn lanes() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_LANES)
}

/// Works on all items in `lanes` threads, this one among them; results are in the order of the items.
fn side_by_side<T: Send, R: Send>(items: Vec<T>, lanes: usize, work: impl Fn(T) -> Result<R> + Sync) -> Result<Vec<R>> {
    if lanes <= 1 {
        return items.into_iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    let results: Vec<Mutex<Option<Result<R>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let lane = || {
        while let Some(index) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < items.len()) {
            let item = items[index].lock().unwrap_or_else(PoisonError::into_inner).take();
            let result = item.map(&work);
            *results[index].lock().unwrap_or_else(PoisonError::into_inner) = result;
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..lanes.min(items.len()) {
            scope.spawn(lane);
        }
        lane();
    });
    let lost = || ParquetError::General("a column was not encoded".to_owned());
    results
        .into_iter()
        .map(|result| result.into_inner().unwrap_or_else(PoisonError::into_inner).ok_or_else(lost)?)
        .collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringViewArray, StructArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{DataType, Field, FieldRef};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::super::parquet_write::failed;
    use super::super::part::{self, PartFile, PartNames};
    use super::*;
    use crate::contracts::EpochNumber;

    fn rows(from: usize, count: usize) -> RecordBatch {
        let numbers = || from..from + count;
        let ids: StringViewArray = numbers().map(|n| Some(format!("an id of some length {n}"))).collect();
        let values: Int64Array = numbers().map(|n| (n % 3 > 0).then_some(n as i64)).collect();
        let inner: StringViewArray = numbers().map(|n| (n % 7 > 0).then(|| format!("page {}", n % 50))).collect();
        let inner: [(FieldRef, ArrayRef); 2] = [
            (Arc::new(Field::new("page", DataType::Utf8View, true)), Arc::new(inner)),
            (Arc::new(Field::new("n", DataType::Int64, true)), Arc::new(values.clone())),
        ];
        let columns: [(&str, ArrayRef, bool); 3] = [
            ("id", Arc::new(ids), true),
            ("value", Arc::new(values), true),
            ("data", Arc::new(StructArray::from(inner.to_vec())), true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).expect("equal lengths")
    }

    /// Whatever the sizes of what comes: all rows, in order, in groups that keep their bounds.
    #[test]
    fn rows_come_back_in_order_and_groups_keep_their_bounds() {
        const MOST_ROWS: usize = 50_000;
        const MOST_BYTES: usize = 400_000;
        let folder = tempfile::tempdir().expect("a folder");
        let names = PartNames::new("job", 1, 0);
        let (part, file) = PartFile::create(folder.path(), &names, EpochNumber(1), "parquet").expect("a file");
        let path = part.path().to_owned();
        let output = Output::Local { part, file, bytes: 0 };
        let schema = rows(0, 0).schema();
        let properties = WriterProperties::default();
        let mut writer =
            ParquetFile::new(output, Arc::clone(&schema), properties, (MOST_ROWS, MOST_BYTES)).expect("a writer");
        let (mut total, mut sizes) = (0, 0);
        for (index, count) in [1, 5_000, 0, 70_000, 3, 60_000, 4_096, 1].into_iter().cycle().take(20).enumerate() {
            writer.write(&rows(total, count)).expect("written");
            total += count;
            if index % 5 == 4 {
                writer.encode().expect("encoded");
                assert!(writer.bytes() >= sizes, "a file does not shrink");
                sizes = writer.bytes();
            }
        }
        let Output::Local { part, file, .. } = writer.finish().expect("finished") else { panic!("a local file") };
        part::commit(&part.finish(&file).expect("staged")).expect("visible");

        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).expect("a file"));
        let reader = reader.expect("Parquet");
        let groups = reader.metadata().row_groups().to_vec();
        assert!(groups.len() > 3, "{} groups", groups.len());
        for group in &groups {
            assert!(group.num_rows() <= MOST_ROWS as i64);
            assert!(group.compressed_size() < 2 * MOST_BYTES as i64, "{} bytes", group.compressed_size());
        }
        let read: Vec<RecordBatch> = reader.build().expect("a reader").collect::<Result<_, _>>().expect("rows");
        assert_eq!(concat_batches(&read[0].schema(), &read).expect("one batch"), rows(0, total));
    }

    /// A full disk is told from a service that is away, also where all of a file is written at its end: it is counted, and not waited for.
    #[test]
    fn a_small_file_on_a_full_disk_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = PartNames::new("job", 1, 0);
        let (part, _) = PartFile::create(folder.path(), &names, EpochNumber(1), "parquet").expect("a file");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("it is there");
        let output = Output::Local { part, file: full, bytes: 0 };
        let rows = rows(0, 3);
        let properties = WriterProperties::default();
        let mut writer = ParquetFile::new(output, rows.schema(), properties, (1_000, 1 << 20)).expect("a writer");
        writer.write(&rows).expect("held");
        let name = writer.name();
        let error = writer.finish().map(drop).expect_err("there is no room");
        let error = failed(&name, error);
        assert!(error.is_of_this_machine() && error.to_string().contains("part-job-1-0-e1.parquet"), "{error}");
    }
}
