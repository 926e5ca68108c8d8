//! A topic and its ledger, and the sink that publishes there: ask the ledger, publish, mark.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidemill::contracts::{Changes, EpochNumber, Result, Sink, WriteOutcome};

use super::aws::LEDGER;
use super::bug::Bug;
use super::lookups::{VERSIONS, owner, weight};
use super::machine::Machine;
use super::sinks::{Row, Services, rows};
use super::stream::Stream;
use crate::stub_topics::ARN;

/// One event in so many is an alert.
pub(crate) const EACH: u64 = 3;

/// What has been published, and what the ledger says of it.
#[derive(Debug, Default)]
pub(crate) struct Topic {
    /// By id: the epochs and contents that it came with.
    published: BTreeMap<u64, Vec<(u64, Row)>>,
    marked: BTreeMap<String, Duration>,
    /// By the ids of messages: the requests with which they came.
    requests: BTreeMap<String, BTreeSet<u64>>,
}

/// What is promised of alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    AtLeastOnce,
    AtMostOnce,
    Fifo,
}

impl Delivery {
    pub(crate) const ALL: [Self; 3] = [Self::AtLeastOnce, Self::AtMostOnce, Self::Fifo];

    /// Options of the table.
    pub(crate) fn sql(self) -> String {
        let (topic, delivery) = match self {
            Self::AtLeastOnce => ("alerts".to_owned(), "at-least-once"),
            Self::AtMostOnce => ("alerts".to_owned(), "at-most-once"),
            Self::Fifo => (format!("{ARN}alerts.fifo"), "at-least-once"),
        };
        format!("'topic' = '{topic}', 'sink.delivery' = '{delivery}', 'sink.ledger.table' = '{LEDGER}'")
    }
}

impl Services {
    fn topic(&self) -> std::sync::MutexGuard<'_, Topic> {
        self.topic.lock().expect("no panic while it is held")
    }

    /// Whether the entry is in the ledger, and when that was so.
    fn is_marked(&self, entry: &str) -> (bool, Duration) {
        (self.topic().marked.contains_key(entry), self.nature.world.now())
    }

    fn mark(&self, entry: &str) {
        let now = self.nature.world.now();
        self.topic().marked.entry(entry.to_owned()).or_insert(now);
    }

    /// A message may come again where a reply was lost, or where its sender died or stood still before it had marked the first; never
    /// after its sender could have known.
    fn publish(&self, entry: &str, epoch: u64, row: &Row, asked: Duration) {
        let topic = self.topic();
        if topic.marked.get(entry).is_some_and(|at| *at < asked) {
            let text = format!("'{entry}' is published at {:?} though it was marked", self.nature.world.now());
            self.nature.lock().problems.push(text);
        }
        drop(topic);
        self.deliver(epoch, row.clone());
    }

    /// A message comes to those who listen.
    pub(super) fn deliver(&self, epoch: u64, row: Row) {
        let mut topic = self.topic();
        let copies = topic.published.entry(row["id"].parse().expect("a number")).or_default();
        self.nature.lock().faults.count_if(!copies.is_empty(), "alert again");
        copies.push((epoch, row));
    }

    /// A topic has accepted a message of the program's own sink, which last looked into the ledger at that time, with the request of
    /// that number.
    pub(super) fn accepted(&self, id: &str, asked: Option<Duration>, request: u64) {
        // (Where somebody has gone back, the same message is another entry, of another epoch.)
        let asked = asked.filter(|_| !self.has_gone_back());
        if asked.is_some_and(|asked| self.tables.lock().expect("no panic while it is held").was_marked(id, asked)) {
            let text = format!("alert {id} is published at {:?} though it was marked", self.nature.world.now());
            self.nature.lock().problems.push(text);
        }
        self.topic().requests.entry(id.to_owned()).or_default().insert(request);
    }

    /// What is wrong with what was promised of alerts.
    pub(crate) fn delivery_problems(&self, delivery: Delivery, stream: &Stream) -> Vec<String> {
        let (topic, mut problems) = (self.topic(), Vec::new());
        let unknown = self.unknown.lock().expect("no panic while it is held");
        match delivery {
            Delivery::AtLeastOnce => {}
            Delivery::Fifo => {
                let doubled = topic.published.iter().filter(|(_, copies)| copies.len() > 1);
                problems.extend(doubled.map(|(id, _)| format!("alert {id} came twice on a FIFO topic")));
            }
            Delivery::AtMostOnce => {
                let doubled = topic.requests.iter().filter(|(_, requests)| requests.len() > 1);
                problems.extend(doubled.map(|(id, _)| format!("alert {id} was published twice")));
                let alerts = stream.events().filter(|event| event.id % EACH == 0).count();
                let out = topic.requests.keys().chain(unknown.iter()).collect::<BTreeSet<_>>().len();
                self.nature.lock().faults.count_many("alert nobody knows of", unknown.len() as u64);
                if out != alerts {
                    problems.push(format!("{out} alerts are out, or said to be unknown, of {alerts}"));
                }
            }
        }
        problems.truncate(5);
        problems
    }

    /// What is wrong with the alerts that came. With `may_lack`, some may not have come.
    pub(crate) fn alert_problems(&self, stream: &Stream, may_lack: bool) -> Vec<String> {
        let (topic, mut problems) = (self.topic(), Vec::new());
        let text = |value: Option<String>| value.unwrap_or_else(|| "NULL".to_owned());
        for event in stream.events().filter(|event| event.id % EACH == 0) {
            let Some(copies) = topic.published.get(&event.id) else {
                if may_lack {
                    continue;
                }
                problems.push(format!("alert {} is lost", event.id));
                continue;
            };
            // Any version of the weights, but the same one whenever the epoch is repeated.
            let wanted = (0..VERSIONS).map(|version| -> Row {
                [
                    ("id", event.id.to_string()),
                    ("k", event.key.clone()),
                    ("owner", text(owner(&event.key))),
                    ("weight", text(weight(&event.key, version).map(|weight| weight.to_string()))),
                ]
                .map(|(name, value)| (name.to_owned(), value))
                .into()
            });
            let wanted: Vec<Row> = wanted.collect();
            // Where somebody has gone back, it came in two epochs.
            let (are_one, is_any) = match self.has_gone_back() {
                true => (true, copies.iter().all(|(_, copy)| wanted.iter().any(|wanted| wanted == copy))),
                false => (copies.iter().all(|copy| *copy == copies[0]), wanted.contains(&copies[0].1)),
            };
            if !are_one || !is_any {
                problems.push(format!("alert {} of {}: {copies:?}, which are not one", event.id, event.key));
            }
        }
        let alerts = stream.events().filter(|event| event.id % EACH == 0).count();
        if topic.published.len() > alerts {
            problems.push(format!("{} alerts of {alerts}", topic.published.len()));
        }
        problems.truncate(5);
        problems
    }
}

/// Publishes rows.
pub(crate) struct AlertSink {
    services: Arc<Services>,
    machine: Arc<Machine>,
    bug: Option<Bug>,
    waiting: Vec<Row>,
}

impl AlertSink {
    pub(crate) fn new(services: Arc<Services>, machine: Arc<Machine>, bug: Option<Bug>) -> Self {
        Self { services, machine, bug, waiting: Vec::new() }
    }
}

#[async_trait]
impl Sink for AlertSink {
    async fn write(&mut self, _: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        self.waiting.extend(rows(&changes.batch));
        Ok(WriteOutcome { written: changes.batch.num_rows() as u64, refused: Vec::new() })
    }

    async fn flush(&mut self, epoch: EpochNumber, _: i64) -> Result<WriteOutcome> {
        for row in std::mem::take(&mut self.waiting) {
            let id = if self.bug == Some(Bug::ReusesAlertIds) { "k" } else { "id" };
            let entry = match self.bug {
                Some(Bug::ReusesAlertIds) => row[id].clone(),
                _ => format!("{}/{}", row[id], epoch.0),
            };
            let (services, asked) = (Arc::clone(&self.services), entry.clone());
            let (is_marked, at) = self.machine.insist(move || services.is_marked(&asked)).await;
            if is_marked && self.bug != Some(Bug::ForgetsLedger) {
                continue;
            }
            let (services, own, sent) = (Arc::clone(&self.services), entry.clone(), row.clone());
            self.machine.insist(move || services.publish(&own, epoch.0, &sent, at)).await;
            let services = Arc::clone(&self.services);
            self.machine.insist(move || services.mark(&entry)).await;
        }
        Ok(WriteOutcome::default())
    }
}
