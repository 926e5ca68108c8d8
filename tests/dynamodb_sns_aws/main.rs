//! The sinks DynamoDB, SNS and Firehose on AWS: on a stub that does what no emulator does, and the same on emulators.

#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

#[path = "../support/exact.rs"]
mod exact;
#[path = "../aws_stub_tables/mod.rs"]
mod stub;

mod delivery;
mod emulators;
mod replay;
mod shipped;
mod support;
mod table;
mod target;
mod topics;
