//! Up to which epoch the partitions of a table are in committed files.
//!
//! Invariant, kept by the sink: at the end of an epoch a partition's rows of that epoch are all in closed files, or all in its open
//! one. So a closed file, once committed, says: the partition is complete up to here. When a killed run's epochs are
//! repeated, those rows are left out, and every row is in exactly one file. It says so of the rows that its partition had by then: where
//! others belong to it since, because the table's layout is another, they cannot be repeated.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::contracts::{Committable, EpochNumber, Error, Result};

use super::output::Staged;
use super::partition::Layout;

/// What is known of committed files.
#[derive(Debug)]
pub(super) struct Durable {
    /// How rows are placed in folders now.
    layout: Layout,
    /// By partition folder, the last epoch whose rows are in committed files: of epochs that may still be written. Partitions come and go, and
    /// there would be more of them from day to day.
    through: BTreeMap<String, u64>,
    /// The last epoch of files that were written by another layout, and that one.
    by_another: Option<(u64, Layout)>,
}

impl Durable {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, through: BTreeMap::new(), by_another: None }
    }

    /// Rows of `epoch` are written now; none of an earlier one will come, for a run repeats epochs in their order.
    pub(super) fn forget_before(&mut self, epoch: EpochNumber) {
        self.through.retain(|_, through| *through >= epoch.0);
    }

    /// Whether the partition's rows of `epoch` are in committed files.
    pub(super) fn has(&self, folder: &str, epoch: EpochNumber) -> bool {
        self.through.get(folder).is_some_and(|through| epoch.0 <= *through)
    }

    /// Whether what [`has`](Self::has) says holds for rows of `first` and later epochs.
    ///
    /// # Errors
    /// They may lie in files of other folders than those that they belong to now: some would be written twice, and others not at all.
    pub(super) fn check_repeat(&self, first: EpochNumber) -> Result<()> {
        match &self.by_another {
            Some((through, before)) if first.0 <= *through => Err(self.layout.refusal(before)),
            _ => Ok(()),
        }
    }

    /// Takes note of a file that has been committed. The mark of a complete partition has no rows, and says nothing of epochs.
    pub(super) fn note(&mut self, file: &Noted) {
        if file.is_mark() {
            return;
        }
        let through = self.through.entry(file.folder.clone()).or_default();
        *through = file.through.max(*through);
        // Earlier versions did not say it.
        if let Some(before) = file.layout.as_ref().filter(|before| **before != self.layout)
            && self.by_another.as_ref().is_none_or(|(through, _)| *through < file.through)
        {
            self.by_another = Some((file.through, before.clone()));
        }
    }

    /// What the commit of `staged` says: with it, the partition has all its rows up to epoch `through`. It waits for its mark since
    /// `waits_since_ms`, if it does.
    pub(super) fn noted(
        &self,
        folder: String,
        through: EpochNumber,
        waits_since_ms: Option<i64>,
        staged: Committable,
    ) -> Noted {
        let layout = Some(self.layout.clone());
        Noted { folder, through: through.0, layout, waits_since_ms, file: staged.payload }
    }
}

/// A staged file and what its commit says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Noted {
    folder: String,
    through: u64,
    /// Earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layout: Option<Layout>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waits_since_ms: Option<i64>,
    /// The payload of the file itself.
    file: String,
}

impl Noted {
    pub(super) fn committable(&self) -> Result<Committable> {
        let payload = serde_json::to_string(self);
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

    /// Since when the partition has rows that no mark says to be complete, in milliseconds since 1970, where that was known.
    pub(super) fn waits_since_ms(&self) -> Option<i64> {
        self.waits_since_ms
    }

    /// Whether it is the mark of a complete partition.
    pub(super) fn is_mark(&self) -> bool {
        matches!(serde_json::from_str(&self.file), Ok(Staged::Success { .. }))
    }

    /// The file itself, to be committed.
    pub(super) fn staged(&self) -> Committable {
        Committable { payload: self.file.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::files::partition::tests::layout;

    fn durable_of(by: &str) -> Durable {
        Durable::new(layout(by))
    }

    /// A file of a table that is PARTITIONED BY such a column.
    fn file(by: &str, folder: &str, through: u64) -> Noted {
        let payload =
            format!(r#"{{"temporary":"{folder}/.part-job-1-0-e3.jsonl","path":"{folder}/part-job-1-0-e3.jsonl"}}"#);
        durable_of(by).noted(folder.to_owned(), EpochNumber(through), None, Committable { payload })
    }

    #[test]
    fn a_file_says_what_is_durable_and_a_mark_does_not() {
        let mut durable = durable_of("day");
        let mark = |through: u64| {
            let mark = Staged::Success { success: "day=1/_SUCCESS".to_owned() }.committable().expect("text");
            durable_of("day").noted("day=1".to_owned(), EpochNumber(through), None, mark)
        };
        let noted = [(mark(9), 0), (file("day", "day=1", 4), 4), (mark(9), 4), (file("day", "day=1", 7), 7)];
        for (noted, durable_through) in noted {
            durable.note(&Noted::of(&noted.committable().expect("text")).expect("as it was written"));
            let has: Vec<u64> = (1..12).filter(|epoch| durable.has("day=1", EpochNumber(*epoch))).collect();
            assert_eq!(has, (1..=durable_through).collect::<Vec<_>>());
        }
    }

    /// Where nothing is written again, another layout is nobody's business.
    #[test]
    fn rows_of_files_by_another_layout_cannot_be_written_again_and_later_ones_can() {
        let refuses = |durable: &Durable| (1..=12).filter(|e| durable.check_repeat(EpochNumber(*e)).is_err()).max();
        let mut durable = durable_of("hour");
        assert_eq!(refuses(&durable), None);
        durable.note(&file("hour", "hour=1", 8));
        assert_eq!(refuses(&durable), None);
        for (through, refused) in [(4, 4), (9, 9), (7, 9)] {
            durable.note(&file("day", "day=1", through));
            assert_eq!(refuses(&durable), Some(refused));
        }
        let mark = Staged::Success { success: "day=1/_SUCCESS".to_owned() }.committable().expect("text");
        durable.note(&durable_of("day").noted("day=1".to_owned(), EpochNumber(11), None, mark));
        // A log of an earlier version.
        let payload = file("day", "day=1", 12).committable().expect("text").payload;
        let mut old: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&payload).expect("an object");
        assert!(old.remove("layout").is_some());
        let payload = serde_json::to_string(&old).expect("text");
        durable.note(&Noted::of(&Committable { payload }).expect("it can be read"));
        assert_eq!(refuses(&durable), Some(9));
        assert!(durable.has("day=1", EpochNumber(12)));
    }

    #[test]
    fn what_no_epoch_asks_for_any_more_is_forgotten() {
        let mut durable = durable_of("day");
        for day in 0..1_000 {
            let epoch = EpochNumber(day);
            durable.forget_before(epoch);
            for (folder, through) in [(format!("day={day}"), day), ("late".to_owned(), 1_500)] {
                durable.note(&file("day", &folder, through));
            }
            assert!(durable.through.len() <= 3, "{durable:?}");
            assert!(durable.has(&format!("day={day}"), epoch) && durable.has("late", epoch));
        }
        durable.forget_before(EpochNumber(1_500));
        assert!(durable.has("late", EpochNumber(1_500)), "the last epoch of a file is one of it");
        durable.forget_before(EpochNumber(1_501));
        assert!(durable.through.is_empty());
    }
}
