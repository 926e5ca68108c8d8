//! Services that results go to, and the sinks that write there: items by key under the condition that what is stored is
//! not newer, and files that appear when they are committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tidemill::contracts::{Changes, Committable, EpochNumber, Error, Result, Sink, TableSpec, WriteOutcome};

use super::alerts::Topic;
use super::aws::{Bucket, Consumers, Tables};
use super::bug::Bug;
use super::machine::{Machine, Nature};
use super::refusals::Refusal;
use crate::stub_topics::Topics;

/// A row as text, by column.
pub(crate) type Row = BTreeMap<String, String>;

/// What is stored under a key, and by which epoch.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) row: Row,
    epoch: u64,
}

/// Columns whose values only grow; `lo` only falls.
const RISING: [&str; 5] = ["n", "s", "hi", "d", "f"];

/// Everything that has been written.
#[derive(Debug)]
pub(crate) struct Services {
    pub(super) nature: Arc<Nature>,
    pub(crate) items: Mutex<BTreeMap<(String, String), Item>>,
    /// Where the program's own sinks write items.
    pub(crate) tables: Mutex<Tables>,
    /// Where they write files.
    pub(crate) bucket: Mutex<Bucket>,
    /// Of the stream that they read by fan-out.
    pub(crate) consumers: Mutex<Consumers>,
    /// What they put into streams.
    pub(crate) put: Mutex<BTreeMap<String, Vec<Row>>>,
    staged: Mutex<BTreeMap<String, (String, Vec<Row>)>>,
    pub(crate) visible: Mutex<BTreeMap<String, (String, Vec<Row>)>>,
    pub(crate) topic: Mutex<Topic>,
    /// Where the program's own sink publishes.
    pub(crate) topics: Topics,
    /// Alerts of which the error output says that nobody knows whether they are out, by their ids.
    pub(crate) unknown: Mutex<BTreeSet<String>>,
    numbers: AtomicU64,
    /// What is in the error output.
    pub(crate) refused: Mutex<BTreeSet<Refusal>>,
    /// When items were written.
    pub(crate) updates: Mutex<Vec<Duration>>,
    /// Somebody has gone back to an earlier checkpoint.
    gone_back: AtomicBool,
}

impl Services {
    pub(crate) fn new(nature: &Arc<Nature>) -> Arc<Self> {
        Arc::new(Self {
            nature: Arc::clone(nature),
            items: Mutex::default(),
            tables: Mutex::new(Tables::new()),
            bucket: Mutex::default(),
            consumers: Mutex::default(),
            put: Mutex::default(),
            staged: Mutex::default(),
            visible: Mutex::default(),
            topic: Mutex::default(),
            topics: Topics::default(),
            unknown: Mutex::default(),
            numbers: AtomicU64::new(0),
            refused: Mutex::default(),
            updates: Mutex::default(),
            gone_back: AtomicBool::new(false),
        })
    }

    /// Somebody goes back: what comes from now on may have come before.
    pub(crate) fn goes_back(&self) {
        self.gone_back.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_gone_back(&self) -> bool {
        self.gone_back.load(Ordering::Relaxed)
    }

    /// A number that no other request has.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Stores an item, unless a later epoch has.
    fn update(&self, table: &str, key: &str, row: &Row, epoch: u64, checks: bool) {
        let mut items = self.items.lock().expect("no panic while it is held");
        let place = (table.to_owned(), key.to_owned());
        let before = items.get(&place);
        if checks && before.is_some_and(|before| before.epoch > epoch) {
            self.nature.lock().faults.count("stale write");
            return;
        }
        self.watch(table, before.map(|before| &before.row), row);
        items.insert(place, Item { row: row.clone(), epoch });
    }

    /// An item is written: what it holds must not go back.
    pub(super) fn watch(&self, table: &str, before: Option<&Row>, row: &Row) {
        let number = |row: &Row, name: &str| row.get(name).and_then(|n| n.parse::<u64>().ok());
        let went_back = |before: &&Row| {
            RISING.iter().any(|name| number(before, name) > number(row, name))
                || number(before, "lo") < number(row, "lo")
        };
        if let Some(before) = before.filter(went_back).filter(|_| !self.has_gone_back()) {
            let text = format!("{table} went back from {before:?} to {row:?}");
            self.nature.lock().problems.push(text);
        }
        self.updates.lock().expect("no panic while it is held").push(self.nature.world.now());
    }

    /// What is stored in a table of items.
    pub(crate) fn stored(&self, table: &str) -> Vec<Row> {
        let items = self.items.lock().expect("no panic while it is held");
        let tables = self.tables.lock().expect("no panic while it is held");
        let of_models = items.iter().filter(|((of, _), _)| of == table).map(|(_, item)| item.row.clone());
        of_models.chain(tables.rows(table)).collect()
    }

    /// Of all that has been written.
    pub(crate) fn digest(&self) -> u64 {
        let tables = self.tables.lock().expect("no panic while it is held").digested();
        let all = format!(
            "{:?} {tables} {:?} {:?} {:?} {:?} {:?}",
            self.items, self.bucket, self.put, self.visible, self.topic, self.refused
        );
        let bytes = Sha256::digest(all.as_bytes());
        bytes.iter().take(8).fold(0, |digest, byte| digest << 8 | u64::from(*byte))
    }

    /// Rows that were put into a stream, some of them perhaps again.
    pub(crate) fn put_rows(&self, stream: &str) -> Vec<Row> {
        let put = self.put.lock().expect("no panic while it is held");
        let rows = put.get(stream).cloned().unwrap_or_default();
        let again = rows.len() - rows.iter().collect::<BTreeSet<_>>().len();
        self.nature.lock().faults.count_many("record again", again as u64);
        rows
    }

    /// Takes what the program's own error output has written.
    pub(crate) fn read_errors(&self) {
        let lines = self.bucket.lock().expect("no panic while it is held").lines("errors/");
        let of = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let (unknown, refused): (Vec<_>, Vec<_>) =
            lines.iter().partition(|line| of(line, "reason") == "delivery_unknown");
        let id = |line: &&Value| alert_of(&of(line, "detail"));
        self.unknown.lock().expect("no panic while it is held").extend(unknown.iter().filter_map(id));
        self.refused.lock().expect("no panic while it is held").extend(refused.into_iter().map(Refusal::read));
    }

    /// Rows of all visible files of a table.
    pub(crate) fn rows(&self, table: &str) -> Vec<Row> {
        let visible = self.visible.lock().expect("no panic while it is held");
        let of_models = visible.values().filter(|(of, _)| of == table).flat_map(|(_, rows)| rows.clone());
        of_models.chain(self.bucket.lock().expect("no panic while it is held").rows(table)).collect()
    }
}

pub(super) fn rows(batch: &RecordBatch) -> Vec<Row> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> = batch
        .schema()
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| (field.name().clone(), ArrayFormatter::try_new(column, &options).expect("plain types")))
        .map(|(name, texts)| (name, (0..batch.num_rows()).map(|row| texts.value(row).to_string()).collect::<Vec<_>>()))
        .collect();
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|(name, texts)| (name.clone(), texts[row].clone())).collect())
        .collect()
}

/// The alert of which the error output says that nobody knows whether it is out, by its id.
pub(super) fn alert_of(detail: &str) -> Option<String> {
    detail.rsplit("message ").next()?.split(' ').next().map(str::to_owned)
}

/// A value of JSON as text.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The same, and a time as the models have it.
pub(super) fn plain(value: &Value) -> String {
    text(value).trim_end_matches('Z').trim_end_matches(".000").replace(' ', "T")
}

/// Writes items.
pub(crate) struct ItemSink {
    pub(crate) services: Arc<Services>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) spec: TableSpec,
    pub(crate) bug: Option<Bug>,
    waiting: BTreeMap<String, Row>,
}

impl ItemSink {
    pub(crate) fn new(services: Arc<Services>, machine: Arc<Machine>, spec: TableSpec, bug: Option<Bug>) -> Self {
        Self { services, machine, spec, bug, waiting: BTreeMap::new() }
    }
}

#[async_trait]
impl Sink for ItemSink {
    async fn write(&mut self, _: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        for row in rows(&changes.batch) {
            let key: Vec<&str> = self.spec.primary_key.iter().map(|name| row[name].as_str()).collect();
            self.waiting.insert(key.join("/"), row);
        }
        Ok(WriteOutcome { written: changes.batch.num_rows() as u64, refused: Vec::new() })
    }

    async fn flush(&mut self, epoch: EpochNumber, _: i64) -> Result<WriteOutcome> {
        for (key, row) in std::mem::take(&mut self.waiting) {
            let (services, table) = (Arc::clone(&self.services), self.spec.name.clone());
            let checks = self.bug != Some(Bug::IgnoresVersions);
            self.machine.insist(move || services.update(&table, &key, &row, epoch.0, checks)).await;
        }
        Ok(WriteOutcome::default())
    }
}

/// Epochs after which an open file is closed.
const FILE_EPOCHS: u64 = 6;

/// Writes files of one table.
pub(crate) struct FileSink {
    pub(crate) services: Arc<Services>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) table: String,
    pub(crate) generation: u64,
    pub(crate) bug: Option<Bug>,
    open: Vec<Row>,
    opened_in: Option<EpochNumber>,
    closed: Vec<Vec<Row>>,
    /// Rows up to this epoch are in committed files.
    durable: u64,
    next: u64,
}

impl FileSink {
    pub(crate) fn new(
        services: Arc<Services>,
        machine: Arc<Machine>,
        table: &str,
        generation: u64,
        bug: Option<Bug>,
    ) -> Self {
        Self {
            services,
            machine,
            table: table.to_owned(),
            generation,
            bug,
            open: Vec::new(),
            opened_in: None,
            closed: Vec::new(),
            durable: 0,
            next: 0,
        }
    }

    fn close(&mut self) {
        if self.opened_in.take().is_some() {
            self.closed.push(std::mem::take(&mut self.open));
        }
    }

    async fn show(&self, id: String) {
        let services = Arc::clone(&self.services);
        let work = move || {
            let staged = services.staged.lock().expect("no panic while it is held").get(&id).cloned();
            let mut visible = services.visible.lock().expect("no panic while it is held");
            match staged {
                Some(file) => {
                    visible.entry(id.clone()).or_insert(file);
                }
                None => services.nature.lock().problems.push(format!("{id} was committed, and is not there")),
            }
        };
        self.machine.insist(work).await;
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn recover(&mut self, appeared: Vec<Committable>, promised: Vec<Committable>) -> Result<()> {
        self.commit([appeared, promised].concat()).await?;
        if self.bug == Some(Bug::ForgetsCommitted) {
            self.durable = 0;
        }
        Ok(())
    }

    fn open_since(&self) -> Option<EpochNumber> {
        self.opened_in.filter(|_| self.bug != Some(Bug::SaysDurable))
    }

    async fn write(&mut self, epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let count = changes.batch.num_rows();
        if count > 0 && epoch.0 > self.durable {
            self.opened_in.get_or_insert(epoch);
            self.open.extend(rows(&changes.batch));
        }
        Ok(WriteOutcome { written: count as u64, refused: Vec::new() })
    }

    async fn flush(&mut self, epoch: EpochNumber, _: i64) -> Result<WriteOutcome> {
        if self.opened_in.is_some_and(|opened| epoch.0 >= opened.0 + FILE_EPOCHS) {
            self.close();
        }
        Ok(WriteOutcome::default())
    }

    async fn prepare(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        let mut staged = Vec::new();
        for rows in std::mem::take(&mut self.closed) {
            let generation = if self.bug == Some(Bug::ReusesNames) { 0 } else { self.generation };
            let id = format!("{}-{generation}-{}", self.table, self.next);
            self.next += 1;
            let (services, file) = (Arc::clone(&self.services), (self.table.clone(), rows));
            let upload = {
                let id = id.clone();
                move || {
                    services.staged.lock().expect("no panic while it is held").insert(id.clone(), file.clone());
                }
            };
            self.machine.insist(upload).await;
            if self.bug == Some(Bug::ShowsBeforeCommit) {
                self.show(id.clone()).await;
            }
            staged.push(Committable { payload: format!("{} {id}", epoch.0) });
        }
        Ok(staged)
    }

    async fn commit(&mut self, committables: Vec<Committable>) -> Result<()> {
        for committable in committables {
            let (through, id) = committable.payload.split_once(' ').ok_or_else(|| Error::corrupt("no committable"))?;
            self.show(id.to_owned()).await;
            let through = through.parse::<u64>().map_err(|e| Error::corrupt("no committable").caused_by(e))?;
            self.durable = self.durable.max(through);
        }
        Ok(())
    }

    async fn finish(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        self.close();
        self.prepare(epoch).await
    }
}
