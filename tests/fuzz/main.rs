//! Hostile input: real files, records and queries with bytes and words changed at random. Nothing may panic, hang or take memory
//! beyond its bounds, and what is damaged must be said to be.
//!
//! ```text
//! cargo nextest run --test fuzz                     # what CI runs
//! FUZZ_CASES=100000 cargo nextest run --test fuzz   # the long run; a test that is slow by nature takes a fixed share of it
//! FUZZ_SEED=7 …                                     # other cases
//! ```
//!
//! A case that fails is made smaller and printed; one that takes the process along is in the file that FUZZ_LAST names, and in what its test
//! says. Each test runs in a process that can have no more than [`MOST_MIB`] of memory (`support/bounded.rs`); the program itself, over deep and
//! long SQL, has `deep::MOST_MIB`. JSON has a test of its own (`json_fuzz`), and so have the parts of the Kinesis
//! connector that only it can reach (`connectors::kinesis::aws::fuzz`).

#![expect(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

/// What the process of a test may have of addresses, in MiB. The program itself, its libraries and the stacks of its threads have
/// some 150; no input here has more than 100 KiB, and lengths that lie say up to 2^64.
const MOST_MIB: u64 = 384;

#[path = "../support/bounded.rs"]
mod bounded;
mod change;
mod csv;
mod deep;
mod files;
#[path = "../support/hurried.rs"]
mod hurried;
mod local_stream;
mod logs;
mod memory;
mod snapshots;
mod sql;
