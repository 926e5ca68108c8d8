//! Flink SQL: from the text of a folder of files to plans.

mod aggregate;
mod assign;
mod catalog;
mod compile;
mod ddl;
mod dialect;
mod distinct;
mod errors;
pub mod functions;
mod jargon;
mod job;
mod joins;
mod legacy;
mod lower;
mod nodes;
mod planner;
mod prefilter;
mod require;
mod required;
mod session;
mod settings;
mod statement;
mod surprises;
mod tables;
mod target;
mod text;
mod types;
mod validate;
mod windows;

pub use dialect::FlinkDialect;
pub use job::{BatchTables, JobPlan, PlanOptions, QueryPlan, ReferencePlan, SinkPlan, SourcePlan, plan_job};
pub use settings::Settings;
pub(crate) use tables::SlotTable;
pub use text::{Parameters, SqlText};
