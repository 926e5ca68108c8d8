//! Up to which epoch the partitions of a table are in committed files.
//!
//! Invariant, kept by the sink: at the end of an epoch a partition's rows of that epoch are all in closed files, or all in its open
//! one. So a closed file, once committed, says: the partition is complete up to here. When a killed run's epochs are
//! repeated, those rows are left out, and every row is in exactly one file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::contracts::{Committable, EpochNumber, Error, Result};

use super::output::Staged;

/// By partition folder, the last epoch whose rows are in committed files: of epochs that may still be written. Partitions come and go, and
/// there would be more of them from day to day.
#[derive(Debug, Default)]
pub(super) struct Durable(BTreeMap<String, u64>);

impl Durable {
    /// Rows of `epoch` are written now; none of an earlier one will come, for a run repeats epochs in their order.
    pub(super) fn forget_before(&mut self, epoch: EpochNumber) {
        self.0.retain(|_, through| *through >= epoch.0);
    }

    /// Whether the partition's rows of `epoch` are in committed files.
    pub(super) fn has(&self, folder: &str, epoch: EpochNumber) -> bool {
        self.0.get(folder).is_some_and(|through| epoch.0 <= *through)
    }

    /// Takes note of a file that has been committed. The mark of a complete partition has no rows, and says nothing of epochs.
    pub(super) fn note(&mut self, file: &Noted) {
        if matches!(serde_json::from_str(&file.file), Ok(Staged::Success { .. })) {
            return;
        }
        let through = self.0.entry(file.folder.clone()).or_default();
        *through = file.through.max(*through);
    }
}

/// A staged file and what its commit says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Noted {
    folder: String,
    through: u64,
    /// The payload of the file itself.
    file: String,
}

impl Noted {
    /// With `staged`, the partition has all its rows up to epoch `through`.
    pub(super) fn committable(folder: String, through: EpochNumber, staged: Committable) -> Result<Committable> {
        let noted = Self { folder, through: through.0, file: staged.payload };
        let payload = serde_json::to_string(&noted);
        Ok(Committable { payload: payload.map_err(|e| Error::internal("a staged file as JSON").caused_by(e))? })
    }

    pub(super) fn of(committable: &Committable) -> Result<Self> {
        let unreadable = |e| Error::corrupt("a staged file's payload cannot be read").caused_by(e);
        serde_json::from_str(&committable.payload).map_err(unreadable)
    }

    /// The partition.
    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    /// The file itself, to be committed.
    pub(super) fn staged(&self) -> Committable {
        Committable { payload: self.file.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_is_durable_and_a_mark_does_not() {
        let mut durable = Durable::default();
        let payload = r#"{"temporary":"day=1/.part-job-1-0-e3.jsonl","path":"day=1/part-job-1-0-e3.jsonl"}"#;
        let file = Committable { payload: payload.to_owned() };
        let mark = Staged::Success { success: "day=1/_SUCCESS".to_owned() }.committable().expect("text");
        for (staged, through, durable_through) in [(&mark, 9, 0), (&file, 4, 4), (&mark, 9, 4), (&file, 7, 7)] {
            let noted = Noted::committable("day=1".to_owned(), EpochNumber(through), staged.clone()).expect("text");
            durable.note(&Noted::of(&noted).expect("as it was written"));
            let has: Vec<u64> = (1..12).filter(|epoch| durable.has("day=1", EpochNumber(*epoch))).collect();
            assert_eq!(has, (1..=durable_through).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_no_epoch_asks_for_any_more_is_forgotten() {
        let mut durable = Durable::default();
        for day in 0..1_000 {
            let epoch = EpochNumber(day);
            durable.forget_before(epoch);
            for (folder, through) in [(format!("day={day}"), day), ("late".to_owned(), 1_500)] {
                durable.note(&Noted { folder, through, file: "{}".to_owned() });
            }
            assert!(durable.0.len() <= 3, "{durable:?}");
            assert!(durable.has(&format!("day={day}"), epoch) && durable.has("late", epoch));
        }
        durable.forget_before(EpochNumber(1_500));
        assert!(durable.has("late", EpochNumber(1_500)), "the last epoch of a file is one of it");
        durable.forget_before(EpochNumber(1_501));
        assert!(durable.0.is_empty());
    }
}
