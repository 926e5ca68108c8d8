//! The state of windows in snapshots: batches of their panes as pieces, and back.

use super::super::compute::Compute;
use super::super::hash_run::HashRun;
use super::super::panes::{Named, first_of_small};
use super::super::restore_room::RestoreRoom;
use super::WindowAggregate;
use crate::contracts::{Result, Watermark};
use crate::state::StatePiece;

impl WindowAggregate {
    /// All state, for a snapshot.
    pub fn snapshot(&self) -> (Watermark, Vec<StatePiece>) {
        let piece = |(id, batch): &Named| StatePiece { id: *id, rows: batch.clone().into(), dead: None };
        let held = self.panes.values().flat_map(|pane| pane.batches.iter().map(piece));
        let spilled = self.panes.values().flat_map(|pane| &pane.runs).flat_map(HashRun::pieces);
        (self.watermark, held.chain(spilled).collect())
    }

    /// See [`super::super::QueryGraph::reopen`].
    pub fn reopen(&mut self) {
        if self.watermark == Watermark::MAX {
            self.watermark = self.closed.map_or(Watermark::MIN, Watermark);
        }
    }

    /// Takes the state of a snapshot, in place of its own, and keeps in memory what there is `room` for.
    pub async fn restore(
        &mut self,
        watermark: Watermark,
        mut pieces: Vec<StatePiece>,
        room: Option<&RestoreRoom>,
        compute: &Compute,
    ) -> Result<()> {
        self.panes.clear();
        // In the order in which they came, so that merging them gives what it would have given.
        self.ids.restored(&mut pieces);
        let mut part = room.map(RestoreRoom::part);
        let mut spilled = false;
        for StatePiece { id, rows, .. } in pieces {
            let most = part.as_ref().map_or(self.most_merged, |part| part.folder().file_bytes());
            let is_divided = rows.has_groups(most);
            for rows in rows.groups(most) {
                let parts = self.split(&rows?)?;
                // What was put on disk is named anew, so what is younger must be, too: FIRST_VALUE and its like go by age.
                let whole = parts.len() == 1 && !spilled && !is_divided;
                for (key, rows) in parts {
                    let id = if whole { id } else { self.ids.take() };
                    self.panes.entry(key).or_default().add(id, rows);
                }
                if let Some(part) = &mut part
                    && let Some(most) = part.holds(self.memory().1)
                {
                    self.spill(part.folder(), most, compute).await?;
                    spilled = true;
                    part.holds(self.memory().1);
                }
                tokio::task::yield_now().await;
            }
            spilled |= is_divided;
        }
        for pane in self.panes.values_mut() {
            // What is large beside what has come since has been compacted before.
            let from = first_of_small(&pane.batches, 1);
            pane.rows_after_compaction = pane.batches[..from].iter().map(|(_, batch)| batch.num_rows()).sum();
        }
        self.watermark = watermark;
        // A run that closes no window leaves those closed that others have.
        self.closed = (watermark > Watermark::MIN).then_some(watermark.0);
        Ok(())
    }
}
