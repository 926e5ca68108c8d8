//! PublishBatch: batches of ten, of which only the failed entries are published again.
//!
//! At most once, a batch is claimed just before it is sent for the first time, and what is known not to be out when a flush ends, or is
//! dropped, is released (`claims`): so only what was on its way when a run ended is unknown to the next one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_sns::Client;
use aws_sdk_sns::types::PublishBatchRequestEntry;
use indexmap::IndexMap;
use sha2::{Digest, Sha256};

use crate::connectors::aws::{Attempt, Call, Requests, failure, partial};
use crate::contracts::{Error, RefusedRow, Result, hex};

use super::super::message::MAX_MESSAGE_BYTES;
use super::attributes::Attribute;
use super::claims::Held;
use super::ledger::Ledger;
use super::options::Delivery;

/// "PublishBatch": up to 10 messages, 256 KiB in all.
const BATCH_MESSAGES: usize = 10;
/// Messages that may be refused one after the other, of one epoch or several: beyond that it is not they that are wrong.
const MOST_REFUSED_IN_A_ROW: usize = 100;

/// Whether a call was refused for what is in it ("PublishBatch", errors): AWS does not say of which of them it refuses the message alone.
fn blames_a_message(code: &str) -> bool {
    matches!(
        code,
        "InvalidParameter"
            | "InvalidParameterValue"
            | "ValidationError"
            | "ValidationException"
            | "BatchRequestTooLong"
    )
}

/// A message that is ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) id: String,
    /// Other messages may have the id.
    pub(super) is_named: bool,
    /// Its entry in the ledger.
    pub(super) entry: String,
    pub(super) subject: Option<String>,
    pub(super) body: String,
    pub(super) attributes: Vec<Attribute>,
    /// FIFO topics only.
    pub(super) group: Option<String>,
}

impl Outgoing {
    /// What people call it.
    fn named(&self) -> String {
        format!("message {} of subject '{}'", self.id, self.subject.as_deref().unwrap_or(""))
    }

    /// The message as JSON, for people who have to do without it: the error output has nothing else of it.
    fn record(&self) -> Vec<u8> {
        let attribute = |attribute: &Attribute| (attribute.name.clone(), attribute.text().into());
        let attributes: serde_json::Map<String, serde_json::Value> = self.attributes.iter().map(attribute).collect();
        let record = serde_json::json!({
            "message_id": self.id, "subject": self.subject, "message": self.body, "attributes": attributes,
        });
        record.to_string().into_bytes()
    }

    /// 8 hex digits of SHA-256 over everything that a receiver sees.
    pub(super) fn content_hash(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(self.subject.as_deref().unwrap_or_default().as_bytes());
        part(self.body.as_bytes());
        for attribute in &self.attributes {
            part(attribute.name.as_bytes());
            part(attribute.value.data_type.as_bytes());
            part(attribute.value.string_value.as_deref().unwrap_or_default().as_bytes());
            part(attribute.value.binary_value.as_ref().map_or(&[][..], |binary| binary.as_ref()));
        }
        hex(&hash.finalize()[..4])
    }

    /// Bytes that count for SNS's limit.
    pub(super) fn bytes(&self) -> usize {
        self.body.len() + self.attributes.iter().map(Attribute::bytes).sum::<usize>()
    }
}

/// What calls of one flush share.
pub(super) struct Publishing<'a> {
    pub(super) client: &'a Client,
    pub(super) topic_arn: &'a str,
    pub(super) delivery: Delivery,
    pub(super) ledger: &'a Arc<dyn Ledger>,
    /// Messages that were refused since one was published, by any flush.
    refused_in_a_row: &'a AtomicUsize,
    refused: Mutex<Vec<RefusedRow>>,
    /// Entries that are claimed, or may be, and known not to be out.
    held: Held,
}

impl<'a> Publishing<'a> {
    pub(super) fn new(
        client: &'a Client,
        topic_arn: &'a str,
        delivery: Delivery,
        ledger: &'a Arc<dyn Ledger>,
        refused_in_a_row: &'a AtomicUsize,
    ) -> Self {
        let (refused, held) = (Mutex::default(), Held::new(Arc::clone(ledger)));
        Self { client, topic_arn, delivery, ledger, refused_in_a_row, refused, held }
    }

    /// Publishes all, those of a FIFO group in their order. Answers what could not be, or may not have been.
    pub(super) async fn run(self, requests: &Requests, messages: Vec<Outgoing>) -> Result<Vec<RefusedRow>> {
        let outcome = self.all(requests, messages).await;
        self.held.release().await;
        outcome.map(|()| self.refused.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    async fn all(&self, requests: &Requests, messages: Vec<Outgoing>) -> Result<()> {
        // A batch may fail in part, so of each group only one message is on its way.
        let mut groups: IndexMap<Option<String>, VecDeque<Outgoing>> = IndexMap::new();
        for (index, message) in messages.into_iter().enumerate() {
            // A standard topic has no order: each message is a group of its own.
            let group = message.group.clone().or_else(|| Some(index.to_string()));
            groups.entry(group).or_default().push_back(message);
        }
        while !groups.is_empty() {
            let round: Vec<Outgoing> = groups.values_mut().filter_map(VecDeque::pop_front).collect();
            groups.retain(|_, left| !left.is_empty());
            requests.run(batches(round), |batch| self.publish(batch)).await?;
        }
        Ok(())
    }

    /// What of a batch is ours to send. What another run has claimed is told of, unless it is marked.
    async fn claimed(&self, batch: Vec<Outgoing>) -> Result<Vec<Outgoing>> {
        let wanted: Vec<String> = batch.iter().map(|m| &m.entry).filter(|e| !self.held.has(e)).cloned().collect();
        self.held.add(&wanted);
        let claims = self.ledger.claim(&wanted).await?;
        self.held.remove(wanted.iter().filter(|entry| !claims.ours.contains(*entry)));
        for message in batch.iter().filter(|m| claims.unknown.contains(&m.entry)) {
            self.refuse(message, "delivery_unknown", "a run before has ended while it published it");
        }
        Ok(batch.into_iter().filter(|m| self.held.has(&m.entry)).collect())
    }

    /// These are claimed, and not out.
    fn hold<'m>(&self, messages: impl IntoIterator<Item = &'m Outgoing>) {
        if self.delivery == Delivery::AtMostOnce {
            self.held.add(messages.into_iter().map(|m| &m.entry));
        }
    }

    async fn publish(&self, mut batch: Vec<Outgoing>) -> Attempt<Vec<Outgoing>> {
        if self.delivery == Delivery::AtMostOnce {
            batch = match self.claimed(batch).await {
                Ok(batch) if batch.is_empty() => return Attempt::Done,
                Ok(batch) => batch,
                Err(e) => return Attempt::Failed(e),
            };
        }
        let entries = match batch.iter().enumerate().map(|(i, m)| entry(i, m)).collect::<Result<Vec<_>>>() {
            Ok(entries) => entries,
            Err(e) => return Attempt::Failed(e),
        };
        // From here on nobody knows, until there is an answer.
        self.held.remove(batch.iter().map(|m| &m.entry));
        let call = Call { service: "sns", operation: "PublishBatch", resource: self.topic_arn };
        let sent = self
            .client
            .publish_batch()
            .topic_arn(self.topic_arn)
            .set_publish_batch_request_entries(Some(entries))
            .send()
            .await;
        let output = match sent {
            Ok(output) => output,
            Err(e) => {
                let failure = failure(call, &e);
                if self.delivery == Delivery::AtMostOnce && failure.outcome_unknown && !failure.throttled {
                    batch.iter().for_each(|m| self.refuse(m, "delivery_unknown", failure.error.message()));
                    return Attempt::Done;
                }
                self.hold(&batch);
                return match batch.as_slice() {
                    _ if !blames_a_message(&failure.code) => Attempt::after(batch, failure),
                    [message] => {
                        let refused = self.refused_by_sns(&[(message, failure.error.message())], false);
                        refused.map_or_else(Attempt::Failed, |()| Attempt::Done)
                    }
                    _ => self.one_by_one(batch).await,
                };
            }
        };
        let total = batch.len();
        let (mut left, mut published, mut refused, mut throttled) = (Vec::new(), Vec::new(), Vec::new(), false);
        for (index, message) in batch.into_iter().enumerate() {
            let id = index.to_string();
            match output.failed().iter().find(|failed| failed.id() == id) {
                None => published.push(message.entry),
                Some(failed) => match partial(failed.code()) {
                    // Whose fault it is says nothing of whether it passes: throttling counts as the sender's.
                    (passes, slower) if passes || !failed.sender_fault() => {
                        throttled |= slower;
                        left.push(message);
                    }
                    _ => {
                        let text = format!("{} ({})", failed.message().unwrap_or("no reason given"), failed.code());
                        self.hold([&message]);
                        refused.push((message, text));
                    }
                },
            }
        }
        self.hold(&left);
        if !published.is_empty()
            && let Err(e) = self.ledger.mark(&published).await
        {
            return Attempt::Failed(e);
        }
        let told: Vec<(&Outgoing, &str)> = refused.iter().map(|(message, text)| (message, text.as_str())).collect();
        if let Err(e) = self.refused_by_sns(&told, !published.is_empty()) {
            return Attempt::Failed(e);
        }
        let parts = (left.len(), total);
        if left.is_empty() { Attempt::Done } else { Attempt::left_over(call, left, parts, throttled) }
    }

    /// Publishes each message by itself: one that is wrong may fail a whole call, and the answer does not say which.
    async fn one_by_one(&self, batch: Vec<Outgoing>) -> Attempt<Vec<Outgoing>> {
        let (total, mut left, mut last) = (batch.len(), Vec::new(), None);
        for message in batch {
            match Box::pin(self.publish(vec![message])).await {
                Attempt::Done => {}
                Attempt::Again { task, throttled, why, .. } => {
                    left.extend(task);
                    last = Some((throttled, why));
                }
                failed => return failed,
            }
        }
        match last {
            None => Attempt::Done,
            Some((throttled, why)) => Attempt::Again { progress: left.len() < total, task: left, throttled, why },
        }
    }

    /// Tells of what SNS does not take, beside what it `has_taken`.
    ///
    /// # Errors
    /// It takes nothing.
    fn refused_by_sns(&self, refused: &[(&Outgoing, &str)], has_taken: bool) -> Result<()> {
        let in_a_row = if has_taken {
            self.refused_in_a_row.store(0, Ordering::Relaxed);
            0
        } else {
            self.refused_in_a_row.fetch_add(refused.len(), Ordering::Relaxed) + refused.len()
        };
        for (message, text) in refused {
            self.refuse(message, "refused_by_sns", text);
        }
        let Some((message, text)) = refused.last().filter(|_| in_a_row > MOST_REFUSED_IN_A_ROW) else { return Ok(()) };
        let many = format!("more than {MOST_REFUSED_IN_A_ROW} messages one after the other, none published between");
        let what = message.named();
        Err(Error::data(format!("SNS topic '{}' refuses {many}: {text}: {what}", self.topic_arn)).hint(
            "something is wrong with the topic (its key, its policy, its kind) or the table's options, not with these messages",
        ))
    }

    fn refuse(&self, message: &Outgoing, reason: &str, text: &str) {
        let detail = format!("{text}: {}", message.named());
        let (reason, record) = (reason.to_owned(), Some(message.record()));
        let refused = RefusedRow { row: 0, reason, column: None, detail, record };
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).push(refused);
    }
}

fn entry(index: usize, message: &Outgoing) -> Result<PublishBatchRequestEntry> {
    let attributes = message.attributes.iter().map(|a| (a.name.clone(), a.value.clone())).collect();
    PublishBatchRequestEntry::builder()
        .id(index.to_string())
        .message(&message.body)
        .set_subject(message.subject.clone())
        .set_message_attributes(Some(attributes))
        .set_message_deduplication_id(message.group.as_ref().map(|_| message.id.clone()))
        .set_message_group_id(message.group.clone())
        .build()
        .map_err(|e| Error::internal("a message without its text").caused_by(e))
}

/// Cuts messages into batches that one call takes.
fn batches(messages: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let (mut batches, mut bytes): (Vec<Vec<Outgoing>>, usize) = (Vec::new(), 0);
    for message in messages {
        let length = message.bytes();
        bytes += length;
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_MESSAGES && bytes <= MAX_MESSAGE_BYTES => batch.push(message),
            _ => {
                bytes = length;
                batches.push(vec![message]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_both_limits() {
        let message = |bytes: usize| Outgoing {
            id: String::new(),
            is_named: false,
            entry: String::new(),
            subject: None,
            body: "x".repeat(bytes),
            attributes: Vec::new(),
            group: None,
        };
        let sizes = |bytes: &[usize]| {
            batches(bytes.iter().map(|b| message(*b)).collect()).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[1; 21]), [10, 10, 1]);
        assert_eq!(sizes(&[100_000, 100_000, 100_000, 200_000]), [2, 1, 1]);
        assert_eq!(sizes(&[MAX_MESSAGE_BYTES, 1]), [1, 1]);
    }
}
