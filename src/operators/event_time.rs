//! Event time of a stage: that of what it reads.
//!
//! A stage that reads several tables (`UNION ALL`) is as far as the one furthest behind, but for those that are *quiet*: they have ended, or all
//! of their splits are idle ("Decisions", 8). A split that is idle has said so at some moment, and what has come since is not known. So
//! time goes on without a quiet table as far as the others had come by that moment, and what it brings later for windows that have fired is
//! late. Where all are quiet, the one that is furthest ahead leads, as among the splits of a table.

use crate::contracts::Watermark;

/// What a table says of its event time to a stage that reads others beside it, in an epoch in which some table of the job is quiet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableStanding {
    /// It has ended, or all of its splits are idle.
    pub quiet: bool,
    /// Its watermark at the moment up to which all quiet tables are known to be so.
    pub then: Watermark,
}

/// How far a table, or an operator, has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventTime {
    pub(super) watermark: Watermark,
    /// See [`TableStanding`].
    pub(super) standing: TableStanding,
}

impl EventTime {
    pub(super) fn of_table(watermark: Watermark, standing: Option<&TableStanding>) -> Self {
        let active = TableStanding { quiet: false, then: watermark };
        Self { watermark, standing: standing.copied().unwrap_or(active) }
    }

    /// Of a stage that reads these.
    pub(super) fn of_stage(inputs: &[Self]) -> Self {
        let active = || inputs.iter().filter(|input| !input.standing.quiet);
        let quiet = active().next().is_none() && !inputs.is_empty();
        let then = match quiet {
            true => inputs.iter().map(|input| input.standing.then).max(),
            false => active().map(|input| input.standing.then).min(),
        };
        let then = then.unwrap_or(Watermark::MAX);
        let least = inputs.iter().map(|input| input.watermark).min().unwrap_or(Watermark::MAX);
        let some_quiet = inputs.iter().any(|input| input.standing.quiet);
        let watermark = if some_quiet { least.max(then) } else { least };
        Self { watermark, standing: TableStanding { quiet, then } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(watermark: i64, quiet: bool, then: i64) -> EventTime {
        let standing = TableStanding { quiet, then: Watermark(then) };
        EventTime { watermark: Watermark(watermark), standing }
    }

    fn time(inputs: &[EventTime]) -> (i64, bool) {
        let time = EventTime::of_stage(inputs);
        (time.watermark.0, time.standing.quiet)
    }

    #[test]
    fn the_slowest_leads_unless_it_is_quiet() {
        assert_eq!(time(&[input(10, false, 8), input(7, false, 5)]), (7, false));
        // As far as the other had come when the quiet one last said so.
        assert_eq!(time(&[input(10, false, 8), input(i64::MIN, true, i64::MIN)]), (8, false));
        assert_eq!(time(&[input(10, false, 8), input(7, false, 5), input(3, true, 3)]), (5, false));
        assert_eq!(time(&[input(10, false, 8), input(9, true, 9)]), (9, false), "both have come so far");
        assert_eq!(time(&[input(10, true, 9), input(7, true, 7)]), (9, true));
        assert_eq!(time(&[input(i64::MIN, true, i64::MIN), input(i64::MIN, true, i64::MIN)]), (i64::MIN, true));
    }

    #[test]
    fn one_that_is_read_alone_goes_by_its_own_time() {
        assert_eq!(time(&[input(10, true, 8)]), (10, true));
        assert_eq!(time(&[input(10, true, 8), input(10, true, 8)]), (10, true), "a table beside itself");
        assert_eq!(time(&[]), (i64::MAX, false));
    }

    #[test]
    fn what_is_read_of_an_operator_is_as_quiet_as_what_is_below_it() {
        let below = EventTime::of_stage(&[input(3, true, 3)]);
        assert_eq!(time(&[below, input(10, false, 8)]), (8, false));
    }
}
