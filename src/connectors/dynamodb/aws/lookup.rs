//! Rows of DynamoDB by their keys: BatchGetItem, up to 100 keys a call, side by side.
//!
//! Reads are strongly consistent: what was stored before the question is seen. What DynamoDB leaves over
//! (UnprocessedKeys) and what passes by itself is asked for again, with the pauses of a sink.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use tokio::sync::OnceCell;

use crate::connectors::aws::{Attempt, AwsFailure, AwsSession, Jitter, Requests, batch_get};
use crate::contracts::{Clock, Error, Lookup, Result, TableSpec};

use super::super::lookup::{LookedUp, Objects, json_bytes, json_string};
use super::super::rows::TableKey;
use super::attributes::AttributeColumn;
use super::refusals::VALIDATION;
use super::table;

/// Keys of a call (BatchGetItem's quota); an answer has 16 MB at most, the rest is left over.
const CALL_KEYS: usize = 100;
/// Calls at the same time.
const IN_FLIGHT: usize = 16;

/// A table on AWS.
#[derive(Debug)]
pub(in crate::connectors::dynamodb) struct AwsLookup {
    session: AwsSession,
    looked_up: LookedUp,
    requests: Requests,
    client: OnceCell<Client>,
}

type Item = HashMap<String, AttributeValue>;

impl AwsLookup {
    /// Checks the options; nothing is asked of the network yet.
    pub(in crate::connectors::dynamodb) fn try_new(
        spec: &TableSpec,
        session: AwsSession,
        clock: Arc<dyn Clock>,
        job: &str,
    ) -> Result<Self> {
        let looked_up = LookedUp::of(spec)?;
        let jitter = Jitter::seeded(&[job, &spec.name, &looked_up.table]);
        Ok(Self { session, looked_up, requests: Requests::new(clock, jitter, IN_FLIGHT), client: OnceCell::new() })
    }

    async fn client(&self) -> Result<&Client> {
        self.client.get_or_try_init(|| async { Ok(Client::new(&self.session.config_without_retries().await?)) }).await
    }

    /// What a failure is that no repetition mends. A request that is refused for what is in it is refused for one of its keys: the row
    /// that has looked it up can be found, and the others go on.
    fn failed(&self, failure: AwsFailure) -> Error {
        if failure.code != VALIDATION {
            return failure.error;
        }
        Error::data(failure.error.message())
            .context(format!("table '{}'", self.looked_up.spec.name))
            .hint("mend the value that is looked up; if every one is refused, compare the PRIMARY KEY and its types with the table's key")
    }

    /// The keys as attributes. A key that no item can have is left out, one that is too long too: it has no row.
    fn keys(&self, keys: &RecordBatch) -> Result<Vec<Item>> {
        let columns: Vec<AttributeColumn> =
            keys.columns().iter().map(|column| AttributeColumn::try_new(column, false)).collect::<Result<_>>()?;
        let names = &self.looked_up.key.primary_key;
        let key = |row: usize| -> Option<Item> {
            let value = |(place, (name, column)): (usize, (&String, &AttributeColumn))| {
                let value = column.value(row).ok().flatten()?;
                let bytes = match &value {
                    AttributeValue::S(text) => text.len(),
                    AttributeValue::B(bytes) => bytes.as_ref().len(),
                    _ => return Some((name.clone(), value)),
                };
                (1..=TableKey::part(place).1).contains(&bytes).then(|| (name.clone(), value))
            };
            names.iter().zip(&columns).enumerate().map(value).collect()
        };
        // Two values of a column may be one number to DynamoDB, which takes no key twice.
        let mut seen = HashSet::new();
        let distinct = |key: &Item| seen.insert(names.iter().map(|n| format!("{:?}", key.get(n))).collect::<Vec<_>>());
        Ok((0..keys.num_rows()).filter_map(key).filter(distinct).collect())
    }
}

#[async_trait]
impl Lookup for AwsLookup {
    async fn open(&self) -> Result<()> {
        let LookedUp { spec, table, key } = &self.looked_up;
        table::check(self.client().await?, &self.requests, table, spec, &key.primary_key).await
    }

    async fn get(&self, keys: &RecordBatch) -> Result<RecordBatch> {
        let names = &self.looked_up.key.names;
        // Column names may be words that DynamoDB reserves.
        let aliases: HashMap<String, String> =
            names.iter().enumerate().map(|(i, name)| (format!("#c{i}"), name.clone())).collect();
        let projection = (0..names.len()).map(|i| format!("#c{i}")).collect::<Vec<_>>().join(", ");
        let keys = self.keys(keys)?;
        let calls = keys.chunks(CALL_KEYS).map(|keys| {
            KeysAndAttributes::builder()
                .set_keys(Some(keys.to_vec()))
                .consistent_read(true)
                .projection_expression(&projection)
                .set_expression_attribute_names(Some(aliases.clone()))
                .build()
                .map_err(|e| Error::internal("keys to read are missing").caused_by(e))
        });
        let calls = calls.collect::<Result<Vec<_>>>()?;
        let (client, found) = (self.client().await?, Mutex::new(Vec::<Item>::new()));
        let found_in = &found;
        let call = |keys| async {
            let attempt = batch_get(client, &self.looked_up.table, keys, |items| {
                found_in.lock().unwrap_or_else(PoisonError::into_inner).extend(items);
            });
            attempt.await.unwrap_or_else(|failure| Attempt::Failed(self.failed(failure)))
        };
        self.requests.run(calls, call).await?;
        let mut objects = Objects::default();
        for item in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            objects.add(names, |name, out| {
                if let Some(value) = item.get(name) {
                    write(value, out);
                }
            });
        }
        self.looked_up.rows(&objects)
    }
}

/// An attribute as JSON: sets are lists, bytes are base64.
pub(super) fn write(value: &AttributeValue, out: &mut Vec<u8>) {
    fn list<T>(items: &[T], out: &mut Vec<u8>, item: impl Fn(&T, &mut Vec<u8>)) {
        out.push(b'[');
        for (place, value) in items.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            item(value, out);
        }
        out.push(b']');
    }
    match value {
        AttributeValue::S(text) => json_string(text, out),
        AttributeValue::N(number) => out.extend_from_slice(number.as_bytes()),
        AttributeValue::B(bytes) => json_bytes(bytes.as_ref(), out),
        AttributeValue::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        AttributeValue::Ss(items) => list(items, out, |text, out| json_string(text, out)),
        AttributeValue::Ns(items) => list(items, out, |number, out| out.extend_from_slice(number.as_bytes())),
        AttributeValue::Bs(items) => list(items, out, |bytes, out| json_bytes(bytes.as_ref(), out)),
        AttributeValue::L(items) => list(items, out, write),
        AttributeValue::M(members) => {
            let mut separator = b'{';
            for (name, value) in members {
                out.push(separator);
                separator = b',';
                json_string(name, out);
                out.push(b':');
                write(value, out);
            }
            if separator == b'{' {
                out.push(b'{');
            }
            out.push(b'}');
        }
        // NULL, and what a later version of the service may have: no value.
        _ => out.extend_from_slice(b"null"),
    }
}
