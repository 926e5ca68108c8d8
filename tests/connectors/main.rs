//! The local connectors against what the contracts promise.

#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

mod conformance;
mod dynamodb;
mod files;
mod files_options;
#[path = "../support/hurried.rs"]
mod hurried;
mod kinesis;
mod others;
mod rates;
mod support;
