//! Files that others wrote, read as a table: Parquet, and packed text. Each gives rows, rejects or an error that names it.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    StringDictionaryBuilder, StructArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use proptest::prelude::*;
use tidemill::connectors::{Connectors, JobContext};
use tidemill::contracts::{Fetch, Result, StartPosition, SystemClock, TableSpec};

use crate::MOST_MIB;
use crate::bounded::{Bound, within};
use crate::change::{changed, changes, check};

const ROWS: i64 = 600;

/// Rows of every type, with NULLs and lists.
fn batch() -> RecordBatch {
    let some = |n: i64, every: i64| n % every != 0;
    let ids = Int64Array::from_iter_values(0..ROWS);
    let names = StringArray::from_iter((0..ROWS).map(|n| some(n, 7).then(|| format!("name {}", n * 31 % 100))));
    let mut kinds = StringDictionaryBuilder::<Int32Type>::new();
    (0..ROWS).for_each(|n| kinds.append_value(["view", "order", "error"][(n % 3) as usize]));
    let times = TimestampMillisecondArray::from_iter((0..ROWS).map(|n| some(n, 11).then_some(1_770_890_400_000 + n)));
    let prices = Decimal128Array::from_iter((0..ROWS).map(|n| some(n, 5).then_some(i128::from(n) * 17)));
    let prices = prices.with_precision_and_scale(10, 2).unwrap();
    let sold = BooleanArray::from_iter((0..ROWS).map(|n| some(n, 3).then_some(n % 2 == 0)));
    let shares = Float64Array::from_iter_values((0..ROWS).map(|n| n as f64 / 3.0));
    let lists = (0..ROWS).map(|n| some(n, 13).then(|| (0..n as i32 % 5).map(|i| (i != 2).then_some(i))));
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(lists);
    let small = Int32Array::from_iter((0..ROWS as i32).map(|n| (n % 4 != 0).then_some(n)));
    let inner = Fields::from(vec![Field::new("x", DataType::Int32, true), Field::new("y", DataType::Utf8, true)]);
    let pairs = StructArray::new(inner, vec![Arc::new(small), Arc::new(names.clone())], None);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(ids)),
        ("name", Arc::new(names)),
        ("kind", Arc::new(kinds.finish())),
        ("at", Arc::new(times)),
        ("price", Arc::new(prices)),
        ("sold", Arc::new(sold)),
        ("share", Arc::new(shares)),
        ("list", Arc::new(lists)),
        ("pair", Arc::new(pairs)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

/// As other programs write it: several row groups and pages, dictionaries or none, packed or not.
fn parquet(version: WriterVersion, compression: Compression, encoding: Option<Encoding>) -> Vec<u8> {
    let mut properties = WriterProperties::builder()
        .set_writer_version(version)
        .set_compression(compression)
        .set_max_row_group_row_count(Some(250))
        .set_data_page_row_count_limit(100)
        .set_write_batch_size(50)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_dictionary_enabled(encoding.is_none());
    if let Some(encoding) = encoding {
        for column in ["id", "at"] {
            properties = properties.set_column_encoding(column.into(), encoding);
        }
    }
    let batch = batch();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// The columns, some of them under another type than the file has, so that rows are refused.
fn declared() -> Schema {
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    let inner = Fields::from(vec![field("x", DataType::Int64), field("y", DataType::Utf8View)]);
    Schema::new(vec![
        field("id", DataType::Int64),
        field("name", DataType::Utf8View),
        field("kind", DataType::Utf8View),
        field("at", DataType::Timestamp(TimeUnit::Millisecond, None)),
        field("price", DataType::Decimal128(4, 2)),
        field("sold", DataType::Boolean),
        field("share", DataType::Float64),
        field("list", DataType::List(Arc::new(field("item", DataType::Int32)))),
        field("pair", DataType::Struct(inner)),
        field("later", DataType::Utf8View),
    ])
}

/// A table over one file in a folder of its own.
struct Table {
    _folder: tempfile::TempDir,
    path: PathBuf,
    spec: TableSpec,
    connectors: Connectors,
    runtime: tokio::runtime::Runtime,
}

impl Table {
    fn new(name: &str, format: &str, schema: Schema) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spec = TableSpec::new("t", Arc::new(schema))
            .with_option("path", folder.path().to_string_lossy())
            .with_option("format", format);
        let context = JobContext { job: "j".to_owned(), generation: 1 };
        Self {
            path: folder.path().join(name),
            _folder: folder,
            spec,
            connectors: Connectors::new(None, Arc::new(SystemClock::new()), context),
            runtime: tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
        }
    }

    /// Rows or records, and how many of them were refused on the way, until the end or the first error.
    fn read(&self, bytes: &[u8]) -> (usize, usize, Result<()>) {
        let (mut rows, mut refused) = (0, 0);
        std::fs::write(&self.path, bytes).unwrap();
        let read = async {
            let source = self.connectors.source(&self.spec, "filesystem")?;
            for split in source.splits().await? {
                let mut reader = source.open(&split, None, StartPosition::TrimHorizon).await?;
                loop {
                    match reader.next().await? {
                        Fetch::Rows(chunk) => {
                            rows += chunk.batch.num_rows();
                            refused += chunk.rejects.len();
                            // What has been given can be looked at.
                            std::hint::black_box(format!("{:?}", chunk.batch.slice(chunk.batch.num_rows() - 1, 1)));
                        }
                        Fetch::Records(chunk) => rows += chunk.records.len(),
                        Fetch::CaughtUp => {}
                        Fetch::Finished => break,
                    }
                }
            }
            Ok(())
        };
        let ended = self.runtime.block_on(read);
        (rows, refused, ended)
    }

    fn names_the_file(&self, ended: &Result<()>) -> std::result::Result<(), TestCaseError> {
        if let Err(error) = ended {
            let said = error.to_string();
            prop_assert!(said.contains(&*self.path.to_string_lossy()), "{}", said);
        }
        Ok(())
    }
}

/// Panics of the library on the threads that read: they are caught, and need not be printed one by one.
static CAUGHT: AtomicUsize = AtomicUsize::new(0);

fn count_panics_of_readers() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match std::thread::current().name() {
        Some("tokio-rt-worker") => {
            CAUGHT.fetch_add(1, Ordering::Relaxed);
        }
        _ => print(panic),
    }));
}

#[test]
fn a_parquet_file_is_rows_rejects_or_an_error() {
    let bound = within!(MOST_MIB);
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let files = [
        parquet(WriterVersion::PARQUET_1_0, Compression::SNAPPY, None),
        parquet(WriterVersion::PARQUET_2_0, Compression::UNCOMPRESSED, None),
        parquet(WriterVersion::PARQUET_2_0, zstd, Some(Encoding::DELTA_BINARY_PACKED)),
        parquet(WriterVersion::PARQUET_1_0, Compression::UNCOMPRESSED, Some(Encoding::PLAIN)),
    ];
    let table = Table::new("others.parquet", "parquet", declared());
    let too_dear = (0..ROWS).filter(|n| n % 5 != 0 && n * 17 > 9_999).count();
    for file in &files {
        let (rows, refused, ended) = table.read(file);
        ended.unwrap();
        assert_eq!((rows, refused), (ROWS as usize, too_dear), "of {} bytes", file.len());
    }
    count_panics_of_readers();
    // All of the file, or one of its last quarters only: in the very last one are the footer and what it says of pages.
    let part = prop_oneof![Just(3_usize), 0..4_usize];
    check(&bound, 3_000, 1, (0..files.len(), changes(), part), |(which, changes, part)| {
        let file = &files[which];
        let from = file.len() * part / 4;
        let bytes = [&file[..from], &changed(&file[from..], &changes)].concat();
        let (_, _, ended) = table.read(&bytes);
        table.names_the_file(&ended)
    });
    println!("{} panics of the library were caught, within {MOST_MIB} MiB", CAUGHT.load(Ordering::Relaxed));
}

const LINES: usize = 3_000;

fn lines(numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers.flat_map(|n| format!("{{\"n\":{n},\"text\":\"line {}\"}}\n", n * n).into_bytes()).collect()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// As the program of that name writes it, with a checksum.
fn zstd(text: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn numbers() -> Schema {
    Schema::new(vec![Field::new("n", DataType::Int64, true)])
}

#[test]
fn a_packed_file_is_all_of_its_lines_or_an_error() {
    let bound = within!(MOST_MIB);
    let half = LINES / 2;
    let tables = [
        // A file may have several members, as when files are put one behind the other.
        (Table::new("others.jsonl.gz", "json", numbers()), [gzip(&lines(0..half)), gzip(&lines(half..LINES))].concat()),
        (Table::new("others.jsonl.zst", "json", numbers()), zstd(&lines(0..LINES))),
    ];
    for (table, file) in &tables {
        let (rows, _, ended) = table.read(file);
        ended.unwrap();
        assert_eq!(rows, LINES);
    }
    check(&bound, 2_000, 1, (0..tables.len(), changes()), |(which, changes)| {
        let (table, file) = &tables[which];
        let bytes = changed(file, &changes);
        let (rows, _, ended) = table.read(&bytes);
        // Both have checksums, so damage is not taken for lines. A file may have been cut off between two members, or before the first.
        let whole = rows == LINES || rows == half || (rows == 0 && bytes.is_empty());
        prop_assert!(ended.is_err() || whole, "{} lines, and no error", rows);
        table.names_the_file(&ended)
    });
}

/// A line may have 256 MiB, and the buffers in which it is gathered grow by doubling.
const MOST_MIB_OF_A_LINE: u64 = 1_024;

/// Two megabytes that become two gigabytes is read within bounds: as lines, or, where it is one line, as an error.
#[test]
fn a_packed_file_that_grows_a_thousandfold_takes_bounded_memory() {
    const BYTES: usize = 2 << 30;
    let bound = within!(MOST_MIB_OF_A_LINE);
    for end in [b' ', b'\n'] {
        bound.note(format_args!("lines that end with '{}'", end.escape_ascii()));
        let block = [vec![b' '; (1 << 20) - 1], vec![end]].concat();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        (0..BYTES >> 20).for_each(|_| encoder.write_all(&block).unwrap());
        let file = encoder.finish().unwrap();
        let table = Table::new("bomb.jsonl.gz", "json", numbers());
        let (rows, _, ended) = table.read(&file);
        match end {
            b'\n' => assert_eq!((rows, ended.is_ok()), (BYTES >> 20, true), "{ended:?}"),
            _ => table.names_the_file(&Err(ended.unwrap_err())).unwrap(),
        }
    }
}
