//! Putting records: PutRecords with up to 500 records and 5 MB, of which any number may fail.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;

use crate::connectors::aws::{AwsFailure, AwsSession, Call, Jitter, failure};
use crate::connectors::kinesis::produce::{OutRecord, Put, PutBatch};
use crate::contracts::{Clock, Error, Result};

use super::client::{StreamName, client};
use super::retry::{Backoff, START_PATIENCE};

/// A stream of AWS, to put records into.
#[derive(Debug, Clone)]
pub(in crate::connectors::kinesis) struct AwsTarget {
    client: Client,
    stream: StreamName,
}

impl AwsTarget {
    /// A stream by name or ARN. Nothing is asked of it yet.
    pub(in crate::connectors::kinesis) async fn new(session: &AwsSession, stream: &str) -> Result<Self> {
        Ok(Self { client: client(session).await?, stream: StreamName::new(stream) })
    }

    /// Reaches the stream, so that a wrong name is found before anything is put. What passes by itself is waited for.
    pub(in crate::connectors::kinesis) async fn reach(&self, clock: Arc<dyn Clock>) -> Result<()> {
        let describe = || async {
            let name = self.stream.arn.is_none().then(|| self.stream.name.to_string());
            let call = self.client.describe_stream_summary().set_stream_name(name).set_stream_arn(self.arn());
            call.send().await.map(drop).map_err(|e| failure(self.call("DescribeStreamSummary"), &e))
        };
        let jitter = Arc::new(Jitter::new(clock.now_ms().unsigned_abs()));
        let mut backoff = Backoff::new(clock, jitter);
        backoff.persist(Some(START_PATIENCE), describe).await.map_err(Error::from)
    }

    fn arn(&self) -> Option<String> {
        self.stream.arn.as_deref().map(str::to_owned)
    }

    fn call(&self, operation: &'static str) -> Call<'_> {
        Call { service: "kinesis", operation, resource: &self.stream.name }
    }

    /// Puts a batch once.
    pub(super) async fn put_once(&self, records: &[OutRecord]) -> Result<Vec<Put>, AwsFailure> {
        let name = self.stream.arn.is_none().then(|| self.stream.name.to_string());
        let entry = |record: &OutRecord| {
            PutRecordsRequestEntry::builder()
                .data(Blob::new(record.data.as_slice()))
                .partition_key(&record.partition_key)
                .set_explicit_hash_key(record.explicit_hash_key.map(|hash| hash.to_string()))
                .build()
                .expect("data and key are set")
        };
        let call = self.client.put_records().set_stream_name(name).set_stream_arn(self.arn());
        let answer = call.set_records(Some(records.iter().map(entry).collect())).send().await;
        let answer = answer.map_err(|e| failure(self.call("PutRecords"), &e))?;
        let put = |result: &aws_sdk_kinesis::types::PutRecordsResultEntry| match result.error_code() {
            None => Put::Stored,
            Some(code) => Put::Retry(format!("{code}: {}", result.error_message().unwrap_or("no message"))),
        };
        let mut results: Vec<Put> = answer.records().iter().map(put).collect();
        results.resize_with(records.len(), || Put::Retry("the answer says nothing of it".to_owned()));
        Ok(results)
    }
}

#[async_trait]
impl PutBatch for Arc<AwsTarget> {
    async fn put(&mut self, records: &[OutRecord]) -> Result<Vec<Put>> {
        match self.put_once(records).await {
            Ok(results) => Ok(results),
            Err(failure) if failure.retryable => Ok(vec![Put::Retry(failure.error.to_string()); records.len()]),
            // One bad record fails the whole call: each is put by itself to find it.
            Err(failure) if is_invalid(&failure) => {
                if let [_] = records {
                    return Ok(vec![Put::Refused(failure.error.to_string())]);
                }
                let mut results = Vec::with_capacity(records.len());
                for record in records {
                    results.extend(self.put(std::slice::from_ref(record)).await?);
                }
                Ok(results)
            }
            Err(failure) => Err(failure.error),
        }
    }
}

/// Whether the service says that the request itself is wrong.
pub(super) fn is_invalid(failure: &AwsFailure) -> bool {
    matches!(failure.code.as_str(), "InvalidArgumentException" | "ValidationException" | "SerializationException")
}
