//! SNS in memory, in its Query protocol.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A message that a topic has got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) subject: Option<String>,
    pub(crate) message: String,
    /// Type and value.
    pub(crate) attributes: BTreeMap<String, (String, String)>,
    pub(crate) group: Option<String>,
    pub(crate) deduplication: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Topics {
    pub(crate) published: Mutex<Vec<Published>>,
    /// Sizes of the batches.
    pub(crate) batches: Mutex<Vec<usize>>,
    /// The service's own time, which the test sets.
    pub(crate) seconds: AtomicU64,
    /// Of FIFO topics: when each deduplication id was taken.
    known: Mutex<BTreeMap<(String, String), u64>>,
    /// Code of the entries that fail, and whether the sender is to blame; none is `InternalError`, and the service is.
    pub(crate) failing: Mutex<Option<(&'static str, bool)>>,
    /// Every entry fails.
    pub(crate) fails_all: AtomicBool,
    /// A call with a message of this text is refused as a whole.
    pub(crate) refused_text: Mutex<Option<&'static str>>,
}

/// How long a FIFO topic knows a deduplication id.
/// Source: Amazon SNS Developer Guide, "Message deduplication for FIFO topics".
const DEDUPLICATION_SECONDS: u64 = 5 * 60;

const NAMESPACE: &str = "http://sns.amazonaws.com/doc/2010-03-31/";
pub(crate) const ARN: &str = "arn:aws:sns:eu-west-1:000000000000:";

/// An answer with a result element.
fn result(action: &str, inner: &str) -> (u16, String) {
    let text = format!(
        "<{action}Response xmlns=\"{NAMESPACE}\"><{action}Result>{inner}</{action}Result><ResponseMetadata><RequestId>stub</RequestId></ResponseMetadata></{action}Response>"
    );
    (200, text)
}

pub(crate) fn error(status: u16, code: &str) -> (u16, String) {
    let text = format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>Sender</Type><Code>{code}</Code><Message>scripted</Message></Error><RequestId>stub</RequestId></ErrorResponse>"
    );
    (status, text)
}

/// `a=1&b=x%20y` by name.
pub(crate) fn form(body: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(body);
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (unescape(name), unescape(value))).collect()
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::new(), 0);
    while i < bytes.len() {
        match bytes[i] {
            b'+' => out.push(b' '),
            b'%' => {
                out.push(u8::from_str_radix(&text[i + 1..i + 3], 16).unwrap());
                i += 2;
            }
            byte => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8(out).unwrap()
}

impl Topics {
    /// Performs an action. `fails` says of each entry, by its place, whether it fails for a while.
    pub(crate) fn perform(&self, form: &BTreeMap<String, String>, fails: impl Fn(usize) -> bool) -> (u16, String) {
        match form["Action"].as_str() {
            "GetTopicAttributes" => result("GetTopicAttributes", "<Attributes/>"),
            "ListTopics" => {
                // Two pages, so that the reader must ask again.
                let (topic, token) = match form.get("NextToken") {
                    None => (format!("{ARN}other-alerts"), "<NextToken>more</NextToken>"),
                    Some(_) => (format!("{ARN}alerts"), ""),
                };
                let member = |arn: String| format!("<member><TopicArn>{arn}</TopicArn></member>");
                let members = member(topic) + &member(format!("{ARN}analytics-alerts"));
                let topics = format!("<Topics>{members}</Topics>{token}");
                result("ListTopics", &topics)
            }
            "PublishBatch" => self.publish(form, fails),
            other => panic!("the stub has no '{other}'"),
        }
    }

    fn is_known(&self, topic: &str, id: Option<&str>) -> bool {
        let (true, Some(id)) = (topic.ends_with(".fifo"), id) else { return false };
        let (now, mut known) = (self.seconds.load(Ordering::SeqCst), self.known.lock().unwrap());
        let key = (topic.to_owned(), id.to_owned());
        if known.get(&key).is_some_and(|taken| now < taken + DEDUPLICATION_SECONDS) {
            return true;
        }
        known.insert(key, now);
        false
    }

    fn publish(&self, form: &BTreeMap<String, String>, fails: impl Fn(usize) -> bool) -> (u16, String) {
        let refused_text = *self.refused_text.lock().unwrap();
        let is_refused =
            |(key, value): (&String, &String)| key.ends_with(".Message") && Some(value.as_str()) == refused_text;
        if form.iter().any(is_refused) {
            return error(400, "InvalidParameter");
        }
        let (mut done, mut failed) = (String::new(), String::new());
        let mut count = 0;
        loop {
            let prefix = format!("PublishBatchRequestEntries.member.{}.", count + 1);
            let get = |name: &str| form.get(&format!("{prefix}{name}")).cloned();
            let Some(id) = get("Id") else { break };
            if fails(count) || self.fails_all.load(Ordering::SeqCst) {
                let (code, sender) = self.failing.lock().unwrap().unwrap_or(("InternalError", false));
                failed.push_str(&format!(
                    "<member><Id>{id}</Id><Code>{code}</Code><Message>scripted</Message><SenderFault>{sender}</SenderFault></member>"
                ));
            } else {
                let mut message = Published {
                    subject: get("Subject"),
                    message: get("Message").unwrap(),
                    group: get("MessageGroupId"),
                    deduplication: get("MessageDeduplicationId"),
                    ..Published::default()
                };
                for i in 1.. {
                    let at = |name: &str| get(&format!("MessageAttributes.entry.{i}.{name}"));
                    let Some(name) = at("Name") else { break };
                    let value = at("Value.StringValue").or(at("Value.BinaryValue")).unwrap();
                    message.attributes.insert(name, (at("Value.DataType").unwrap(), value));
                }
                // A second one is taken as if it were new, and goes nowhere.
                if !self.is_known(&form["TopicArn"], message.deduplication.as_deref()) {
                    self.published.lock().unwrap().push(message);
                }
                done.push_str(&format!("<member><Id>{id}</Id><MessageId>m</MessageId></member>"));
            }
            count += 1;
        }
        assert!((1..=10).contains(&count), "{count} messages in a batch");
        self.batches.lock().unwrap().push(count);
        result("PublishBatch", &format!("<Successful>{done}</Successful><Failed>{failed}</Failed>"))
    }
}
