//! How much memory a job may have, and how it is shared out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};

use crate::contracts::{Error, Result};
use crate::operators::StateLimit;
use crate::state::{STATE_FILE_BYTES, SpillFolder};

/// Memory of the process.
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// Bytes that the process may have.
    pub bytes: u64,
    /// Where state goes that does not fit.
    pub spill: PathBuf,
    /// Whether somebody has asked for this, or it is the default: then a disk that cannot be written is no reason to fail.
    pub asked: bool,
    /// Jobs of the process, which have equal parts of it.
    pub jobs: usize,
}

/// Of a process's memory: state of operators; what DataFusion may take for sorts, joins and partial aggregates of an epoch;
/// rows that an operator gives at once; reference tables, once as they are (while they are loaded, and in the index of a join, they
/// take as much again). What is left is for records on their way, files that are being written, clients,
/// the program itself and the allocator.
const STATE_SHARE: f64 = 0.15;
const PLANS_SHARE: f64 = 0.2;
const OUTPUT_SHARE: f64 = 0.2;
const REFERENCE_SHARE: f64 = 0.2;
/// Row groups of the Parquet files that are open, and rows that wait to be sorted in files. It is taken from what is left of an epoch that
/// has less than it may, or from reference tables that are smaller.
const FILES_SHARE: f64 = 0.125;
/// … but for each sink not so little that its row groups are worth nothing.
const LEAST_FOR_FILES: u64 = 4 << 20;
/// Plans get no less: with a smaller pool, not even a small epoch can be sorted.
const LEAST_FOR_PLANS: u64 = 32 << 20;
/// From so much memory on, epochs have their full size; with less they are smaller in proportion.
const MEMORY_OF_FULL_EPOCHS: u64 = 1 << 30;
/// … but not smaller than this.
const LEAST_EPOCH_ROWS: usize = 4_096;
/// Bytes of an epoch's records have this part of the memory at most. Up to four epochs are there at a time (one waits in pieces, one is
/// gathered, one computed, one written), each as bytes and as columns: 8/32, the quarter that the shares of state, plans,
/// output and reference tables leave. From 2 GiB on that is the default of 64 MiB.
const EPOCHS_PART: f64 = 1.0 / 32.0;
/// … but never so little that each record is an epoch of its own.
const LEAST_EPOCH_BYTES: u64 = 1 << 20;
/// A file of state has this part of the memory at most: one that is put into a checkpoint is in memory whole.
const STATE_FILE_PART: f64 = 1.0 / 32.0;
/// … but not so little that there are thousands of them.
const LEAST_STATE_FILE_BYTES: usize = 4 << 20;
/// Below this the least sizes do not fit: with 1.5 million keys a limit of 128 MiB was exceeded by a quarter (`benches/README.md`).
const LEAST_MEMORY: u64 = 192 << 20;
/// The process gets this share of what its machine or container has, when nothing else is asked for.
const DEFAULT_SHARE: f64 = 0.8;

/// What a job may have, shared out.
pub(super) struct Memory {
    pub(super) limit: StateLimit,
    /// Bytes of all reference tables.
    pub(super) reference_bytes: usize,
    /// For plans of a stage.
    pub(super) runtime: Arc<RuntimeEnv>,
}

impl MemoryOptions {
    /// What the machine or container has, with state that does not fit below the folder of `--local`, or the system's for
    /// temporary files.
    pub fn new(bytes: Option<u64>, spill: Option<PathBuf>, local: Option<&Path>) -> Option<Self> {
        let asked = bytes.is_some() || spill.is_some();
        let bytes = bytes.or_else(|| Some((available()? as f64 * DEFAULT_SHARE) as u64))?;
        let spill = spill.unwrap_or_else(|| local.map_or_else(std::env::temp_dir, |local| local.join("spill")));
        Some(Self { bytes, spill, asked, jobs: 1 })
    }

    /// What there is for whom; `None`, with a note, when the default cannot be had.
    pub(super) fn share_out(&self, notes: &mut Vec<String>) -> Result<Option<Memory>> {
        if self.bytes < LEAST_MEMORY {
            let (has, least) = (self.bytes >> 20, LEAST_MEMORY >> 20);
            notes.push(format!(
                "{has} MiB of memory are little: epochs, plans and buffers have a least size, and with large state the process \
                 may exceed its limit; give it {least} MiB or more (--memory)"
            ));
        }
        match self.try_share_out() {
            Err(error) if !self.asked => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                notes.push(format!(
                    "all state stays in memory: {}{cause} (--spill-dir names another folder)",
                    error.message()
                ));
                Ok(None)
            }
            shared => shared.map(Some),
        }
    }

    fn try_share_out(&self) -> Result<Memory> {
        let share = |share: f64| (self.of_each_job() * share) as u64;
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let folder = SpillFolder::create(&self.spill, self.state_file_bytes())?;
        let plans = size(share(PLANS_SHARE).max(LEAST_FOR_PLANS));
        let disk =
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![folder.path().to_owned()]));
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(plans)))
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(|e| {
                Error::unavailable(format!(
                    "cannot use '{}' for what does not fit into memory",
                    folder.path().display()
                ))
                .caused_by(e)
            })?;
        let limit = StateLimit {
            folder,
            bytes: size(share(STATE_SHARE)),
            output_bytes: size(share(OUTPUT_SHARE).max(LEAST_FOR_PLANS)),
            process_bytes: size(self.bytes.max(LEAST_FOR_PLANS * 4)),
        };
        let reference_bytes = size(share(REFERENCE_SHARE).max(LEAST_FOR_PLANS));
        Ok(Memory { limit, reference_bytes, runtime })
    }

    /// For the open files of each of so many sinks.
    pub(super) fn files_bytes(&self, sinks: usize) -> u64 {
        ((self.of_each_job() * FILES_SHARE / sinks.max(1) as f64) as u64).max(LEAST_FOR_FILES)
    }

    fn of_each_job(&self) -> f64 {
        self.bytes as f64 / self.jobs.max(1) as f64
    }

    fn state_file_bytes(&self) -> usize {
        ((self.of_each_job() * STATE_FILE_PART) as usize).clamp(LEAST_STATE_FILE_BYTES, STATE_FILE_BYTES)
    }

    /// Rows of an epoch, of which several are in memory at a time.
    pub(super) fn epoch_rows(&self, wanted: usize) -> usize {
        let share = self.of_each_job() / MEMORY_OF_FULL_EPOCHS as f64;
        if share >= 1.0 {
            wanted
        } else {
            ((wanted as f64 * share) as usize).clamp(LEAST_EPOCH_ROWS.min(wanted), wanted)
        }
    }

    /// Bytes of an epoch's records.
    pub(super) fn epoch_bytes(&self, wanted: usize) -> usize {
        let most = ((self.of_each_job() * EPOCHS_PART) as u64).max(LEAST_EPOCH_BYTES);
        wanted.min(usize::try_from(most).unwrap_or(usize::MAX))
    }
}

/// Bytes that this process can have: the least of the limits of its control groups and of the machine's memory, where the
/// system says so (Linux: `cgroups(7)`, versions 1 and 2; `proc_meminfo(5)`).
fn available() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let mut limits: Vec<u64> = limit_files(&groups).iter().filter_map(|file| read(file)?.trim().parse().ok()).collect();
    limits.extend(read("/proc/meminfo").and_then(|text| total(&text)));
    limits.into_iter().min()
}

/// Files that say how much memory a process may have whose control groups these are, its own and those above.
fn limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|c| c == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        for group in Path::new(group).ancestors() {
            files.push(format!("{root}{}/{file}", group.to_string_lossy().trim_end_matches('/')));
        }
    }
    files
}

/// `MemTotal` of `/proc/meminfo`.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_all_groups_above_count() {
        assert_eq!(
            limit_files("0::/a/b\n"),
            ["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        let old = "5:cpu,cpuacct:/x\n4:memory:/x\n1:name=systemd:/y\n0::/\n";
        assert_eq!(
            limit_files(old),
            [
                "/sys/fs/cgroup/memory/x/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(total("MemTotal:       24620508 kB\nMemFree: 1 kB\n"), Some(24_620_508 * 1_024));
        assert!(available().is_none_or(|bytes| bytes > 1 << 26));
    }

    #[test]
    fn small_memory_has_small_epochs() {
        let of = |bytes| MemoryOptions { bytes, spill: PathBuf::new(), asked: true, jobs: 1 }.epoch_rows(131_072);
        assert_eq!([2 << 30, 1 << 30, 256 << 20, 0].map(of), [131_072, 131_072, 32_768, 4_096]);
        let shared = MemoryOptions { bytes: 1 << 30, spill: PathBuf::new(), asked: true, jobs: 4 };
        assert_eq!(shared.epoch_rows(131_072), 32_768);
        assert_eq!(MemoryOptions { bytes: 0, spill: PathBuf::new(), asked: true, jobs: 1 }.epoch_rows(7), 7);
    }

    #[test]
    fn an_epoch_has_a_32nd_of_the_memory_at_most() {
        let of = |bytes, jobs| MemoryOptions { bytes, spill: PathBuf::new(), asked: true, jobs };
        assert_eq!(
            [8_u64 << 30, 2 << 30, 256 << 20, 0].map(|memory| of(memory, 1).epoch_bytes(64 << 20)),
            [64 << 20, 64 << 20, 8 << 20, 1 << 20]
        );
        assert_eq!(of(1 << 30, 1).epoch_bytes(1_000), 1_000);
        assert_eq!(of(2 << 30, 4).epoch_bytes(64 << 20), 16 << 20, "each job of a fleet has its part");
    }

    #[test]
    fn a_disk_that_cannot_be_written_stops_only_who_has_asked_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a file");
        std::fs::write(&file, "").expect("written");
        let mut notes = Vec::new();
        let options = |asked| MemoryOptions { bytes: 1 << 30, spill: file.join("below"), asked, jobs: 1 };
        assert!(options(false).share_out(&mut notes).expect("a note").is_none());
        assert!(notes[0].contains("a file/below") && notes[0].contains("Not a directory"), "{notes:?}");
        assert!(options(true).share_out(&mut notes).is_err());
    }
}
