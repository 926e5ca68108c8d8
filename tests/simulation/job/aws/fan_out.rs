//! Enhanced fan-out: consumers that are registered, and subscriptions that push the records of a shard.
//!
//! A subscription ends after a while, when another one of its consumer and shard begins, when the consumer is removed, or at the
//! end of the shard. Its connection breaks, or falls silent for ever, now and then, and where the machine is cut off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body_util::StreamBody;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Answer, FarAws, kinesis};
use crate::job::bug::Bug;
use crate::job::machine::Far;
use crate::job::sinks::Services;
use crate::stub_frames;

/// Time in which a consumer becomes active.
const REGISTERS_MS: u64 = 1_500;
/// Two subscriptions of one consumer and shard are so far apart, as with AWS, at least.
const APART_MS: u64 = 5_000;
/// A subscription lasts so long; with AWS, 5 minutes.
const LASTS_MS: u64 = 20_000;
/// An event comes at least this often.
const BEAT_MS: u64 = 5_000;
/// Records of an event.
const MOST: usize = 50;

/// All consumers, by name, and their subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    /// ARN, and when it became active.
    registered: BTreeMap<String, (String, u64)>,
    /// By consumer and shard: a number, and when it began.
    subscriptions: BTreeMap<(String, String), (u64, u64)>,
    numbers: u64,
}

impl Consumers {
    fn is_there(&self, arn: &str) -> bool {
        self.registered.values().any(|(known, _)| known == arn)
    }
}

/// Does what is asked; `None` where it is not of fan-out. The answer of a subscription says where it begins.
pub(super) fn answer(services: &Services, operation: &str, request: &Value, bug: Option<Bug>) -> Option<Answer> {
    let now_ms = services.nature.world.now_ms();
    let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
    let mut consumers = services.consumers.lock().expect("no panic while it is held");
    let described = |name: &str, (arn, active_ms): &(String, u64)| {
        json!({
            "ConsumerName": name,
            "ConsumerARN": arn,
            "ConsumerStatus": if *active_ms <= now_ms { "ACTIVE" } else { "CREATING" },
            "ConsumerCreationTimestamp": 0,
            "StreamARN": "arn:aws:kinesis:eu-west-1:123456789012:stream/s",
        })
    };
    let name = text("ConsumerName");
    Some(match operation {
        "DescribeStreamConsumer" => match consumers.registered.get(&name) {
            Some(found) => (200, json!({ "ConsumerDescription": described(&name, found) })).into(),
            None => Answer::refusal(400, "ResourceNotFoundException"),
        },
        "RegisterStreamConsumer" if consumers.registered.contains_key(&name) => {
            Answer::refusal(400, "ResourceInUseException")
        }
        "RegisterStreamConsumer" => {
            consumers.numbers += 1;
            let arn = format!("{}/consumer/{name}:{}", text("StreamARN"), consumers.numbers);
            let made = (arn, now_ms + REGISTERS_MS);
            let answer = json!({ "Consumer": described(&name, &made) });
            consumers.registered.insert(name, made);
            (200, answer).into()
        }
        "DeregisterStreamConsumer" => {
            let arn = text("ConsumerARN");
            match consumers.is_there(&arn) {
                true => {
                    consumers.registered.retain(|_, (known, _)| *known != arn);
                    (200, json!({})).into()
                }
                false => Answer::refusal(400, "ResourceNotFoundException"),
            }
        }
        "SubscribeToShard" => {
            let key = (text("ConsumerARN"), text("ShardId"));
            if !consumers.is_there(&key.0) {
                return Some(Answer::refusal(400, "ResourceNotFoundException"));
            }
            if consumers.subscriptions.get(&key).is_some_and(|(_, began_ms)| now_ms < began_ms + APART_MS) {
                return Some(Answer::refusal(400, "ResourceInUseException"));
            }
            let position = &request["StartingPosition"];
            let next = match position["Type"].as_str().expect("a type") {
                "TRIM_HORIZON" => 0,
                "AFTER_SEQUENCE_NUMBER" => {
                    let after: usize = position["SequenceNumber"].as_str().expect("one").parse().expect("a number");
                    after + 1 + usize::from(bug == Some(Bug::SkipsARecord))
                }
                other => panic!("a subscription of type {other} is not simulated"),
            };
            consumers.numbers += 1;
            let number = consumers.numbers;
            consumers.subscriptions.insert(key.clone(), (number, now_ms));
            (200, json!({ "consumer": key.0, "shard": key.1, "number": number, "next": next })).into()
        }
        _ => return None,
    })
}

/// What a connection gives.
type Given = Result<http_body::Frame<Bytes>, std::io::Error>;

/// What comes of a subscription that has begun as `answer` says.
pub(super) fn events(far: &FarAws, answer: &Answer) -> SdkBody {
    let begun: Value = serde_json::from_str(&answer.body).expect("JSON");
    let (sender, mut receiver) = mpsc::channel::<Given>(1);
    let text = |name: &str| begun[name].as_str().expect("text").to_owned();
    let subscription = Subscription {
        far: far.clone(),
        key: (text("consumer"), text("shard")),
        number: begun["number"].as_u64().expect("a number"),
        next: begun["next"].as_u64().expect("a number") as usize,
        sender,
    };
    tokio::spawn(subscription.push());
    let given = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
    SdkBody::from_body_1_x(StreamBody::new(given))
}

struct Subscription {
    far: FarAws,
    key: (String, String),
    number: u64,
    next: usize,
    sender: mpsc::Sender<Given>,
}

impl Subscription {
    /// Whether the other side still listens.
    async fn send(&self, bytes: Vec<u8>) -> bool {
        // What a machine that stands still is sent, it reads when it goes on.
        self.far.machine.goes().await;
        self.sender.send(Ok(http_body::Frame::data(bytes.into()))).await.is_ok()
    }

    /// Never comes back; whoever listens gives up.
    async fn falls_silent(&self) {
        self.far.machine.nature.lock().faults.count("silent connection");
        self.sender.closed().await;
    }

    async fn breaks(&self) {
        self.far.machine.nature.lock().faults.count("broken connection");
        let _ = self.sender.send(Err(std::io::Error::other("connection reset"))).await;
    }

    async fn push(mut self) {
        let (world, began_ms) = (Arc::clone(&self.far.machine.nature.world), self.far.machine.nature.world.now_ms());
        if !self.send(stub_frames::event("initial-response", &json!({}))).await {
            return;
        }
        let mut last_ms = began_ms;
        while world.now_ms() < began_ms + LASTS_MS && !self.sender.is_closed() {
            let nature = &self.far.machine.nature;
            let chance = if nature.is_calm() { 99 } else { nature.lock().chance.below(100) };
            match chance {
                _ if self.far.machine.is_cut(Far::Services) => {
                    return if chance % 2 == 0 { self.falls_silent().await } else { self.breaks().await };
                }
                0 => return self.falls_silent().await,
                1 => return self.breaks().await,
                _ => {}
            }
            let is_current = {
                let consumers = self.far.services.consumers.lock().expect("no panic while it is held");
                let is_there = consumers.is_there(&self.key.0);
                is_there.then(|| consumers.subscriptions.get(&self.key).is_some_and(|(n, _)| *n == self.number))
            };
            match is_current {
                Some(true) => {}
                // Another one has begun.
                Some(false) => return,
                None => {
                    let code = "ResourceNotFoundException";
                    let gone = stub_frames::exception(code, &json!({ "message": "it is gone" }));
                    self.send(gone).await;
                    return;
                }
            }
            let now_ms = world.now_ms();
            let shard = self.far.stream.shards.iter().find(|shard| shard.id == self.key.1).expect("a shard");
            let mut event = kinesis::records(&self.far.stream, shard, self.next, MOST, now_ms);
            let records = event["Records"].as_array().map_or(0, Vec::len);
            let ends = event["NextShardIterator"].is_null();
            if records == 0 && !ends && now_ms < last_ms + BEAT_MS {
                world.sleep(Duration::from_millis(100)).await;
                continue;
            }
            self.next += records;
            last_ms = now_ms;
            if !ends {
                event["ContinuationSequenceNumber"] = json!(self.next.saturating_sub(1).to_string());
            }
            event.as_object_mut().expect("an object").remove("NextShardIterator");
            nature.lock().faults.count_if(records > 0, "pushed");
            if !self.send(stub_frames::event("SubscribeToShardEvent", &event)).await || ends {
                return;
            }
        }
    }
}
