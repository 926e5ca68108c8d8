//! What tables say to each other where a query reads several of them: whether one is quiet, and how far the others had come when that was last
//! known ([`TableStanding`]).
//!
//! A table is quiet when all of its splits are idle, or when it has ended: its source is bounded, and everything in it has been read. A folder that
//! is looked at again and again is not quiet when its files have been read: the next one may be there already. Nor has anything ended for
//! a run that reads what is there once (`--once`): a later one may find that files have grown.

use super::driver::Driver;
use super::feed::Feed;
use super::table_time::TableTime;
use super::worker::Ending;
use crate::contracts::{EpochCut, Watermark};
use crate::operators::TableStanding;

/// Of a table that has no event time.
const UNKNOWN: TableStanding = TableStanding { quiet: false, then: Watermark::MIN };

impl Driver {
    /// Of each table, after its event time has moved on; nothing where none is quiet. While queries catch up none is: what they are not given, others have had.
    pub(super) fn standings(&mut self) -> Vec<TableStanding> {
        let ending = self.ending;
        let tables = self.feeds.iter().flat_map(|feed| feed.times.iter().map(move |time| (feed, time)));
        let until = tables.filter_map(|(feed, time)| quiet_until(feed, time, ending)).min();
        let Some(until) = until.filter(|_| !self.catches_up()) else { return Vec::new() };
        let mut standings = vec![UNKNOWN; self.slots];
        for feed in &mut self.feeds {
            for (number, table) in feed.specification.tables.iter().enumerate() {
                let quiet = quiet_until(feed, &feed.times[number], ending).is_some();
                standings[table.table] = TableStanding { quiet, then: feed.times[number].told_at(until) };
            }
        }
        standings
    }

    /// As the log has them.
    pub(super) fn logged_standings(&self, cut: &EpochCut) -> Vec<TableStanding> {
        if !cut.tables.iter().any(|table| table.quiet) {
            return Vec::new();
        }
        let mut standings = vec![UNKNOWN; self.slots];
        for table in self.feeds.iter().flat_map(|feed| &feed.specification.tables) {
            if let Some(logged) = cut.tables.iter().find(|logged| logged.table == table.name) {
                let then = Watermark(logged.then.unwrap_or(i64::MIN));
                standings[table.table] = TableStanding { quiet: logged.quiet, then };
            }
        }
        standings
    }
}

/// Up to when nothing more of a table is known to have come, on the steady clock, where it is quiet. What has ended stays so.
fn quiet_until(feed: &Feed, time: &TableTime, ending: Ending) -> Option<i64> {
    match ending != Ending::Once && feed.has_ended() {
        true => Some(i64::MAX),
        false => time.idle_until,
    }
    .filter(|_| time.has_watermark)
}
