//! The registered consumer of enhanced fan-out.
//!
//! A consumer costs money as long as it is registered, and a stream has at most 20 (50 on demand with advantage), so what a
//! job has registered it removes at its orderly end, unless another run goes on where it ends (a replica's); one that was
//! there before stays. After a crash the next run finds the consumer and uses it. One that somebody removes while the job reads (a person, or another job of the same name at its end)
//! is registered again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::types::ConsumerStatus;

use crate::contracts::{Error, Result};

use super::read_options::{FanOutOptions, Lifecycle};
use super::stream::Stream;

/// Between two looks at a consumer that is on its way in or out.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Registering takes seconds; a consumer that is being deleted may take a minute before its name is free.
const PATIENCE: Duration = Duration::from_secs(180);

/// A consumer that can be subscribed with.
#[derive(Debug)]
pub(super) struct Consumer {
    options: FanOutOptions,
    arn: Mutex<Arc<str>>,
    /// This job has registered it, in this run or in an earlier one.
    ours: AtomicBool,
    /// Held by the reader that looks for it: all readers of a stream find at once that it is gone.
    looking: tokio::sync::Mutex<()>,
}

/// Finds or registers the consumer and waits until it is active: its ARN, and whether the job has registered it.
async fn active(stream: &Stream, options: &FanOutOptions, mut ours: bool) -> Result<(Arc<str>, bool)> {
    let (clock, name, arn) = (&stream.clock, options.consumer.as_str(), stream.arn());
    let began = clock.elapsed();
    loop {
        let found = stream.backoff().persist(Some(PATIENCE), || stream.client.consumer(&arn, name)).await?;
        match found {
            Some((consumer_arn, ConsumerStatus::Active)) => return Ok((consumer_arn, ours)),
            Some(_) => {}
            None if options.lifecycle == Lifecycle::SelfManaged => {
                return Err(Error::config(format!("stream '{}' has no consumer '{name}'", stream.name()))
                    .hint("register it, or let the job do it with 'source.efo.lifecycle' = 'JOB_MANAGED'"));
            }
            None => {
                stream.backoff().persist(Some(PATIENCE), || stream.client.register(&arn, name)).await?;
                ours = true;
            }
        }
        if clock.elapsed().saturating_sub(began) > PATIENCE {
            return Err(Error::unavailable(format!(
                "consumer '{name}' of stream '{}' did not become active in {} s",
                stream.name(),
                PATIENCE.as_secs()
            )));
        }
        clock.sleep(LOOK_AGAIN).await;
    }
}

impl Consumer {
    /// Finds or registers the consumer and waits until it is active. `ours`: an earlier run registered it.
    pub(super) async fn ready(stream: &Stream, options: &FanOutOptions, ours: bool) -> Result<Self> {
        let (arn, ours) = active(stream, options, ours).await?;
        Ok(Self {
            options: options.clone(),
            arn: Mutex::new(arn),
            ours: AtomicBool::new(ours),
            looking: tokio::sync::Mutex::default(),
        })
    }

    /// The consumer after the service has said that it does not know `gone`, or the shard: the same one when it is there.
    pub(super) async fn look_again(&self, stream: &Stream, gone: &str) -> Result<Arc<str>> {
        let _looking = self.looking.lock().await;
        let before = self.arn();
        if *before != *gone {
            return Ok(before);
        }
        // One that is there under this name, and not by us, is somebody else's.
        let (arn, registered) = active(stream, &self.options, false).await?;
        if arn != before || registered {
            self.ours.store(registered, Ordering::Relaxed);
            tracing::warn!(
                stream = %stream.name(),
                consumer = self.options.consumer,
                "somebody has removed the consumer; reading goes on with a new one"
            );
            *self.arn.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&arn);
        }
        Ok(arn)
    }

    pub(super) fn arn(&self) -> Arc<str> {
        Arc::clone(&self.arn.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn is_ours(&self) -> bool {
        self.ours.load(Ordering::Relaxed)
    }

    /// Removes what the job has registered.
    pub(super) async fn release(&self, stream: &Stream) {
        if self.options.lifecycle == Lifecycle::SelfManaged || !self.is_ours() {
            return;
        }
        let (patience, arn) = (Some(Duration::from_secs(10)), self.arn());
        match stream.backoff().persist(patience, || stream.client.deregister(&arn)).await {
            Ok(()) => self.ours.store(false, Ordering::Relaxed),
            // Somebody else has removed it.
            Err(failure) if failure.code == "ResourceNotFoundException" => self.ours.store(false, Ordering::Relaxed),
            Err(failure) => tracing::warn!("the consumer stays registered: {}", failure.error),
        }
    }
}
