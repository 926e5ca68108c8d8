//! What a query reads: a table, or a union of tables, of each of which it has some rows.

use std::collections::BTreeSet;

use super::failing::Class;
use crate::world::Chance;

/// Of one table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    table: &'static str,
    /// The ids that it has.
    filter: Option<Class>,
}

impl Part {
    /// How far its table's watermark is behind.
    pub(super) fn delay_ms(self) -> i64 {
        if self.table == "events" { 2_000 } else { 4_000 }
    }

    pub(super) fn has(self, id: u64) -> bool {
        self.filter.is_none_or(|filter| filter.has(id))
    }

    /// The rows that meet these conditions, too.
    fn sql(self, conditions: Vec<String>) -> String {
        let conditions: Vec<String> = self.filter.map(|filter| filter.sql("=")).into_iter().chain(conditions).collect();
        let select = format!("SELECT id, k, ts FROM {}", self.table);
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
        Self { parts: vec![Part { table, filter: None }] }
    }

    /// In a third of the queries, a union: of both tables, or of the table with itself.
    pub(super) fn shape(&mut self, chance: &Chance) {
        if !chance.percent(33) {
            return;
        }
        let own = self.parts[0].table;
        let other = if own == "events" { "slow_events" } else { "events" };
        let filter = || {
            let divisor = 2 + chance.below(3);
            chance.percent(50).then(|| Class { divisor, rest: chance.below(divisor) })
        };
        let table = if chance.percent(67) { other } else { own };
        self.parts = vec![Part { table: own, filter: filter() }, Part { table, filter: filter() }];
    }

    pub(super) fn tables(&self) -> BTreeSet<&'static str> {
        self.parts.iter().map(|part| part.table).collect()
    }

    /// What all of its rows have passed.
    pub(super) fn filters(&self) -> Vec<Class> {
        self.parts.iter().filter_map(|part| part.filter).collect()
    }

    /// The view that has its rows, if they are not those of a table, and the name of either; its first part has further `conditions`.
    pub(super) fn sql(&self, name: String, mut conditions: Vec<String>) -> (String, String) {
        if let [Part { table, filter: None }] = self.parts.as_slice()
            && conditions.is_empty()
        {
            return (String::new(), (*table).to_owned());
        }
        let parts: Vec<String> = self.parts.iter().map(|part| part.sql(std::mem::take(&mut conditions))).collect();
        (format!("CREATE VIEW {name} AS {};\n", parts.join(" UNION ALL ")), name)
    }

    /// What is counted of it.
    pub(super) fn shapes(&self) -> Option<&'static str> {
        match (self.parts.len(), self.tables().len()) {
            (1, _) => None,
            (_, 1) => Some("union of a table with itself"),
            _ => Some("union of two tables"),
        }
    }
}
