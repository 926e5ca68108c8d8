//! Firehose on AWS: PutRecordBatch, of which only the failed records are put again.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_firehose::Client;
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::{DeliveryStreamStatus, Record};

use crate::connectors::aws::{Attempt, AwsSession, Call, Jitter, Requests, failure};
use crate::connectors::options::Options;
use crate::contracts::{Changes, Clock, EpochNumber, Error, Result, Sink, TableSpec, WriteOutcome};

use super::{Encoding, delivery_stream};

/// "PutRecordBatch": at most 500 records and 4 MiB.
const BATCH_RECORDS: usize = 500;
const BATCH_BYTES: usize = 4 << 20;
/// Calls at the same time. A stream takes 1,000 to 2,000 calls a second at most, and far fewer bytes.
const IN_FLIGHT: i64 = 4;

/// Puts rows into a delivery stream.
pub(super) struct AwsDeliverySink {
    session: AwsSession,
    stream: String,
    encoding: Encoding,
    requests: Requests,
    client: Option<Client>,
    pending: Vec<Vec<u8>>,
}

impl AwsDeliverySink {
    pub(super) fn try_new(spec: &TableSpec, session: AwsSession, clock: Arc<dyn Clock>, job: &str) -> Result<Self> {
        let stream = delivery_stream(spec)?.to_owned();
        let in_flight = Options(spec).number("sink.requests.max-inflight")?.unwrap_or(IN_FLIGHT);
        let in_flight = usize::try_from(in_flight).ok().filter(|n| (1..=100).contains(n)).ok_or_else(|| {
            Error::config(format!("table '{}': 'sink.requests.max-inflight' is from 1 to 100", spec.name))
        })?;
        let requests = Requests::new(clock, Jitter::seeded(&[job, &spec.name, &stream]), in_flight);
        Ok(Self { session, encoding: Encoding::of(spec)?, stream, requests, client: None, pending: Vec::new() })
    }
}

/// Cuts records into batches that one call takes.
fn batches(records: Vec<Vec<u8>>) -> Vec<Vec<Record>> {
    let (mut batches, mut bytes): (Vec<Vec<Record>>, usize) = (Vec::new(), 0);
    for record in records {
        bytes += record.len();
        let length = record.len();
        let record = Record::builder().data(Blob::new(record)).build().expect("a record with its data is complete");
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_RECORDS && bytes <= BATCH_BYTES => batch.push(record),
            _ => {
                bytes = length;
                batches.push(vec![record]);
            }
        }
    }
    batches
}

async fn put(client: &Client, stream: &str, records: Vec<Record>) -> Attempt<Vec<Record>> {
    let call = Call { service: "firehose", operation: "PutRecordBatch", resource: stream };
    let sent = client.put_record_batch().delivery_stream_name(stream).set_records(Some(records.clone())).send().await;
    let output = match sent {
        Ok(output) => output,
        Err(e) => return Attempt::after(records, failure(call, &e)),
    };
    if output.failed_put_count() == 0 {
        return Attempt::Done;
    }
    let total = records.len();
    let answers = output.request_responses();
    // What the answer says nothing of may not be there. At least once: better twice than never.
    let failed = |number: usize| answers.get(number).is_none_or(|answer| answer.error_code().is_some());
    // Firehose says "ServiceUnavailableException: Slow down" of a record that is over the stream's limits.
    let throttled = answers.iter().any(|answer| answer.error_code() == Some("ServiceUnavailableException"));
    let numbered = records.into_iter().enumerate();
    let left: Vec<Record> = numbered.filter(|(number, _)| failed(*number)).map(|(_, record)| record).collect();
    let parts = (left.len(), total);
    if left.is_empty() { Attempt::Done } else { Attempt::left_over(call, left, parts, throttled) }
}

#[async_trait]
impl Sink for AwsDeliverySink {
    async fn open(&mut self) -> Result<()> {
        let client = Client::new(&self.session.config_without_retries().await?);
        let stream = self.stream.as_str();
        let call = Call { service: "firehose", operation: "DescribeDeliveryStream", resource: stream };
        let describe = || async {
            let sent = client.describe_delivery_stream().delivery_stream_name(stream).limit(1).send().await;
            sent.map_err(|e| failure(call, &e))
        };
        let description = self.requests.once(describe).await?.delivery_stream_description;
        if let Some(status) = description.map(|d| d.delivery_stream_status)
            && status != DeliveryStreamStatus::Active
        {
            return Err(Error::config(format!("delivery stream '{stream}' is {status}, not ACTIVE"))
                .hint("wait until it is active, and start again"));
        }
        self.client = Some(client);
        Ok(())
    }

    async fn write(&mut self, _epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let (records, refused) = self.encoding.records(&changes)?;
        let written = records.len() as u64;
        self.pending.extend(records);
        Ok(WriteOutcome { written, refused })
    }

    fn flushes_parts(&self) -> bool {
        true
    }

    async fn flush(&mut self, _epoch: EpochNumber, _now_ms: i64) -> Result<WriteOutcome> {
        if !self.pending.is_empty() {
            let client = self.client.as_ref().ok_or_else(|| Error::internal("the sink was not opened"))?;
            let (stream, pending) = (&self.stream, std::mem::take(&mut self.pending));
            self.requests.run(batches(pending), |batch| put(client, stream, batch)).await?;
        }
        Ok(WriteOutcome::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_both_limits() {
        let sizes = |records: Vec<Vec<u8>>| batches(records).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![vec![b'x']; 1_001]), [500, 500, 1]);
        assert_eq!(sizes(vec![vec![b'x'; 1_000_000]; 9]), [4, 4, 1]);
        assert_eq!(sizes(Vec::new()), [0_usize; 0]);
    }
}
