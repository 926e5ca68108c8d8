//! The runtime: reads sources, cuts epochs, runs queries, feeds sinks.
//!
//! ```text
//!  split reader ─┐ decode                    ┌─ query 1 ─► writer 1 ─► sink
//!  split reader ─┼────────► driver (epochs) ─┼─ query 2 ─► writer 2 ─► sink
//!  split reader ─┘  bounded    one at a time └─ query 3 ─► writer 3 ─► sink
//! ```
//!
//! Readers decode while queries run, and writers flush epoch N while N+1 is computed. Every arrow is a
//! bounded channel, so a slow sink slows the reading down. Between two epochs nothing moves in the
//! queries: that is where state can be saved.
//!
//! Architecture invariant: the runtime knows connectors, formats and SQL only through
//! [`crate::contracts`] and the plans in [`crate::operators`].

mod accounting;
mod driver;
mod read_all;
mod reader;
mod rows;
mod splits;
mod worker;
mod writer;

pub use accounting::{QueryCounts, Summary, TableCounts};
pub use driver::EpochLimits;
pub use read_all::{AllRows, read_all};
pub use rows::WatermarkRule;
pub use worker::{DecoderFactory, Ending, Job, Progress, QuerySpec, ReferenceLoader, TableSpecification, Worker};
pub(crate) use writer::{Order, run_errors, run_writer};
