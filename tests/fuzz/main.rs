//! Hostile input: real files, records and queries with bytes and words changed at random. Nothing may panic, hang or take memory
//! beyond its bounds, and what is damaged must be said to be.
//!
//! ```text
//! cargo nextest run --test fuzz                     # what CI runs
//! FUZZ_CASES=100000 cargo nextest run --test fuzz   # the long run; a test that is slow by nature takes a fixed share of it
//! FUZZ_SEED=7 …                                     # other cases
//! ```
//!
//! A case that fails is made smaller and printed. JSON has a test of its own (`json_fuzz`), and so have the parts of the Kinesis
//! connector that only it can reach (`connectors::kinesis::aws::fuzz`).

#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

mod change;
mod csv;
mod deep;
mod local_stream;
mod logs;
mod memory;
mod snapshots;
mod sql;
