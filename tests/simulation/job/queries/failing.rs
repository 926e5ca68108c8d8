//! Rows and results that make a query fail, or that it refuses.

use super::{Aggregate, Level, Query};
use crate::job::refusals::UNWANTED;
use crate::job::windows::Windows;
use crate::world::Chance;

/// Ids with one remainder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Class {
    pub(super) divisor: u64,
    pub(super) rest: u64,
}

impl Class {
    /// Some ids that are in all of `others`, one of `least` or a little more; `None` where no id is in all of them.
    pub(super) fn within(chance: &Chance, others: &[Self], least: u64) -> Option<Self> {
        let common: u64 = others.iter().map(|other| other.divisor).product();
        let divisor = common * (least.div_ceil(common) + chance.below(3));
        let has_all = |rest: &u64| others.iter().all(|other| other.has(*rest));
        let rests: Vec<u64> = (0..divisor).filter(has_all).collect();
        let at = chance.below(rests.len() as u64) as usize;
        rests.get(at).map(|rest| Self { divisor, rest: *rest })
    }

    pub(super) fn has(self, id: u64) -> bool {
        id % self.divisor == self.rest
    }

    /// The comparison of an id with it.
    pub(super) fn sql(self, comparison: &str) -> String {
        format!("MOD(id, {}) {comparison} {}", self.divisor, self.rest)
    }
}

/// In which clause something fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clause {
    /// Whether a row is late or not.
    Where,
    /// Of COUNT, which a row reaches that is not late for all of its windows.
    Argument,
    /// For groups of so many rows: it is the result that fails.
    Having(u64),
}

/// By what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Divides,
    Casts,
}

/// A part of a query that fails for some rows, or for some results.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fails {
    level: Level,
    clause: Clause,
    how: How,
    class: Class,
}

/// One in so many events fails, or a few more.
const LEAST: u64 = 16;
/// The same of counts, which are small numbers.
const LEAST_OF_COUNTS: u64 = 2;

/// Where conditions of a query stand, and about how many of the rows there one is.
fn level_of(chance: &Chance, query: &Query) -> (Level, u64) {
    match query.below {
        // Of a union of a table with itself, the other part still has the row.
        _ if query.input.parts.len() > 1 && query.input.keeps_ids() && chance.percent(33) => (Level::Part, LEAST),
        Some(_) if chance.percent(50) => (Level::Below, LEAST),
        Some(_) => (Level::Own, LEAST_OF_COUNTS),
        None => (Level::Own, LEAST),
    }
}

impl Fails {
    /// In a third of the queries.
    pub(super) fn new(chance: &Chance, query: &Query) -> Option<Self> {
        if !chance.percent(33) {
            return None;
        }
        let (level, least) = level_of(chance, query);
        // Where COUNT(DISTINCT) is computed in two levels, no single row of the lower one makes a group fail, and nothing is left out. A
        // result of grouping sets says of which one it is, in the program's own way.
        let has_results = level == Level::Own
            && !matches!(query.windows, Windows::Running)
            && query.sets.is_none()
            && !query.aggregates.contains(&Aggregate::Distinct);
        let has_groups = match level {
            Level::Part => false,
            // What nobody reads is not computed.
            Level::Below => query.reads_ids(),
            Level::Own => query.rows.is_none(),
        };
        let clause = match chance.below(3) {
            1 if has_groups => Clause::Argument,
            2 if has_groups && has_results => Clause::Having(query.having.unwrap_or(1) + chance.below(3)),
            _ => Clause::Where,
        };
        let how = [How::Divides, How::Casts][chance.below(2) as usize];
        // A condition guards those behind it in its own WHERE; but nobody says whether that of a query is asked before that of a view. So a
        // row that one leaves out is none that fails in the other.
        let mut filters: Vec<Class> = Vec::new();
        if clause == Clause::Where && (query.below.is_none() || level != Level::Own) {
            filters.extend(query.input.filters());
            filters.extend(query.filter.filter(|_| query.below.is_none() && level == Level::Part));
        }
        let class = Class::within(chance, &filters, least)?;
        Some(Self { level, clause, how, class })
    }

    /// Whether a row fails before anybody asks whether it is late.
    pub(super) fn fails_at_once(self, level: Level, id: u64) -> bool {
        (self.level, self.clause) == (level, Clause::Where) && self.class.has(id)
    }

    /// Whether a row fails that is in time.
    pub(super) fn fails_in_time(self, level: Level, id: u64) -> bool {
        (self.level, self.clause) == (level, Clause::Argument) && self.class.has(id)
    }

    /// Whether the result of a group of so many rows fails.
    pub(super) fn fails_with(self, rows: u64) -> bool {
        self.clause == Clause::Having(rows)
    }

    /// The condition of a WHERE.
    pub(super) fn condition(self, level: Level) -> Option<String> {
        let is_there = (self.level, self.clause) == (level, Clause::Where);
        is_there.then(|| format!("{} < 2", self.value()))
    }

    /// What a COUNT counts: it is never NULL.
    pub(super) fn argument(self, level: Level) -> Option<String> {
        ((self.level, self.clause) == (level, Clause::Argument)).then(|| self.value())
    }

    /// The condition of a HAVING.
    pub(super) fn having(self) -> Option<String> {
        let Clause::Having(rows) = self.clause else { return None };
        Some(format!("1 / (COUNT(*) - {rows}) < 2"))
    }

    /// A number below two that does not exist for some ids.
    fn value(self) -> String {
        let Class { divisor, rest } = self.class;
        match self.how {
            How::Divides => format!("1 / (MOD(id, {divisor}) - {rest})"),
            // No key is a number.
            How::Casts => format!("CAST(CASE WHEN MOD(id, {divisor}) = {rest} THEN k ELSE '1' END AS BIGINT)"),
        }
    }
}

/// A REQUIRE that does not hold for some rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Requires {
    level: Level,
    class: Class,
}

impl Requires {
    /// In a quarter of the queries.
    pub(super) fn new(chance: &Chance, query: &Query) -> Option<Self> {
        if !chance.percent(25) {
            return None;
        }
        let (level, least) = level_of(chance, query);
        Class::within(chance, &[], least).map(|class| Self { level, class })
    }

    /// Whether a row that other conditions let through is refused.
    pub(super) fn refuses(self, level: Level, id: u64) -> bool {
        self.level == level && self.class.has(id)
    }

    /// The condition of a WHERE. It reads all by which a row is known where that is no record: nothing else of it is in the error output.
    pub(super) fn condition(self, level: Level) -> Option<String> {
        let never = "k = '' OR ts < TIMESTAMP '1970-01-01 00:00:00'";
        let condition = || format!("REQUIRE({} OR {never}, '{UNWANTED}')", self.class.sql("<>"));
        (self.level == level).then(condition)
    }
}
