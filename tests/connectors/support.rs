//! What several tests need.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tidemill::connectors::{Connectors, JobContext};
use tidemill::contracts::{
    Changes, EpochNumber, Fetch, Position, Sink, Source, Split, StartPosition, SystemClock, TableSpec,
};

pub(crate) fn connectors(dir: &Path, generation: u64) -> Connectors {
    let job = JobContext { job: "test".to_owned(), generation };
    Connectors::new(Some(dir.to_owned()), Arc::new(SystemClock::new()), job).draining(true)
}

pub(crate) fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(fields.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>()))
}

pub(crate) fn millis() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

pub(crate) fn spec(name: &str, schema: SchemaRef, options: &[(&str, &str)]) -> TableSpec {
    options.iter().fold(TableSpec::new(name, schema), |spec, (k, v)| spec.with_option(k, *v))
}

pub(crate) fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

pub(crate) fn appends(batch: RecordBatch) -> Changes {
    Changes { batch, kinds: None }
}

/// Writes one epoch and lets everything appear.
pub(crate) async fn write_all(sink: &mut dyn Sink, changes: Vec<Changes>) {
    for change in changes {
        sink.write(EpochNumber(1), change).await.unwrap();
    }
    sink.flush(EpochNumber(1), 0).await.unwrap();
    let staged = sink.finish(EpochNumber(1)).await.unwrap();
    sink.commit(staged).await.unwrap();
}

/// One record or row, as text, with its position.
pub(crate) type Read = (String, Position);

fn rows_as_text(batch: &RecordBatch) -> Vec<String> {
    let mut out = Vec::new();
    let style = tidemill::formats::write_json::JsonStyle::MESSAGE;
    let rows = tidemill::formats::write_json::JsonRows::try_new(batch, style).unwrap();
    for row in 0..batch.num_rows() {
        let mut line = Vec::new();
        rows.write(row, &mut line);
        out.push(String::from_utf8(line).unwrap());
    }
    out
}

pub(crate) fn fetched(fetch: &Fetch) -> Vec<Read> {
    match fetch {
        Fetch::Records(chunk) => {
            assert!(!chunk.is_empty());
            let last = chunk.records.last().unwrap();
            assert!(chunk.data.len() >= last.end as usize + tidemill::contracts::RECORD_PADDING);
            let text = |i| String::from_utf8_lossy(chunk.record(i)).into_owned();
            (0..chunk.len()).map(|i| (text(i), chunk.position_after(i))).collect()
        }
        Fetch::Rows(chunk) => {
            let texts = rows_as_text(&chunk.batch);
            texts.into_iter().enumerate().map(|(i, t)| (t, chunk.position_after(i))).collect()
        }
        _ => Vec::new(),
    }
}

/// Everything that a split has now.
pub(crate) async fn read_split(
    source: &dyn Source,
    split: &Split,
    resume: Option<&Position>,
    start: StartPosition,
) -> Vec<Read> {
    let mut reader = source.open(split, resume, start).await.unwrap();
    let mut all = Vec::new();
    loop {
        let fetch = reader.next().await.unwrap();
        match fetch {
            Fetch::CaughtUp | Fetch::Finished => return all,
            records => all.extend(fetched(&records)),
        }
    }
}

/// Everything that a source has now.
pub(crate) async fn read_source(source: &dyn Source) -> Vec<String> {
    let mut all = Vec::new();
    for split in source.splits().await.unwrap() {
        all.extend(read_split(source, &split, None, StartPosition::TrimHorizon).await.into_iter().map(|r| r.0));
    }
    all
}

/// Files below a folder, sorted, relative, hidden ones too.
pub(crate) fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, out: &mut Vec<String>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, out)
            } else {
                out.push(path.strip_prefix(root).unwrap().display().to_string())
            }
        }
    }
    let mut out = Vec::new();
    if root.exists() {
        walk(root, root, &mut out);
    }
    out.sort();
    out
}
