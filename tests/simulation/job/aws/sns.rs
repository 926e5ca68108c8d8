//! SNS: topics that take batches of messages. One of FIFO shows a message of an id once in five minutes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::Answer;
use crate::job::sinks::{Row, Services};

/// "FIFO topics": copies that come within the deduplication interval are accepted and not delivered.
const DEDUPLICATES: Duration = Duration::from_secs(300);

/// A request of the Query protocol: names and values.
pub(super) type Form = BTreeMap<String, String>;

/// Parses `Action=PublishBatch&TopicArn=…`.
pub(super) fn form(body: &[u8]) -> Form {
    let text = |part: &str| {
        let (mut bytes, mut rest) = (Vec::new(), part.bytes());
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'+' => b' ',
                b'%' => {
                    let digits = [rest.next().expect("two digits"), rest.next().expect("two digits")];
                    let digits = std::str::from_utf8(&digits).expect("digits").to_owned();
                    u8::from_str_radix(&digits, 16).expect("hex digits")
                }
                other => other,
            });
        }
        String::from_utf8(bytes).expect("UTF-8")
    };
    let body = std::str::from_utf8(body).expect("UTF-8");
    body.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (text(name), text(value))).collect()
}

/// A message of a batch.
struct Message {
    /// Within the batch.
    entry: String,
    /// That of the alert.
    id: String,
    deduplication: Option<String>,
    row: Row,
}

/// The messages of a PublishBatch.
fn messages(form: &Form) -> Vec<Message> {
    let member = |index: usize, name: &str| form.get(&format!("PublishBatchRequestEntries.member.{index}.{name}"));
    let message = |index: usize| {
        let entry = member(index, "Id")?.clone();
        let attribute = |at: usize, name: &str| member(index, &format!("MessageAttributes.entry.{at}.{name}"));
        let id = (1..).map_while(|at| Some((attribute(at, "Name")?, attribute(at, "Value.StringValue"))));
        let id = id.into_iter().find(|(name, _)| *name == "alert_id").and_then(|(_, id)| id).expect("an id").clone();
        let body: BTreeMap<String, Value> = serde_json::from_str(member(index, "Message")?).expect("a JSON object");
        let text = |value: Value| match value {
            Value::String(text) => text,
            Value::Null => "NULL".to_owned(),
            other => other.to_string(),
        };
        let row = body.into_iter().map(|(name, value)| (name, text(value))).collect();
        Some(Message { entry, id, deduplication: member(index, "MessageDeduplicationId").cloned(), row })
    };
    (1..).map_while(message).collect()
}

/// Ids of the alerts that are published.
pub(super) fn ids(form: &Form) -> Vec<String> {
    messages(form).into_iter().map(|message| message.id).collect()
}

/// Who publishes.
pub(super) struct Sender<'a> {
    /// When it last looked into the ledger for an alert.
    pub(super) asked: &'a BTreeMap<String, Duration>,
    /// Its request's.
    pub(super) number: u64,
    /// Whether it gives messages other ids each time, which is a fault.
    pub(super) renames: bool,
}

/// Does what is asked. With `leaves_over`, one of a batch fails.
pub(super) fn answer(services: &Services, form: &Form, leaves_over: bool, sender: &Sender<'_>) -> Answer {
    let action = form["Action"].as_str();
    let xml = |content: String| Answer {
        status: 200,
        body: format!("<{action}Response><{action}Result>{content}</{action}Result></{action}Response>"),
    };
    match action {
        "ListTopics" => {
            let topic =
                |name: &str| format!("<member><TopicArn>arn:aws:sns:eu-west-1:123456789012:{name}</TopicArn></member>");
            xml(format!("<Topics>{}{}</Topics>", topic("alerts"), topic("alerts.fifo")))
        }
        "PublishBatch" => {
            let messages = messages(form);
            let failing = (leaves_over && messages.len() > 1).then(|| messages.len() - 1);
            let (mut done, mut failed) = (String::new(), String::new());
            for (index, Message { entry, id, deduplication, row }) in messages.into_iter().enumerate() {
                if failing == Some(index) {
                    failed += &format!(
                        "<member><Id>{entry}</Id><Code>InternalError</Code><SenderFault>false</SenderFault></member>"
                    );
                    continue;
                }
                let known = deduplication.map(|id| if sender.renames { format!("{id}-{}", sender.number) } else { id });
                let known = known.map(|id| (id, DEDUPLICATES));
                services.published(&id, known, row, (sender.asked.get(&id).copied(), sender.number));
                done += &format!("<member><Id>{entry}</Id><MessageId>m</MessageId></member>");
            }
            xml(format!("<Successful>{done}</Successful><Failed>{failed}</Failed>"))
        }
        other => panic!("{other} is not simulated"),
    }
}

/// With which SNS refuses.
pub(super) fn refusal(status: u16, code: &str) -> Answer {
    let error = format!("<Error><Type>Sender</Type><Code>{code}</Code><Message>{code}</Message></Error>");
    Answer { status, body: format!("<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>") }
}
