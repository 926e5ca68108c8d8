//! A job: a folder of `.sql` files, loaded, planned, connected and run.

mod archive;
mod backfill;
mod batch;
mod beginning;
mod changes;
mod explain;
mod feeds;
mod files;
mod fleet;
mod fresh;
mod lookups;
mod memory;
mod newest;
mod places;
mod portable;
mod replica;
mod resources;
mod run;
mod saved;
mod state_text;
mod state_tools;
mod unsaved;

pub use crate::contracts::LeasePlace;
pub use backfill::{BackfillOptions, Backfilled, backfill};
pub use batch::{BatchDone, run_batch};
pub use explain::{explain_json, explain_text};
pub use files::load;
pub use fleet::{Fleet, FleetJob};
pub use memory::MemoryOptions;
pub use portable::not_portable;
pub use replica::{Replica, Stage, Start};
pub use resources::{athena, job_resources};
pub use run::{JobOptions, Prepared, check, plan, prepare};
pub use saved::StateOptions;
pub use state_tools::StateTools;
