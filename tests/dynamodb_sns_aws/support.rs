//! What several of these tests need.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use tidemill::connectors::{Connectors, JobContext};
use tidemill::contracts::{ChangeKind, Changes, Clock, EpochNumber, Result, Sink, TableSpec, WriteOutcome};

use crate::stub::Running;

/// A clock on which every pause is over at once, after others have had their turn.
#[derive(Debug, Default)]
pub(crate) struct Hurried(AtomicU64);

#[async_trait]
impl Clock for Hurried {
    fn now_ms(&self) -> i64 {
        1_770_890_400_000 + i64::try_from(self.elapsed().as_millis()).unwrap()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }

    async fn sleep(&self, duration: Duration) {
        // Answers on their way come first, so that a pause is not over before the calls beside it.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        self.0.fetch_add(u64::try_from(duration.as_nanos()).unwrap(), Ordering::SeqCst);
    }
}

/// Numbers for tests, by their seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

pub(crate) fn connectors_of(job: &str, clock: Arc<dyn Clock>) -> Connectors {
    Connectors::new(None, clock, JobContext { job: job.to_owned(), generation: 1 })
}

pub(crate) fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(fields.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>()))
}

/// A table whose services are at `url`.
pub(crate) fn spec(url: &str, name: &str, schema: &SchemaRef, options: &[(&str, &str)]) -> TableSpec {
    let access = [
        ("aws.endpoint", url),
        ("aws.region", "eu-west-1"),
        ("aws.credentials.provider", "BASIC"),
        ("aws.credentials.basic.accesskeyid", "test"),
        ("aws.credentials.basic.secretkey", "test"),
    ];
    let options = access.iter().chain(options);
    options.fold(TableSpec::new(name, schema.clone()), |spec, (k, v)| spec.with_option(k, *v))
}

pub(crate) fn with_key(mut spec: TableSpec, keys: &[&str]) -> TableSpec {
    spec.primary_key = keys.iter().map(|k| (*k).to_owned()).collect();
    spec
}

pub(crate) fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

pub(crate) fn numbers(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

pub(crate) fn rows(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Changes {
    Changes { batch: RecordBatch::try_new(schema.clone(), columns).unwrap(), kinds: None }
}

/// What one epoch does: a key with its new values, or gone.
pub(crate) type EpochRows = BTreeMap<String, Option<(i64, i64)>>;

/// Columns of [`EpochRows`] as changes: `k`, and two numbers.
pub(crate) fn changes(schema: &SchemaRef, rows: &EpochRows) -> Changes {
    let keys: Vec<Option<&str>> = rows.keys().map(|k| Some(k.as_str())).collect();
    let column =
        |pick: fn(&(i64, i64)) -> i64| numbers(&rows.values().map(|v| v.as_ref().map(pick)).collect::<Vec<_>>());
    let batch = RecordBatch::try_new(schema.clone(), vec![texts(&keys), column(|v| v.0), column(|v| v.1)]).unwrap();
    let kinds = rows.values().map(|v| if v.is_some() { ChangeKind::Upsert } else { ChangeKind::Delete }).collect();
    Changes { batch, kinds: Some(kinds) }
}

/// Opens, writes an epoch and flushes it.
pub(crate) async fn write_epoch(sink: &mut dyn Sink, epoch: u64, changes: Changes) -> Result<WriteOutcome> {
    let mut outcome = sink.write(EpochNumber(epoch), changes).await?;
    outcome.refused.extend(sink.flush(EpochNumber(epoch), 1_000 * i64::try_from(epoch).unwrap()).await?.refused);
    Ok(outcome)
}

pub(crate) fn reasons(outcome: &WriteOutcome) -> Vec<&str> {
    outcome.refused.iter().map(|r| r.reason.as_str()).collect()
}

/// Entries of the ledger `published` that are claimed, and not marked.
pub(crate) fn claimed(running: &Running) -> usize {
    running.tables.items("published").iter().filter(|item| item["state"]["S"] == "claimed").count()
}

/// Waits until no more than so many claims are left.
pub(crate) async fn released(running: &Running, left: usize) {
    let all = async {
        while claimed(running) > left {
            tokio::task::yield_now().await
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(120), all).await;
    assert!(waited.is_ok(), "{} claims stay, {left} may", claimed(running));
}
