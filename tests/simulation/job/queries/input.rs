//! What a query reads: a table, a view of it, or a union of such.

use std::collections::BTreeSet;

use super::failing::Class;
use crate::world::Chance;

/// Of one table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    table: &'static str,
    /// The ids of the table that it has.
    filter: Option<Class>,
    /// What it adds to them.
    adds: u64,
    /// Whether keys are in capitals.
    has_capitals: bool,
}

impl Part {
    /// How far its table's watermark is behind.
    pub(super) fn delay_ms(self) -> i64 {
        if self.table == "events" { 2_000 } else { 4_000 }
    }

    fn of_table(table: &'static str) -> Self {
        Self { table, filter: None, adds: 0, has_capitals: false }
    }

    pub(super) fn has(self, id: u64) -> bool {
        self.filter.is_none_or(|filter| filter.has(id))
    }

    /// What becomes of the id and the key of a row that it has.
    pub(super) fn projected(self, id: u64, key: &str) -> (u64, String) {
        (id + self.adds, if self.has_capitals { key.to_uppercase() } else { key.to_owned() })
    }

    /// The ids that it gives.
    fn given(self) -> Option<Class> {
        let Class { divisor, rest } = self.filter?;
        Some(Class { divisor, rest: (rest + self.adds) % divisor })
    }

    fn is_projected(self) -> bool {
        self.adds > 0 || self.has_capitals
    }

    /// The rows that meet these conditions, too.
    fn sql(self, conditions: Vec<String>) -> String {
        let conditions: Vec<String> = self.filter.map(|filter| filter.sql("=")).into_iter().chain(conditions).collect();
        let id = if self.adds > 0 { format!("id + {} AS id", self.adds) } else { "id".to_owned() };
        let key = if self.has_capitals { "UPPER(k) AS k" } else { "k" };
        let select = format!("SELECT {id}, {key}, ts FROM {}", self.table);
        if conditions.is_empty() { select } else { format!("{select} WHERE {}", conditions.join(" AND ")) }
    }
}

/// See the module's description.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) parts: Vec<Part>,
}

impl Input {
    pub(super) fn of_table(table: &'static str) -> Self {
        Self { parts: vec![Part::of_table(table)] }
    }

    /// In a third of the queries, a union: of both tables, or of the table with itself; in a third, views that project and filter.
    pub(super) fn shape(&mut self, chance: &Chance) {
        let (is_union, is_view) = (chance.percent(33), chance.percent(33));
        let own = self.parts[0].table;
        let other = if own == "events" { "slow_events" } else { "events" };
        let filter = || {
            let divisor = 2 + chance.below(3);
            chance.percent(50).then(|| Class { divisor, rest: chance.below(divisor) })
        };
        let second = if chance.percent(67) { other } else { own };
        if is_union {
            self.parts.push(Part::of_table(second));
        }
        for part in self.parts.iter_mut().filter(|_| is_union || is_view) {
            part.filter = filter();
            if is_view {
                (part.adds, part.has_capitals) = (chance.below(4), chance.percent(50));
            }
        }
    }

    /// Whether rows have the ids that they have in the table.
    pub(super) fn keeps_ids(&self) -> bool {
        self.parts.iter().all(|part| part.adds == 0)
    }

    pub(super) fn tables(&self) -> BTreeSet<&'static str> {
        self.parts.iter().map(|part| part.table).collect()
    }

    /// The ids that its parts give.
    pub(super) fn filters(&self) -> Vec<Class> {
        self.parts.iter().filter_map(|part| part.given()).collect()
    }

    /// The view that has its rows, if they are not those of a table, and the name of either; its first part has further `conditions`.
    pub(super) fn sql(&self, name: String, mut conditions: Vec<String>) -> (String, String) {
        if let [part] = self.parts.as_slice()
            && part.filter.is_none()
            && !part.is_projected()
            && conditions.is_empty()
        {
            return (String::new(), part.table.to_owned());
        }
        let parts: Vec<String> = self.parts.iter().map(|part| part.sql(std::mem::take(&mut conditions))).collect();
        (format!("CREATE VIEW {name} AS {};\n", parts.join(" UNION ALL ")), name)
    }

    /// What is counted of it.
    pub(super) fn shapes(&self) -> impl Iterator<Item = &'static str> {
        let union = match (self.parts.len(), self.tables().len()) {
            (1, _) => None,
            (_, 1) => Some("union of a table with itself"),
            _ => Some("union of two tables"),
        };
        let is_view = self.parts.iter().any(|part| part.filter.is_some() && part.is_projected());
        union.into_iter().chain(is_view.then_some("view that projects and filters"))
    }
}
