//! The calls that a source makes, one function each: the official client behind, plain values in front.
//!
//! The client's own retries are off: they would read a throttled shard again at once, which is what throttles it.

use std::sync::Arc;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::error::SdkError;
use aws_sdk_kinesis::types::{
    ChildShard, ConsumerStatus, Record, Shard, ShardFilter, ShardFilterType, ShardIteratorType, StartingPosition,
    StreamStatus,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::DateTime;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::connectors::aws::{AwsFailure, AwsSession, Call, failure};
use crate::contracts::{Clock, Result};

use super::position::Place;
use super::server_time::ServerTime;

/// A page of ListShards; the service gives 1,000 at most.
const SHARDS_PER_PAGE: i32 = 1_000;

/// How a stream is named in calls.
#[derive(Debug, Clone)]
pub(super) struct StreamName {
    pub(super) name: Arc<str>,
    /// Of a stream of another account, which has no name here.
    pub(super) arn: Option<Arc<str>>,
}

impl StreamName {
    /// A name or an ARN.
    pub(super) fn new(text: &str) -> Self {
        let is_arn = text.starts_with("arn:");
        let name = if is_arn { text.rsplit('/').next().unwrap_or(text) } else { text };
        Self { name: name.into(), arn: is_arn.then(|| text.into()) }
    }
}

/// What is to be known of a stream.
#[derive(Debug, Clone)]
pub(super) struct Summary {
    pub(super) arn: Arc<str>,
    pub(super) created_ms: i64,
    pub(super) retention_ms: i64,
    /// It can be read.
    pub(super) readable: bool,
}

/// An answer of GetRecords.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) records: Vec<Record>,
    /// Where to go on; `None` at the end of a closed shard.
    pub(super) next: Option<String>,
    pub(super) behind_ms: Option<u64>,
    pub(super) children: Vec<ChildShard>,
}

/// Calls on one stream.
#[derive(Debug, Clone)]
pub(super) struct StreamClient {
    client: Client,
    stream: StreamName,
    time: ServerTime,
    session: AwsSession,
}

/// A client that makes each call once.
pub(super) async fn client(session: &AwsSession) -> Result<Client> {
    build(session, None).await
}

async fn build(session: &AwsSession, time: Option<ServerTime>) -> Result<Client> {
    let config = session.config().await?;
    let mut builder = aws_sdk_kinesis::config::Builder::from(&config).retry_config(RetryConfig::disabled());
    if let Some(time) = time {
        builder = builder.interceptor(time);
    }
    Ok(Client::from_conf(builder.build()))
}

impl StreamClient {
    pub(super) async fn new(session: &AwsSession, stream: StreamName, clock: Arc<dyn Clock>) -> Result<Self> {
        let time = ServerTime::new(clock);
        Ok(Self { client: build(session, Some(time.clone())).await?, stream, time, session: session.clone() })
    }

    /// The same with connections of its own. HTTP/2 puts all calls to a host on one connection, whose flow control is
    /// shared: a shard whose events nobody takes for a while would hold up all others.
    pub(super) fn apart(&self) -> Result<Self> {
        let config = self.client.config().to_builder().http_client(self.session.http_apart()?).build();
        Ok(Self { client: Client::from_conf(config), ..self.clone() })
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.stream.name
    }

    /// The service's time, milliseconds since 1970.
    pub(super) fn server_ms(&self) -> i64 {
        self.time.now_ms()
    }

    fn by_name(&self) -> Option<String> {
        self.stream.arn.is_none().then(|| self.stream.name.to_string())
    }

    fn by_arn(&self) -> Option<String> {
        self.stream.arn.as_deref().map(str::to_owned)
    }

    fn failed<E>(&self, operation: &'static str, error: &SdkError<E, HttpResponse>) -> AwsFailure
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        failure(Call { service: "kinesis", operation, resource: &self.stream.name }, error)
    }

    pub(super) async fn summary(&self) -> Result<Summary, AwsFailure> {
        let call = self.client.describe_stream_summary().set_stream_name(self.by_name()).set_stream_arn(self.by_arn());
        let answer = call.send().await.map_err(|e| self.failed("DescribeStreamSummary", &e))?;
        let summary = answer.stream_description_summary();
        let readable = |s: &StreamStatus| matches!(s, StreamStatus::Active | StreamStatus::Updating);
        Ok(Summary {
            arn: summary.map_or("", |s| s.stream_arn()).into(),
            created_ms: summary.and_then(|s| s.stream_creation_timestamp().to_millis().ok()).unwrap_or(0),
            retention_ms: i64::from(summary.map_or(24, |s| s.retention_period_hours())) * 3_600_000,
            readable: summary.is_some_and(|s| readable(s.stream_status())),
        })
    }

    /// One page of shards and the token of the next. Without `from_ms`, all shards that still hold records.
    pub(super) async fn shards(
        &self,
        from_ms: Option<i64>,
        token: Option<String>,
    ) -> Result<(Vec<Shard>, Option<String>), AwsFailure> {
        let mut call = self.client.list_shards();
        if token.is_some() {
            // The service refuses a token together with anything that names the stream.
            call = call.set_next_token(token);
        } else {
            call = call.set_stream_name(self.by_name()).set_stream_arn(self.by_arn());
            if let Some(ms) = from_ms {
                let filter = ShardFilter::builder()
                    .r#type(ShardFilterType::FromTimestamp)
                    .timestamp(DateTime::from_millis(ms))
                    .build();
                call = call.set_shard_filter(filter.ok());
            }
        }
        let call = call.max_results(SHARDS_PER_PAGE);
        let answer = call.send().await.map_err(|e| self.failed("ListShards", &e))?;
        let next = answer.next_token().map(str::to_owned);
        Ok((answer.shards.unwrap_or_default(), next))
    }

    /// An iterator that gives the record after `place`, or the one that `place` stands in.
    pub(super) async fn iterator(&self, shard: &str, place: &Place) -> Result<String, AwsFailure> {
        let call = self.client.get_shard_iterator().set_stream_name(self.by_name()).set_stream_arn(self.by_arn());
        let call = call.shard_id(shard);
        let call = match place {
            Place::Horizon => call.shard_iterator_type(ShardIteratorType::TrimHorizon),
            Place::At(ms) => {
                call.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(DateTime::from_millis(*ms))
            }
            Place::After { sequence, after_sub: None } => call
                .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
                .starting_sequence_number(sequence.as_str()),
            Place::After { sequence, after_sub: Some(_) } => call
                .shard_iterator_type(ShardIteratorType::AtSequenceNumber)
                .starting_sequence_number(sequence.as_str()),
        };
        let answer = call.send().await.map_err(|e| self.failed("GetShardIterator", &e))?;
        Ok(answer.shard_iterator.unwrap_or_default())
    }

    pub(super) async fn records(&self, iterator: &str, limit: i32) -> Result<Answer, AwsFailure> {
        let call = self.client.get_records().shard_iterator(iterator).limit(limit).set_stream_arn(self.by_arn());
        let answer = call.send().await.map_err(|e| self.failed("GetRecords", &e))?;
        Ok(Answer {
            behind_ms: answer.millis_behind_latest.and_then(|ms| u64::try_from(ms).ok()),
            next: answer.next_shard_iterator.filter(|i| !i.is_empty()),
            children: answer.child_shards.unwrap_or_default(),
            records: answer.records,
        })
    }

    /// ARN of the consumer of this name and whether it can be subscribed; `None` when there is none.
    pub(super) async fn consumer(
        &self,
        arn: &str,
        name: &str,
    ) -> Result<Option<(Arc<str>, ConsumerStatus)>, AwsFailure> {
        let call = self.client.describe_stream_consumer().stream_arn(arn).consumer_name(name);
        match call.send().await {
            Ok(answer) => {
                Ok(answer.consumer_description().map(|c| (c.consumer_arn().into(), c.consumer_status().clone())))
            }
            Err(e) => match self.failed("DescribeStreamConsumer", &e) {
                failure if failure.code == "ResourceNotFoundException" => Ok(None),
                failure => Err(failure),
            },
        }
    }

    pub(super) async fn register(&self, arn: &str, name: &str) -> Result<(), AwsFailure> {
        let call = self.client.register_stream_consumer().stream_arn(arn).consumer_name(name);
        match call.send().await {
            Ok(_) => Ok(()),
            Err(e) => match self.failed("RegisterStreamConsumer", &e) {
                // Another reader was faster.
                failure if failure.code == "ResourceInUseException" => Ok(()),
                failure => Err(failure),
            },
        }
    }

    pub(super) async fn deregister(&self, consumer_arn: &str) -> Result<(), AwsFailure> {
        let call = self.client.deregister_stream_consumer().consumer_arn(consumer_arn);
        call.send().await.map(drop).map_err(|e| self.failed("DeregisterStreamConsumer", &e))
    }

    pub(super) async fn subscribe(
        &self,
        consumer_arn: &str,
        shard: &str,
        place: &Place,
    ) -> Result<aws_sdk_kinesis::operation::subscribe_to_shard::SubscribeToShardOutput, AwsFailure> {
        let start = match place {
            Place::Horizon => StartingPosition::builder().r#type(ShardIteratorType::TrimHorizon),
            Place::At(ms) => {
                StartingPosition::builder().r#type(ShardIteratorType::AtTimestamp).timestamp(DateTime::from_millis(*ms))
            }
            Place::After { sequence, after_sub } => {
                let kind = match after_sub {
                    None => ShardIteratorType::AfterSequenceNumber,
                    Some(_) => ShardIteratorType::AtSequenceNumber,
                };
                StartingPosition::builder().r#type(kind).sequence_number(sequence.as_str())
            }
        };
        let call = self.client.subscribe_to_shard().consumer_arn(consumer_arn).shard_id(shard);
        let call = call.set_starting_position(start.build().ok());
        call.send().await.map_err(|e| self.failed("SubscribeToShard", &e))
    }
}
