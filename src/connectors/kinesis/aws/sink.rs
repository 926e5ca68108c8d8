//! Rows as records of a stream of AWS, put when the epoch is flushed.
//!
//! At least once: a replayed epoch, and a call whose answer was lost, puts records again. Of a batch only those that failed are
//! put again. PutRecords keeps no order between its records, since any of them may fail alone; with `sink.keep-order` a key
//! is at most once in a batch and the next batch waits, so records of a key never overtake each other.
//!
//! `sink.aggregation` packs rows of one key into a record as the Kinesis Producer Library does. Rows of different keys are never
//! mixed: KCL drops an aggregate of which one key belongs to another shard. Without PARTITIONED BY, rows have no key of
//! their own and are packed freely.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::OnceCell;

use crate::connectors::aws::{AwsSession, Jitter};
use crate::connectors::kinesis::encode::RowEncoder;
use crate::connectors::kinesis::local::MAX_RECORD_BYTES;
use crate::connectors::kinesis::produce::{BATCH_BYTES, BATCH_RECORDS, OutRecord, Put, PutBatch};
use crate::connectors::kinesis::sink::too_large;
use crate::connectors::options::Options;
use crate::contracts::{Changes, Clock, EpochNumber, Error, RefusedRow, Result, Sink, TableSpec, WriteOutcome};

use super::kpl::{Aggregate, deaggregate};
use super::put::AwsTarget;

/// PutRecords calls at the same time. A shard takes 1 MB/s, a call up to 5 MB: more calls only meet more throttling.
const CALLS: usize = 4;
/// Largest aggregate: a quarter of what a shard takes in a second.
const AGGREGATE_BYTES: usize = 256 << 10;
/// A record that fails for so long ends the job.
const PATIENCE: Duration = Duration::from_secs(600);
/// Records that may be refused one after the other, of one epoch or several: beyond that it is not they that are wrong.
const MOST_REFUSED_IN_A_ROW: usize = 100;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Puts rows into a stream of AWS.
pub(in crate::connectors::kinesis) struct AwsStreamSink {
    session: AwsSession,
    stream: String,
    target: OnceCell<Arc<AwsTarget>>,
    encoder: RowEncoder,
    clock: Arc<dyn Clock>,
    jitter: Arc<Jitter>,
    keeps_order: bool,
    aggregates: bool,
    pending: Vec<OutRecord>,
    /// Records that were refused since one was stored.
    refused_in_a_row: usize,
}

impl AwsStreamSink {
    /// Nothing is asked of AWS yet.
    pub(in crate::connectors::kinesis) fn new(
        spec: &TableSpec,
        session: AwsSession,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let options = Options(spec);
        let seed = clock.now_ms().unsigned_abs();
        Ok(Self {
            session,
            stream: options.require(&["stream.arn", "stream"])?.to_owned(),
            target: OnceCell::new(),
            encoder: RowEncoder::new(spec)?,
            clock,
            jitter: Arc::new(Jitter::new(seed)),
            keeps_order: options.bool("sink.keep-order", false)?,
            aggregates: options.bool("sink.aggregation", false)?,
            pending: Vec::new(),
            refused_in_a_row: 0,
        })
    }

    async fn target(&self) -> Result<Arc<AwsTarget>> {
        let target = self.target.get_or_try_init(|| async {
            let target = AwsTarget::new(&self.session, &self.stream).await?;
            target.reach(Arc::clone(&self.clock)).await?;
            Ok::<_, Error>(Arc::new(target))
        });
        target.await.cloned()
    }

    /// Puts what is pending. Answers the rows that the service refuses.
    async fn put_all(&mut self) -> Result<Vec<RefusedRow>> {
        let records = std::mem::take(&mut self.pending);
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let records = if self.aggregates { aggregated(records, self.encoder.spreads()) } else { records };
        let all = records.len();
        let target = self.target().await?;
        let batches = if self.keeps_order { batches_once_a_key(records) } else { batches(records) };
        let calls = if self.keeps_order { 1 } else { CALLS };
        let puts = batches
            .into_iter()
            .map(|batch| put_batch(batch, Arc::clone(&target), Arc::clone(&self.clock), Arc::clone(&self.jitter)));
        let mut puts = futures::stream::iter(puts).buffer_unordered(calls);
        let mut refused = Vec::new();
        while let Some(put) = puts.next().await {
            refused.extend(put?);
        }
        drop(puts);
        self.refused_in_a_row = if refused.len() < all { 0 } else { self.refused_in_a_row + all };
        if let Some((_, why)) = refused.last().filter(|_| self.refused_in_a_row > MOST_REFUSED_IN_A_ROW) {
            let many = format!("more than {MOST_REFUSED_IN_A_ROW} records one after the other, none stored between");
            return Err(Error::data(format!("Kinesis stream '{}' refuses {many}: {why}", self.stream))
                .hint("something is wrong with the stream or the table's options, not with these records"));
        }
        Ok(refused.iter().flat_map(|(record, why)| refusals(record, self.aggregates, why)).collect())
    }
}

/// Puts a batch until all of it is stored. Answers the records that the service refuses, and why.
async fn put_batch(
    mut batch: Vec<OutRecord>,
    mut target: Arc<AwsTarget>,
    clock: Arc<dyn Clock>,
    jitter: Arc<Jitter>,
) -> Result<Vec<(OutRecord, String)>> {
    let began = clock.elapsed();
    let mut refused = Vec::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let results = target.put(&batch).await?;
        let mut again = Vec::new();
        let mut reason = String::new();
        for (record, result) in batch.into_iter().zip(results) {
            match result {
                Put::Stored => {}
                Put::Retry(why) => {
                    reason = why;
                    again.push(record);
                }
                Put::Refused(why) => refused.push((record, why)),
            }
        }
        if again.is_empty() {
            return Ok(refused);
        }
        let failing = clock.elapsed().saturating_sub(began);
        if failing > PATIENCE {
            return Err(Error::unavailable(format!(
                "{} records could not be put in {} s: {reason}",
                again.len(),
                failing.as_secs()
            ))
            .hint("a shard takes 1,000 records and 1 MB a second: add shards, or spread the partition keys"));
        }
        tracing::debug!(records = again.len(), reason, "putting failed records again");
        batch = again;
        clock.sleep(pause / 2 + jitter.up_to(pause / 2)).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// A batch that is being filled.
#[derive(Default)]
struct Filling {
    records: Vec<OutRecord>,
    bytes: usize,
}

impl Filling {
    fn has_room_for(&self, record: &OutRecord) -> bool {
        let fits = self.bytes + record.data.len() + record.partition_key.len() <= BATCH_BYTES;
        self.records.is_empty() || self.records.len() < BATCH_RECORDS && fits
    }

    fn push(&mut self, record: OutRecord) {
        self.bytes += record.data.len() + record.partition_key.len();
        self.records.push(record);
    }
}

/// Cuts records into batches as large as a call takes, in their order.
fn batches(records: Vec<OutRecord>) -> Vec<Vec<OutRecord>> {
    let (mut batches, mut filling) = (Vec::new(), Filling::default());
    for record in records {
        if !filling.has_room_for(&record) {
            batches.push(std::mem::take(&mut filling).records);
        }
        filling.push(record);
    }
    batches.push(filling.records);
    batches
}

/// The same with no key twice in a batch. Batches are in the order in which they must be put, and so are the records of a key: each
/// key's wait in a queue, and keys take turns.
fn batches_once_a_key(records: Vec<OutRecord>) -> Vec<Vec<OutRecord>> {
    let mut queues: Vec<VecDeque<OutRecord>> = Vec::new();
    let mut of_key: HashMap<String, usize> = HashMap::new();
    for record in records {
        match of_key.get(&record.partition_key) {
            Some(queue) => queues[*queue].push_back(record),
            None => {
                of_key.insert(record.partition_key.clone(), queues.len());
                queues.push(VecDeque::from([record]));
            }
        }
    }
    // The first `ready` keys of `turns` have no record in the batch.
    let mut turns: VecDeque<VecDeque<OutRecord>> = queues.into();
    let (mut ready, mut batches, mut filling) = (turns.len(), Vec::new(), Filling::default());
    while let Some(mut queue) = turns.pop_front() {
        let fits = ready > 0 && queue.front().is_some_and(|record| filling.has_room_for(record));
        if !fits {
            batches.push(std::mem::take(&mut filling).records);
            ready = turns.len() + 1;
        }
        ready -= 1;
        if let Some(record) = queue.pop_front() {
            filling.push(record);
        }
        if !queue.is_empty() {
            turns.push_back(queue);
        }
    }
    batches.push(filling.records);
    batches
}

/// The rows of a record that the service does not take, for the error output.
fn refusals(record: &OutRecord, is_aggregate: bool, why: &str) -> Vec<RefusedRow> {
    let refused = |key: &str, data: &[u8]| RefusedRow {
        row: 0,
        reason: "refused_by_kinesis".to_owned(),
        column: None,
        detail: format!("{why}; record of key '{key}': {}", String::from_utf8_lossy(data)),
        record: Some(data.to_vec()),
    };
    let rows = if is_aggregate { deaggregate(&record.data) } else { None };
    match rows {
        Some(rows) => rows.iter().map(|row| refused(row.partition_key, row.data)).collect(),
        None => vec![refused(&record.partition_key, &record.data)],
    }
}

/// Packs rows into aggregates. With `freely`, whatever comes next is packed together under the first one's key.
fn aggregated(records: Vec<OutRecord>, freely: bool) -> Vec<OutRecord> {
    let mut open: Vec<(String, Aggregate)> = Vec::new();
    let mut done = Vec::new();
    let close = |key: &str, aggregate: &mut Aggregate| OutRecord::new(aggregate.finish(), key.to_owned());
    let mut index: std::collections::BTreeMap<String, usize> = Default::default();
    for record in records {
        let at = match (freely, index.get(&record.partition_key)) {
            (true, _) if !open.is_empty() => 0,
            (false, Some(at)) => *at,
            _ => {
                index.insert(record.partition_key.clone(), open.len());
                open.push((record.partition_key.clone(), Aggregate::default()));
                open.len() - 1
            }
        };
        let (key, aggregate) = &mut open[at];
        if aggregate.len() > 0 && aggregate.bytes_with(key, &record.data) > AGGREGATE_BYTES {
            done.push(close(key, aggregate));
            if freely {
                *key = record.partition_key;
            }
        }
        aggregate.push(key, &record.data);
    }
    for (key, aggregate) in &mut open {
        if aggregate.len() > 0 {
            done.push(close(key, aggregate));
        }
    }
    done
}

#[async_trait]
impl Sink for AwsStreamSink {
    async fn open(&mut self) -> Result<()> {
        self.target().await.map(drop)
    }

    async fn write(&mut self, _epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let mut outcome = WriteOutcome::default();
        let pending = &mut self.pending;
        self.encoder.encode(&changes, |row, data, partition_key| {
            // An aggregate has some 50 bytes around a row that fills it alone.
            let bytes = data.len() + partition_key.len() + if self.aggregates { 64 } else { 0 };
            if bytes > MAX_RECORD_BYTES {
                outcome.refused.push(too_large(row, bytes));
            } else {
                pending.push(OutRecord::new(data, partition_key));
                outcome.written += 1;
            }
        })?;
        Ok(outcome)
    }

    fn flushes_parts(&self) -> bool {
        true
    }

    async fn flush(&mut self, _epoch: EpochNumber, _now_ms: i64) -> Result<WriteOutcome> {
        Ok(WriteOutcome { written: 0, refused: self.put_all().await? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, data: &str) -> OutRecord {
        OutRecord::new(data.as_bytes().to_vec(), key.to_owned())
    }

    fn texts(batches: &[Vec<OutRecord>]) -> Vec<Vec<&str>> {
        batches.iter().map(|b| b.iter().map(|r| std::str::from_utf8(&r.data).unwrap()).collect()).collect()
    }

    #[test]
    fn a_key_is_once_in_a_batch_and_in_order() {
        let records = || vec![record("a", "1"), record("b", "2"), record("a", "3"), record("a", "4"), record("b", "5")];
        assert_eq!(texts(&batches(records())), [["1", "2", "3", "4", "5"]]);
        assert_eq!(texts(&batches_once_a_key(records())), [vec!["1", "2"], vec!["3", "5"], vec!["4"]]);
        let many = (0..1_201).map(|i| record(&i.to_string(), "x")).collect();
        assert_eq!(batches_once_a_key(many).iter().map(Vec::len).collect::<Vec<_>>(), [500, 500, 201]);
        let large = |keys: usize| (0..4).map(|i| record(&(i % keys).to_string(), &"x".repeat(2 << 20))).collect();
        assert_eq!(batches(large(1)).iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
        assert_eq!(batches_once_a_key(large(3)).iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    }

    /// Each look at all that waits behind the key would be 8,589,934,592 of them.
    #[test]
    fn a_hot_key_costs_what_its_records_cost() {
        let hot = (0..131_072).map(|i| record("hot", &i.to_string()));
        let cold = (0..1_000).map(|i| record(&format!("cold-{i}"), "x"));
        let batches = batches_once_a_key(hot.chain(cold).collect());
        assert_eq!(batches.len(), 131_073);
        assert_eq!(batches.iter().take(4).map(Vec::len).collect::<Vec<_>>(), [500, 500, 2, 1]);
        let hot = batches.iter().flatten().filter(|r| r.partition_key == "hot");
        assert!(hot.map(|r| String::from_utf8_lossy(&r.data).parse::<u32>().unwrap()).eq(0..131_072));
    }

    #[test]
    fn aggregates_never_mix_keys_that_mean_something() {
        let records = || (0..1_000).map(|i| record(&(i % 3).to_string(), &format!("{i:0>1000}"))).collect();
        let packed = aggregated(records(), false);
        for record in &packed {
            let user = deaggregate(&record.data).unwrap();
            assert!(user.iter().all(|u| u.partition_key == record.partition_key));
            assert!(user.windows(2).all(|pair| pair[0].data < pair[1].data));
            assert!(record.data.len() <= AGGREGATE_BYTES);
        }
        assert_eq!(packed.iter().map(|r| deaggregate(&r.data).unwrap().len()).sum::<usize>(), 1_000);
        let freely = aggregated(records(), true);
        let all: Vec<_> = freely.iter().flat_map(|r| deaggregate(&r.data).unwrap()).map(|u| u.data.to_vec()).collect();
        assert!(all.len() == 1_000 && all.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(freely.len() <= packed.len());
    }
}
