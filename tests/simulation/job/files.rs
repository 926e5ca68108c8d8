//! Options of the tables of files.

use crate::world::Chance;

/// How the job's files are written.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    format: &'static str,
    /// Of a file: it is closed then. The models close theirs when they like.
    rollover_s: u64,
    rows: u64,
    /// Whether each key has files of its own.
    by_key: bool,
}

impl Files {
    pub(crate) fn new(chance: &Chance) -> Self {
        Self {
            format: ["json", "parquet"][chance.below(2) as usize],
            rollover_s: [1, 3, 10, 60][chance.below(4) as usize],
            rows: [5, 40, 1_000_000][chance.below(3) as usize],
            by_key: chance.percent(50),
        }
    }

    /// For PARTITIONED BY, and for WITH.
    pub(crate) fn sql(&self) -> (&'static str, String) {
        let Self { format, rollover_s, rows, by_key } = self;
        let options = format!(
            "'format' = '{format}', 'sink.rolling-policy.rollover-interval' = '{rollover_s} s', \
             'sink.rolling-policy.row-count' = '{rows}'"
        );
        (if *by_key { "PARTITIONED BY (k)" } else { "" }, options)
    }
}
