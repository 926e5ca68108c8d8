//! Keeps a run within its memory: between two epochs, state goes to disk when there is too much of it.

use std::time::Duration;

use super::queries::RunningQuery;
use crate::contracts::{Error, Result};
use crate::operators::{Compute, StateLimit};

/// The process may have this share of its limit before state goes to disk whatever the operators count: their count is an
/// estimate, and everything else that is in memory (records on their way, files that are being written) is not in it.
const PRESSURE: f64 = 0.75;
/// The allocator gives pages back to the system within ten seconds (jemalloc's `dirty_decay_ms`): before that, what was put
/// on disk cannot be seen.
const BETWEEN_PRESSURE: Duration = Duration::from_secs(10);

/// Watches the memory of a run.
#[derive(Debug, Default)]
pub(super) struct MemoryWatch {
    /// When state was last put on disk because of the process's size.
    pressed: Option<Duration>,
    told: bool,
}

impl MemoryWatch {
    /// Puts state on disk where it is more than `compute` allows. `now` is the time since the start.
    ///
    /// # Errors
    /// The disk's; `unavailable`, with the name of the largest query, when what must be in memory is too much.
    pub(super) async fn keep(&mut self, queries: &mut [RunningQuery], compute: &Compute, now: Duration) -> Result<()> {
        let Some(limit) = &compute.limit else { return Ok(()) };
        // Rows of open files go to disk by themselves; until then they have room that states lack.
        let held = limit.open_rows.sum() + queries.iter().map(|query| query.graph.memory().0).sum::<usize>();
        tracing::debug!(state = held >> 20, resident = resident().unwrap_or(0) >> 20, "memory in MiB");
        if held > limit.bytes {
            self.spill(queries, compute, limit, held, limit.bytes / 2).await?;
        } else if self.pressed.is_none_or(|pressed| now.saturating_sub(pressed) >= BETWEEN_PRESSURE)
            && resident().is_some_and(|bytes| bytes as f64 > limit.process_bytes as f64 * PRESSURE)
        {
            self.pressed = Some(now);
            self.spill(queries, compute, limit, held, limit.bytes / 4).await?;
        }
        Ok(())
    }

    /// The largest first, until `most` bytes are left.
    async fn spill(
        &mut self,
        queries: &mut [RunningQuery],
        compute: &Compute,
        limit: &StateLimit,
        mut held: usize,
        most: usize,
    ) -> Result<()> {
        let mut order: Vec<usize> = (0..queries.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(queries[*index].graph.memory().1));
        for index in order {
            let query = &mut queries[index];
            let (before, movable) = query.graph.memory();
            if held <= most || movable == 0 {
                break;
            }
            let left = movable.saturating_sub(held - most);
            let spilled = query.graph.spill(&limit.folder, left, compute).await;
            spilled.map_err(|e| e.context(format!("query '{}'", query.name)))?;
            held = held.saturating_sub(before) + query.graph.memory().0;
        }
        if !std::mem::replace(&mut self.told, true) {
            let mib = limit.process_bytes >> 20;
            tracing::info!(
                "state does not fit into --memory {mib} MiB; the rest is in {}",
                limit.folder.path().display()
            );
        }
        // Indexes of what is on disk, and rows that the next epoch brings, must still have room.
        if held > limit.bytes.max(limit.job_bytes / 2)
            && let Some(largest) = queries.iter().max_by_key(|query| query.graph.memory().0)
        {
            let (query, mib) = (&largest.name, largest.graph.memory().0 >> 20);
            let of_job = match limit.job_bytes < limit.process_bytes {
                true => format!(", of which this job may have {}", limit.job_bytes >> 20),
                false => String::new(),
            };
            let error = format!(
                "the state of query '{query}' has {mib} MiB that cannot be put on disk; --memory is {} MiB{of_job}",
                limit.process_bytes >> 20
            );
            let hint =
                "give the job more --memory, or let the query keep less: shorter windows, fewer groups, a time-to-live";
            return Err(Error::unavailable(error).of_this_machine().hint(hint));
        }
        Ok(())
    }
}

/// Bytes of this process in memory that are not backed by files, where the system says so (Linux, `proc_pid_status(5)`). `statm` has them
/// in pages, which are larger than 4 KiB on some machines.
fn resident() -> Option<usize> {
    anonymous(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn anonymous(status: &str) -> Option<usize> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix("kB")?.trim_end().parse::<usize>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kilobytes_whatever_a_page_is() {
        let status = "VmHWM:\t  983040 kB\nVmRSS:\t  983040 kB\nRssAnon:\t  917504 kB\nRssFile:\t   65536 kB\nRssShmem:\t       0 kB\n";
        assert_eq!(anonymous(status), Some(917_504 << 10));
        assert_eq!(anonymous("VmRSS:\t  983040 kB\n"), None, "a kernel that does not say it");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_knows_its_memory() {
        const HELD: usize = 64 << 20;
        let held = vec![1_u8; HELD];
        assert!(resident().is_some_and(|bytes| bytes > HELD), "{:?} of {}", resident(), held.len());
    }
}
