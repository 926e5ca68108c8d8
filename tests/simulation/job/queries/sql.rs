//! A query as SQL.

use super::failing::Fails;
use super::{Aggregate, Key, Level, Order, Query};
use crate::job::files::Files;
use crate::job::windows::Windows;

impl Query {
    /// Its columns, with those of the table's key first. A window's end says which one it is.
    pub(super) fn columns(&self) -> Vec<(&'static str, &'static str)> {
        let bounds = match self.windows {
            Windows::Running => vec![],
            _ => vec![("window_start", "TIMESTAMP(3)"), ("window_end", "TIMESTAMP(3)")],
        };
        if self.rows.is_some() {
            return [&bounds[..], &[("k", "STRING"), ("id", "BIGINT")]].concat();
        }
        let keys = self.keys.iter().map(|key| (key.sql().0, key.sql().2));
        let values = self.aggregates.iter().map(|aggregate| (aggregate.sql().0, "BIGINT"));
        bounds.into_iter().chain(keys).chain(values).collect()
    }

    pub(super) fn sql(&self, files: &Files) -> String {
        let Self { table, .. } = self;
        let columns = self.columns();
        let types: Vec<String> = columns.iter().map(|(name, of)| format!("{name} {of}")).collect();
        let types = types.join(", ");
        let sink = match self.is_items {
            true => {
                let key = &columns[..columns.len() - self.aggregates.len()];
                let key: Vec<&str> = key.iter().map(|(name, _)| *name).filter(|name| *name != "window_start").collect();
                format!(
                    "CREATE TABLE {table} ({types}, PRIMARY KEY ({}) NOT ENFORCED) \
                     WITH ('connector' = 'dynamodb', 'table-name' = '{table}'{});\n",
                    key.join(", "),
                    self.options()
                )
            }
            false => {
                let options = match self.target {
                    "s3" => format!("'path' = 's3://simulated/{table}', {}", files.sql().1),
                    "kinesis" => format!("'stream' = '{table}', 'format' = 'json'"),
                    _ => format!("'delivery-stream' = '{table}', 'format' = 'json'"),
                };
                format!("CREATE TABLE {table} ({types}) WITH ('connector' = '{}', {options});\n", self.target)
            }
        };
        let (given, from) = self.input.sql(format!("given_{table}"), self.conditions(Level::Part));
        let (view, from) = match self.below {
            Some(size) => {
                let windows = Windows::Tumble(size).sql(&from);
                let view = format!(
                    "{given}CREATE VIEW below_{table} AS SELECT k, {} AS id, window_time AS ts FROM {windows}{} \
                     GROUP BY window_start, window_end, window_time, k;\n",
                    self.count(Level::Below),
                    self.where_of(Level::Below)
                );
                (view, format!("below_{table}"))
            }
            None => (given, from),
        };
        let rows = self.windows.sql(&from) + &self.where_of(Level::Own);
        let select = match self.rows {
            Some(order) => self.places(order, &rows),
            None => self.groups(&rows),
        };
        format!("{sink}{view}INSERT INTO {table} {select};\n")
    }

    /// What it asks of rows.
    fn conditions(&self, level: Level) -> Vec<String> {
        let filter = self.filter.filter(|_| level == Level::Own).map(|filter| filter.sql("="));
        let fails = self.fails.and_then(|fails| fails.condition(level));
        let requires = self.requires.and_then(|requires| requires.condition(level));
        filter.into_iter().chain(fails).chain(requires).collect()
    }

    /// The same as a clause.
    fn where_of(&self, level: Level) -> String {
        let all = self.conditions(level);
        if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) }
    }

    /// The number of rows of a group.
    fn count(&self, level: Level) -> String {
        let argument = self.fails.and_then(|fails| fails.argument(level));
        format!("COUNT({})", argument.unwrap_or_else(|| "*".to_owned()))
    }

    /// How items are written, as SQL. Sums can be added; the least and the greatest of a group are set.
    fn options(&self) -> String {
        let Some(mode) = self.mode else { return String::new() };
        let added =
            self.aggregates.iter().filter(|a| matches!(a, Aggregate::Count | Aggregate::Sum | Aggregate::CountOfSome));
        let added: Vec<&str> = added.map(|aggregate| aggregate.sql().0).collect();
        match mode {
            "add" => format!(", 'sink.write-mode' = 'add', 'sink.add.columns' = '{}'", added.join(";")),
            mode => format!(", 'sink.write-mode' = '{mode}'"),
        }
    }

    /// Names of all columns, in order.
    fn names(&self) -> String {
        let names: Vec<&str> = self.columns().iter().map(|(name, _)| *name).collect();
        names.join(", ")
    }

    /// The first or the last rows of each group.
    fn places(&self, order: Order, rows: &str) -> String {
        let by: String = self.keys.iter().map(|key| format!(", {}", key.sql().1)).collect();
        let order = if order == Order::FirstToLast { "ASC" } else { "DESC" };
        format!(
            "SELECT {} FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end{by} \
             ORDER BY ts {order}, id, k) AS place FROM {rows}) WHERE place <= {}",
            self.names(),
            self.first.unwrap_or(1)
        )
    }

    /// Rows of each group, put together; of each window's groups the largest ones, if so many are asked for.
    fn groups(&self, rows: &str) -> String {
        let bounds: &[&str] = match self.windows {
            Windows::Running => &[],
            _ => &["window_start", "window_end"],
        };
        let expressions = |keys: &[Key]| keys.iter().map(|key| key.sql().1.to_owned()).collect::<Vec<String>>();
        let by = match &self.sets {
            None => expressions(&self.keys),
            Some(sets) => {
                let sets: Vec<String> = sets.iter().map(|set| format!("({})", expressions(set).join(", "))).collect();
                vec![format!("GROUPING SETS ({})", sets.join(", "))]
            }
        };
        let by: Vec<String> = bounds.iter().map(|&name| name.to_owned()).chain(by).collect();
        let keys = self.keys.iter().map(|key| format!("{} AS {}", key.sql().1, key.sql().0));
        let values = self.aggregates.iter().map(|aggregate| match (aggregate.sql(), aggregate) {
            ((name, _), Aggregate::Count) => format!("{} AS {name}", self.count(Level::Own)),
            ((name, value), _) => format!("{value} AS {name}"),
        });
        let selected: Vec<String> = bounds.iter().map(|&name| name.to_owned()).chain(keys).chain(values).collect();
        let mut select = format!("SELECT {} FROM {rows} GROUP BY {}", selected.join(", "), by.join(", "));
        let least = self.having.map(|least| format!("COUNT(*) >= {least}"));
        let having: Vec<String> = least.into_iter().chain(self.fails.and_then(Fails::having)).collect();
        if !having.is_empty() {
            select += &format!(" HAVING {}", having.join(" AND "));
        }
        let Some(first) = self.first else { return select };
        let order: String = self.keys.iter().map(|key| format!(", {}", key.sql().0)).collect();
        format!(
            "SELECT {} FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end \
             ORDER BY n DESC{order}) AS place FROM ({select})) WHERE place <= {first}",
            self.names()
        )
    }
}
