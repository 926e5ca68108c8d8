//! Flink SQL: from the text of a folder of files to plans.

mod aggregate;
mod assign;
mod catalog;
mod compile;
mod ddl;
mod dialect;
mod job;
mod distinct;
mod errors;
pub mod functions;
mod legacy;
mod jargon;
mod joins;
mod lower;
mod nodes;
mod planner;
mod prefilter;
mod require;
mod required;
mod session;
mod settings;
mod statement;
mod tables;
mod text;
mod types;
mod validate;
mod windows;

pub use job::{BatchTables, JobPlan, PlanOptions, QueryPlan, ReferencePlan, SinkPlan, SourcePlan, is_users, plan_job};
pub use settings::Settings;
pub use dialect::FlinkDialect;
pub use text::{Parameters, SqlText};
