//! The service's time, from the `Date` of its answers.
//!
//! A date has whole seconds, so it tells whether the clock here is right, and by how much it is wrong otherwise. The clock agrees
//! when the second of the date and the time of the call, from its sending to its answer, have a moment in common: the service
//! wrote the date between the two.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};

use crate::contracts::Clock;

/// Sees all calls of a client.
#[derive(Debug, Clone)]
pub(super) struct ServerTime {
    clock: Arc<dyn Clock>,
    /// To be added to the clock here.
    ahead_ms: Arc<AtomicI64>,
}

/// When a call was sent, by the clock here.
#[derive(Debug)]
struct Sent(i64);

impl Storable for Sent {
    type Storer = StoreReplace<Self>;
}

impl ServerTime {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, ahead_ms: Arc::default() }
    }

    /// The service's time in milliseconds since 1970; before its first answer, that of the clock here.
    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now_ms().saturating_add(self.ahead_ms.load(Ordering::Relaxed))
    }
}

/// How far the service is ahead that wrote `date_ms` into its answer. Where it is not clear, the least.
fn ahead(date_ms: i64, sent_ms: i64, received_ms: i64) -> i64 {
    let agrees = sent_ms < date_ms + 1_000 && received_ms >= date_ms;
    if agrees { 0 } else { date_ms - received_ms }
}

impl Intercept for ServerTime {
    fn name(&self) -> &'static str {
        "ServerTime"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        config.interceptor_state().store_put(Sent(self.clock.now_ms()));
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        let date = context.response().headers().get("date").and_then(|text| {
            // `Sun, 06 Nov 1994 08:49:37 GMT`
            chrono::NaiveDateTime::parse_from_str(text, "%a, %d %b %Y %H:%M:%S GMT").ok()
        });
        if let (Some(date), Some(sent)) = (date, config.load::<Sent>()) {
            let ahead_ms = ahead(date.and_utc().timestamp_millis(), sent.0, self.clock.now_ms());
            self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_agrees_with_the_date_is_taken_as_it_is() {
        assert_eq!(ahead(5_000, 5_200, 5_300), 0);
        // Sent within the second of the date and answered in the next, or the other way around.
        assert_eq!(ahead(5_000, 5_990, 6_100), 0);
        assert_eq!(ahead(5_000, 4_900, 5_010), 0);
        // Seconds of waiting may hide that much.
        assert_eq!(ahead(5_000, 2_000, 8_000), 0);
        assert_eq!(ahead(5_000, 6_000, 6_100), -1_100);
        assert_eq!(ahead(5_000, 3_000, 4_900), 100);
        assert_eq!(ahead(3_605_000, 5_200, 5_300), 3_599_700);
    }
}
