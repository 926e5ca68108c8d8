//! Windows of the queries: as SQL, and which of them a time is in.

/// Windows of whole seconds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Windows {
    /// None: results are updated for ever.
    Running,
    Tumble(u64),
    Hop {
        slide: u64,
        size: u64,
    },
    Cumulate {
        step: u64,
        size: u64,
    },
}

impl Windows {
    pub(super) fn sql(self, table: &str) -> String {
        let of = |name: &str, lengths: &[u64]| {
            let lengths: String = lengths.iter().map(|seconds| format!(", INTERVAL '{seconds}' SECOND")).collect();
            format!("TABLE({name}(TABLE {table}, DESCRIPTOR(ts){lengths}))")
        };
        match self {
            Self::Running => table.to_owned(),
            Self::Tumble(size) => of("TUMBLE", &[size]),
            Self::Hop { slide, size } => of("HOP", &[slide, size]),
            Self::Cumulate { step, size } => of("CUMULATE", &[step, size]),
        }
    }

    /// Beginning and end, in milliseconds, of each window that has the time in it.
    pub(super) fn of(self, time_ms: u64) -> Vec<(i64, i64)> {
        let (time, ms) = (i64::try_from(time_ms).expect("a short simulation"), |seconds: u64| 1_000 * seconds as i64);
        match self {
            Self::Running => vec![(0, 0)],
            Self::Tumble(size) => {
                let start = time - time % ms(size);
                vec![(start, start + ms(size))]
            }
            Self::Hop { slide, size } => {
                let last = time - time % ms(slide);
                let starts = (0..).map(|back| last - back * ms(slide)).take_while(|start| start + ms(size) > time);
                starts.map(|start| (start, start + ms(size))).collect()
            }
            Self::Cumulate { step, size } => {
                let start = time - time % ms(size);
                let ends = (1..).map(|steps| start + steps * ms(step)).take_while(|end| *end <= start + ms(size));
                ends.filter(|end| *end > time).map(|end| (start, end)).collect()
            }
        }
    }
}
