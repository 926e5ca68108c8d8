//! Files and checkpoints on S3, against two emulators that are started here: SeaweedFS, which checks signatures, and ministack.
//!
//! `tests/emulators/setup-s3` installs them. Without it these tests say that they were skipped; where `CI` is set they
//! fail.

#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

#[path = "../connectors/support.rs"]
#[expect(dead_code, reason = "shared with the tests of local connectors, which use all of it")]
mod support;

#[path = "../support/certificates.rs"]
mod certificates;
mod checkpoints;
mod died;
#[path = "../emulators/mod.rs"]
#[expect(dead_code, reason = "shared with the tests of other services")]
mod emulators_of_aws;

mod emulator;
mod faults;
#[path = "../support/forward.rs"]
mod forward;
mod job;
mod outage;
mod policy;
mod proxy;
mod reading;
#[path = "../support/replica.rs"]
mod replica;
mod replicas;
#[path = "../support/tables.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of DynamoDB, which look at each attribute; a function that calls itself is not expected to be dead"
)]
mod tables;
mod takeover;
mod tls;
mod tools;
mod upgrade;
mod writing;

use std::sync::Arc;

use tidemill::connectors::{Connectors, JobContext};
use tidemill::contracts::SystemClock;

/// Connectors of a run without `--local`.
fn on_aws(generation: u64) -> Connectors {
    let job = JobContext { job: "test".to_owned(), generation };
    Connectors::new(None, Arc::new(SystemClock::new()), job).draining(true)
}
