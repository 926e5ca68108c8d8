//! Reading a shard by enhanced fan-out: the service pushes, on a connection of its own with 2 MB/s for this consumer alone.
//!
//! ```text
//! SubscribeToShard ──► event (records, continuation) ──► event … 5 minutes at most … ──► end ──┐
//!        ▲                                                                                      │
//!        └──────── from the position, which every event has moved ◄─────── errors, silence ◄───┘
//! ```
//!
//! - The position moves to the last record of an event. An event without records has a continuation number too, but that
//!   names no record that was read; resuming behind the last record is right as well, and skips nothing.
//! - A shard has ended when an event has child shards or no continuation number.
//! - The service refuses a second subscription within 5 s of the last one (ResourceInUseException), and also while the old
//!   one is not cleaned up yet after a crash: that is waited for.
//! - "Not found" is said of a consumer as of a shard: the consumer is looked for first, and registered again where it is gone.
//! - The service sends an event at least every 5 s, also when there is nothing new. A connection that is silent for
//!   [`SILENCE`] is dead, whatever TCP says.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::error::DisplayErrorContext;
use aws_sdk_kinesis::operation::subscribe_to_shard::SubscribeToShardOutput;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError as StreamError;
use aws_sdk_kinesis::types::{ChildShard, SubscribeToShardEventStream as Event};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::event_stream::RawMessage;
use tokio::sync::OwnedSemaphorePermit;

use crate::connectors::aws::AwsFailure;
use crate::contracts::{Error, ErrorKind, Fetch, Position, Result, SplitReader};

use super::budget::Allowance;
use super::client::StreamClient;
use super::consumer::Consumer;
use super::retry::Backoff;
use super::shard::{ShardReading, Verdict};

/// Heartbeats come each 5 s; six in a row do not get lost on a connection that lives.
const SILENCE: Duration = Duration::from_secs(30);
/// The client gives a call up that has no answer, but not one whose answer ends behind its first lines: the first event of all is waited for as
/// long as it takes. This is longer than all of its attempts.
const ANSWER: Duration = Duration::from_secs(90);
/// Between two subscriptions: the service allows one in 5 s for a shard and consumer.
const BETWEEN_SUBSCRIPTIONS: Duration = Duration::from_millis(5_100);

/// An event that comes sooner than this after the one before was taken has lain in the connection, for nobody knows how long: what it says
/// of there being nothing more, or how much, is no news. (Heartbeats come each 5 s; a connection gives what it has read within a few milliseconds.)
const QUEUED: Duration = Duration::from_millis(50);

/// Subscriptions on one connection. The client's HTTP/2 windows are 2 MB for a stream and 5 MB for a connection (hyper 1.12; the SDK
/// lets nobody change them): where two are held back, the third has room. More would starve each other, fewer need more memory.
pub(super) const SHARDS_PER_CONNECTION: usize = 3;

/// Reads one shard as a registered consumer.
pub(super) struct FanOutReader {
    shard: ShardReading,
    allowance: Allowance,
    /// Held from before an event is received until it is handed out.
    turn: Option<OwnedSemaphorePermit>,
    consumer: Arc<Consumer>,
    /// The one that the last subscription was made with.
    arn: Arc<str>,
    client: StreamClient,
    subscription: Option<SubscribeToShardOutput>,
    /// When the last subscription began, by the clock's `elapsed`.
    subscribed: Option<Duration>,
    backoff: Backoff,
    end: Option<Vec<ChildShard>>,
}

impl FanOutReader {
    /// Subscribes with `client`, which should not be shared by more than [`SHARDS_PER_CONNECTION`].
    pub(super) fn new(
        shard: ShardReading,
        allowance: Allowance,
        consumer: Arc<Consumer>,
        client: StreamClient,
    ) -> Self {
        let (backoff, arn) = (shard.stream.backoff(), consumer.arn());
        let (turn, subscription, subscribed, end) = (None, None, None, None);
        Self { shard, allowance, turn, consumer, arn, client, subscription, subscribed, backoff, end }
    }

    /// Subscribes, if there is no subscription.
    async fn subscribe(&mut self) -> Result<()> {
        let clock = Arc::clone(&self.shard.stream.clock);
        if let Some(at) = self.subscribed {
            let wait = (at + BETWEEN_SUBSCRIPTIONS).saturating_sub(clock.elapsed());
            if !wait.is_zero() {
                clock.sleep(wait).await;
            }
        }
        self.shard.check_age()?;
        self.subscribed = Some(clock.elapsed());
        let place = self.shard.place();
        self.arn = self.consumer.arn();
        let answered = tokio::select! {
            answered = self.client.subscribe(&self.arn, &self.shard.id, &place) => answered,
            () = clock.sleep(ANSWER) => {
                tracing::warn!(shard = %self.shard.id, "no answer for {} s; subscribing again", ANSWER.as_secs());
                return Ok(());
            }
        };
        match answered {
            Ok(subscription) => self.subscription = Some(subscription),
            Err(failure) => self.failed(failure).await?,
        }
        Ok(())
    }

    async fn failed(&mut self, mut failure: AwsFailure) -> Result<()> {
        self.subscription = None;
        // Another subscription of this consumer is not over yet: ours of before, or that of a worker that has lost the job.
        failure.retryable |= failure.code == "ResourceInUseException";
        if failure.retryable {
            self.backoff.pause(&failure).await;
            return Ok(());
        }
        if failure.code == "ResourceNotFoundException" {
            let stream = &self.shard.stream;
            // Where the whole stream is gone, there is no consumer to register.
            stream.same_stream().await?;
            if self.consumer.look_again(stream, &self.arn).await? != self.arn {
                // The service's pause is for subscriptions of one consumer.
                self.subscribed = None;
                return Ok(());
            }
        }
        match self.shard.judge(failure).await? {
            Verdict::Retry | Verdict::Renew => {}
            Verdict::Gone => self.end = Some(Vec::new()),
        }
        Ok(())
    }

    /// Takes the next event. `true`: everything that is there has been given.
    async fn receive(&mut self) -> Result<bool> {
        let clock = Arc::clone(&self.shard.stream.clock);
        let Some(subscription) = &mut self.subscription else { return Ok(false) };
        let asked = clock.elapsed();
        let received = tokio::select! {
            received = subscription.event_stream.recv() => received,
            () = clock.sleep(SILENCE) => {
                tracing::warn!(shard = %self.shard.id, "no event for {} s; subscribing again", SILENCE.as_secs());
                self.subscription = None;
                return Ok(false);
            }
        };
        let is_news = clock.elapsed().saturating_sub(asked) >= QUEUED;
        let true_ms = is_news.then(|| clock.now_ms());
        match received {
            Ok(Some(Event::SubscribeToShardEvent(event))) => {
                self.backoff.reset();
                let behind = u64::try_from(event.millis_behind_latest).unwrap_or(0);
                // The service says how much comes at a time; what is decoded at a time is said here.
                self.shard.limit_chunks(self.allowance.share());
                let children = event.child_shards.unwrap_or_default();
                let ends = !children.is_empty() || event.continuation_sequence_number.is_empty();
                self.shard.take(&event.records, Some(behind), true_ms, ends)?;
                if self.shard.stopped() {
                    self.subscription = None;
                    return Ok(false);
                }
                if ends {
                    self.subscription = None;
                    self.end = Some(children);
                    return Ok(false);
                }
                Ok(event.records.is_empty() && behind == 0 && is_news)
            }
            // An event of a later version of the service.
            Ok(Some(_)) => Ok(false),
            Ok(None) => {
                tracing::debug!(shard = %self.shard.id, "the subscription has ended");
                self.subscription = None;
                Ok(false)
            }
            Err(error) => {
                let failure = within_stream(self.shard.stream.name(), &error);
                self.failed(failure).await?;
                Ok(false)
            }
        }
    }
}

/// What ended an event stream, as a failed call would be told.
fn within_stream(stream: &str, error: &SdkError<StreamError, RawMessage>) -> AwsFailure {
    let (code, text) = match error {
        SdkError::ServiceError(e) => (code(e.err()).unwrap_or("Unknown"), e.err().to_string()),
        // A broken frame or connection.
        other => ("Connection", DisplayErrorContext(other).to_string()),
    };
    let throttled = code == "KMSThrottlingException";
    // An exception of a later version of the service: if it lasts, the next SubscribeToShard says what it is.
    let retryable = throttled || matches!(code, "Connection" | "InternalFailureException" | "Unknown");
    let kind = if retryable { ErrorKind::Unavailable } else { ErrorKind::Config };
    let error = Error::new(kind, format!("kinesis:SubscribeToShard on '{stream}' failed: {text} ({code})"));
    let error = if code.starts_with("KMS") {
        error.hint("the stream is encrypted: its key must be enabled, and the role needs 'kms:Decrypt' on it")
    } else {
        error
    };
    AwsFailure { code: code.to_owned(), retryable, throttled, outcome_unknown: false, error }
}

/// The exception's name: within a stream it is no part of the message.
fn code(error: &StreamError) -> Option<&'static str> {
    Some(match error {
        StreamError::ResourceNotFoundException(_) => "ResourceNotFoundException",
        StreamError::ResourceInUseException(_) => "ResourceInUseException",
        StreamError::KmsDisabledException(_) => "KMSDisabledException",
        StreamError::KmsInvalidStateException(_) => "KMSInvalidStateException",
        StreamError::KmsAccessDeniedException(_) => "KMSAccessDeniedException",
        StreamError::KmsNotFoundException(_) => "KMSNotFoundException",
        StreamError::KmsOptInRequired(_) => "KMSOptInRequired",
        StreamError::KmsThrottlingException(_) => "KMSThrottlingException",
        StreamError::InternalFailureException(_) => "InternalFailureException",
        _ => return None,
    })
}

#[async_trait]
impl SplitReader for FanOutReader {
    async fn next(&mut self) -> Result<Fetch> {
        loop {
            if let Some(fetch) = self.shard.before_asking(self.end.as_deref()).await? {
                return Ok(fetch);
            }
            self.turn = None;
            if self.subscription.is_none() {
                self.subscribe().await?;
                continue;
            }
            // Of a shard that has been caught up, events are as small as what has just come.
            if self.shard.behind_ms() != Some(0) {
                self.turn = self.allowance.turn(&self.shard.stream.clock).await;
            }
            if self.receive().await? {
                self.turn = None;
                return Ok(Fetch::CaughtUp);
            }
        }
    }

    fn position(&self) -> Option<Position> {
        Some(self.shard.position.to_position())
    }

    fn behind_ms(&self) -> Option<u64> {
        self.shard.behind_ms()
    }
}
