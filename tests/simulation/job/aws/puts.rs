//! Streams that results are put into, of Kinesis and of Firehose: each record at least once.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Answer;
use crate::job::bug::Bug;
use crate::job::sinks::{Row, Services, plain};

/// A record's columns.
fn row(data: &Value) -> Row {
    let bytes = STANDARD.decode(data.as_str().expect("data")).expect("base64");
    let columns: serde_json::Map<String, Value> = serde_json::from_slice(&bytes).expect("JSON");
    columns.into_iter().map(|(name, value)| (name, plain(&value))).collect()
}

/// Does what is asked; `None` where it is asked of another service. With `leaves_over`, each second record fails.
pub(super) fn answer(
    services: &Services,
    (operation, request): (&str, &Value),
    leaves_over: bool,
    bug: Option<Bug>,
) -> Option<Answer> {
    // Name of the stream, names in the answer, and with what a record fails.
    let (stream, failed_count, answers, code) = match operation {
        "PutRecords" => ("StreamName", "FailedRecordCount", "Records", "ProvisionedThroughputExceededException"),
        "PutRecordBatch" => ("DeliveryStreamName", "FailedPutCount", "RequestResponses", "ServiceUnavailableException"),
        "DescribeDeliveryStream" => {
            let description = json!({
                "DeliveryStreamName": request["DeliveryStreamName"],
                "DeliveryStreamARN": "arn:aws:firehose:eu-west-1:123456789012:deliverystream/simulated",
                "DeliveryStreamStatus": "ACTIVE",
                "DeliveryStreamType": "DirectPut",
                "VersionId": "1",
                "Destinations": [],
                "HasMoreDestinations": false,
            });
            return Some((200, json!({ "DeliveryStreamDescription": description })).into());
        }
        _ => return None,
    };
    let stream = request[stream].as_str().expect("a name").to_owned();
    let records = request["Records"].as_array().expect("records");
    let mut put = services.put.lock().expect("no panic while it is held");
    let stored = put.entry(stream).or_default();
    let mut failed = 0;
    let said: Vec<Value> = records
        .iter()
        .enumerate()
        .map(|(place, record)| {
            let fails = leaves_over && place % 2 == 1;
            if !fails {
                stored.push(row(&record["Data"]));
            }
            if fails && bug != Some(Bug::HidesFailedRecords) {
                failed += 1;
                return json!({ "ErrorCode": code, "ErrorMessage": "Slow down." });
            }
            json!({ "SequenceNumber": "1", "ShardId": "shardId-000000000000", "RecordId": "1" })
        })
        .collect();
    Some((200, json!({ failed_count: failed, answers: said })).into())
}
