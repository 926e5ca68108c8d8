//! Parts of Tidemill under a scheduler that is deterministic: time is virtual, faults come from a seed, and the same seed
//! gives the same run.
//!
//! `SIMULATION_SEED=N` runs one seed; `SIMULATION_SEEDS=N` runs that many, from `SIMULATION_FIRST` on.

// The future of a whole job is deep.
#![recursion_limit = "256"]

mod far;
mod fleet;
mod job;
mod lease;
#[path = "../aws_stub/frames.rs"]
#[allow(clippy::unwrap_used, reason = "it is that of the reader's tests")]
mod stub_frames;
#[path = "../aws_stub_tables/tables.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "it is that of the sinks' tests, which need the rest of it")]
mod stub_tables;
#[path = "../aws_stub_tables/topics.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "it is that of the sinks' tests, which need the rest of it")]
mod stub_topics;
mod world;

/// As in the program. Most of a seed's time goes into planning its queries again and again, and a quarter of that into memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
