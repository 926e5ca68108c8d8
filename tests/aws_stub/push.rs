//! SubscribeToShard: events in frames.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::kinesis::StubRecord;
use super::ops::{children_json, record_json, start};
use super::{Fault, State, frames};
use crate::http::{Part, Reply, now_ms};

/// Records in an event, and their bytes: as much as a consumer is given of a shard in a second.
const MOST: usize = 100;
const MOST_BYTES: usize = 2 << 20;
/// Between two looks for records.
const LOOK: Duration = Duration::from_millis(10);

fn event(name: &str, payload: &Value) -> Part {
    Part::Bytes(frames::event(name, payload))
}

pub(super) fn subscribe(shared: &Arc<Mutex<State>>, now_ms: i64, input: &Value) -> Reply {
    let mut state = shared.lock().unwrap();
    let consumer = input["ConsumerARN"].as_str().unwrap_or("").to_owned();
    let shard = input["ShardId"].as_str().unwrap_or("").to_owned();
    let found =
        state.streams.values().find(|s| s.consumers.iter().any(|c| c.arn == consumer && c.deleting_until.is_none()));
    let Some(stream) = found.map(|s| s.name.clone()) else {
        return Reply::error(400, "ResourceNotFoundException", "Consumer not found");
    };
    let key = (consumer, shard.clone());
    let subscriptions = &state.streams[&stream].subscriptions;
    if subscriptions.get(&key).is_some_and(|(_, began)| began.elapsed() < state.subscription_gap) {
        return Reply::error(400, "ResourceInUseException", "Another active subscription exists for this consumer");
    }
    let position = &input["StartingPosition"];
    let time = position["Timestamp"].as_f64().map(|s| (s * 1_000.0).round() as i64);
    let at = (position["Type"].as_str().unwrap_or(""), position["SequenceNumber"].as_str(), time);
    let index = match start(&mut state, now_ms, &stream, &shard, at) {
        Ok(index) => index,
        Err(reply) => return reply,
    };
    let subscriptions = &mut state.streams.get_mut(&stream).unwrap().subscriptions;
    let number = subscriptions.get(&key).map_or(1, |(n, _)| n + 1);
    // A second one ends the first.
    subscriptions.insert(key.clone(), (number, Instant::now()));
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(push(Arc::clone(shared), stream, key, number, index, sender));
    Reply::Stream(receiver)
}

/// What an event holds; `true` ends the subscription.
fn next_event(state: &mut State, stream: &str, shard: &str, index: &mut usize, beat: bool) -> Option<(Value, bool)> {
    let hides = state.hides_children;
    let s = state.streams.get_mut(stream)?;
    let known = s.shards.get(shard)?;
    *index = (*index).max(known.trimmed);
    let records = &known.records[(*index).min(known.records.len())..];
    let mut bytes = 0;
    let fits = |record: &&StubRecord| {
        let first = bytes == 0;
        bytes += record.data.len();
        first || bytes <= MOST_BYTES
    };
    let records: Vec<&StubRecord> = records.iter().take(MOST).take_while(fits).collect();
    let taken: Vec<Value> = records.iter().map(|record| record_json(record)).collect();
    let last = records.last().map(|r| r.sequence.clone());
    let ended = known.closed.is_some() && *index + taken.len() >= known.records.len();
    if taken.is_empty() && !ended && !beat {
        return None;
    }
    *index += taken.len();
    let behind = known.records.get(*index).map_or(0, |next| (now_ms() - next.arrival_ms).max(1));
    let fallback = known.records.get(index.wrapping_sub(1)).map(|r| r.sequence.clone());
    let continuation = last.or(fallback).unwrap_or_else(|| known.first_sequence.clone());
    let mut event = json!({ "Records": taken, "MillisBehindLatest": behind });
    if ended {
        if !hides {
            event["ChildShards"] = children_json(s, shard);
        }
    } else {
        event["ContinuationSequenceNumber"] = json!(continuation);
    }
    Some((event, ended))
}

async fn push(
    shared: Arc<Mutex<State>>,
    stream: String,
    key: (String, String),
    number: u64,
    mut index: usize,
    sender: mpsc::Sender<Part>,
) {
    let began = Instant::now();
    let (ends, beat) = {
        let state = shared.lock().unwrap();
        (state.subscription, state.heartbeat)
    };
    let mut last = Instant::now();
    let begins = shared.lock().unwrap().fault("initial-response");
    if matches!(begins, Some(Fault::Silence)) {
        sender.closed().await;
        return;
    }
    if sender.send(event("initial-response", &json!({}))).await.is_err() {
        return;
    }
    while began.elapsed() < ends {
        let (fault, next) = {
            let mut state = shared.lock().unwrap();
            let current = state.streams.get(&stream).and_then(|s| s.subscriptions.get(&key)).map(|s| s.0);
            if current != Some(number) {
                break;
            }
            let consumers = state.streams.get(&stream).map(|s| s.consumers.as_slice()).unwrap_or_default();
            if consumers.iter().any(|c| c.arn == key.0 && c.deleting_until.is_none()) {
                let next = next_event(&mut state, &stream, &key.1, &mut index, last.elapsed() >= beat);
                (if next.is_some() { state.fault("event") } else { None }, next)
            } else {
                (Some(Fault::Exception("ResourceNotFoundException")), None)
            }
        };
        match fault {
            Some(Fault::Exception(code)) => {
                let exception = frames::exception(code, &json!({ "message": "as the test asked" }));
                let _ = sender.send(Part::Bytes(exception)).await;
                break;
            }
            Some(Fault::BadFrame) => {
                let mut broken = frames::event("SubscribeToShardEvent", &json!({ "Records": [] }));
                let middle = broken.len() / 2;
                broken[middle] ^= 0xff;
                let _ = sender.send(Part::Bytes(broken)).await;
                break;
            }
            Some(Fault::Stall) => {
                let whole = frames::event("SubscribeToShardEvent", &json!({ "Records": [] }));
                let _ = sender.send(Part::Bytes(whole[..whole.len() / 2].to_vec())).await;
                sender.closed().await;
                break;
            }
            Some(Fault::Silence) => {
                sender.closed().await;
                break;
            }
            Some(_) => {
                let _ = sender.send(Part::Cut).await;
                break;
            }
            None => {}
        }
        let Some((payload, ended)) = next else {
            if sender.is_closed() {
                break;
            }
            pause().await;
            continue;
        };
        last = Instant::now();
        if sender.send(event("SubscribeToShardEvent", &payload)).await.is_err() || ended {
            break;
        }
    }
}

async fn pause() {
    tokio::time::sleep(LOOK).await;
}
