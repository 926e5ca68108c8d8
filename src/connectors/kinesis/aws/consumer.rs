//! The registered consumer of enhanced fan-out.
//!
//! A consumer costs money as long as it is registered, and a stream has at most 20 (50 on demand with advantage), so what a
//! job has registered it removes at its orderly end; one that was there before stays. After a crash the next run finds the
//! consumer and uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    arn: Arc<str>,
    /// This job has registered it, in this run or in an earlier one.
    ours: AtomicBool,
    lifecycle: Lifecycle,
}

impl Consumer {
    /// Finds or registers the consumer and waits until it is active. `ours`: an earlier run registered it.
    pub(super) async fn ready(stream: &Stream, options: &FanOutOptions, mut ours: bool) -> Result<Self> {
        let (clock, name, arn) = (&stream.clock, options.consumer.as_str(), stream.arn());
        let began = clock.elapsed();
        loop {
            let found = stream.backoff().persist(Some(PATIENCE), || stream.client.consumer(&arn, name)).await?;
            match found {
                Some((consumer_arn, ConsumerStatus::Active)) => {
                    return Ok(Self { arn: consumer_arn, ours: AtomicBool::new(ours), lifecycle: options.lifecycle });
                }
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

    pub(super) fn arn(&self) -> Arc<str> {
        Arc::clone(&self.arn)
    }

    pub(super) fn is_ours(&self) -> bool {
        self.ours.load(Ordering::Relaxed)
    }

    /// Removes what the job has registered.
    pub(super) async fn release(&self, stream: &Stream) {
        if self.lifecycle == Lifecycle::SelfManaged || !self.is_ours() {
            return;
        }
        let patience = Some(Duration::from_secs(10));
        match stream.backoff().persist(patience, || stream.client.deregister(&self.arn)).await {
            Ok(()) => self.ours.store(false, Ordering::Relaxed),
            Err(failure) => tracing::warn!("the consumer stays registered: {}", failure.error),
        }
    }
}
