//! DynamoDB on AWS: items kept up to date by primary key.
//!
//! ```text
//!  write   rows ─► one ItemWrite for each key (items)      refused rows are answered here
//!  flush   ─► UpdateItem | PutItem | DeleteItem on condition (guarded), guarded ADD (add), BatchWriteItem (batch)
//!              in parallel up to `sink.requests.max-inflight`, each repeated until it is stored
//! ```
//!
//! When `flush` returns, the epoch is in the table. An epoch never starts before the one before it is stored, so the
//! writes of a key are in order.
//!
//! Invariant: but for the mode `batch`, writing an epoch again, in whatever process, changes nothing and never takes a
//! value back.

mod add;
mod attributes;
mod batch;
mod guarded;
mod items;
pub(super) mod lease;
mod lookup;
mod options;
mod overtaken;
mod refusals;
mod table;

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;

use crate::connectors::aws::{AwsSession, Jitter, Requests};
use crate::contracts::{Changes, Clock, EpochNumber, Error, Result, Sink, TableSpec, WriteOutcome};

use super::rows::TableKey;
use add::Adder;
use batch::BATCH_ITEMS;
use guarded::EpochCalls;
use items::Items;
pub(super) use lookup::AwsLookup;
pub(super) use options::own_attributes;
use options::{SinkOptions, WriteMode};
use overtaken::Overtaken;
use refusals::Refusals;

/// An UpdateExpression has 4 KB at most; an attribute takes up to 12 of them.
const MAX_UPDATED_ATTRIBUTES: usize = 300;

/// Writes one INSERT's rows into a table.
pub(super) struct AwsTableSink {
    session: AwsSession,
    spec: TableSpec,
    options: SinkOptions,
    items: Items,
    requests: Requests,
    adder: Option<Adder>,
    refusals: Refusals,
    overtaken: Overtaken,
    /// Whether a run before has had the epochs that come.
    repeats: bool,
    client: Option<Client>,
}

impl AwsTableSink {
    /// Checks the options; nothing is asked of the network yet.
    pub(super) fn try_new(spec: &TableSpec, session: AwsSession, clock: Arc<dyn Clock>, job: &str) -> Result<Self> {
        let options = SinkOptions::of(spec, job)?;
        let key = TableKey::of(spec)?;
        if matches!(options.mode, WriteMode::Update | WriteMode::Add) && key.names.len() > MAX_UPDATED_ATTRIBUTES {
            return Err(Error::config(format!(
                "the INSERT into '{}' writes {} attributes, an update takes {MAX_UPDATED_ATTRIBUTES}",
                spec.name,
                key.names.len()
            ))
            .hint("'sink.write-mode' = 'put' writes whole items of any number"));
        }
        let hidden = [Some(&options.version), options.expiry.as_ref().map(|e| &e.attribute)];
        if let Some(taken) = hidden.into_iter().flatten().find(|name| key.names.contains(name)) {
            return Err(Error::config(format!(
                "table '{}' has a column '{taken}', which is a hidden attribute",
                spec.name
            ))
            .hint("rename the column, or choose the attribute: 'sink.version.attribute', 'sink.ttl.attribute'"));
        }
        let adder = match options.mode {
            WriteMode::Add => Some(Adder::new(spec, &key.keys, options.add.as_deref(), &options.contribution)?),
            _ => None,
        };
        let items = Items::new(spec, key);
        if let Some(adder) = &adder {
            adder.check_length(&spec.name, &items.others)?;
        }
        let jitter = Jitter::seeded(&[job, &spec.name, &options.table, &options.version]);
        let requests = Requests::new(Arc::clone(&clock), jitter, options.in_flight);
        let (spec, refusals, overtaken) = (spec.clone(), Refusals::default(), Overtaken::new(clock));
        Ok(Self { session, spec, items, options, requests, adder, refusals, overtaken, repeats: false, client: None })
    }
}

#[async_trait]
impl Sink for AwsTableSink {
    async fn open(&mut self) -> Result<()> {
        let client = Client::new(&self.session.config_without_retries().await?);
        let key = &self.items.key.primary_key;
        table::check(&client, &self.requests, &self.options.table, &self.spec, key).await?;
        self.client = Some(client);
        Ok(())
    }

    fn repeats(&mut self, repeats: bool) {
        self.repeats = repeats;
    }

    async fn write(&mut self, _epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let (written, refused) = self.items.take(&changes, &self.options)?;
        Ok(WriteOutcome { written, refused })
    }

    fn flushes_parts(&self) -> bool {
        // What is added for a key is that of all rows of the epoch.
        self.options.mode != WriteMode::Add
    }

    async fn flush(&mut self, epoch: EpochNumber, now_ms: i64) -> Result<WriteOutcome> {
        if self.items.waiting.is_empty() {
            return Ok(WriteOutcome::default());
        }
        let waiting = std::mem::take(&mut self.items.waiting);
        let client = self.client.as_ref().ok_or_else(|| Error::internal("the sink was not opened"))?;
        let calls = EpochCalls {
            client,
            options: &self.options,
            names: &self.items.key.names,
            epoch,
            now_ms,
            key: &self.items.key.primary_key,
            refusals: &self.refusals,
            overtaken: (!self.repeats).then_some(&self.overtaken),
        };
        let calls_of = &calls;
        match (self.options.mode, &self.adder) {
            (WriteMode::Add, Some(adder)) => {
                self.requests.run(waiting.iter(), |write| calls_of.add(adder, write)).await?;
            }
            (WriteMode::Put, _) => self.requests.run(waiting.values(), |write| calls_of.put(write)).await?,
            (WriteMode::Batch, _) => {
                let entries = waiting.values().map(|w| calls.entry(w)).collect::<Result<Vec<_>>>()?;
                let batches = entries.chunks(BATCH_ITEMS).map(<[_]>::to_vec);
                self.requests.run(batches, |batch| calls_of.batch(batch)).await?;
            }
            _ => self.requests.run(waiting.values(), |write| calls_of.update(write)).await?,
        }
        Ok(WriteOutcome { written: 0, refused: self.refusals.take() })
    }
}
