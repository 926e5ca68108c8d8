//! Memory for the states that queries are given back when a run starts, side by side.
//!
//! It is all that states may have: no rows come before the states are there, so no room is needed for what an epoch brings
//! ([`StateLimit::relief`]). A state that was in memory before a restart is in memory after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::compute::StateLimit;
use crate::state::SpillFolder;

/// See the module's description. Clones share it.
#[derive(Debug, Clone)]
pub struct RestoreRoom {
    limit: StateLimit,
    /// Bytes that all operators have in memory, which could go to disk.
    held: Arc<AtomicUsize>,
}

/// What one operator has of it.
#[derive(Debug)]
pub(super) struct Part<'a> {
    room: &'a RestoreRoom,
    held: usize,
}

impl RestoreRoom {
    /// An empty one.
    pub fn new(limit: StateLimit) -> Self {
        Self { limit, held: Arc::default() }
    }

    /// For another operator.
    pub(super) fn part(&self) -> Part<'_> {
        Part { room: self, held: 0 }
    }
}

impl Part<'_> {
    /// Notes that the operator has `bytes` in memory that could go to disk. Answers down to how many it is to put them there: when all together
    /// have more than there is room for, it is the turn of whoever sees it.
    pub(super) fn holds(&mut self, bytes: usize) -> Option<usize> {
        let others = self.room.held.fetch_sub(self.held, Ordering::Relaxed).saturating_sub(self.held);
        self.room.held.fetch_add(bytes, Ordering::Relaxed);
        self.held = bytes;
        let most = self.room.limit.bytes;
        (others.saturating_add(bytes) > most).then_some((bytes / 2).min(most / 2))
    }

    pub(super) fn folder(&self) -> &Arc<SpillFolder> {
        &self.room.limit.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sees_that_all_together_have_too_much_makes_room() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = SpillFolder::create(parent.path(), 1).expect("created");
        let limit = StateLimit::new(folder, 100, 1, 1);
        let room = RestoreRoom::new(limit);
        let (mut first, mut second) = (room.part(), room.part());
        assert_eq!(first.holds(60), None);
        assert_eq!(second.holds(40), None, "all of it");
        assert_eq!(second.holds(50), Some(25));
        assert_eq!(second.holds(25), None);
        assert_eq!(first.holds(70), None, "each counts once, with what it has now");
        assert_eq!(first.holds(400), Some(50));
        assert_eq!(first.holds(0), None);
        assert_eq!(second.holds(100), None);
    }
}
