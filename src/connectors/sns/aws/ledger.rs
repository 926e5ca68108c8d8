//! What has been published, kept outside of the process.
//!
//! ```text
//!  at least once   ask, publish, mark      a kill between publish and mark publishes again
//!  at most once    claim, publish, mark    a kill between claim and mark: nobody knows, and the next run tells of it
//! ```
//!
//! A claim has two ends: it is marked when the message is out, or released when it is known that it is not. A claim of a run that has
//! ended is neither, so the next run finds it and tells of the message instead of publishing it.
//!
//! An entry is one *publication*: the message's id (and a hash of its content, where a column says the id), the epoch and how many equal ones came before it in that epoch. A
//! replayed epoch has the same entries; an equal row of a later epoch has one of its own.
//!
//! A checkpoint may keep a ledger too: it would implement [`Ledger`].

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, KeysAndAttributes, PutRequest, ReturnValuesOnConditionCheckFailure, WriteRequest,
};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::connectors::aws::{Attempt, Call, Requests, batch_get, failure, string_key};
use crate::contracts::{Clock, Error, Result};

/// Remembers publications.
///
/// # Contract
/// Calls return when it is durable. `claim` gives an entry to one caller only, until that one releases it; a caller that claims
/// again what it has claimed itself gets it again.
#[async_trait]
pub(super) trait Ledger: Send + Sync {
    /// Those of `entries` that are marked.
    async fn marked(&self, entries: &[String]) -> Result<HashSet<String>>;

    /// Marks them, claimed or not.
    async fn mark(&self, entries: &[String]) -> Result<()>;

    /// Claims those that are not there.
    async fn claim(&self, entries: &[String]) -> Result<Claims>;

    /// Takes claims of this caller back; entries that it has not claimed, and marked ones, stay. It does not try for long: of what is left, the next run tells.
    ///
    /// # Errors
    /// The first entry's that could not be taken back; the others were tried all the same.
    async fn release(&self, entries: &[String]) -> Result<()>;
}

/// What came of claiming. Entries that are in neither are marked.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// They are the caller's.
    pub(super) ours: HashSet<String>,
    /// Another caller has claimed them, and never said that they are out.
    pub(super) unknown: HashSet<String>,
}

/// Remembers nothing.
pub(super) struct NoLedger;

#[async_trait]
impl Ledger for NoLedger {
    async fn marked(&self, _entries: &[String]) -> Result<HashSet<String>> {
        Ok(HashSet::new())
    }

    async fn mark(&self, _entries: &[String]) -> Result<()> {
        Ok(())
    }

    async fn claim(&self, entries: &[String]) -> Result<Claims> {
        Ok(Claims { ours: entries.iter().cloned().collect(), ..Claims::default() })
    }

    async fn release(&self, _entries: &[String]) -> Result<()> {
        Ok(())
    }
}

/// "BatchGetItem" takes 100 keys, "BatchWriteItem" 25 items.
const READ_ITEMS: usize = 100;
const WRITE_ITEMS: usize = 25;
/// How long it is tried to release claims: the end of a run waits for it.
const RELEASING: Duration = Duration::from_secs(5);
/// The attribute for the table's time to live, if it is set to it.
const EXPIRES: &str = "expires_at";
/// Who claimed the entry.
const OWNER: &str = "claimed_by";
/// Whether it is claimed only. Entries of earlier versions have no state, and count as marked.
const STATE: &str = "state";
const CLAIMED: &str = "claimed";
const MARKED: &str = "published";

/// A ledger in a DynamoDB table whose only key is a string.
pub(super) struct TableLedger {
    client: Client,
    table: String,
    /// Name of the key attribute.
    key: String,
    /// Names this sink among all: it knows its own claims by it after a lost reply.
    owner: String,
    ttl: Duration,
    clock: Arc<dyn Clock>,
    requests: Requests,
}

impl TableLedger {
    /// Looks the table up.
    pub(super) async fn open(
        client: Client,
        table: &str,
        owner: String,
        ttl: Duration,
        clock: Arc<dyn Clock>,
        requests: Requests,
    ) -> Result<Self> {
        let key = string_key(&client, &requests, table, "a ledger of alerts").await?;
        Ok(Self { client, table: table.to_owned(), key, owner, ttl, clock, requests })
    }

    fn call(&self, operation: &'static str) -> Call<'_> {
        Call { service: "dynamodb", operation, resource: &self.table }
    }

    fn item(&self, entry: &str, state: &str) -> HashMap<String, AttributeValue> {
        let expires = self.clock.now_ms() / 1_000 + i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX / 2);
        HashMap::from([
            (self.key.clone(), AttributeValue::S(entry.to_owned())),
            (OWNER.to_owned(), AttributeValue::S(self.owner.clone())),
            (STATE.to_owned(), AttributeValue::S(state.to_owned())),
            (EXPIRES.to_owned(), AttributeValue::N(expires.to_string())),
        ])
    }

    async fn read(&self, keys: KeysAndAttributes, found: &Mutex<HashSet<String>>) -> Attempt<KeysAndAttributes> {
        batch_get(&self.client, &self.table, keys, |items| {
            let marked = items.filter(|item| !is_claimed(item));
            found.lock().unwrap_or_else(PoisonError::into_inner).extend(marked.filter_map(|mut item| {
                match item.remove(&self.key) {
                    Some(AttributeValue::S(entry)) => Some(entry),
                    _ => None,
                }
            }));
        })
        .await
        .unwrap_or_else(|failure| Attempt::Failed(failure.error))
    }

    async fn write(&self, entries: Vec<WriteRequest>) -> Attempt<Vec<WriteRequest>> {
        match self.client.batch_write_item().request_items(&self.table, entries.clone()).send().await {
            Ok(output) => {
                let left: Vec<_> = output.unprocessed_items.unwrap_or_default().into_values().flatten().collect();
                let (call, parts) = (self.call("BatchWriteItem"), (left.len(), entries.len()));
                if left.is_empty() { Attempt::Done } else { Attempt::left_over(call, left, parts, true) }
            }
            Err(e) => Attempt::after(entries, failure(self.call("BatchWriteItem"), &e)),
        }
    }

    async fn claim_one<'e>(&self, entry: &'e String, claims: &Mutex<Claims>) -> Attempt<&'e String> {
        let sent = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(self.item(entry, CLAIMED)))
            .condition_expression("attribute_not_exists(#k)")
            .expression_attribute_names("#k", &self.key)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let (ours, unknown) = match &sent {
            Ok(_) => (true, false),
            Err(e) => match e.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(refusal)) => {
                    let owner = refusal.item().and_then(|item| item.get(OWNER));
                    // The claim was stored and its reply was lost.
                    let ours = owner == Some(&AttributeValue::S(self.owner.clone()));
                    (ours, !ours && refusal.item().is_some_and(is_claimed))
                }
                _ => return Attempt::after(entry, failure(self.call("PutItem"), e)),
            },
        };
        let mut claims = claims.lock().unwrap_or_else(PoisonError::into_inner);
        if ours {
            claims.ours.insert(entry.clone());
        } else if unknown {
            claims.unknown.insert(entry.clone());
        }
        Attempt::Done
    }

    /// One that cannot be released before `until`, by the clock's elapsed time, stays, and keeps no other from being released.
    async fn release_one<'e>(
        &self,
        entry: &'e str,
        until: Duration,
        failed: &Mutex<Option<Error>>,
    ) -> Attempt<&'e str> {
        let stays = |error: Error| {
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            Attempt::Done
        };
        if self.clock.elapsed() > until {
            return stays(Error::unavailable(format!("claims in '{}' could not be released in time", self.table)));
        }
        let sent = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(&self.key, AttributeValue::S(entry.to_owned()))
            .condition_expression("#o = :o AND #s = :s")
            .expression_attribute_names("#o", OWNER)
            .expression_attribute_names("#s", STATE)
            .expression_attribute_values(":o", AttributeValue::S(self.owner.clone()))
            .expression_attribute_values(":s", AttributeValue::S(CLAIMED.to_owned()))
            .send()
            .await;
        match sent {
            Err(e) if e.code() != Some("ConditionalCheckFailedException") => {
                let failure = failure(self.call("DeleteItem"), &e);
                if failure.retryable { Attempt::after(entry, failure) } else { stays(failure.error) }
            }
            _ => Attempt::Done,
        }
    }
}

#[async_trait]
impl Ledger for TableLedger {
    async fn marked(&self, entries: &[String]) -> Result<HashSet<String>> {
        let found = Mutex::new(HashSet::new());
        let keys = entries.chunks(READ_ITEMS).map(|entries| {
            let key = |entry: &String| HashMap::from([(self.key.clone(), AttributeValue::S(entry.clone()))]);
            KeysAndAttributes::builder()
                .set_keys(Some(entries.iter().map(key).collect()))
                .consistent_read(true)
                .build()
                .map_err(|e| Error::internal("keys to read are missing").caused_by(e))
        });
        let keys = keys.collect::<Result<Vec<_>>>()?;
        self.requests.run(keys, |keys| self.read(keys, &found)).await?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    async fn mark(&self, entries: &[String]) -> Result<()> {
        let request = |entry: &String| {
            let put = PutRequest::builder().set_item(Some(self.item(entry, MARKED))).build();
            put.map(|put| WriteRequest::builder().put_request(put).build())
                .map_err(|e| Error::internal("an entry without its item").caused_by(e))
        };
        let requests = entries.iter().map(request).collect::<Result<Vec<_>>>()?;
        self.requests.run(requests.chunks(WRITE_ITEMS).map(<[_]>::to_vec), |batch| self.write(batch)).await
    }

    async fn claim(&self, entries: &[String]) -> Result<Claims> {
        let claims = Mutex::new(Claims::default());
        self.requests.run(entries, |entry| self.claim_one(entry, &claims)).await?;
        Ok(claims.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    async fn release(&self, entries: &[String]) -> Result<()> {
        let (until, failed) = (self.clock.elapsed() + RELEASING, Mutex::new(None));
        let entries = entries.iter().map(String::as_str);
        self.requests.run(entries, |entry| self.release_one(entry, until, &failed)).await?;
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

fn is_claimed(item: &HashMap<String, AttributeValue>) -> bool {
    matches!(item.get(STATE), Some(AttributeValue::S(state)) if state == CLAIMED)
}
