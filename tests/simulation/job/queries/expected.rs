//! What must come of a query, computed from the events alone.

use std::collections::{BTreeMap, BTreeSet};

use super::{Key, Level, Order, Query};
use crate::job::refusals::{FAILED, Refusal, UNWANTED};
use crate::job::sinks::Row;
use crate::job::stream::Event;
use crate::job::windows::Windows;

/// What must come of a query.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) rows: Vec<Row>,
    /// What must be in the error output.
    pub(crate) refused: BTreeSet<Refusal>,
    /// How often a row is late for a window.
    pub(crate) late: u64,
}

/// A row as a query has it: an event, or a result of the windows below.
#[derive(Debug, Clone)]
struct Given<'a> {
    id: u64,
    key: String,
    time_ms: u64,
    /// Of its own shard, before it.
    watermark_ms: Option<i64>,
    event: Option<&'a Event>,
}

/// Rows by their keys.
type Groups<'a> = BTreeMap<Vec<String>, Vec<Given<'a>>>;

impl Query {
    pub(crate) fn expected(&self, events: &[Event]) -> Expected {
        let mut expected = Expected::default();
        let given = self.given(events, &mut expected);
        let given = match self.below {
            Some(size) => self.counts(given, size, &mut expected),
            None => given,
        };
        let mut groups: BTreeMap<(i64, i64), Groups<'_>> = BTreeMap::new();
        for (window, row) in self.admitted(Level::Own, self.windows, given, &mut expected) {
            for set in self.sets.as_ref().map_or(std::slice::from_ref(&self.keys), Vec::as_slice) {
                let value = |key: &Key| if set.contains(key) { key.of(row.id, &row.key) } else { "NULL".to_owned() };
                let key: Vec<String> = self.keys.iter().map(value).collect();
                groups.entry(window).or_default().entry(key).or_default().push(row.clone());
            }
        }
        for (window, groups) in groups {
            match self.rows {
                Some(order) => expected.rows.extend(self.places_in(order, window, groups)),
                None => self.put_together(window, groups, &mut expected),
            }
        }
        expected
    }

    /// The rows of its tables.
    fn given<'a>(&self, events: &'a [Event], expected: &mut Expected) -> Vec<Given<'a>> {
        let mut given = Vec::new();
        for (number, part) in self.input.parts.iter().enumerate() {
            for event in events.iter().filter(|event| part.has(event.id)) {
                let (id, key) = part.projected(event.id, &event.key);
                let row = Given {
                    id,
                    key,
                    time_ms: event.time_ms,
                    watermark_ms: event.passed_ms.map(|passed| passed as i64 - part.delay_ms()),
                    event: Some(event),
                };
                if number > 0 || self.lets_through(Level::Part, &row, expected) {
                    given.push(row);
                }
            }
        }
        given
    }

    /// Whether a row meets conditions, whatever its time is.
    fn lets_through(&self, level: Level, row: &Given<'_>, expected: &mut Expected) -> bool {
        if level == Level::Own && self.filter.is_some_and(|filter| !filter.has(row.id)) {
            return false;
        }
        let reason = if self.fails.is_some_and(|fails| fails.fails_at_once(level, row.id)) {
            FAILED
        } else if self.requires.is_some_and(|requires| requires.refuses(level, row.id)) {
            UNWANTED
        } else {
            return true;
        };
        expected.refused.insert(self.refusal(row, reason));
        false
    }

    /// Rows that conditions let through, in each window for which they are in time.
    fn admitted<'a>(
        &self,
        level: Level,
        windows: Windows,
        given: Vec<Given<'a>>,
        expected: &mut Expected,
    ) -> Vec<((i64, i64), Given<'a>)> {
        let mut admitted = Vec::new();
        for row in given {
            if !self.lets_through(level, &row, expected) {
                continue;
            }
            let is_late = |end_ms: i64| row.watermark_ms.is_some_and(|watermark_ms| end_ms - 1 <= watermark_ms);
            let is_running = matches!(windows, Windows::Running);
            let (open, late): (Vec<_>, Vec<_>) =
                windows.of(row.time_ms).into_iter().partition(|(_, end_ms)| is_running || !is_late(*end_ms));
            expected.late += late.len() as u64;
            if !open.is_empty() && self.fails.is_some_and(|fails| fails.fails_in_time(level, row.id)) {
                expected.refused.insert(self.refusal(&row, FAILED));
                continue;
            }
            admitted.extend(open.into_iter().map(|window| (window, row.clone())));
        }
        admitted
    }

    /// Counts of windows and names, as rows of the windows' last millisecond.
    fn counts<'a>(&self, given: Vec<Given<'a>>, size: u64, expected: &mut Expected) -> Vec<Given<'a>> {
        let mut counts: BTreeMap<(i64, String), u64> = BTreeMap::new();
        for ((_, end), row) in self.admitted(Level::Below, Windows::Tumble(size), given, expected) {
            *counts.entry((end, row.key)).or_default() += 1;
        }
        let row = |((end, key), id)| Given { id, key, time_ms: end as u64 - 1, watermark_ms: None, event: None };
        counts.into_iter().map(row).collect()
    }

    /// The first or the last rows of each group.
    fn places_in(&self, order: Order, window: (i64, i64), groups: Groups<'_>) -> Vec<Row> {
        let mut rows = Vec::new();
        for mut group in groups.into_values() {
            group.sort_by_key(|row| {
                let time = match order {
                    Order::FirstToLast => row.time_ms,
                    Order::LastToFirst => u64::MAX - row.time_ms,
                };
                (time, row.id, row.key.clone())
            });
            let first = group.into_iter().take(self.first.unwrap_or(1));
            rows.extend(first.map(|row| self.row(window, vec![row.key, row.id.to_string()])));
        }
        rows
    }

    /// A row of each group of a window, or of the largest.
    fn put_together(&self, window: (i64, i64), groups: Groups<'_>, expected: &mut Expected) {
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.retain(|(_, group)| self.having.is_none_or(|least| group.len() as u64 >= least));
        groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.len()));
        let result = |(mut values, group): (Vec<String>, Vec<Given<'_>>)| {
            let ids: Vec<u64> = group.iter().map(|row| row.id).collect();
            values.extend(self.aggregates.iter().map(|aggregate| aggregate.of(&ids).to_string()));
            self.row(window, values)
        };
        let fails =
            |(_, group): &(_, Vec<Given<'_>>)| self.fails.is_some_and(|fails| fails.fails_with(group.len() as u64));
        let (failed, groups): (Vec<_>, Vec<_>) = groups.into_iter().partition(fails);
        let failed = failed.into_iter().map(|group| result(group).into_values().collect::<Vec<String>>());
        expected.refused.extend(failed.map(|values| Refusal::of_result(&self.origin(), FAILED, values)));
        expected.rows.extend(groups.into_iter().take(self.first.unwrap_or(usize::MAX)).map(result));
    }

    fn row(&self, (start_ms, end_ms): (i64, i64), values: Vec<String>) -> Row {
        let bounds = match self.windows {
            Windows::Running => vec![],
            _ => vec![time(start_ms), time(end_ms)],
        };
        self.columns().into_iter().map(|(name, _)| name.to_owned()).zip(bounds.into_iter().chain(values)).collect()
    }

    /// What it is called where it refuses something.
    fn origin(&self) -> String {
        format!("job:{}", self.table)
    }

    fn refusal(&self, row: &Given<'_>, reason: &str) -> Refusal {
        if let Some(event) = row.event {
            return Refusal::of_record(&self.origin(), reason, event);
        }
        let last_ms = row.time_ms as i64;
        let mut values = vec![row.key.clone(), row.id.to_string(), time(last_ms)];
        // What fails is written as it comes from below.
        if reason == FAILED {
            let end_ms = last_ms + 1;
            values.extend([end_ms - 1_000 * self.below.unwrap_or_default() as i64, end_ms].map(time));
        }
        Refusal::of_result(&self.origin(), reason, values)
    }
}

/// A time as text.
fn time(ms: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(ms).expect("a time");
    time.format("%Y-%m-%dT%H:%M:%S%.f").to_string()
}
