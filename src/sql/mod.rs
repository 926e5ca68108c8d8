//! Flink SQL: from the text of a folder of files to plans.

mod aggregate;
mod catalog;
mod compile;
mod ddl;
mod dialect;
mod distinct;
mod errors;
mod legacy;
mod lower;
mod nodes;
mod planner;
mod require;
mod required;
mod session;
mod settings;
mod statement;
mod tables;
mod text;
mod types;
mod windows;

pub use settings::Settings;
pub use dialect::FlinkDialect;
pub use text::{Parameters, SqlText};
