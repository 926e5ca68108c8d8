//! Tidemill runs a folder of Flink-dialect `.sql` files against Kinesis with DataFusion.
//!
//! The one idea: **a stream is a sequence of bounded tables**. Input is cut into epochs; stateless
//! work is an ordinary DataFusion plan run once an epoch; state is Arrow batches of partial
//! aggregates; and the same logical plan, run over everything at once, is the batch plan. See
//! `ARCHITECTURE.md` for the layers, which import downwards only.

pub mod cli;
pub mod connectors;
pub mod contracts;
pub mod formats;
pub mod ha;
pub mod job;
pub mod operators;
pub mod runtime;
pub mod sql;
pub mod state;
