//! The operations.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::State;
use super::kinesis::{StubConsumer, StubRecord, StubShard, StubStream};
use super::push;
use crate::http::Reply;

type Answer = Result<Value, Reply>;

const LARGEST_ANSWER: usize = 10 << 20;
const LARGEST_RECORD: usize = 1 << 20;

fn refuse(code: &str, message: impl std::fmt::Display) -> Reply {
    Reply::error(400, code, &message.to_string())
}

fn invalid(message: impl std::fmt::Display) -> Reply {
    refuse("InvalidArgumentException", message)
}

fn not_found(what: impl std::fmt::Display) -> Reply {
    refuse("ResourceNotFoundException", what)
}

pub(super) fn seconds(ms: i64) -> Value {
    json!(ms as f64 / 1_000.0)
}

fn millis(value: &Value) -> Option<i64> {
    value.as_f64().map(|s| (s * 1_000.0).round() as i64)
}

pub(super) fn answer(shared: &Arc<Mutex<State>>, now_ms: i64, operation: &str, input: &Value) -> Reply {
    if operation == "SubscribeToShard" {
        return push::subscribe(shared, now_ms, input);
    }
    let mut state = shared.lock().unwrap();
    let result = match operation {
        "DescribeStreamSummary" => summary(&mut state, input),
        "ListStreams" => list_streams(&state),
        "ListShards" => list_shards(&mut state, input),
        "GetShardIterator" => iterator(&mut state, now_ms, input),
        "GetRecords" => records(&mut state, now_ms, input),
        "PutRecords" => put_records(&mut state, now_ms, input),
        "SplitShard" => split(&mut state, now_ms, input),
        "MergeShards" => merge(&mut state, now_ms, input),
        "RegisterStreamConsumer" => register(&mut state, now_ms, input),
        "DescribeStreamConsumer" => describe_consumer(&mut state, input),
        "DeregisterStreamConsumer" => deregister(&mut state, input),
        other => Err(refuse("UnknownOperationException", other)),
    };
    result.map_or_else(|reply| reply, |value| Reply::json(200, &value))
}

/// The stream that the input names, by name or ARN.
fn stream<'s>(state: &'s mut State, input: &Value) -> Result<&'s mut StubStream, Reply> {
    let arn = input["StreamARN"].as_str().and_then(|arn| arn.rsplit('/').next());
    let name = input["StreamName"].as_str().or(arn).ok_or_else(|| invalid("no stream is named"))?.to_owned();
    state
        .streams
        .get_mut(&name)
        .ok_or_else(|| not_found(format!("Stream {name} under account 123456789012 not found.")))
}

fn summary(state: &mut State, input: &Value) -> Answer {
    let s = stream(state, input)?;
    Ok(json!({ "StreamDescriptionSummary": {
        "StreamName": s.name, "StreamARN": s.arn, "StreamStatus": "ACTIVE",
        "RetentionPeriodHours": s.retention_hours, "StreamCreationTimestamp": seconds(s.created_ms),
        "EnhancedMonitoring": [], "OpenShardCount": s.open_shards().len(),
    } }))
}

fn list_streams(state: &State) -> Answer {
    let names: Vec<_> = state.streams.keys().collect();
    Ok(json!({ "StreamNames": names, "HasMoreStreams": false }))
}

fn shard_json(shard: &StubShard) -> Value {
    let mut value = json!({
        "ShardId": shard.id,
        "HashKeyRange": { "StartingHashKey": shard.first_hash.to_string(), "EndingHashKey": shard.last_hash.to_string() },
        "SequenceNumberRange": { "StartingSequenceNumber": shard.first_sequence },
    });
    if let Some(parent) = shard.parents.first() {
        value["ParentShardId"] = json!(parent);
    }
    if let Some(adjacent) = shard.parents.get(1) {
        value["AdjacentParentShardId"] = json!(adjacent);
    }
    if let Some((last, _)) = &shard.closed {
        value["SequenceNumberRange"]["EndingSequenceNumber"] = json!(last);
    }
    value
}

pub(super) fn children_json(stream: &StubStream, shard: &str) -> Value {
    let child = |c: &&StubShard| {
        json!({
            "ShardId": c.id, "ParentShards": c.parents,
            "HashKeyRange": { "StartingHashKey": c.first_hash.to_string(), "EndingHashKey": c.last_hash.to_string() },
        })
    };
    stream.children(shard).iter().map(child).collect()
}

fn list_shards(state: &mut State, input: &Value) -> Answer {
    let (page, ignores) = (state.page, state.ignores_filters);
    let (name, skip, filter) = match input["NextToken"].as_str() {
        Some(_)
            if !input["StreamName"].is_null() || !input["StreamARN"].is_null() || !input["ShardFilter"].is_null() =>
        {
            return Err(invalid("NextToken and StreamName cannot be provided together."));
        }
        Some(token) => {
            let parsed: Value =
                serde_json::from_str(token).map_err(|_| refuse("ExpiredNextTokenException", "bad token"))?;
            (parsed[0].as_str().unwrap_or("").to_owned(), parsed[1].as_u64().unwrap_or(0) as usize, parsed[2].clone())
        }
        None => (stream(state, input)?.name.clone(), 0, input["ShardFilter"].clone()),
    };
    let lags = state.unlisted.0 > 0;
    state.unlisted.0 = state.unlisted.0.saturating_sub(1);
    let s = state.streams.get(&name).ok_or_else(|| not_found(&name))?;
    let kind = filter["Type"].as_str().unwrap_or("FROM_TRIM_HORIZON");
    let from = millis(&filter["Timestamp"]);
    let passes = |shard: &&StubShard| match (kind, from) {
        _ if lags && state.unlisted.1.contains(&shard.id) => false,
        _ if ignores => true,
        ("AT_LATEST", _) => shard.closed.is_none(),
        ("FROM_TIMESTAMP", Some(from)) => shard.closed.as_ref().is_none_or(|(_, at)| *at >= from),
        ("AFTER_SHARD_ID", _) => shard.id.as_str() > filter["ShardId"].as_str().unwrap_or(""),
        _ => true,
    };
    let all: Vec<&StubShard> = s.shards.values().filter(passes).collect();
    let most = input["MaxResults"].as_u64().unwrap_or(1_000) as usize;
    let until = all.len().min(skip + most.min(page));
    let mut answer = json!({ "Shards": all[skip.min(until)..until].iter().map(|s| shard_json(s)).collect::<Vec<_>>() });
    if until < all.len() {
        answer["NextToken"] = json!(json!([name, until, filter]).to_string());
    }
    Ok(answer)
}

/// Where a position begins in a shard.
pub(super) fn start(
    state: &mut State,
    now_ms: i64,
    stream_name: &str,
    shard: &str,
    (kind, number, time): (&str, Option<&str>, Option<i64>),
) -> Result<usize, Reply> {
    let refuses_trimmed = state.refuses_trimmed;
    let s = state.streams.get_mut(stream_name).ok_or_else(|| not_found(stream_name))?;
    s.starts.push((shard.to_owned(), format!("{kind} {}", number.unwrap_or(""))));
    let name = s.name.clone();
    let Some(found) = s.shards.get(shard) else {
        return Err(not_found(format!("Shard {shard} in stream {name} under account 123456789012 does not exist")));
    };
    match (kind, number, time) {
        ("TRIM_HORIZON", ..) => Ok(found.trimmed),
        ("LATEST", ..) => Ok(found.records.len()),
        ("AT_TIMESTAMP", _, Some(ms)) if ms > now_ms => {
            Err(invalid("The timestampInMillis parameter cannot be greater than the currentTimestampInMillis"))
        }
        ("AT_TIMESTAMP", _, Some(ms)) => {
            let first = found.records.iter().position(|r| r.arrival_ms >= ms);
            Ok(first.unwrap_or(found.records.len()).max(found.trimmed))
        }
        ("AFTER_SEQUENCE_NUMBER" | "AT_SEQUENCE_NUMBER", Some(number), _) => {
            let Some(index) = found.index_of(number, kind == "AFTER_SEQUENCE_NUMBER") else {
                return Err(invalid(format!(
                    "StartingSequenceNumber {number} used in GetShardIterator on shard {shard} in stream {name} is invalid because it did not come from this stream."
                )));
            };
            if index < found.trimmed && refuses_trimmed {
                return Err(invalid(format!("sequence number {number} has been trimmed")));
            }
            Ok(index.max(found.trimmed))
        }
        _ => Err(invalid(format!("bad iterator type {kind}"))),
    }
}

fn iterator(state: &mut State, now_ms: i64, input: &Value) -> Answer {
    let name = stream(state, input)?.name.clone();
    let shard = input["ShardId"].as_str().unwrap_or("").to_owned();
    let kind = input["ShardIteratorType"].as_str().unwrap_or("");
    let at = (kind, input["StartingSequenceNumber"].as_str(), millis(&input["Timestamp"]));
    let index = start(state, now_ms, &name, &shard, at)?;
    Ok(json!({ "ShardIterator": token(state, &name, &shard, index, now_ms) }))
}

fn token(state: &State, stream: &str, shard: &str, index: usize, now_ms: i64) -> String {
    json!([stream, shard, index, now_ms, state.generation]).to_string()
}

pub(super) fn record_json(record: &StubRecord) -> Value {
    json!({
        "SequenceNumber": record.sequence, "ApproximateArrivalTimestamp": seconds(record.arrival_ms),
        "Data": STANDARD.encode(&record.data), "PartitionKey": record.key, "EncryptionType": "NONE",
    })
}

fn records(state: &mut State, now_ms: i64, input: &Value) -> Answer {
    let iterator = input["ShardIterator"].as_str().unwrap_or("");
    let parsed: Value = serde_json::from_str(iterator).map_err(|_| invalid("Invalid ShardIterator."))?;
    let (name, shard) = (parsed[0].as_str().unwrap_or("").to_owned(), parsed[1].as_str().unwrap_or("").to_owned());
    let (index, issued) = (parsed[2].as_u64().unwrap_or(0) as usize, parsed[3].as_i64().unwrap_or(0));
    if now_ms - issued > state.iterator_ms || parsed[4] != json!(state.generation) {
        return Err(refuse("ExpiredIteratorException", "Iterator expired."));
    }
    let limit = input["Limit"].as_u64().unwrap_or(10_000) as usize;
    let (hides, quotas) = (state.hides_children, state.quotas);
    let (given, next, behind, children, over);
    {
        let s = state.streams.get_mut(&name).ok_or_else(|| not_found(&name))?;
        let known = s.shards.get_mut(&shard).ok_or_else(|| not_found(format!("Shard {shard} does not exist")))?;
        over = quotas && !known.may_read();
        if over {
            state.violations += 1;
            return Err(refuse("ProvisionedThroughputExceededException", format!("Rate exceeded for shard {shard}")));
        }
        known.answered += 1;
        let from = index.max(known.trimmed);
        let mut bytes = 0;
        let mut taken = Vec::new();
        if known.empty_answers > 0 {
            known.empty_answers -= 1;
        } else {
            for record in known.records[from.min(known.records.len())..].iter().take(limit) {
                bytes += record.data.len() + record.key.len();
                if bytes > LARGEST_ANSWER {
                    break;
                }
                taken.push(record_json(record));
            }
        }
        known.pay(bytes);
        let until = from + taken.len();
        let truth = known.records.get(until).map_or(0, |r| (now_ms - r.arrival_ms).max(1) as u64);
        behind = known.behind_ms.unwrap_or(truth + u64::from(known.empty_answers));
        // The last answer of a shard carries records and has no next iterator.
        let ended = known.closed.is_some() && until >= known.records.len();
        next = (!ended).then_some(until);
        given = taken;
        children = if ended && !hides { children_json(s, &shard) } else { Value::Null };
    }
    let mut answer = json!({ "Records": given, "MillisBehindLatest": behind });
    if let Some(next) = next {
        answer["NextShardIterator"] = json!(token(state, &name, &shard, next, now_ms));
    }
    if !children.is_null() {
        answer["ChildShards"] = children;
    }
    Ok(answer)
}

fn put_records(state: &mut State, now_ms: i64, input: &Value) -> Answer {
    let name = stream(state, input)?.name.clone();
    let records = input["Records"].as_array().cloned().unwrap_or_default();
    if records.len() > 500 {
        return Err(refuse("ValidationException", "Member must have length less than or equal to 500"));
    }
    let mut put = Vec::new();
    let mut total = 0;
    for record in &records {
        let data = STANDARD.decode(record["Data"].as_str().unwrap_or("")).map_err(|_| invalid("bad base64"))?;
        let key = record["PartitionKey"].as_str().unwrap_or("").to_owned();
        total += data.len() + key.len();
        if data.len() > LARGEST_RECORD || key.is_empty() || key.chars().count() > 256 {
            return Err(refuse("ValidationException", "Member must have length less than or equal to 1048576"));
        }
        let hash = record["ExplicitHashKey"].as_str().and_then(|h| h.parse().ok());
        put.push((data, key, hash));
    }
    if total > 5 << 20 {
        return Err(invalid("Records size exceeds 5 MB limit"));
    }
    let mut failed = 0;
    let mut results = Vec::new();
    for (data, key, hash) in put {
        if let Some(code) = state.failing_puts.pop_front()
            && !code.is_empty()
        {
            failed += 1;
            results.push(json!({ "ErrorCode": code, "ErrorMessage": "as the test asked" }));
            continue;
        }
        let s = state.streams.get_mut(&name).expect("just found");
        let (shard, sequence) = s.put(&key, hash, &data, now_ms);
        results.push(json!({ "SequenceNumber": sequence, "ShardId": shard }));
    }
    Ok(json!({ "FailedRecordCount": failed, "Records": results }))
}

fn split(state: &mut State, now_ms: i64, input: &Value) -> Answer {
    let at = input["NewStartingHashKey"].as_str().and_then(|h| h.parse().ok());
    stream(state, input)?.split(input["ShardToSplit"].as_str().unwrap_or(""), at, now_ms);
    Ok(json!({}))
}

fn merge(state: &mut State, now_ms: i64, input: &Value) -> Answer {
    let (one, other) =
        (input["ShardToMerge"].as_str().unwrap_or(""), input["AdjacentShardToMerge"].as_str().unwrap_or(""));
    stream(state, input)?.merge(one, other, now_ms);
    Ok(json!({}))
}

fn consumer_json(c: &StubConsumer) -> Value {
    let status = if c.deleting_until.is_some() { "DELETING" } else { "ACTIVE" };
    json!({
        "ConsumerName": c.name, "ConsumerARN": c.arn, "ConsumerStatus": status,
        "ConsumerCreationTimestamp": seconds(c.created_ms),
    })
}

fn register(state: &mut State, now_ms: i64, input: &Value) -> Answer {
    let s = stream(state, input)?;
    let name = input["ConsumerName"].as_str().unwrap_or("").to_owned();
    s.consumers.retain(|c| c.deleting_until.is_none_or(|until| Instant::now() < until));
    if s.consumers.iter().any(|c| c.name == name) {
        return Err(refuse("ResourceInUseException", format!("Consumer {name} already exists")));
    }
    let arn = format!("{}/consumer/{name}:{}", s.arn, now_ms / 1_000);
    let consumer = StubConsumer { name, arn, created_ms: now_ms, deleting_until: None };
    let answer = json!({ "Consumer": consumer_json(&consumer) });
    s.consumers.push(consumer);
    Ok(answer)
}

fn describe_consumer(state: &mut State, input: &Value) -> Answer {
    let s = stream(state, input)?;
    s.consumers.retain(|c| c.deleting_until.is_none_or(|until| Instant::now() < until));
    let name = input["ConsumerName"].as_str().unwrap_or("");
    let found =
        s.consumers.iter().find(|c| c.name == name).ok_or_else(|| not_found(format!("Consumer {name} not found")))?;
    let mut description = consumer_json(found);
    description["StreamARN"] = json!(s.arn);
    Ok(json!({ "ConsumerDescription": description }))
}

fn deregister(state: &mut State, input: &Value) -> Answer {
    let arn = input["ConsumerARN"].as_str().unwrap_or("");
    for s in state.streams.values_mut() {
        if s.deregister(arn) {
            return Ok(json!({}));
        }
    }
    Err(not_found("no such consumer"))
}
