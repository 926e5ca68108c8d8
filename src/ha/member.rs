//! What a process of a fleet knows of the fleet's jobs, and what follows for it from the rule of [`super::spread`].
//!
//! Not how it comes to know it, nor what it does then: that is [`super::seat`], of which there is one for each job; they all
//! look at and write to the same board, each under its lock, so that one process never counts a job twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::spread::{Hold, Spread, View, rank};
use crate::contracts::Clock;

/// One process of a fleet.
#[derive(Debug)]
pub struct Member {
    pub(super) holder: String,
    pub(super) clock: Arc<dyn Clock>,
    spread: Spread,
    board: Mutex<Board>,
}

/// What a process knows of the fleet's jobs.
#[derive(Debug, Default)]
struct Board {
    holds: BTreeMap<String, Hold>,
    known: BTreeMap<String, Known>,
    /// The job that this process asks for: one at a time, so that each giver sees what it has.
    wishing: Option<String>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// When the lease was last looked at.
    looked: Duration,
    /// What was seen then is worth nothing after so long.
    lasts: Duration,
    /// Not wished for before.
    barred_until: Duration,
}

impl Board {
    fn view<'a>(&'a self, member: &'a Member) -> View<'a> {
        View { me: &member.holder, jobs: &self.holds, spread: member.spread }
    }

    /// Leases that could not be looked at for long say nothing.
    fn forget_old(&mut self, now: Duration) {
        for (job, hold) in &mut self.holds {
            let known = self.known.get(job).copied().unwrap_or_default();
            if matches!(hold, Hold::Of(_) | Hold::Free) && now.saturating_sub(known.looked) > known.lasts {
                *hold = Hold::Unknown;
            }
        }
    }

    fn hold(&self, job: &str) -> Hold {
        self.holds.get(job).cloned().unwrap_or_default()
    }
}

impl Member {
    /// `holder` must be different for each start of each process, and is the same for all its jobs.
    pub fn new(holder: impl Into<String>, clock: Arc<dyn Clock>, spread: Spread) -> Arc<Self> {
        Arc::new(Self { holder: holder.into(), clock, spread, board: Mutex::default() })
    }

    /// Name of the process.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.forget_old(self.clock.elapsed());
        board
    }

    pub(super) fn knows_of(&self, job: &str, lasts: Duration) {
        self.board().known.insert(job.to_owned(), Known { lasts, ..Known::default() });
    }

    /// A look has shown who has the job.
    pub(super) fn saw(&self, job: &str, hold: Hold) {
        let now = self.clock.elapsed();
        let mut board = self.board();
        // One that was given away is another's until somebody has taken it.
        let is_given = hold == Hold::Free && matches!(board.hold(job), Hold::Given(_));
        if !is_given {
            board.holds.insert(job.to_owned(), hold);
        }
        board.known.entry(job.to_owned()).or_default().looked = now;
    }

    /// Whether this process may take a job that is free since then, and is left to others for the time of `courtesy`; else for
    /// how long not yet. What it takes counts at once.
    pub(super) fn claims(
        &self,
        job: &str,
        since: Duration,
        courtesy: Duration,
        step: Duration,
    ) -> std::result::Result<(), Duration> {
        let mut board = self.board();
        // Within half a step, so that processes with as many jobs do not all take the same one first.
        let share = u32::try_from(rank(&self.holder, job) % 16).unwrap_or(0);
        let patience = step * board.view(self).patience() + step * share / 32;
        let left = (since + patience.max(courtesy)).saturating_sub(self.clock.elapsed());
        if !left.is_zero() {
            return Err(left);
        }
        board.holds.insert(job.to_owned(), Hold::Mine);
        Ok(())
    }

    pub(super) fn has(&self, job: &str, hold: Hold) {
        self.board().holds.insert(job.to_owned(), hold);
    }

    #[cfg(test)]
    pub(super) fn hold(&self, job: &str) -> Hold {
        self.board().hold(job)
    }

    /// The process does not run the job any more. One that it has given away stays another's.
    pub(super) fn lets_go(&self, job: &str) {
        let mut board = self.board();
        if board.hold(job) == Hold::Mine {
            board.holds.insert(job.to_owned(), Hold::Unknown);
        }
    }

    /// Whether the process should begin to ask for this job.
    pub(super) fn wishes(&self, job: &str) -> bool {
        let now = self.clock.elapsed();
        let mut board = self.board();
        let may = |job: &str| board.known.get(job).is_none_or(|known| known.barred_until <= now);
        let wishes = board.wishing.is_none() && board.view(self).wish(may) == Some(job);
        if wishes {
            board.wishing = Some(job.to_owned());
        }
        wishes
    }

    pub(super) fn wants(&self, job: &str) -> bool {
        self.board().view(self).wants(job)
    }

    pub(super) fn ends_wish(&self, job: &str, barred: Duration) {
        let now = self.clock.elapsed();
        let mut board = self.board();
        board.wishing.take_if(|wishing| wishing == job);
        let known = board.known.entry(job.to_owned()).or_default();
        known.barred_until = known.barred_until.max(now + barred);
    }

    /// Whether the job is given to that process; if so, it counts as theirs at once.
    pub(super) fn gives(&self, job: &str, process: &str) -> bool {
        let mut board = self.board();
        let gives = board.view(self).gives(job, process);
        if gives {
            board.holds.insert(job.to_owned(), Hold::Given(process.to_owned()));
        }
        gives
    }
}
