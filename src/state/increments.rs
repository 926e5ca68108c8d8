//! Which pieces of an operator's state are written again, and which are in files already.
//!
//! A file of state is never changed: its pieces leave the state one by one. So files are rewritten as in a log-structured
//! store: one of which less than half is still part of the state, and small ones when there are many of one size. What is
//! stored stays below twice the pieces, and each row is written a logarithmic number of times. Nothing is read for it: the
//! pieces are in memory. (Rows that have died in a piece are stored with it. Operators keep no piece of which most rows are dead:
//! so all in all it is below four times what is alive; `tests/operators/stored.rs` has what it is.)

use std::collections::{BTreeMap, BTreeSet};

use super::manifest::StateFile;
use super::saved::StatePiece;

/// So many files of one size class are merged.
const FILES_OF_A_CLASS: usize = 4;

/// A file that an earlier checkpoint has written.
#[derive(Debug, Clone)]
pub(super) struct KeptFile {
    pub(super) file: StateFile,
    /// Its batches that are pieces of the state, with their rows. What else is in it has gone, and its number may be another piece's by now: a
    /// run counts on from the last one that it knows.
    pub(super) batches: Vec<(u64, usize)>,
    /// Rows of all that is in it.
    pub(super) rows: usize,
}

impl KeptFile {
    fn live_share(&self, live: &BTreeSet<u64>) -> f64 {
        let rows: usize = self.batches.iter().filter(|(id, _)| live.contains(id)).map(|(_, rows)| *rows).sum();
        if self.rows == 0 { 0.0 } else { rows as f64 / self.rows as f64 }
    }
}

/// What a checkpoint does with the pieces of an operator.
#[derive(Debug)]
pub(super) struct Increment {
    /// Files that stay, with the pieces that are still part of the state.
    pub(super) kept: Vec<KeptFile>,
    /// Pieces that are written, by age.
    pub(super) written: Vec<StatePiece>,
}

/// Compares a state with what is stored of it, in files of `file_bytes`.
pub(super) fn increment(kept: &[KeptFile], pieces: &[StatePiece], file_bytes: usize) -> Increment {
    // A file that is so large is left as it is until half of it has gone.
    let large = file_bytes as u64 / 2;
    let live: BTreeSet<u64> = pieces.iter().map(|piece| piece.id).collect();
    let stored: BTreeSet<u64> = kept.iter().flat_map(|file| file.batches.iter().map(|(id, _)| *id)).collect();
    let mut rewritten = BTreeSet::new();
    let mut rewrite = |file: &KeptFile| {
        rewritten.extend(file.batches.iter().map(|(id, _)| *id).filter(|id| live.contains(id)));
    };
    let mut classes: BTreeMap<u32, Vec<&KeptFile>> = BTreeMap::new();
    for file in kept {
        let share = file.live_share(&live);
        let bytes = (file.file.unpacked_bytes() as f64 * share) as u64;
        if share < 0.5 {
            rewrite(file);
        } else if bytes < large {
            // Sizes within a factor of four are alike.
            classes.entry(bytes.max(1).ilog2() / 2).or_default().push(file);
        }
    }
    for files in classes.values().filter(|files| files.len() >= FILES_OF_A_CLASS) {
        files.iter().for_each(|file| rewrite(file));
    }
    let stays = |id: &u64| live.contains(id) && !rewritten.contains(id);
    let still = |kept: &KeptFile| {
        let batches: Vec<(u64, usize)> = kept.batches.iter().filter(|(id, _)| stays(id)).copied().collect();
        let file = StateFile { pieces: batches.iter().map(|(id, _)| *id).collect(), ..kept.file.clone() };
        (!batches.is_empty()).then_some(KeptFile { file, batches, rows: kept.rows })
    };
    let mut written: Vec<StatePiece> =
        pieces.iter().filter(|piece| !stored.contains(&piece.id) || rewritten.contains(&piece.id)).cloned().collect();
    written.sort_by_key(|piece| piece.id);
    Increment { kept: kept.iter().filter_map(still).collect(), written }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};

    use super::super::ranges::Ranges;
    use super::*;

    fn piece(id: u64) -> StatePiece {
        let batch = RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1; 10])) as _)]).expect("a batch");
        StatePiece { id, rows: batch.into(), dead: None }
    }

    fn file(name: &str, bytes: u64, ids: std::ops::Range<u64>) -> KeptFile {
        let file = StateFile {
            name: name.to_owned(),
            bytes,
            unpacked: 0,
            sha256: String::new(),
            pieces: ids.clone().collect(),
        };
        KeptFile { file, rows: ids.clone().count() * 10, batches: ids.map(|id| (id, 10)).collect() }
    }

    fn shown(increment: &Increment) -> String {
        let kept: Vec<String> =
            increment.kept.iter().map(|kept| format!("{}:{}", kept.file.name, kept.file.pieces)).collect();
        let written: Ranges = increment.written.iter().map(|piece| piece.id).collect();
        format!("{} + {written}", kept.join(" "))
    }

    fn shows(files: &[KeptFile], ids: &[u64]) -> String {
        shown(&increment(files, &ids.iter().map(|id| piece(*id)).collect::<Vec<_>>(), 32 << 20))
    }

    #[test]
    fn only_new_pieces_are_written() {
        assert_eq!(shows(&[], &[2, 1]), " + 1-2");
        assert_eq!(shows(&[file("a", 1_000, 1..5)], &[1, 2, 3, 4, 7]), "a:1-4 + 7");
        assert_eq!(shows(&[file("a", 1_000, 1..5)], &[1, 2, 4]), "a:1-2,4 + ");
        assert_eq!(shows(&[file("a", 1_000, 1..5)], &[9]), " + 9", "a file without live pieces goes");
    }

    #[test]
    fn files_that_are_mostly_dead_are_written_anew() {
        assert_eq!(shows(&[file("a", 1_000, 1..5)], &[4, 9]), " + 4,9");
        assert_eq!(shows(&[file("a", 1_000, 1..5)], &[3, 4, 9]), "a:3-4 + 9");
    }

    #[test]
    fn many_files_of_a_size_become_one() {
        let files = [file("a", 900_000, 1..4), file("b", 300, 4..5), file("c", 310, 5..6), file("d", 320, 6..7)];
        assert_eq!(shows(&files, &[1, 2, 3, 4, 5, 6, 7]), "a:1-3 b:4 c:5 d:6 + 7");
        let more = [&files[..], &[file("e", 330, 7..8)]].concat();
        assert_eq!(shows(&more, &[1, 2, 3, 4, 5, 6, 7, 8]), "a:1-3 + 4-8");
    }

    #[test]
    fn what_is_stored_is_bounded_and_so_are_the_files() {
        // A piece an epoch, each living for 200 epochs, as in a sliding window; then one that never ends.
        for lifetime in [200_u64, u64::MAX] {
            let (mut kept, mut written, steps) = (Vec::<KeptFile>::new(), 0, 1_000);
            for step in 1_u64..=steps {
                let ids: Vec<u64> = (step.saturating_sub(lifetime).max(1)..=step).collect();
                let pieces: Vec<StatePiece> = ids.iter().map(|id| piece(*id)).collect();
                let increment = increment(&kept, &pieces, 32 << 20);
                kept = increment.kept;
                let new: Vec<u64> = increment.written.iter().map(|piece| piece.id).collect();
                written += new.len();
                let bytes = 100 * new.len() as u64;
                let mut file = file("x", bytes, 0..0);
                file.batches = new.iter().map(|id| (*id, 10)).collect();
                file.rows = 10 * new.len();
                file.file.pieces = new.iter().copied().collect();
                kept.push(file);
                let mut found: Vec<u64> = kept.iter().flat_map(|kept| kept.file.pieces.numbers()).collect();
                found.sort_unstable();
                assert_eq!(found, ids, "step {step}: each piece is in one file");
                let stored: u64 = kept.iter().map(|kept| kept.file.bytes).sum();
                assert!(stored <= 2 * 100 * ids.len() as u64, "step {step}: {stored} bytes for {} pieces", ids.len());
                assert!(kept.len() <= 24, "step {step}: {} files", kept.len());
            }
            assert!(written < 8 * 1_000, "{written} pieces were written for {steps}");
        }
    }
}
