//! CSV: records of a stream, and a reference table that is read whole or not at all.

use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use proptest::prelude::*;
use tidemill::connectors::{Connectors, JobContext};
use tidemill::contracts::{
    Arrivals, Decoded, RECORD_PADDING, RawChunk, RecordRange, SequenceNumbers, SplitId, SystemClock, TableSpec,
};
use tidemill::formats::csv::CsvOptions;
use tidemill::formats::decoder;

use crate::MOST_MIB;
use crate::bounded::{Bound, within};
use crate::change::{changed, changes, check};

const RECORDS: &str = "1,Ärger,2026-02-12 10:00:00.123,12.50,true,1;2;3,\"a \"\"quoted\"\" text\",0.5
-7,\"with, comma\",2026-02-12 10:00:01,,false,,\"two
lines\",1e3
# a comment
9223372036854775807,n/a,1970-01-01 00:00:00,-99999999.99,TRUE,7,x;y,-0
";

fn schema() -> Schema {
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    let row = Fields::from(vec![field("x", DataType::Utf8View), field("y", DataType::Utf8View)]);
    Schema::new(vec![
        field("id", DataType::Int64),
        field("name", DataType::Utf8View),
        field("at", DataType::Timestamp(TimeUnit::Millisecond, None)),
        field("price", DataType::Decimal128(10, 2)),
        field("sold", DataType::Boolean),
        field("list", DataType::List(Arc::new(field("item", DataType::Int32)))),
        field("pair", DataType::Struct(row)),
        field("share", DataType::Float64),
    ])
}

/// Every way to spell it.
fn spellings() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    prop::sample::subsequence(
        vec![
            ("csv.field-delimiter", ";"),
            ("csv.quote-character", "'"),
            ("csv.disable-quote-character", "true"),
            ("csv.escape-character", "\\"),
            ("csv.null-literal", "n/a"),
            ("csv.array-element-delimiter", ","),
            ("csv.allow-comments", "true"),
            ("csv.header", "true"),
        ],
        0..5,
    )
}

fn chunk(data: &[u8], records: &[RecordRange]) -> RawChunk {
    let mut bytes = data.to_vec();
    bytes.resize(bytes.len() + RECORD_PADDING, b'"');
    RawChunk {
        split: SplitId("s".into()),
        data: Buffer::from_vec(bytes),
        records: records.into(),
        sequence: SequenceNumbers::Dense { first: 1 },
        arrivals: Arrivals::Same(0),
        partition_keys: None,
    }
}

fn rows(decoded: &[Decoded]) -> Vec<String> {
    let row = |batch: &arrow::array::RecordBatch, at: usize| format!("{:?}", batch.slice(at, 1).columns());
    decoded.iter().flat_map(|d| (0..d.batch.num_rows()).map(|at| row(&d.batch, at))).collect()
}

#[test]
fn each_record_is_a_row_or_a_reject() {
    let bound = within!(MOST_MIB);
    check(&bound, 1_500, 1, (spellings(), changes(), 1..5_usize), |(spelling, changes, at_once)| {
        let spec =
            spelling.iter().fold(TableSpec::new("t", Arc::new(schema())), |spec, (k, v)| spec.with_option(k, *v));
        let text = changed(RECORDS.as_bytes(), &changes);
        let framing = CsvOptions::of(&spec).unwrap().framing();
        let mut records = Vec::new();
        let rest = framing.split(&text, 0, true, &mut records);
        prop_assert_eq!(rest, text.len());
        // No byte is in two records.
        prop_assert!(records.windows(2).all(|pair| pair[0].end <= pair[1].start));
        prop_assert!(records.iter().all(|r| r.start <= r.end && r.end as usize <= text.len()));
        let decode = |parts: Vec<&[RecordRange]>| -> Vec<Decoded> {
            let mut decoder = decoder("csv", &spec, None).unwrap();
            parts.into_iter().map(|part| decoder.decode(&chunk(&text, part))).collect()
        };
        let (one, several) = (decode(vec![&records]), decode(records.chunks(at_once).collect()));
        prop_assert_eq!(rows(&one), rows(&several));
        let rejects = |all: &[Decoded]| all.iter().map(|d| d.rejects.len()).sum::<usize>();
        prop_assert_eq!(rejects(&one), rejects(&several));
        prop_assert_eq!(rows(&one).len() + rejects(&one) + one[0].skipped as usize, records.len());
        Ok(())
    });
}

#[test]
fn a_reference_table_is_read_whole_or_refused() {
    let bound = within!(MOST_MIB);
    let products = include_str!("../../queries/products.csv");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("products.csv");
    let columns =
        [("product", DataType::Utf8View), ("category", DataType::Utf8View), ("margin", DataType::Decimal128(5, 4))];
    let schema = Schema::new(columns.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec());
    let spec = TableSpec::new("products", Arc::new(schema))
        .with_option("path", path.to_string_lossy())
        .with_option("format", "csv");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let context = JobContext { job: "j".to_owned(), generation: 1 };
    let connectors = Connectors::new(None, Arc::new(SystemClock::new()), context);
    check(&bound, 300, 20, changes(), |changes| {
        let text = changed(products.as_bytes(), &changes);
        std::fs::write(&path, &text).unwrap();
        let mut records = Vec::new();
        CsvOptions::of(&spec).unwrap().framing().split(&text, 0, true, &mut records);
        match runtime.block_on(connectors.reference(&spec, "filesystem").unwrap().load()) {
            Ok((_, batch)) => prop_assert_eq!(batch.num_rows(), records.len()),
            Err(error) => prop_assert!(error.to_string().contains("products"), "{}", error),
        }
        Ok(())
    });
}
