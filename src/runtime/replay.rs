//! Cuts of epochs for the log, and cutting logged epochs again.
//!
//! A replay takes from each split the number of records that the log says, in pieces of any size; rows are put in the
//! same order as then, and event time is not computed but taken from the log, since it depends on the clock. Readers wait
//! behind the records of the epoch until the next one asks for more; after the last logged epoch they run on.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::driver::{Driver, Opening};
use super::epoch::Epoch;
use super::feed::{Feed, TableSpecification, is_of_feed, table_names};
use super::reader::Event;
use crate::contracts::{
    EpochCut, Error, OpenedAt, Position, Result, Split, SplitCut, SplitId, StartPosition, TableCut, Watermark,
};

/// One quota is on its way at a time.
const QUOTAS_WAITING: usize = 1;

impl Driver {
    /// What the epoch was cut of, as far as the driver knows; it counts as logged from now on.
    pub(crate) fn cut_of(&mut self, epoch: &Epoch) -> (Vec<SplitCut>, Vec<TableCut>) {
        let (mut splits, mut tables) = (Vec::new(), Vec::new());
        for (index, feed) in self.feeds.iter_mut().enumerate() {
            let name = feed.name();
            for split in &mut feed.splits.list {
                let unlogged = std::mem::take(&mut split.unlogged);
                if unlogged.records > 0 || unlogged.opened.is_some() {
                    splits.push(SplitCut {
                        feed: name.clone(),
                        split: split.id.to_string(),
                        opened: unlogged.opened,
                        records: unlogged.records,
                        after: unlogged.after.map(|position| position.to_string()),
                    });
                }
            }
            for (number, (table, time)) in feed.specification.tables.iter().zip(&feed.times).enumerate() {
                if time.has_watermark {
                    tables.push(TableCut {
                        table: table.name.clone(),
                        floor: epoch.floors[index][number],
                        floor_after: time.floor,
                        watermark: time.reported.0,
                    });
                }
            }
        }
        (splits, tables)
    }

    /// Gathers the epoch that `cut` describes.
    pub(super) async fn gather_logged(&mut self, epoch: &mut Epoch, cut: &EpochCut) -> Result<()> {
        let mut missing: BTreeMap<(usize, usize), (u64, Option<&str>)> = BTreeMap::new();
        for split in &cut.splits {
            let id = SplitId(split.split.as_str().into());
            for feed in self.logged_feeds(&split.feed) {
                if !self.feeds[feed].splits.by_id.contains_key(&id) {
                    self.open_logged(feed, split, &id).await?;
                }
                let number = self.feeds[feed].splits.by_id.get(&id);
                let number = *number.ok_or_else(|| unreadable(split))?;
                if split.records > 0 {
                    missing.insert((feed, number), (split.records, split.after.as_deref()));
                    let quota = self.feeds[feed].splits.list[number].quota.as_ref().ok_or_else(|| unreadable(split))?;
                    // A reader that has gone has sent its error.
                    let _ = quota.send(split.records).await;
                }
            }
        }
        while !missing.is_empty() {
            let event = self.events.recv().await.ok_or_else(|| Error::internal("the readers have gone"))?;
            let Event::Piece(piece) = event else {
                self.take(event, epoch).await?;
                continue;
            };
            let key = (piece.feed, piece.split);
            let Some((left, after)) = missing.get_mut(&key) else {
                return Err(Error::internal("a reader gave records that no logged epoch has"));
            };
            *left = left.saturating_sub(piece.records);
            if *left == 0 {
                if *after != Some(&*piece.position.0) {
                    let split = &self.feeds[key.0].splits.list[key.1].id;
                    return Err(Error::corrupt(format!(
                        "split '{split}' has record {} where epoch {} of the run before had {}",
                        piece.position,
                        cut.epoch,
                        after.unwrap_or("none")
                    ))
                    .hint("the stream was changed or has lost records since: start anew with --fresh"));
                }
                missing.remove(&key);
            }
            self.take_piece(*piece, epoch);
        }
        let logged = |name: &str| cut.tables.iter().find(|table| table.table == name);
        for feed in &mut self.feeds {
            for split in &mut feed.splits.list {
                split.unlogged = Default::default();
            }
            for (table, time) in feed.specification.tables.iter().zip(&mut feed.times) {
                if let Some(table) = logged(&table.name) {
                    time.floor = table.floor;
                    time.reported = Watermark(table.watermark);
                }
            }
        }
        epoch.floors = self.floors();
        for feed in &mut self.feeds {
            for (table, time) in feed.specification.tables.iter().zip(&mut feed.times) {
                if let Some(table) = logged(&table.name) {
                    time.floor = table.floor_after;
                }
            }
        }
        self.close(epoch)
    }

    /// The feeds that read what the feed of this name has read. Since then, tables may have come or gone, or be read apart.
    fn logged_feeds(&self, name: &str) -> Vec<usize> {
        let reads = |feed: &Feed| feed.specification.tables.iter().any(|table| is_of_feed(&table.name, name));
        (0..self.feeds.len()).filter(|feed| reads(&self.feeds[*feed])).collect()
    }

    /// Whether logged epochs are left to be cut again.
    pub(crate) fn is_replaying(&self) -> bool {
        !self.replay.is_empty()
    }

    /// Goes on after a logged epoch: to the next one, or by itself. `closed` is the end of the last window that the epoch
    /// closed, if it was the end of a `drained` run.
    pub(crate) async fn go_on(&mut self, drained: bool, closed: Option<i64>) -> Result<()> {
        if drained {
            self.reopen(closed);
        }
        if !self.replay.is_empty() {
            return Ok(());
        }
        for split in self.feeds.iter_mut().flat_map(|feed| &mut feed.splits.list) {
            split.quota = None;
        }
        self.discover().await
    }

    /// What a later run does with the saved state of a drained one.
    fn reopen(&mut self, closed: Option<i64>) {
        for time in self.feeds.iter_mut().flat_map(|feed| &mut feed.times) {
            time.floor = time.floor.max(closed.unwrap_or(i64::MIN));
            time.reported = Watermark::MIN;
        }
    }

    /// Opens a split as the log says. A log that a replay has shortened says it no more, but that replay's saved state does.
    async fn open_logged(&mut self, index: usize, cut: &SplitCut, id: &SplitId) -> Result<()> {
        let feed = &mut self.feeds[index];
        let listed = feed.specification.source.splits().await?;
        feed.splits.listed = listed.iter().map(|split| split.id.clone()).collect();
        let listed = listed.into_iter().find(|split| split.id == *id);
        let finished = cut.opened.as_ref().is_some_and(|opened| opened.finished);
        // One that was read to its end before may have been forgotten by its source.
        let split = listed.or(finished.then(|| Split { id: id.clone(), bytes: None, parents: Vec::new() }));
        let split = split.ok_or_else(|| unreadable(cut))?;
        let opening = match &cut.opened {
            Some(opened) => {
                let (position, start) = match &opened.at {
                    OpenedAt::After(position) => (Some(Position(position.as_str().into())), StartPosition::TrimHorizon),
                    OpenedAt::TrimHorizon => (None, StartPosition::TrimHorizon),
                    OpenedAt::AtTimestamp(ms) => (None, StartPosition::AtTimestamp(*ms)),
                    OpenedAt::Latest => return Err(unknown_start(cut)),
                };
                let logged: Vec<&str> = table_names(&cut.feed).collect();
                let watermark = |table: &TableSpecification| {
                    let at = logged.iter().position(|name| *name == table.name);
                    at.and_then(|at| opened.watermarks.get(at)).copied().unwrap_or(i64::MIN)
                };
                let watermarks = feed.specification.tables.iter().map(watermark).collect();
                Opening { position, start, watermarks, finished }
            }
            None => {
                let saved = feed.saved.iter().flatten().find_map(|table| table.splits.get(&cut.split));
                let saved = saved.ok_or_else(|| unreadable(cut))?;
                let (position, finished) = (saved.position(), saved.finished);
                let watermarks = feed.first_watermarks(&split);
                Opening { position, start: StartPosition::TrimHorizon, watermarks, finished }
            }
        };
        self.open(index, &split, opening, Some(mpsc::channel(QUOTAS_WAITING))).await
    }
}

fn unknown_start(cut: &SplitCut) -> Error {
    Error::corrupt(format!(
        "split '{}' was read from its newest record on, and its source did not say which",
        cut.split
    ))
    .hint("the run before was killed before it saved anything: start anew with --fresh")
}

fn unreadable(cut: &SplitCut) -> Error {
    Error::corrupt(format!("split '{}' of '{}' is needed to repeat the last epochs, and is gone", cut.split, cut.feed))
        .hint("the run before was killed: start anew with --fresh")
}
