//! What tables say to each other where a query reads several of them: whether one is quiet, and how far the others had come when that was last
//! known ([`TableStanding`]).
//!
//! A table is quiet when all of its splits are idle, or when it has ended: its source is bounded, and everything in it has been read. A folder that
//! is looked at again and again is not quiet when its files have been read: the next one may be there already. Nor has anything ended for
//! a run that reads what is there once (`--once`): a later one may find that files have grown.

use super::driver::Driver;
use super::feed::Feed;
use super::splits::Status;
use super::table_time::TableTime;
use super::worker::Ending;
use crate::contracts::{Boundedness, EpochCut, Watermark};
use crate::operators::TableStanding;

impl Driver {
    /// Of each table, after its event time has moved on; nothing where none is quiet. While queries catch up none is: what they are not given, others have had.
    pub(super) fn standings(&mut self) -> Vec<TableStanding> {
        // Up to when it is known, by feed and table; what has ended stays so.
        let goes_on_later = self.ending == Ending::Once;
        let quiet = |feed: &Feed| {
            let has_ended = feed.has_ended() && !goes_on_later;
            let until = |time: &TableTime| match time.has_watermark {
                true if has_ended => Some(i64::MAX),
                true => time.idle_until,
                false => None,
            };
            feed.times.iter().map(until).collect::<Vec<_>>()
        };
        let quiet: Vec<Vec<Option<i64>>> = self.feeds.iter().map(quiet).collect();
        let Some(until) = quiet.iter().flatten().flatten().min().copied().filter(|_| !self.catches_up()) else {
            return Vec::new();
        };
        let mut standings = vec![TableStanding { quiet: false, then: Watermark::MIN }; self.slots];
        for (feed, quiet) in self.feeds.iter_mut().zip(&quiet) {
            for ((table, time), quiet) in feed.specification.tables.iter().zip(&mut feed.times).zip(quiet) {
                standings[table.table] = TableStanding { quiet: quiet.is_some(), then: time.told_at(until) };
            }
        }
        standings
    }

    /// As the log has them.
    pub(super) fn logged_standings(&self, cut: &EpochCut) -> Vec<TableStanding> {
        if !cut.tables.iter().any(|table| table.quiet) {
            return Vec::new();
        }
        let mut standings = vec![TableStanding { quiet: false, then: Watermark::MIN }; self.slots];
        for table in self.feeds.iter().flat_map(|feed| &feed.specification.tables) {
            if let Some(logged) = cut.tables.iter().find(|logged| logged.table == table.name) {
                let then = Watermark(logged.then.unwrap_or(i64::MIN));
                standings[table.table] = TableStanding { quiet: logged.quiet, then };
            }
        }
        standings
    }
}

impl Feed {
    /// Everything has been read, and nothing else can come in this run.
    fn has_ended(&self) -> bool {
        self.begun
            && self.specification.source.boundedness() == Boundedness::Bounded
            && self.waiting.is_empty()
            && self.splits.all_finished()
            && self.splits.list.iter().all(|split| split.status == Status::Finished)
    }
}
