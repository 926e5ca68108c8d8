//! The local connectors against what the contracts promise.

mod conformance;
mod dynamodb;
mod files;
mod kinesis;
mod others;
mod rates;
mod support;
