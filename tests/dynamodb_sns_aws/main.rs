//! The sinks DynamoDB, SNS and Firehose on AWS: on a stub that does what no emulator does, and the same on emulators.

#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

#[path = "../emulators/mod.rs"]
#[expect(dead_code, reason = "shared with the tests of other services")]
mod emulators_of_aws;
#[path = "../support/exact.rs"]
mod exact;
#[path = "../support/shipped.rs"]
mod expected;
#[path = "../support/forward.rs"]
mod forward;
#[path = "../support/http.rs"]
#[expect(dead_code, reason = "shared with the stub of Kinesis, which also streams")]
mod http;
#[path = "../support/queues.rs"]
mod queues;
#[path = "../support/replica.rs"]
mod replica;
#[path = "../s3_aws/emulator.rs"]
#[expect(dead_code, reason = "shared with the tests of S3")]
mod s3;
#[path = "../aws_stub_tables/mod.rs"]
mod stub;
#[path = "../support/tables.rs"]
mod tables;

mod claims;
mod delivery;
mod emulators;
mod ids;
mod lookups;
mod overtaken;
mod paused;
mod rebuilt;
mod refused;
mod refused_messages;
mod replay;
mod shipped;
mod support;
mod table;
mod target;
mod times;
mod topics;
mod unreachable;
