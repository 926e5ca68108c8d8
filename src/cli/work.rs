//! Options of whatever runs jobs: `run` for one, `fleet` for several.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{default_threads, start_position, threads};
use crate::contracts::StartPosition;
use crate::job::{JobOptions, LeasePlace, MemoryOptions, StateOptions};
use crate::runtime::Ending;

/// How jobs are run, and where they keep their state.
#[derive(Debug, Args)]
pub(super) struct WorkArgs {
    /// Use embedded stand-ins for Kinesis, DynamoDB, S3 and SNS under this folder
    #[arg(long, value_name = "DIR")]
    local: Option<PathBuf>,
    /// Where to start without a saved position: trim_horizon, latest or a time (RFC 3339)
    #[arg(long, value_name = "POSITION", value_parser = start_position)]
    from: Option<StartPosition>,
    /// Where checkpoints are kept: a folder or s3://bucket/prefix, below which each job has its own [default:
    /// DIR/checkpoints of --local DIR, or the job's own setting 'state.checkpoints.dir']
    #[arg(long, value_name = "PATH", value_parser = path)]
    checkpoints: Option<String>,
    /// Time between two checkpoints, e.g. 10s [default: 10 s, or the job's own setting]; 0 is only at the end
    #[arg(long, value_name = "TIME", value_parser = duration)]
    checkpoint_interval: Option<Duration>,
    /// Run as one of several replicas: the one that has the lease works, the others wait for it. PLACE is `checkpoints` or
    /// `dynamodb:TABLE` [default: the job's own setting 'tidemill.lease'; in a fleet, else `checkpoints`]
    #[arg(long, value_name = "PLACE", value_parser = LeasePlace::parse)]
    lease: Option<LeasePlace>,
    /// Threads to compute with [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
    /// Longest time that results wait for, e.g. 50ms or 1s [default: 1 s, or the job's own setting]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    epoch_interval: Option<Duration>,
    /// Rows at which an epoch closes before its time
    #[arg(long, value_name = "N")]
    epoch_rows: Option<usize>,
    /// Memory that the process may have, e.g. 512MiB; state that does not fit goes to disk [default: 80 % of what its
    /// container or machine has]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Folder on a local disk for state that does not fit into memory [default: DIR/spill of --local DIR, or the system's
    /// folder for temporary files]
    #[arg(long, value_name = "FOLDER")]
    spill_dir: Option<PathBuf>,
}

impl WorkArgs {
    /// For a job that goes on until it is stopped, from where it has stopped before.
    pub(super) fn options(self, paths: Vec<PathBuf>, parameters: BTreeMap<String, String>) -> JobOptions {
        JobOptions {
            paths,
            parameters,
            memory: MemoryOptions::new(self.memory, self.spill_dir, self.local.as_deref()),
            local: self.local,
            ending: Ending::Run,
            from: self.from,
            fresh: false,
            state: StateOptions {
                path: self.checkpoints,
                interval: self.checkpoint_interval,
                lease: self.lease,
                ..StateOptions::default()
            },
            threads: self.threads.unwrap_or_else(default_threads),
            epoch_interval: self.epoch_interval,
            epoch_rows: self.epoch_rows,
        }
    }
}

fn path(text: &str) -> std::result::Result<String, String> {
    crate::connectors::files::check_path(text).map(|()| text.to_owned()).map_err(|e| e.to_string())
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    crate::connectors::options::parse_duration(text).map_err(|e| e.to_string())
}

fn size(text: &str) -> std::result::Result<u64, String> {
    crate::connectors::options::parse_size(text).map_err(|e| e.to_string())
}
