//! Rows that a sink holds in open files, where the query that gave them has state: it cannot give them again.
//!
//! They are kept beside the sink until their file has been committed, and saved with each checkpoint; a run that goes on
//! from it writes them again first. Queries without state are not kept so: their epochs are cut and computed again.

use std::collections::VecDeque;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Int8Array, Int64Array, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Int8Type, Int64Type, Schema, UInt64Type};

use crate::contracts::{ChangeKind, Changes, EpochNumber, Error, Result};
use crate::state::{OperatorState, PieceIds, StatePiece};

/// Columns behind the sink's own.
const EPOCH: &str = "__tm_epoch";
const NOW: &str = "__tm_now";
const KIND: &str = "__tm_kind";
/// Values of the last one.
const APPEND: i8 = 0;
const UPSERT: i8 = 1;
const DELETE: i8 = 2;

/// What an epoch has given to a sink.
#[derive(Debug, Clone)]
pub(super) struct UnwrittenEpoch {
    pub(super) epoch: EpochNumber,
    pub(super) now_ms: i64,
    pub(super) changes: Vec<Changes>,
}

/// Epochs whose rows are not all in committed files, by age.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    epochs: VecDeque<(UnwrittenEpoch, Vec<u64>)>,
    ids: PieceIds,
}

impl Unwritten {
    /// Takes the rows of an epoch.
    pub(super) fn add(&mut self, epoch: EpochNumber, now_ms: i64, changes: &[Changes]) {
        let changes: Vec<Changes> = changes.iter().filter(|changes| changes.batch.num_rows() > 0).cloned().collect();
        if !changes.is_empty() {
            let ids = changes.iter().map(|_| self.ids.take()).collect();
            self.epochs.push_back((UnwrittenEpoch { epoch, now_ms, changes }, ids));
        }
    }

    /// Forgets what is in committed files: everything before `open_since`, or everything.
    pub(super) fn forget(&mut self, open_since: Option<EpochNumber>) {
        while self.epochs.front().is_some_and(|(held, _)| open_since.is_none_or(|since| held.epoch < since)) {
            self.epochs.pop_front();
        }
    }

    /// For a checkpoint.
    pub(super) fn snapshot(&self) -> Result<Option<OperatorState>> {
        let mut pieces = Vec::new();
        for (held, ids) in &self.epochs {
            for (changes, id) in held.changes.iter().zip(ids) {
                pieces.push(StatePiece { id: *id, rows: with_columns(held, changes)?.into(), dead: None });
            }
        }
        let state = OperatorState { fingerprint: "rows of open files".to_owned(), watermark: None, pieces };
        Ok((!self.epochs.is_empty()).then_some(state))
    }

    /// Takes what a checkpoint has. The epochs are to be written again.
    pub(super) fn restore(&mut self, state: OperatorState) -> Result<Vec<UnwrittenEpoch>> {
        let mut epochs: Vec<(UnwrittenEpoch, Vec<u64>)> = Vec::new();
        for piece in state.pieces {
            self.ids.known(piece.id);
            let (epoch, now_ms, changes) = without_columns(&piece.rows.load()?)?;
            match epochs.last_mut() {
                Some((held, ids)) if held.epoch == epoch => {
                    held.changes.push(changes);
                    ids.push(piece.id);
                }
                _ => epochs.push((UnwrittenEpoch { epoch, now_ms, changes: vec![changes] }, vec![piece.id])),
            }
        }
        self.epochs = epochs.into();
        Ok(self.epochs.iter().map(|(held, _)| held.clone()).collect())
    }
}

fn with_columns(held: &UnwrittenEpoch, changes: &Changes) -> Result<RecordBatch> {
    let rows = changes.batch.num_rows();
    let kind = |kind: &ChangeKind| match kind {
        ChangeKind::Upsert => UPSERT,
        ChangeKind::Delete => DELETE,
    };
    let kinds: Int8Array = match &changes.kinds {
        None => Int8Array::from_value(APPEND, rows),
        Some(kinds) => kinds.iter().map(kind).map(Some).collect(),
    };
    let added: [(&str, ArrayRef); 3] = [
        (EPOCH, Arc::new(UInt64Array::from_value(held.epoch.0, rows))),
        (NOW, Arc::new(Int64Array::from_value(held.now_ms, rows))),
        (KIND, Arc::new(kinds)),
    ];
    let mut fields = changes.batch.schema_ref().fields().to_vec();
    let mut columns = changes.batch.columns().to_vec();
    for (name, column) in added {
        fields.push(Arc::new(Field::new(name, column.data_type().clone(), false)));
        columns.push(column);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn without_columns(batch: &RecordBatch) -> Result<(EpochNumber, i64, Changes)> {
    let wrong = || Error::corrupt("rows of open files do not say of which epoch they are").hint("run with --fresh");
    let own = batch.num_columns().checked_sub(3).ok_or_else(wrong)?;
    let [epoch, now, kinds] = &batch.columns()[own..] else { return Err(wrong()) };
    let types = [epoch, now, kinds].map(|column| column.data_type().clone());
    if batch.num_rows() == 0 || types != [DataType::UInt64, DataType::Int64, DataType::Int8] {
        return Err(wrong());
    }
    let (epoch, now) = (epoch.as_primitive::<UInt64Type>().value(0), now.as_primitive::<Int64Type>().value(0));
    let kinds = kinds.as_primitive::<Int8Type>();
    let kinds = (kinds.value(0) != APPEND).then(|| {
        kinds
            .values()
            .iter()
            .map(|kind| if *kind == DELETE { ChangeKind::Delete } else { ChangeKind::Upsert })
            .collect()
    });
    let rows = batch.project(&(0..own).collect::<Vec<_>>())?;
    Ok((EpochNumber(epoch), now, Changes { batch: rows, kinds }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(rows: std::ops::Range<i64>, kinds: Option<Vec<ChangeKind>>) -> Changes {
        let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(rows)) as ArrayRef)]);
        Changes { batch: batch.expect("a batch"), kinds }
    }

    #[test]
    fn what_is_not_committed_comes_back_by_epoch() {
        let mut held = Unwritten::default();
        held.add(EpochNumber(3), 30, &[changes(0..4, None)]);
        held.add(EpochNumber(4), 40, &[changes(0..0, None)]);
        let kinds = vec![ChangeKind::Upsert, ChangeKind::Delete];
        held.add(EpochNumber(5), 50, &[changes(4..6, Some(kinds)), changes(6..9, None)]);
        held.forget(Some(EpochNumber(3)));
        let saved = held.snapshot().expect("a snapshot").expect("rows");
        let mut later = Unwritten::default();
        let epochs = later.restore(saved).expect("restored");
        assert_eq!(
            format!("{epochs:?}"),
            format!("{:?}", held.epochs.iter().map(|(held, _)| held).collect::<Vec<_>>())
        );
        assert_eq!(epochs.iter().map(|held| (held.epoch.0, held.now_ms)).collect::<Vec<_>>(), [(3, 30), (5, 50)]);
        later.add(EpochNumber(6), 60, &[changes(9..10, None)]);
        later.forget(Some(EpochNumber(5)));
        let ids = later.snapshot().expect("a snapshot").expect("rows").pieces.iter().map(|p| p.id).collect::<Vec<_>>();
        assert_eq!(ids, [2, 3, 4], "names are not given twice");
        later.forget(None);
        assert!(later.snapshot().expect("a snapshot").is_none());
    }
}
