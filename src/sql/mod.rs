//! Flink SQL: from the text of a folder of files to plans.

mod aggregate;
mod arguments;
mod assign;
mod bounds;
mod catalog;
mod compile;
mod ddl;
mod dialect;
mod distinct;
mod errors;
pub mod functions;
mod group_keys;
mod grouping_sets;
mod guarded_conditions;
mod guarded_projections;
mod insert;
mod jargon;
mod job;
mod joins;
mod legacy;
mod lookup;
mod lower;
mod nodes;
mod normal;
mod panes;
mod plan;
mod planner;
mod prefilter;
mod records;
mod require;
mod required;
mod second_pass;
mod secrets;
mod session;
mod settings;
mod statement;
mod surprises;
mod tables;
mod target;
mod text;
mod time_attribute;
mod types;
mod union;
mod validate;
mod watermark;
mod windows;

pub use bounds::STACK_BYTES;
pub use dialect::FlinkDialect;
pub use job::plan_job;
pub use plan::{
    Batch, BatchTables, JobPlan, LookupPlan, PlanOptions, QueryPlan, ReferencePlan, SinkPlan, SourcePlan, TimeRange,
};
pub use settings::Settings;
pub(crate) use tables::SlotTable;
pub use text::{Parameters, SqlText};
