//! Earlier points of a run, from which epochs may have to be cut again.
//!
//! A query without state whose sink has rows in open files gets their records once more. It goes back to the newest point before the first of these
//! rows; an older one would be as right, and has it read more again. So not all are kept: while files stay open, or no checkpoint can be made,
//! it is [`MOST_POINTS`] that lie about as far from each other (of a folder with very many files one is large). An eighth of them all, or a
//! quarter at times, is then read more than would be needed.
//!
//! Invariant: the oldest point is the one that the last checkpoint has named, or an older one. The log has every epoch since, and maybe none before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::contracts::EpochNumber;
use crate::state::{Reread, SavedJob, SavedTable};

/// So many points are kept, and one more while a checkpoint is made.
const MOST_POINTS: usize = 8;

/// Points at which earlier checkpoints stand.
#[derive(Debug)]
pub(super) struct Points {
    /// The oldest first.
    known: VecDeque<Arc<Reread>>,
    /// No epoch has been cut behind the last of them.
    is_fresh: bool,
}

impl Points {
    /// Those that a run knows which goes on from `saved`.
    pub(super) fn of(saved: &SavedJob) -> Self {
        let mut points: VecDeque<Reread> = saved.reread.iter().cloned().collect();
        // Where some queries have still to catch up with the others, the point where these stand has no epoch yet.
        let is_fresh =
            !points.back().is_some_and(|reread| reread.catch_up.is_some() && reread.after_epoch == saved.epoch);
        if is_fresh {
            let tables = saved.tables.clone();
            points.push_back(Reread { after_epoch: saved.epoch, tables, ..Reread::default() });
        }
        Self { known: points.into_iter().map(Arc::new).collect(), is_fresh }
    }

    /// An epoch has been cut, or is repeated; records that arrived before `oldest_ms` were too old for it.
    pub(super) fn cut(&mut self, epoch: EpochNumber, oldest_ms: Option<i64>) {
        // The first one behind a point took the oldest; later ones may have had another setting. What is repeated may lie before it.
        if let Some(reread) = self.known.back_mut().filter(|reread| epoch.0 > reread.after_epoch)
            && std::mem::take(&mut self.is_fresh)
        {
            Arc::make_mut(reread).oldest_ms = oldest_ms;
        }
    }

    /// The run has begun to read these tables, which earlier points do not know.
    pub(super) fn begun(&mut self, tables: &BTreeMap<String, SavedTable>) {
        for (name, table) in tables {
            for reread in self.known.iter_mut().filter(|reread| !reread.tables.contains_key(name)) {
                Arc::make_mut(reread).tables.insert(name.clone(), table.clone());
            }
        }
    }

    /// Queries have caught up with the others at the end of `epoch`.
    pub(super) fn caught_up(&mut self, epoch: EpochNumber) {
        let others = self.known.back().and_then(|reread| reread.catch_up.as_ref());
        // In epochs of the log, it was so before the checkpoint.
        if let Some(tables) = others.map(|others| others.tables.clone()) {
            self.add(epoch.0, tables);
        }
    }

    /// A checkpoint is made at the end of this epoch.
    pub(super) fn add(&mut self, after_epoch: u64, tables: BTreeMap<String, SavedTable>) {
        self.known.push_back(Arc::new(Reread { after_epoch, tables, ..Reread::default() }));
        self.is_fresh = true;
    }

    /// What a checkpoint may name of a run that reads `tables`; no other one is under way. That one could still name what is left out here,
    /// and the log would be shortened.
    pub(super) fn choice(&mut self, tables: &BTreeMap<String, SavedTable>) -> Vec<Arc<Reread>> {
        // A table that was taken out of the job for a run or more, and put back, is known to older points, from which this run has read it; but
        // not to that of a checkpoint which was made meanwhile.
        let mut number = 0;
        self.known.retain(|reread| {
            number += 1;
            number == 1 || tables.keys().all(|table| reread.tables.contains_key(table))
        });
        while self.known.len() > MOST_POINTS {
            // The one that leaves the smallest gap; never the oldest or the newest. (To leave out every second one each time would lose whatever
            // grows older, and only the oldest would be left for files that stay open for long.)
            let gap =
                |number: &usize| self.known[number + 1].after_epoch.saturating_sub(self.known[number - 1].after_epoch);
            let Some(densest) = (1..self.known.len() - 1).min_by_key(gap) else { break };
            self.known.remove(densest);
        }
        self.known.iter().cloned().collect()
    }

    /// Nobody needs an epoch up to this one again.
    pub(super) fn needed_after(&mut self, epoch: u64) {
        while self.known.get(1).is_some_and(|reread| reread.after_epoch <= epoch) {
            self.known.pop_front();
        }
    }
}

/// From where epochs have to be cut again of which one is needed behind `least`: the newest point of a choice that is old enough knows the positions.
pub(super) fn newest_before(choice: &[Arc<Reread>], least: u64) -> Option<Reread> {
    let known = choice.iter().rev().find(|reread| reread.after_epoch <= least).or(choice.first());
    known.map(|reread| Reread::clone(reread))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(epoch: u64) -> Points {
        Points::of(&SavedJob { epoch, ..SavedJob::default() })
    }

    fn epochs(points: &Points) -> Vec<u64> {
        points.known.iter().map(|point| point.after_epoch).collect()
    }

    /// A checkpoint at the end of `epoch`, of which rows behind `least` lie in open files. Returns what it names.
    fn checkpoint(points: &mut Points, epoch: u64, least: Option<u64>) -> u64 {
        let choice = points.choice(&BTreeMap::new());
        points.add(epoch, BTreeMap::new());
        least.and_then(|least| newest_before(&choice, least)).map_or(epoch, |reread| reread.after_epoch)
    }

    #[test]
    fn a_file_that_stays_open_keeps_few_points() {
        let mut points = after(10);
        for epoch in 11..=110 {
            let named = checkpoint(&mut points, epoch, Some(10));
            assert_eq!(named, 10);
            points.needed_after(named);
            let kept = epochs(&points);
            assert!(kept.len() <= MOST_POINTS + 1 && kept[0] == 10 && kept.last() == Some(&epoch), "{kept:?}");
        }
        // It has closed.
        let named = checkpoint(&mut points, 111, None);
        points.needed_after(named);
        assert_eq!(epochs(&points), [111]);
    }

    #[test]
    fn checkpoints_that_cannot_be_made_do_not_add_up() {
        let mut points = after(10);
        for epoch in 11..=110 {
            checkpoint(&mut points, epoch, None);
            assert!(points.known.len() <= MOST_POINTS + 1);
        }
        assert_eq!((points.known[0].after_epoch, points.known.back().map(|point| point.after_epoch)), (10, Some(110)));
    }

    /// Each file is finished 60 checkpoints after it was opened, and there is always one.
    #[test]
    fn files_that_follow_each_other_have_little_read_more_and_nothing_before_what_the_log_was_shortened_to() {
        for fails in [false, true] {
            let (mut points, mut shortened_to, mut most_again) = (after(0), 0, 0);
            for epoch in 1..=1_000_u64 {
                let least = (epoch - 1).saturating_sub(60);
                let named = checkpoint(&mut points, epoch, Some(least));
                assert!((shortened_to..=least).contains(&named), "{epoch}: {named} of {shortened_to} to {least}");
                assert!(points.known.len() <= MOST_POINTS + 1);
                most_again = most_again.max(least - named);
                // Every fifth one has failed when it could be written.
                if !fails || epoch % 5 != 0 {
                    points.needed_after(named);
                    shortened_to = named;
                }
            }
            assert!(most_again <= 60 / 4, "{most_again}");
        }
    }

    #[test]
    fn a_table_that_is_begun_is_added_where_it_is_not_known() {
        let mut points = after(0);
        let table = |floor| SavedTable { splits: BTreeMap::new(), floor, source: None };
        let of = |floor| BTreeMap::from([("t".to_owned(), table(floor))]);
        points.add(1, of(7));
        // One that is still held elsewhere stays as it is there.
        let choice = points.choice(&BTreeMap::new());
        points.begun(&of(3));
        let floors: Vec<_> = points.known.iter().map(|point| point.tables["t"].floor).collect();
        assert_eq!((floors, choice[0].tables.len()), (vec![3, 7], 0));
    }

    /// It goes on from a checkpoint at the end of epoch 10, whose files have rows from epoch 6 on.
    fn with_open_files(tables_then: BTreeMap<String, SavedTable>) -> Points {
        let reread = Reread { after_epoch: 5, tables: tables_then, ..Reread::default() };
        Points::of(&SavedJob { epoch: 10, reread: Some(reread), ..SavedJob::default() })
    }

    /// The run before was without it, and the one before that had it.
    #[test]
    fn a_point_that_does_not_know_a_table_which_is_back_is_not_gone_back_to() {
        let table = SavedTable { splits: BTreeMap::new(), floor: 0, source: None };
        let tables = BTreeMap::from([("t".to_owned(), table)]);
        let mut points = with_open_files(tables.clone());
        points.begun(&BTreeMap::new());
        points.add(20, tables.clone());
        let choice = points.choice(&tables);
        assert_eq!(choice.iter().map(|point| point.after_epoch).collect::<Vec<_>>(), [5, 20]);
    }

    #[test]
    fn what_is_repeated_says_nothing_of_how_old_was_too_old_behind_a_later_checkpoint() {
        let mut points = with_open_files(BTreeMap::new());
        for (epoch, oldest) in [(6, 100), (10, 500), (11, 700), (12, 800)] {
            points.cut(EpochNumber(epoch), Some(oldest));
        }
        assert_eq!(points.known.back().and_then(|point| point.oldest_ms), Some(700));
    }
}
