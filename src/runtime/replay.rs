//! Cuts of epochs for the log, and cutting logged epochs again.
//!
//! A replay takes from each split the number of records that the log says, in pieces of any size; rows are put in the
//! same order as then, and event time is not computed but taken from the log, since it depends on the clock. Readers wait
//! behind the records of the epoch until the next one asks for more; after the last logged epoch they run on.
//!
//! Where a source has few splits open at a time, a replay keeps to the same number: what the log says has ended is closed
//! before the next one is opened, and so is what has given its records, to be opened again where it stands.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::driver::Driver;
use super::epoch::Epoch;
use super::feed::{Feed, TableSpecification, is_of_feed, table_names};
use super::opening::{Opening, saved_start};
use super::quotas::{Quota, run_on};
use super::reader::Event;
use super::splits::Status;
use crate::contracts::{
    EpochCut, Error, OpenedAt, Position, Result, SourceProgress, Split, SplitCut, SplitId, SplitProgress,
    StartPosition, TableCut, Watermark,
};

/// One quota is on its way at a time.
pub(super) const QUOTAS_WAITING: usize = 1;

/// What to do where logged epochs cannot be repeated.
const GO_BACK: &str = "`tidemill state rewind STORE latest` goes on from the last checkpoint without them, with the state as it was there and with what is left \
                       of the stream (see docs/reliability.md); or start anew with --fresh, which forgets the state";

/// A split of a logged epoch: feed, its number there, and what the log says.
type Logged<'a> = (usize, usize, &'a SplitCut);

impl Driver {
    /// What the epoch was cut of, as far as the driver knows; it counts as logged from now on.
    pub(crate) fn cut_of(&mut self, epoch: &Epoch) -> (Vec<SplitCut>, Vec<TableCut>) {
        let (mut splits, mut tables) = (Vec::new(), Vec::new());
        for (index, feed) in self.feeds.iter_mut().enumerate() {
            let name = feed.name();
            for split in &mut feed.splits.list {
                let unlogged = std::mem::take(&mut split.unlogged);
                if unlogged.records > 0 || unlogged.opened.is_some() || unlogged.ended {
                    let has_given = unlogged.records > 0;
                    splits.push(SplitCut {
                        feed: name.clone(),
                        split: split.id.to_string(),
                        opened: unlogged.opened,
                        records: unlogged.records,
                        after: unlogged.after.map(|position| position.to_string()),
                        version: if has_given { feed.specification.source.version(&split.id) } else { None },
                        ended: unlogged.ended,
                    });
                }
            }
            for (number, (table, time)) in feed.specification.tables.iter().zip(&feed.times).enumerate() {
                if time.has_watermark {
                    let standing = epoch.standings.get(table.table);
                    tables.push(TableCut {
                        table: table.name.clone(),
                        floor: epoch.floors[index][number],
                        floor_after: time.floor,
                        watermark: time.reported.0,
                        quiet: standing.is_some_and(|standing| standing.quiet),
                        then: standing.map(|standing| standing.then.0),
                    });
                }
            }
        }
        (splits, tables)
    }

    /// Gathers the epoch that `cut` describes.
    pub(super) async fn gather_logged(&mut self, epoch: &mut Epoch, cut: &EpochCut) -> Result<()> {
        let mut turns = self.turns_of(cut).await?;
        // Records that each is still to give, and what the log says of it.
        let mut missing: BTreeMap<(usize, usize), (u64, &SplitCut)> = BTreeMap::new();
        loop {
            while let Some((feed, number, split)) = turns.front().copied() {
                let is_open = self.feeds[feed].splits.open.contains(&number);
                if !is_open && !self.feeds[feed].has_turn() {
                    let idle = |number: &&usize| !missing.contains_key(&(feed, **number));
                    let Some(idle) = self.feeds[feed].splits.open.iter().find(idle).copied() else { break };
                    self.close_logged(feed, idle);
                }
                turns.pop_front();
                self.ask(feed, number, split).await?;
                missing.insert((feed, number), (split.records, split));
            }
            if missing.is_empty() {
                break;
            }
            let event = self.events.recv().await.ok_or_else(|| Error::internal("the readers have gone"))?;
            match event {
                Event::Piece(piece) => {
                    let key = (piece.feed, piece.split);
                    let Some((left, split)) = missing.get_mut(&key) else {
                        return Err(Error::internal("a reader gave records that no logged epoch has"));
                    };
                    if *left == 0 {
                        return Err(not_the_same(split, &piece.position, cut.epoch));
                    }
                    *left = left.saturating_sub(piece.records);
                    if *left == 0 {
                        if split.after.as_deref() != Some(&*piece.position.0) {
                            return Err(not_the_same(split, &piece.position, cut.epoch));
                        }
                        if split.ended {
                            run_on(&mut self.feeds[key.0].splits.list[key.1].quota).await;
                        } else {
                            missing.remove(&key);
                        }
                    }
                    self.take_piece(*piece, epoch);
                }
                // Only what the log says has ended is let run to its end. One that catches up has another end, where the others stand: it may
                // come there without records that are not in the stream any more.
                Event::Finished { feed, split, really, position } if missing.contains_key(&(feed, split)) => {
                    if let Some((left, split)) = missing.remove(&(feed, split)).filter(|(left, _)| *left > 0) {
                        return Err(lost(split, left, cut.epoch));
                    }
                    self.feeds[feed].ended(split, Status::Finished, really, position);
                }
                Event::Gone { feed, split } if missing.contains_key(&(feed, split)) => {
                    let (left, split) = missing[&(feed, split)];
                    return Err(lost(split, left, cut.epoch));
                }
                event => self.take(event, epoch).await?,
            }
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
        epoch.standings = self.logged_standings(cut);
        (epoch.now_ms, epoch.oldest_ms) = (cut.now_ms, cut.oldest_ms);
        for feed in &mut self.feeds {
            for (table, time) in feed.specification.tables.iter().zip(&mut feed.times) {
                if let Some(table) = logged(&table.name) {
                    time.resume(table.floor_after);
                }
            }
        }
        self.close(epoch)
    }

    /// The splits that give something to the epoch, all of them known by now: those that are open, then those that have
    /// ended within the epoch, so that fewer are closed that will be opened again.
    async fn turns_of<'a>(&mut self, cut: &'a EpochCut) -> Result<VecDeque<Logged<'a>>> {
        let mut turns: Vec<Logged<'a>> = Vec::new();
        let mut listed = BTreeMap::new();
        for split in &cut.splits {
            let id = SplitId(split.split.as_str().into());
            for feed in self.logged_feeds(&split.feed) {
                if !self.feeds[feed].splits.by_id.contains_key(&id) {
                    self.know_logged(feed, split, &id, &mut listed).await?;
                }
                let number = self.feeds[feed].splits.by_id.get(&id);
                let number = *number.ok_or_else(|| unreadable(split))?;
                if split.records > 0 || split.ended {
                    turns.push((feed, number, split));
                }
            }
        }
        let mut asked = BTreeSet::new();
        if let Some((_, _, split)) = turns.iter().find(|(feed, number, _)| !asked.insert((*feed, *number))) {
            return Err(twice(split, cut.epoch));
        }
        turns.sort_by_key(|(feed, number, split)| (!self.feeds[*feed].splits.open.contains(number), !split.ended));
        Ok(turns.into())
    }

    /// Has a split give the records that the log says, or find its end.
    async fn ask(&mut self, feed: usize, number: usize, split: &SplitCut) -> Result<()> {
        if !self.feeds[feed].splits.open.contains(&number) {
            self.open(feed, number, Some(mpsc::channel(QUOTAS_WAITING))).await?;
        }
        let quota = &mut self.feeds[feed].splits.list[number].quota;
        let sender = quota.as_ref().ok_or_else(|| unreadable(split))?;
        if split.records > 0 {
            // A reader that has gone has sent its error.
            let _ = sender.send(Quota::Records(split.records)).await;
        } else {
            run_on(quota).await;
        }
        Ok(())
    }

    /// The feeds that read what the feed of this name has read. Since then, tables may have come or gone, or be read apart.
    fn logged_feeds(&self, name: &str) -> Vec<usize> {
        (0..self.feeds.len()).filter(|feed| reads(&self.feeds[*feed], name)).collect()
    }

    /// Whether logged epochs are left to be cut again.
    pub(crate) fn is_replaying(&self) -> bool {
        !self.replay.is_empty()
    }

    /// Goes on after a logged epoch, which may have been the end of a `drained` run: to the next one, or by itself.
    pub(crate) async fn go_on(&mut self, drained: bool) -> Result<()> {
        if drained {
            // What a later run does with the saved state of a drained one.
            self.feeds.iter_mut().flat_map(|feed| &mut feed.times).for_each(|time| time.reported = Watermark::MIN);
        }
        if !self.replay.is_empty() {
            return Ok(());
        }
        for index in 0..self.feeds.len() {
            // Where some wait, it may be the turn of others.
            if !self.feeds[index].splits.turns.is_empty() {
                for number in self.feeds[index].splits.open.clone() {
                    self.close_logged(index, number);
                }
            }
            self.feeds[index].splits.replaying = false;
            for split in &mut self.feeds[index].splits.list {
                run_on(&mut split.quota).await;
            }
        }
        self.discover().await
    }

    /// Ends a reader that has given all that it was asked for. It is opened again behind that.
    fn close_logged(&mut self, index: usize, number: usize) {
        let feed = &mut self.feeds[index];
        if let Some(reader) = feed.splits.list[number].reader.take() {
            reader.abort();
        }
        feed.wait(number);
    }

    /// Takes a split into account as the log says. A log that a replay has shortened says it no more, but that replay's saved
    /// state does. `listed` keeps what sources name, by feed.
    async fn know_logged(
        &mut self,
        index: usize,
        cut: &SplitCut,
        id: &SplitId,
        listed: &mut BTreeMap<usize, BTreeMap<SplitId, Split>>,
    ) -> Result<()> {
        let feed = &mut self.feeds[index];
        feed.begun = true;
        let found = |listed: &BTreeMap<usize, BTreeMap<SplitId, Split>>| listed.get(&index)?.get(id).cloned();
        if found(listed).is_none() {
            let splits = feed.specification.source.splits().await?;
            listed.insert(index, splits.into_iter().map(|split| (split.id.clone(), split)).collect());
        }
        let finished = cut.opened.as_ref().is_some_and(|opened| opened.finished);
        // One that was read to its end before may have been forgotten by its source.
        let split = found(listed).or(finished.then(|| Split { id: id.clone(), bytes: None, parents: Vec::new() }));
        let is_left_out = split.is_none() && feed.specification.source.is_left_out(id);
        let split = split.ok_or_else(|| if is_left_out { left_out(cut) } else { unreadable(cut) })?;
        let opening = match &cut.opened {
            Some(opened) => {
                let (position, start) = match &opened.at {
                    OpenedAt::After(position) => (Some(Position(position.as_str().into())), StartPosition::TrimHorizon),
                    OpenedAt::TrimHorizon => (None, StartPosition::TrimHorizon),
                    OpenedAt::AtTimestamp(ms) => (None, StartPosition::AtTimestamp(*ms)),
                    OpenedAt::Latest if finished => (None, StartPosition::Latest),
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
                Opening { position, start: saved_start(saved), watermarks, finished }
            }
        };
        self.know(index, split, opening, true).await
    }
}

/// Whether a feed reads a table of the feed of this name.
fn reads(feed: &Feed, name: &str) -> bool {
    feed.specification.tables.iter().any(|table| is_of_feed(&table.name, name))
}

/// Where the run before has begun each split of a feed, for a source that no saved state says more to: it must still name these
/// splits, whatever the start that it would choose now. `None` when no logged epoch has opened one.
pub(super) fn logged_progress(feed: &Feed, cuts: &VecDeque<EpochCut>) -> Option<SourceProgress> {
    let mut splits = BTreeMap::new();
    for split in cuts.iter().flat_map(|cut| &cut.splits).filter(|split| reads(feed, &split.feed)) {
        let Some(opened) = &split.opened else { continue };
        let after_exclusive = match &opened.at {
            OpenedAt::After(position) => Some(Position(position.as_str().into())),
            _ => None,
        };
        let progress = SplitProgress { after_exclusive, finished: opened.finished, version: None };
        splits.entry(SplitId(split.split.as_str().into())).or_insert(progress);
    }
    (!splits.is_empty()).then_some(SourceProgress { splits, state: None })
}

/// Adds the versions of what the logged epochs have read. What was saved before is of the same ones.
pub(super) fn note_versions(feed: &Feed, cuts: &VecDeque<EpochCut>, progress: &mut Option<SourceProgress>) {
    for split in cuts.iter().flat_map(|cut| &cut.splits).filter(|split| reads(feed, &split.feed)) {
        if let Some(version) = &split.version {
            let splits = &mut progress.get_or_insert_default().splits;
            let progress = splits.entry(SplitId(split.split.as_str().into())).or_default();
            progress.version.get_or_insert_with(|| version.clone());
        }
    }
}

/// Has saved and logged splits of a feed go by the names that its source has for them now.
pub(super) async fn rename_splits(feed: &mut Feed, cuts: &mut VecDeque<EpochCut>) -> Result<()> {
    let source = Arc::clone(&feed.specification.source);
    let logged = |cut: &SplitCut| reads(feed, &cut.feed).then(|| cut.split.clone());
    let mut names: BTreeSet<String> = cuts.iter().flat_map(|cut| &cut.splits).filter_map(logged).collect();
    let tables = feed.saved.iter().chain(feed.catch_up.iter().flatten()).flatten();
    names.extend(tables.flat_map(|table| table.splits.keys().cloned()));
    let names = names.iter().map(|name| SplitId(name.as_str().into())).collect();
    let renamed = source.known_as(names).await?;
    let now = |name: &str| renamed.get(&SplitId(name.into())).map_or_else(|| name.to_owned(), |now| now.0.to_string());
    for table in feed.saved.iter_mut().chain(feed.catch_up.iter_mut().flatten()).flatten() {
        let splits = std::mem::take(&mut table.splits);
        // One that was read under two names goes on under its own.
        let (own, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            splits.into_iter().partition(|(name, _)| now(name) == *name);
        table.splits = own;
        for (name, split) in others {
            let now = Some(now(&name)).filter(|now| !table.splits.contains_key(now));
            table.splits.insert(now.unwrap_or(name), split);
        }
    }
    for split in cuts.iter_mut().flat_map(|cut| &mut cut.splits).filter(|split| reads(feed, &split.feed)) {
        split.split = now(&split.split);
    }
    Ok(())
}

fn not_the_same(cut: &SplitCut, found: &Position, epoch: u64) -> Error {
    let had = cut.after.as_deref().unwrap_or("none");
    let split = &cut.split;
    Error::corrupt(format!("split '{split}' has record {found} where epoch {epoch} of the run before had {had}"))
        .hint(format!("the stream was changed or has lost records since: {GO_BACK}"))
}

fn lost(cut: &SplitCut, left: u64, epoch: u64) -> Error {
    let through = cut.after.as_deref().unwrap_or("its end");
    let SplitCut { split, feed, .. } = cut;
    Error::corrupt(format!(
        "split '{split}' of '{feed}' has lost {left} of the records, through {through}, that epoch {epoch} of the run before was cut of"
    ))
    .hint(format!("that run was killed, and its last epochs cannot be repeated without them: {GO_BACK}"))
}

fn twice(cut: &SplitCut, epoch: u64) -> Error {
    let SplitCut { split, feed, .. } = cut;
    Error::corrupt(format!(
        "epoch {epoch} of the run before read split '{split}' of '{feed}' with more than one reader, and it has one now"
    ))
    .hint(format!("that run was killed, and its last epochs cannot be repeated so: {GO_BACK}"))
}

fn unknown_start(cut: &SplitCut) -> Error {
    Error::corrupt(format!(
        "split '{}' was read from its newest record on, and its source did not say which",
        cut.split
    ))
    .hint("the run before was killed before it saved anything: start anew with --fresh")
}

fn left_out(cut: &SplitCut) -> Error {
    let (split, feed) = (&cut.split, &cut.feed);
    Error::config(format!(
        "split '{split}' of '{feed}' is needed to repeat the last epochs, and the table names its stream no more"
    ))
    .hint("the run before was killed: name the stream again, run once with --once, and leave it out then")
}

fn unreadable(cut: &SplitCut) -> Error {
    Error::corrupt(format!("split '{}' of '{}' is needed to repeat the last epochs, and is gone", cut.split, cut.feed))
        .hint(format!("the run before was killed: {GO_BACK}"))
}
