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
        let held: usize = queries.iter().map(|query| query.graph.memory().0).sum();
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
        if held > limit.bytes.max(limit.process_bytes / 2)
            && let Some(largest) = queries.iter().max_by_key(|query| query.graph.memory().0)
        {
            let (query, mib) = (&largest.name, largest.graph.memory().0 >> 20);
            let error = format!(
                "the state of query '{query}' has {mib} MiB that cannot be put on disk; --memory is {} MiB",
                limit.process_bytes >> 20
            );
            let hint =
                "give the job more --memory, or let the query keep less: shorter windows, fewer groups, a time-to-live";
            return Err(Error::unavailable(error).of_this_machine().hint(hint));
        }
        Ok(())
    }
}

/// Bytes of this process in memory that are not backed by files, where the system says so (Linux, `proc_pid_statm(5)`).
fn resident() -> Option<usize> {
    const PAGE: usize = 4_096;
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut fields = text.split_whitespace().skip(1).map(str::parse::<usize>);
    let (resident, shared) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(resident.saturating_sub(shared) * PAGE)
}
