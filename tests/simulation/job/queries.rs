//! Queries made by chance: as SQL, and as what must come of them, computed from the events alone.

use std::collections::{BTreeMap, BTreeSet};

use super::alerts::Delivery;
use super::files::Files;
use super::sinks::Row;
use super::stream::Event;
use super::windows::Windows;
use crate::world::Chance;

/// What every job reads, and the table that each of them copies the events to.
const TABLES: &str = "
CREATE TABLE events (id BIGINT, k STRING, ts TIMESTAMP(3), at AS PROCTIME(), WATERMARK FOR ts AS ts - INTERVAL '2' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 's', 'format' = 'json'READER(events));
CREATE TABLE copies (id BIGINT, k STRING) COPIES_PARTS WITH ('connector' = 's3', 'path' = 's3://simulated/copies', COPIES_OPTIONS);
INSERT INTO copies SELECT id, k FROM events;
";
/// The same stream, in which rows may be later.
const SLOW_EVENTS: &str = "
CREATE TABLE slow_events (id BIGINT, k STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '4' SECOND)
WITH ('connector' = 'kinesis', 'stream' = 's', 'format' = 'json'READER(slow_events));
";
/// Alerts, with what a lookup and a reference table know of the key.
const ALERTS: &str = "
CREATE TABLE alerts (id BIGINT, k STRING, owner STRING, weight BIGINT) WITH ('connector' = 'sns', ALERT_OPTIONS);
CREATE TABLE owners (k STRING, owner STRING, PRIMARY KEY (k) NOT ENFORCED) WITH ('connector' = 'dynamodb', 'table-name' = 'owners');
CREATE TABLE weights (k STRING, weight BIGINT, PRIMARY KEY (k) NOT ENFORCED)
WITH ('connector' = 'filesystem', 'path' = 'weights.csv', 'format' = 'csv');
INSERT INTO alerts SELECT e.id, e.k, o.owner, w.weight FROM events AS e
LEFT JOIN owners FOR SYSTEM_TIME AS OF e.at AS o ON o.k = e.k LEFT JOIN weights AS w ON w.k = e.k WHERE MOD(e.id, 3) = 0;
";

/// What a job does beside copying the events.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) queries: Vec<Query>,
    pub(crate) alerts: bool,
    /// What is promised of them, where the program's own sink publishes.
    pub(crate) delivery: Option<Delivery>,
    /// After so long without data, a shard does not hold windows back.
    idle_s: u64,
    /// How files are written.
    files: Files,
    /// Whether the stream is read by fan-out.
    fan_out: bool,
}

impl Work {
    pub(crate) fn new(chance: &Chance) -> Self {
        let queries = (0..1 + chance.below(2)).map(|number| Query::new(chance, number)).collect();
        let alerts = chance.percent(25);
        let idle_s = [1, 2, 5, 3_600][chance.below(4) as usize];
        Self { queries, alerts, delivery: None, idle_s, files: Files::new(chance), fan_out: false }
    }

    /// The tables over the stream that it reads.
    pub(crate) fn tables(&self) -> BTreeSet<&'static str> {
        std::iter::once("events").chain(self.queries.iter().map(|query| query.from)).collect()
    }

    /// Whether windows fire without a shard that is quiet. What that one brings later is late or not by when it was read.
    pub(crate) fn goes_on_without_quiet_shards(&self) -> bool {
        self.idle_s < 3_600
    }

    /// No window fires without a shard that is quiet.
    pub(crate) fn waits_for_quiet_shards(&mut self) {
        self.idle_s = 3_600;
    }

    /// Whether something of it is added to what is stored: it cannot be written a second time under the number of another epoch.
    pub(crate) fn adds(&self) -> bool {
        self.queries.iter().any(|query| query.mode == Some("add"))
    }

    /// Items and alerts are written by the program's own connectors, in one of their modes.
    pub(crate) fn writes_to_aws(&mut self, chance: &Chance) {
        for query in &mut self.queries {
            query.target = ["s3", "kinesis", "firehose"][[0, 0, 1, 2][chance.below(4) as usize]];
            query.mode = Some(["update", "put", "add"][chance.below(3) as usize]);
        }
        self.fan_out = chance.percent(50);
        self.alerts = chance.percent(50);
        self.delivery = self.alerts.then(|| Delivery::ALL[chance.below(3) as usize]);
    }

    /// The job's file.
    pub(crate) fn sql(&self) -> String {
        let options = self.delivery.map_or_else(|| "'topic' = 'alerts'".to_owned(), Delivery::sql);
        let alerts = if self.alerts { ALERTS.replace("ALERT_OPTIONS", &options) } else { String::new() };
        let slow = if self.queries.iter().any(|query| query.from == "slow_events") { SLOW_EVENTS } else { "" };
        let queries: String = self.queries.iter().map(|query| query.sql(&self.files)).collect();
        let (parts, options) = self.files.sql();
        let tables = TABLES.replace("COPIES_PARTS", parts).replace("COPIES_OPTIONS", &options);
        let text =
            format!("SET 'table.exec.source.idle-timeout' = '{} s';{tables}{slow}{queries}{alerts}", self.idle_s);
        // Each table is a consumer of its own.
        ["events", "slow_events"].iter().fold(text, |text, table| {
            let reader = match self.fan_out {
                true => format!(", 'source.reader.type' = 'EFO', 'source.efo.consumer.name' = 'of-{table}'"),
                false => String::new(),
            };
            text.replace(&format!("READER({table})"), &reader)
        })
    }
}

/// What rows are put together by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Name,
    Parity,
}

impl Key {
    /// Column, expression, type.
    fn sql(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Name => ("k", "k", "STRING"),
            Self::Parity => ("p", "MOD(id, 2)", "BIGINT"),
        }
    }

    fn of(self, event: &Event) -> String {
        match self {
            Self::Name => event.key.clone(),
            Self::Parity => (event.id % 2).to_string(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aggregate {
    Count,
    Sum,
    Min,
    Max,
    Distinct,
}

impl Aggregate {
    /// Column and expression.
    fn sql(self) -> (&'static str, &'static str) {
        match self {
            Self::Count => ("n", "COUNT(*)"),
            Self::Sum => ("s", "SUM(id)"),
            Self::Min => ("lo", "MIN(id)"),
            Self::Max => ("hi", "MAX(id)"),
            Self::Distinct => ("d", "COUNT(DISTINCT MOD(id, 5))"),
        }
    }

    fn of(self, ids: &[u64]) -> u64 {
        match self {
            Self::Count => ids.len() as u64,
            Self::Sum => ids.iter().sum(),
            Self::Min => ids.iter().copied().min().expect("a group has rows"),
            Self::Max => ids.iter().copied().max().expect("a group has rows"),
            Self::Distinct => ids.iter().map(|id| id % 5).collect::<BTreeSet<_>>().len() as u64,
        }
    }
}

/// A query that puts rows together, or takes some of each window.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) table: String,
    /// The table that it reads.
    from: &'static str,
    /// Whether its results are items of their keys; else they are rows of files.
    pub(crate) is_items: bool,
    /// It is over the counts of windows of so many seconds, as if those were events: `id` is the count.
    below: Option<u64>,
    windows: Windows,
    keys: Vec<Key>,
    aggregates: Vec<Aggregate>,
    /// Divisor and remainder of the ids that count.
    filter: Option<(u64, u64)>,
    /// Fewest rows of a group.
    having: Option<u64>,
    /// So many of each window: the groups with most rows, or of each group the rows that come first.
    first: Option<usize>,
    /// Rows as they are, of each group the first or the last; they are not put together.
    rows: Option<Order>,
    /// How items are written.
    mode: Option<&'static str>,
    /// The connector of a table that is not of items.
    target: &'static str,
}

/// Events by their keys.
type Groups<'a> = BTreeMap<Vec<String>, Vec<&'a Event>>;

/// In time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    FirstToLast,
    LastToFirst,
}

impl Query {
    fn new(chance: &Chance, number: u64) -> Self {
        let windows = match chance.below(5) {
            0 => Windows::Running,
            1 | 2 => Windows::Tumble(1 + chance.below(9)),
            3 => {
                let slide = 1 + chance.below(4);
                Windows::Hop { slide, size: slide * (1 + chance.below(3)) }
            }
            _ => {
                let step = 1 + chance.below(3);
                Windows::Cumulate { step, size: step * (1 + chance.below(4)) }
            }
        };
        let is_running = matches!(windows, Windows::Running);
        let is_items = is_running || chance.percent(40);
        let mut keys = match chance.below(5) {
            0 => vec![Key::Name, Key::Parity],
            1 => vec![Key::Parity],
            2 if !is_running => vec![],
            _ => vec![Key::Name],
        };
        // A table of items has two key columns at most, and the end of a window is one.
        keys.truncate(if is_items && !is_running { 1 } else { 2 });
        let others = [Aggregate::Sum, Aggregate::Min, Aggregate::Max, Aggregate::Distinct];
        let others = others.into_iter().filter(|_| chance.percent(35));
        let aggregates = std::iter::once(Aggregate::Count).chain(others).collect();
        let divisor = 2 + chance.below(3);
        let order = if chance.percent(50) { Order::FirstToLast } else { Order::LastToFirst };
        let rows = (!is_running && !is_items && chance.percent(25)).then_some(order);
        Self {
            from: if chance.percent(70) { "events" } else { "slow_events" },
            table: format!("results_{number}"),
            is_items,
            below: chance.percent(20).then(|| 1 + chance.below(3)),
            windows,
            keys,
            aggregates,
            filter: chance.percent(25).then(|| (divisor, chance.below(divisor))),
            having: (!is_running && chance.percent(20)).then(|| 2 + chance.below(3)),
            rows,
            mode: None,
            target: "s3",
            first: (rows.is_some() || (!is_running && chance.percent(25))).then(|| 1 + chance.below(2) as usize),
        }
    }

    /// Whether its rows may come more than once.
    pub(crate) fn may_repeat(&self) -> bool {
        !self.is_items && self.target != "s3"
    }

    /// Its columns, with those of the table's key first. A window's end says which one it is.
    fn columns(&self) -> Vec<(&'static str, &'static str)> {
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

    fn sql(&self, files: &Files) -> String {
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
        let (view, from) = match self.below {
            Some(size) => {
                let windows = Windows::Tumble(size).sql(self.from);
                let view = format!(
                    "CREATE VIEW below_{table} AS SELECT k, COUNT(*) AS id, window_time AS ts FROM {windows} \
                     GROUP BY window_start, window_end, window_time, k;\n"
                );
                (view, format!("below_{table}"))
            }
            None => (String::new(), self.from.to_owned()),
        };
        let mut rows = self.windows.sql(&from);
        if let Some((divisor, rest)) = self.filter {
            rows += &format!(" WHERE MOD(id, {divisor}) = {rest}");
        }
        let select = match self.rows {
            Some(order) => self.places(order, &rows),
            None => self.groups(&rows),
        };
        format!("{sink}{view}INSERT INTO {table} {select};\n")
    }

    /// How items are written, as SQL. Sums can be added; the least and the greatest of a group are set.
    fn options(&self) -> String {
        let Some(mode) = self.mode else { return String::new() };
        let added = self.aggregates.iter().filter(|a| matches!(a, Aggregate::Count | Aggregate::Sum));
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
        let by: Vec<&str> = bounds.iter().copied().chain(self.keys.iter().map(|key| key.sql().1)).collect();
        let keys = self.keys.iter().map(|key| format!("{} AS {}", key.sql().1, key.sql().0));
        let values = self.aggregates.iter().map(|aggregate| format!("{} AS {}", aggregate.sql().1, aggregate.sql().0));
        let selected: Vec<String> = bounds.iter().map(|&name| name.to_owned()).chain(keys).chain(values).collect();
        let mut select = format!("SELECT {} FROM {rows} GROUP BY {}", selected.join(", "), by.join(", "));
        if let Some(least) = self.having {
            select += &format!(" HAVING COUNT(*) >= {least}");
        }
        let Some(first) = self.first else { return select };
        let order: String = self.keys.iter().map(|key| format!(", {}", key.sql().0)).collect();
        format!(
            "SELECT {} FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end \
             ORDER BY n DESC{order}) AS place FROM ({select})) WHERE place <= {first}",
            self.names()
        )
    }

    /// How far its table's watermark is behind.
    fn delay_ms(&self) -> u64 {
        if self.from == "events" { 2_000 } else { 4_000 }
    }

    /// Whether the event comes too late for a window with this end, which its own shard has passed.
    fn is_late(&self, event: &Event, end_ms: i64) -> bool {
        let is_window = !matches!((self.windows, self.below), (Windows::Running, None));
        let passed = |passed_ms: u64| end_ms - 1 <= passed_ms as i64 - self.delay_ms() as i64;
        is_window && event.passed_ms.is_some_and(passed)
    }

    /// How often an event comes too late for a window.
    pub(crate) fn late(&self, events: &[Event]) -> u64 {
        let first = self.below.map_or(self.windows, Windows::Tumble);
        let windows = events.iter().flat_map(|event| first.of(event.time_ms).into_iter().map(move |w| (event, w)));
        windows.filter(|(event, (_, end))| self.is_late(event, *end)).count() as u64
    }

    /// What must come of the events.
    pub(crate) fn results(&self, events: &[Event]) -> Vec<Row> {
        let below = self.below.map(|size| self.counts(events, size));
        let mut groups: BTreeMap<(i64, i64), Groups<'_>> = BTreeMap::new();
        for event in below.as_deref().unwrap_or(events) {
            if self.filter.is_some_and(|(divisor, rest)| event.id % divisor != rest) {
                continue;
            }
            let key: Vec<String> = self.keys.iter().map(|key| key.of(event)).collect();
            let windows = self.windows.of(event.time_ms).into_iter();
            for window in windows.filter(|(_, end)| self.below.is_some() || !self.is_late(event, *end)) {
                groups.entry(window).or_default().entry(key.clone()).or_default().push(event);
            }
        }
        let mut results = Vec::new();
        for ((start, end), groups) in groups {
            let mut groups: Vec<_> = groups.into_iter().collect();
            let first = self.first.unwrap_or(usize::MAX);
            if let Some(order) = self.rows {
                for (_, mut group) in groups {
                    group.sort_by_key(|event| match order {
                        Order::FirstToLast => (event.time_ms, event.id, &event.key),
                        Order::LastToFirst => (u64::MAX - event.time_ms, event.id, &event.key),
                    });
                    let row = |event: &&Event| self.row(start, end, vec![event.key.clone(), event.id.to_string()]);
                    results.extend(group.iter().take(first).map(row));
                }
                continue;
            }
            groups.retain(|(_, group)| self.having.is_none_or(|least| group.len() as u64 >= least));
            groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.len()));
            results.extend(groups.into_iter().take(first).map(|(mut values, group)| {
                let ids: Vec<u64> = group.iter().map(|event| event.id).collect();
                values.extend(self.aggregates.iter().map(|aggregate| aggregate.of(&ids).to_string()));
                self.row(start, end, values)
            }));
        }
        results
    }

    fn row(&self, start_ms: i64, end_ms: i64, values: Vec<String>) -> Row {
        let time = |ms: i64| {
            let time = chrono::DateTime::from_timestamp_millis(ms).expect("a time");
            time.format("%Y-%m-%dT%H:%M:%S").to_string()
        };
        let bounds = match self.windows {
            Windows::Running => vec![],
            _ => vec![time(start_ms), time(end_ms)],
        };
        self.columns().into_iter().map(|(name, _)| name.to_owned()).zip(bounds.into_iter().chain(values)).collect()
    }

    /// Counts of windows and names, as events at the windows' last millisecond.
    fn counts(&self, events: &[Event], size: u64) -> Vec<Event> {
        let mut counts: BTreeMap<(i64, &str), u64> = BTreeMap::new();
        for event in events {
            for (_, end) in Windows::Tumble(size).of(event.time_ms) {
                if !self.is_late(event, end) {
                    *counts.entry((end, &event.key)).or_default() += 1;
                }
            }
        }
        let event = |((end, key), n): ((i64, &str), u64)| Event::new(n, key.to_owned(), end as u64 - 1);
        counts.into_iter().map(event).collect()
    }
}
