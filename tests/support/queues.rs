//! SNS and SQS of an emulator, as a test sees them past the program.

use serde_json::{Value, json};

use crate::http::{Reply, Request};
use crate::stub::forward::forward;

/// A call of SQS, whose SDK is no dependency.
async fn sqs(port: u16, operation: &str, input: Value) -> Value {
    let scope = "AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/sqs/aws4_request, SignedHeaders=host, Signature=0";
    let headers = [
        ("host", "127.0.0.1"),
        ("content-type", "application/x-amz-json-1.0"),
        ("x-amz-target", &format!("AmazonSQS.{operation}")),
        ("authorization", scope),
    ];
    let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    match forward(port, &Request { line: "POST /".to_owned(), headers, body: input.to_string().into_bytes() }).await {
        Reply::Answer(200, body) => serde_json::from_slice(&body).unwrap(),
        other => panic!("{operation}: {other:?}"),
    }
}

/// A client of SNS.
pub(crate) fn sns_client(url: &str) -> aws_sdk_sns::Client {
    let config = aws_sdk_sns::Config::builder()
        .behavior_version(aws_sdk_sns::config::BehaviorVersion::latest())
        .region(aws_sdk_sns::config::Region::new("eu-west-1"))
        .endpoint_url(url)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(aws_credential_types::Credentials::new("test", "test", None, None, "test"));
    aws_sdk_sns::Client::from_conf(config.build())
}

/// A topic, and a queue behind it.
pub(crate) async fn topic(port: u16, name: &str) -> (String, String) {
    let sns = sns_client(&format!("http://127.0.0.1:{port}"));
    let fifo = name.ends_with(".fifo");
    let mut create = sns.create_topic().name(name);
    let mut attributes = json!({});
    if fifo {
        create = create.attributes("FifoTopic", "true");
        attributes = json!({ "FifoQueue": "true" });
    }
    let arn = create.send().await.unwrap().topic_arn.unwrap();
    let queue = sqs(port, "CreateQueue", json!({ "QueueName": name, "Attributes": attributes })).await;
    let url = queue["QueueUrl"].as_str().unwrap().to_owned();
    let names = json!({ "QueueUrl": url, "AttributeNames": ["QueueArn"] });
    let queue_arn = sqs(port, "GetQueueAttributes", names).await["Attributes"]["QueueArn"].as_str().unwrap().to_owned();
    sns.subscribe().topic_arn(&arn).protocol("sqs").endpoint(queue_arn).send().await.unwrap();
    (arn, url)
}

/// Everything that the queue holds: id and message.
pub(crate) async fn received(port: u16, queue: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    loop {
        let input = json!({ "QueueUrl": queue, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0 });
        let messages = sqs(port, "ReceiveMessage", input).await["Messages"].as_array().cloned().unwrap_or_default();
        if messages.is_empty() {
            return all;
        }
        for message in messages {
            let envelope: Value = serde_json::from_str(message["Body"].as_str().unwrap()).unwrap();
            let id = envelope["MessageAttributes"]["alert_id"]["Value"].as_str().unwrap().to_owned();
            all.push((id, envelope["Message"].as_str().unwrap().to_owned()));
            let handle = json!({ "QueueUrl": queue, "ReceiptHandle": message["ReceiptHandle"] });
            sqs(port, "DeleteMessage", handle).await;
        }
    }
}
