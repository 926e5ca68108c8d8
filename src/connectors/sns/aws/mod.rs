//! SNS on AWS.
//!
//! ```text
//!  write   rows ─► messages with their ids and attributes     refused rows are answered here
//!  flush   ─► cooldown ─► ledger ─► PublishBatch ─► ledger
//! ```
//!
//! What is promised: a FIFO topic has each alert once (it deduplicates on the id for 5 minutes; a ledger covers what is
//! older); a standard topic at least once, and twice only where a reply was lost or a kill fell between publish and
//! mark; or, by option, at most once, and what may be lost is told of. The id is in the attribute `alert_id`, so that a receiver can tell.

mod attributes;
mod claims;
mod cooldown;
mod ledger;
mod options;
mod publish;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampMillisecondType};
use async_trait::async_trait;
use aws_sdk_sns::Client;

use crate::connectors::JobContext;
use crate::connectors::aws::{AwsSession, Call, Jitter, Requests, failure};
use crate::connectors::options::parse_timestamp_ms;
use crate::contracts::{
    Changes, Clock, Committable, EpochNumber, Error, RefusedRow, Result, Sink, TableSpec, WriteOutcome,
};
use crate::formats::write_json::{JsonColumn, JsonStyle};

use super::message::{ALERT_ID, MAX_MESSAGE_BYTES, Message, Messages, text_at, text_column, topic_name};
use attributes::{Attribute, AttributeColumns};
use cooldown::{Cooldown, Suppressed};
use ledger::{Ledger, NoLedger, TableLedger};
use options::{Delivery, GROUPS, Group, SinkOptions, is_group};
use publish::{Outgoing, Publishing};

/// A message that waits for its flush, with what the cooldown asks for.
struct Waiting {
    message: Outgoing,
    cooldown_key: Option<String>,
    at_ms: Option<i64>,
}

/// What is there once the sink is open.
struct Opened {
    client: Client,
    topic_arn: String,
    ledger: Arc<dyn Ledger>,
    /// Messages that were refused since one was published.
    refused_in_a_row: AtomicUsize,
}

/// Publishes one INSERT's rows.
pub(super) struct AwsTopicSink {
    session: AwsSession,
    options: SinkOptions,
    table: String,
    messages: Messages,
    clock: Arc<dyn Clock>,
    requests: Requests,
    job: JobContext,
    opened: Option<Opened>,
    cooldown: Option<Cooldown>,
    waiting: Vec<Waiting>,
}

impl AwsTopicSink {
    /// Checks the options; nothing is asked of the network yet.
    pub(super) fn try_new(
        spec: &TableSpec,
        session: AwsSession,
        clock: Arc<dyn Clock>,
        job: &JobContext,
    ) -> Result<Self> {
        let options = SinkOptions::of(spec)?;
        let requests = Self::requests(&clock, &job.job, &spec.name, &options);
        Ok(Self {
            session,
            table: spec.name.clone(),
            messages: Messages::try_new(spec, &job.job)?,
            clock,
            requests,
            job: job.clone(),
            opened: None,
            cooldown: options.cooldown.as_ref().map(Cooldown::new),
            waiting: Vec::new(),
            options,
        })
    }

    /// A name that no other sink ever has, in this process or another.
    fn claimant(&self) -> String {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let (JobContext { job, generation }, process) = (&self.job, std::process::id());
        format!("{job}/{generation}/{}/{process}/{}", self.clock.now_ms(), OPENED.fetch_add(1, Ordering::Relaxed))
    }

    fn requests(clock: &Arc<dyn Clock>, job: &str, table: &str, options: &SinkOptions) -> Requests {
        Requests::new(Arc::clone(clock), Jitter::seeded(&[job, table, &options.topic]), options.in_flight)
    }

    /// The messages of rows, and the rows that cannot be one.
    fn outgoing(&self, changes: &Changes) -> Result<(Vec<Waiting>, Vec<RefusedRow>)> {
        let batch = &changes.batch;
        let (messages, mut refused) = self.messages.of(changes)?;
        let attributes = match batch.column_by_name("message") {
            Some(_) => AttributeColumns::try_new(batch, &["subject", "message", ALERT_ID])?,
            None => AttributeColumns::try_new(&batch.project(&[])?, &[])?,
        };
        let named_ids = text_column(batch, ALERT_ID)?;
        let groups = match &self.options.fifo {
            Some(Group::Column(name)) => text_column(batch, name)?,
            _ => None,
        };
        let cooldown = self.options.cooldown.as_ref();
        let keys = cooldown.map(|c| KeyColumns::try_new(batch, &c.key)).transpose()?;
        let times = cooldown.and_then(|c| c.time.as_ref()).and_then(|name| batch.column_by_name(name));
        let times = times.map(alert_times).transpose()?;
        let mut waiting = Vec::with_capacity(messages.len());
        for Message { row, id, is_named, subject, body } in messages {
            let mut attributes = attributes.of(row)?;
            let alert_id = text_at(named_ids.as_ref(), row).filter(|named| !named.is_empty()).unwrap_or(&id);
            attributes.extend(Attribute::of_text(ALERT_ID, "String", alert_id)?);
            let group = match &self.options.fifo {
                None => None,
                Some(Group::Constant(group)) => Some(group.clone()),
                Some(Group::Column(name)) => match text_at(groups.as_ref(), row).filter(|g| is_group(g)) {
                    Some(group) => Some(group.to_owned()),
                    None => {
                        let detail = GROUPS.to_owned();
                        let column = Some(name.clone());
                        refused.push(RefusedRow {
                            row,
                            reason: "bad_message_group".to_owned(),
                            column,
                            detail,
                            record: None,
                        });
                        continue;
                    }
                },
            };
            let message = Outgoing { id, is_named, entry: String::new(), subject, body, attributes, group };
            let bytes = message.bytes();
            if bytes > MAX_MESSAGE_BYTES {
                let detail = format!("message and attributes of {bytes} bytes, at most {MAX_MESSAGE_BYTES}");
                refused.push(RefusedRow {
                    row,
                    reason: "message_too_large".to_owned(),
                    column: None,
                    detail,
                    record: None,
                });
                continue;
            }
            let at_ms = times.as_ref().and_then(|times| alert_time(times, row));
            waiting.push(Waiting { message, cooldown_key: keys.as_ref().map(|keys| keys.text(row)), at_ms });
        }
        Ok((waiting, refused))
    }

    /// What is left of the waiting messages by the cooldown, and its summaries.
    fn admitted(&mut self, now_ms: i64, last: bool) -> Result<Vec<Outgoing>> {
        let waiting = std::mem::take(&mut self.waiting);
        let by_column = self.options.cooldown.as_ref().is_some_and(|c| c.time.is_some());
        let Some(cooldown) = &mut self.cooldown else { return Ok(waiting.into_iter().map(|w| w.message).collect()) };
        let mut admitted = Vec::with_capacity(waiting.len());
        for Waiting { message, cooldown_key, at_ms } in waiting {
            if cooldown.admits(cooldown_key.as_deref().unwrap_or_default(), at_ms.unwrap_or(now_ms)) {
                admitted.push(message);
            }
        }
        for suppressed in cooldown.summaries((!by_column).then_some(now_ms), last) {
            admitted.push(self.summary(&suppressed)?);
        }
        Ok(admitted)
    }

    fn summary(&self, suppressed: &Suppressed) -> Result<Outgoing> {
        let Suppressed { key, since_ms, count } = suppressed;
        let body = serde_json::json!({ "suppressed": count, "since_ms": since_ms, "key": key }).to_string();
        let id = self.messages.id(body.as_bytes());
        let attributes = [("suppressed", "Number", count.to_string()), (ALERT_ID, "String", id.clone())];
        let attributes = attributes.into_iter().map(|(name, kind, text)| Attribute::of_text(name, kind, text));
        let group = match &self.options.fifo {
            Some(Group::Constant(group)) => Some(group.clone()),
            Some(Group::Column(_)) => Some(self.table.clone()),
            None => None,
        };
        let subject = Some(format!("{count} alerts were suppressed"));
        let attributes = attributes.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        Ok(Outgoing { id, is_named: false, entry: String::new(), subject, body, attributes, group })
    }

    async fn publish(&mut self, epoch: EpochNumber, now_ms: i64, last: bool) -> Result<WriteOutcome> {
        let mut messages = self.admitted(now_ms, last)?;
        if messages.is_empty() {
            return Ok(WriteOutcome::default());
        }
        number_equal_ones(&mut messages, epoch);
        let opened = self.opened.as_ref().ok_or_else(|| Error::internal("the sink was not opened"))?;
        if self.options.delivery == Delivery::AtLeastOnce {
            let entries: Vec<String> = messages.iter().map(|m| m.entry.clone()).collect();
            let marked = opened.ledger.marked(&entries).await?;
            messages.retain(|m| !marked.contains(&m.entry));
        }
        let Opened { client, topic_arn, ledger, refused_in_a_row } = opened;
        let delivery = self.options.delivery;
        let publishing = Publishing::new(client, topic_arn, delivery, ledger, refused_in_a_row);
        Ok(WriteOutcome { written: 0, refused: publishing.run(&self.requests, messages).await? })
    }
}

/// Names the publications of an epoch: equal messages are numbered. Messages of one id that a column gives need not be equal, and those of another INSERT
/// are not seen here: what they hold is in the name.
fn number_equal_ones(messages: &mut [Outgoing], epoch: EpochNumber) {
    let mut seen: HashMap<String, u32> = HashMap::new();
    for message in messages {
        let name = match message.is_named {
            true => format!("{}/{epoch}/{}", message.id, message.content_hash()),
            false => format!("{}/{epoch}", message.id),
        };
        let count = seen.entry(name.clone()).or_default();
        message.entry = format!("{name}/{count}");
        *count += 1;
    }
}

/// Columns that make a key.
struct KeyColumns(Vec<JsonColumn>);

impl KeyColumns {
    fn try_new(batch: &RecordBatch, names: &[String]) -> Result<Self> {
        let columns = names.iter().filter_map(|name| batch.column_by_name(name));
        Ok(Self(columns.map(JsonColumn::try_new).collect::<Result<_>>()?))
    }

    fn text(&self, row: usize) -> String {
        let mut out = Vec::new();
        for column in &self.0 {
            if !out.is_empty() {
                out.push(b',');
            }
            column.write_value(row, JsonStyle::MESSAGE, &mut out);
        }
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// Times of alerts: timestamps become milliseconds, texts stay.
fn alert_times(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64 => {
            cast(column, &DataType::Timestamp(TimeUnit::Millisecond, None))?
        }
        _ => cast(column, &DataType::Utf8)?,
    })
}

/// `None` where there is none or it cannot be read: then the epoch's time counts.
fn alert_time(times: &ArrayRef, row: usize) -> Option<i64> {
    if times.is_null(row) {
        return None;
    }
    match times.as_primitive_opt::<TimestampMillisecondType>() {
        Some(milliseconds) => Some(milliseconds.value(row)),
        None => parse_timestamp_ms(times.as_string::<i32>().value(row)).ok(),
    }
}

/// The topic's ARN: a name is looked for among the topics.
async fn find_topic(client: &Client, requests: &Requests, topic: &str, table: &str) -> Result<String> {
    if topic.starts_with("arn:") {
        let call = Call { service: "sns", operation: "GetTopicAttributes", resource: topic };
        let ask =
            || async { client.get_topic_attributes().topic_arn(topic).send().await.map_err(|e| failure(call, &e)) };
        return requests.once(ask).await.map(|_| topic.to_owned());
    }
    let name = topic_name(topic, table)?;
    let call = Call { service: "sns", operation: "ListTopics", resource: topic };
    let mut next: Option<String> = None;
    loop {
        let page = &next;
        let list =
            || async { client.list_topics().set_next_token(page.clone()).send().await.map_err(|e| failure(call, &e)) };
        let output = requests.once(list).await?;
        let arns = output.topics().iter().filter_map(|t| t.topic_arn());
        if let Some(arn) = arns.into_iter().find(|arn| arn.rsplit(':').next() == Some(name)) {
            return Ok(arn.to_owned());
        }
        next = output.next_token;
        if next.is_none() {
            return Err(Error::config(format!("there is no SNS topic '{name}' (table '{table}')")).hint(
                "check its name, the region and the account, make it with `tidemill provision`, or give its ARN",
            ));
        }
    }
}

#[async_trait]
impl Sink for AwsTopicSink {
    async fn open(&mut self) -> Result<()> {
        let config = self.session.config_without_retries().await?;
        let client = Client::new(&config);
        let topic_arn = find_topic(&client, &self.requests, &self.options.topic, &self.table).await?;
        let ledger: Arc<dyn Ledger> = match &self.options.ledger {
            None => Arc::new(NoLedger),
            Some(table) => {
                let dynamodb = aws_sdk_dynamodb::Client::new(&config);
                let requests = Self::requests(&self.clock, &self.job.job, table, &self.options);
                let owner = self.claimant();
                let (ttl, clock) = (self.options.ledger_ttl, Arc::clone(&self.clock));
                Arc::new(TableLedger::open(dynamodb, table, owner, ttl, clock, requests).await?)
            }
        };
        self.opened = Some(Opened { client, topic_arn, ledger, refused_in_a_row: AtomicUsize::new(0) });
        Ok(())
    }

    async fn write(&mut self, _epoch: EpochNumber, changes: Changes) -> Result<WriteOutcome> {
        let (waiting, refused) = self.outgoing(&changes)?;
        let written = waiting.len() as u64;
        self.waiting.extend(waiting);
        Ok(WriteOutcome { written, refused })
    }

    async fn flush(&mut self, epoch: EpochNumber, now_ms: i64) -> Result<WriteOutcome> {
        self.publish(epoch, now_ms, false).await
    }

    async fn finish(&mut self, epoch: EpochNumber) -> Result<Vec<Committable>> {
        // Cooldowns end with the run: what they hold back is told now.
        let outcome = self.publish(epoch, 0, true).await?;
        for row in outcome.refused {
            // Of summaries there is no row that could go to the error output.
            tracing::warn!(reason = row.reason, "{}", row.detail);
        }
        Ok(Vec::new())
    }
}
