//! Queries made by chance: as SQL (`sql.rs`), and as what must come of them, computed from the events alone (`expected.rs`).

mod expected;
mod failing;
mod input;
mod sql;

use std::collections::BTreeSet;

use failing::{Class, Fails, Requires};
use input::Input;

use super::alerts::Delivery;
use super::files::Files;
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
    /// By chance; what of a query came to be asked later than the rest is by `shapes`, so that the rest stays as it was.
    pub(crate) fn new(chance: &Chance, shapes: &Chance) -> Self {
        let mut queries: Vec<Query> = (0..1 + chance.below(2)).map(|number| Query::new(chance, number)).collect();
        queries.iter_mut().for_each(|query| query.shape(shapes));
        let alerts = chance.percent(25);
        let idle_s = [1, 2, 5, 3_600][chance.below(4) as usize];
        Self { queries, alerts, delivery: None, idle_s, files: Files::new(chance), fan_out: false }
    }

    /// The tables over the stream that it reads.
    pub(crate) fn tables(&self) -> BTreeSet<&'static str> {
        std::iter::once("events").chain(self.queries.iter().flat_map(|query| query.input.tables())).collect()
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
        let slow = if self.tables().contains("slow_events") { SLOW_EVENTS } else { "" };
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

    fn of(self, id: u64, name: &str) -> String {
        match self {
            Self::Name => name.to_owned(),
            Self::Parity => (id % 2).to_string(),
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
    CountOfSome,
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
            Self::CountOfSome => ("f", "COUNT(*) FILTER (WHERE MOD(id, 3) = 1)"),
        }
    }

    fn of(self, ids: &[u64]) -> u64 {
        match self {
            Self::Count => ids.len() as u64,
            Self::Sum => ids.iter().sum(),
            Self::Min => ids.iter().copied().min().expect("a group has rows"),
            Self::Max => ids.iter().copied().max().expect("a group has rows"),
            Self::Distinct => ids.iter().map(|id| id % 5).collect::<BTreeSet<_>>().len() as u64,
            Self::CountOfSome => ids.iter().filter(|id| *id % 3 == 1).count() as u64,
        }
    }
}

/// A query that puts rows together, or takes some of each window.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) table: String,
    input: Input,
    /// Whether its results are items of their keys; else they are rows of files.
    pub(crate) is_items: bool,
    /// It is over the counts of windows of so many seconds, as if those were events: `id` is the count.
    below: Option<u64>,
    windows: Windows,
    keys: Vec<Key>,
    /// The keys of each of its GROUPING SETS, if it has some.
    sets: Option<Vec<Vec<Key>>>,
    aggregates: Vec<Aggregate>,
    /// The ids that count.
    filter: Option<Class>,
    /// Fewest rows of a group.
    having: Option<u64>,
    /// So many of each window: the groups with most rows, or of each group the rows that come first.
    first: Option<usize>,
    /// Rows as they are, of each group the first or the last; they are not put together.
    rows: Option<Order>,
    /// What makes it fail.
    fails: Option<Fails>,
    requires: Option<Requires>,
    /// How items are written.
    mode: Option<&'static str>,
    /// The connector of a table that is not of items.
    target: &'static str,
}

/// Which of its conditions: those on rows of the first part of a union, on rows of the windows below, or on its own rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Part,
    Below,
    Own,
}

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
            input: Input::of_table(if chance.percent(70) { "events" } else { "slow_events" }),
            table: format!("results_{number}"),
            is_items,
            below: chance.percent(20).then(|| 1 + chance.below(3)),
            windows,
            keys,
            sets: None,
            aggregates,
            filter: chance.percent(25).then(|| Class { divisor, rest: chance.below(divisor) }),
            having: (!is_running && chance.percent(20)).then(|| 2 + chance.below(3)),
            rows,
            fails: None,
            requires: None,
            mode: None,
            target: "s3",
            first: (rows.is_some() || (!is_running && chance.percent(25))).then(|| 1 + chance.below(2) as usize),
        }
    }

    /// Chooses what the rest does not depend on.
    fn shape(&mut self, chance: &Chance) {
        self.input.shape(chance);
        if self.rows.is_none() && chance.percent(33) {
            self.aggregates.push(Aggregate::CountOfSome);
        }
        // A key of an item is not NULL; and nobody says where a ranking has NULLs.
        let may_have_sets = !self.is_items && self.rows.is_none() && self.first.is_none() && !self.keys.is_empty();
        if may_have_sets && chance.percent(33) {
            let parts = [vec![Key::Name], vec![Key::Parity], vec![]].into_iter();
            let is_part = |set: &Vec<Key>| set.len() < self.keys.len() && set.iter().all(|key| self.keys.contains(key));
            let mut parts: Vec<Vec<Key>> = parts.filter(|set| is_part(set) && chance.percent(60)).collect();
            if parts.is_empty() {
                parts.push(vec![]);
            }
            self.sets = Some(std::iter::once(self.keys.clone()).chain(parts).collect());
        }
        self.fails = Fails::new(chance, self);
        self.requires = Requires::new(chance, self);
    }

    /// What it asks for that must be asked for now and then.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = &'static str> {
        let counts_some = self.aggregates.contains(&Aggregate::CountOfSome);
        let own = [counts_some.then_some("aggregate with a filter"), self.sets.as_ref().map(|_| "grouping sets")];
        self.input.shapes().chain(own.into_iter().flatten())
    }

    /// Whether it reads the ids of its rows: of results below, their counts.
    fn reads_ids(&self) -> bool {
        let of_ids = self.aggregates.iter().any(|aggregate| *aggregate != Aggregate::Count);
        self.rows.is_some() || self.filter.is_some() || self.keys.contains(&Key::Parity) || of_ids
    }

    /// Whether its rows may come more than once.
    pub(crate) fn may_repeat(&self) -> bool {
        !self.is_items && self.target != "s3"
    }
}
