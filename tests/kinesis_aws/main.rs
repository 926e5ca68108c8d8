//! Conformance of the Kinesis source for AWS, and its sink.
//!
//! Each case is a bug that another program had, with its source; the expected result is ours. Most run twice, for polling
//! and for enhanced fan-out. The stub in `tests/aws_stub` is the service; restarts go through the positions and the snapshot
//! that the runtime would save. `emulators.rs` runs the general cases on emulators that others wrote.

#![expect(clippy::disallowed_methods, reason = "the stub stands for a machine elsewhere, with a clock of its own")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

#[path = "../aws_stub/mod.rs"]
mod aws_stub;
#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../emulators/mod.rs"]
#[expect(dead_code, reason = "shared with the tests of other services")]
mod emulators_of_aws;
#[path = "../support/http.rs"]
mod http;

mod command;
mod credentials;
mod emulators;
mod ending;
mod fan_out;
mod faults;
mod feed;
mod killed;
mod payloads;
mod positions;
mod random;
mod resharding;
mod run;
mod serve;
mod several;
mod sinks;
mod stub;
mod tls;

/// Runs a case in both ways of reading.
macro_rules! in_both_ways {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            use crate::run::Way;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn polling() {
                super::$name(Way::Polling).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn efo() {
                super::$name(Way::FanOut).await;
            }
        }
    )+};
}
pub(crate) use in_both_ways;
