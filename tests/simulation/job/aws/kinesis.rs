//! Kinesis: shards that split and merge, read by iterators.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Answer, Trouble};
use crate::job::bug::Bug;
use crate::job::stream::{Shard, Stream};

/// Shards on a page, so that there are several.
const PAGE: usize = 2;

/// Does what is asked, at a time of the world.
pub(super) fn answer(
    stream: &Stream,
    now_ms: u64,
    (operation, request): (&str, &Value),
    trouble: Option<Trouble>,
    bug: Option<Bug>,
) -> Answer {
    let done = |body: Value| Answer::from((200, body));
    let text = |name: &str| request[name].as_str().unwrap_or_default();
    match operation {
        "DescribeStreamSummary" => done(json!({ "StreamDescriptionSummary": {
            "StreamName": "s",
            "StreamARN": "arn:aws:kinesis:eu-west-1:123456789012:stream/s",
            "StreamStatus": "ACTIVE",
            "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": 0,
            "EnhancedMonitoring": [],
            "OpenShardCount": 1,
        } })),
        "ListShards" => {
            let token = request["NextToken"].as_str();
            if token.is_some() && trouble == Some(Trouble::Expired) {
                return Answer::refusal(400, "ExpiredNextTokenException");
            }
            let first = token.map_or(0, |token| token.parse().expect("a number"));
            let is_listed =
                |shard: &&Shard| bug != Some(Bug::ListsOpenShardsOnly) || shard.closes_ms.is_none_or(|at| at > now_ms);
            let there: Vec<&Shard> =
                stream.shards.iter().filter(|shard| shard.opens_ms <= now_ms).filter(is_listed).collect();
            let page: Vec<Value> = there.iter().skip(first).take(PAGE).map(|shard| listed(shard)).collect();
            let mut answer = json!({ "Shards": page });
            if first + PAGE < there.len() {
                answer["NextToken"] = json!((first + PAGE).to_string());
            }
            done(answer)
        }
        "GetShardIterator" => {
            let next = match text("ShardIteratorType") {
                "TRIM_HORIZON" => 0,
                "AFTER_SEQUENCE_NUMBER" => 1 + text("StartingSequenceNumber").parse::<usize>().expect("a number"),
                other => panic!("an iterator of type {other} is not simulated"),
            };
            let skipped = usize::from(next > 0 && bug == Some(Bug::SkipsARecord));
            done(json!({ "ShardIterator": format!("{}/{}", text("ShardId"), next + skipped) }))
        }
        "GetRecords" => {
            if trouble == Some(Trouble::Expired) {
                return Answer::refusal(400, "ExpiredIteratorException");
            }
            let (shard, next) = text("ShardIterator").split_once('/').expect("an iterator");
            let shard = stream.shards.iter().find(|known| known.id == shard).expect("a shard of the stream");
            let most = request["Limit"].as_u64().expect("a limit") as usize;
            // An answer may have nothing, though there is more.
            let most = if trouble == Some(Trouble::LeavesOver) { 0 } else { most };
            done(records(stream, shard, next.parse().expect("a number"), most, now_ms))
        }
        other => panic!("{other} is not simulated"),
    }
}

fn hash_keys() -> Value {
    json!({ "StartingHashKey": "0", "EndingHashKey": "1" })
}

fn listed(shard: &Shard) -> Value {
    let mut listed = json!({
        "ShardId": shard.id,
        "HashKeyRange": hash_keys(),
        "SequenceNumberRange": { "StartingSequenceNumber": "0" },
    });
    for (name, parent) in ["ParentShardId", "AdjacentParentShardId"].iter().zip(&shard.parents) {
        listed[*name] = json!(parent);
    }
    listed
}

/// What GetRecords answers.
pub(super) fn records(stream: &Stream, shard: &Shard, next: usize, most: usize, now_ms: u64) -> Value {
    let there = shard
        .events
        .get(next..)
        .unwrap_or_default()
        .iter()
        .enumerate()
        .take_while(|(_, event)| event.arrives_ms <= now_ms)
        .take(most);
    let records: Vec<Value> = there
        .map(|(at, event)| {
            json!({
                "SequenceNumber": (next + at).to_string(),
                "ApproximateArrivalTimestamp": event.arrives_ms as f64 / 1_000.0,
                "Data": STANDARD.encode(event.record()),
                "PartitionKey": event.key,
            })
        })
        .collect();
    let until = next + records.len();
    let behind_ms = shard.events.get(until).map_or(0, |event| now_ms.saturating_sub(event.arrives_ms));
    let left = shard.events.get(until).is_some_and(|event| event.arrives_ms <= now_ms);
    let mut answer = json!({ "Records": records, "MillisBehindLatest": behind_ms.max(u64::from(left)) });
    if shard.closes_ms.is_some_and(|at| at <= now_ms) && until >= shard.events.len() {
        let children = stream.shards.iter().filter(|child| child.parents.contains(&shard.id));
        let child =
            |child: &Shard| json!({ "ShardId": child.id, "ParentShards": child.parents, "HashKeyRange": hash_keys() });
        answer["ChildShards"] = children.map(child).collect();
    } else {
        answer["NextShardIterator"] = json!(format!("{}/{until}", shard.id));
    }
    answer
}
