//! Which rows of a file of a run are dead.

use datafusion::arrow::buffer::BooleanBuffer;

/// Bits of dead rows; nothing while there are none.
#[derive(Debug, Default)]
pub(super) struct DeadRows {
    pub(super) words: Vec<u64>,
    pub(super) count: usize,
}

impl DeadRows {
    /// Whether a row is dead.
    pub(super) fn has(&self, row: usize) -> bool {
        self.words.get(row / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    /// Marks one of `rows` rows.
    pub(super) fn add(&mut self, row: usize, rows: usize) {
        if self.words.is_empty() {
            self.words = vec![0; rows.div_ceil(64)];
        }
        let (word, bit) = (&mut self.words[row / 64], 1 << (row % 64));
        self.count += usize::from(*word & bit == 0);
        *word |= bit;
    }

    /// All bits, for a checkpoint.
    pub(super) fn bits(&self, rows: usize) -> BooleanBuffer {
        BooleanBuffer::collect_bool(rows, |row| self.has(row))
    }
}
